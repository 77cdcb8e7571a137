package main

import (
	"encoding/csv"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/events"
	"github.com/llmproxy/llmproxy/pkg/journal"
)

// record is a request of a key for a model on a day of November 2026.
func record(n byte, key, model string, day int, outcome events.Outcome) *events.Record {
	started := time.Date(2026, 11, day, 23, 59, 59, 0, time.UTC)
	return &events.Record{
		ID: [16]byte{n}, KeyID: key, Name: "name-" + key, UserID: "user-" + key, Asked: model, Served: "served-" + model, Backend: "gpu-1", Endpoint: "/v1/chat/completions",
		Outcome: outcome, Estimated: outcome != events.Complete, Status: 200, Attempts: 1,
		Prompt: 100, Cached: 10, Completion: int64(n), Reasoning: 1, Total: 100 + int64(n), Started: started, Duration: time.Second / 2,
	}
}

// writeUsage records five requests, one of which is still open, and returns the
// data directory and what closes it.
func writeUsage(t *testing.T) (dir string, closeLog func()) {
	t.Helper()
	dir = t.TempDir()
	l, err := events.Open(dir, journal.Options{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*events.Record{
		record(1, "alice", "qwen", 1, events.Complete),
		record(2, "alice", "qwen", 1, events.ClientAborted),
		record(4, "alice", "llama\x1b[2J", 2, events.Complete),
		record(8, "", "qwen", 30, events.UpstreamFailed),
	} {
		if !l.Start(r) {
			t.Fatal("the journal cannot be written")
		}
		l.End(r)
	}
	if !l.Start(record(16, "bob", "qwen", 30, events.Complete)) {
		t.Fatal("the journal cannot be written")
	}
	open := true
	closeLog = func() {
		if open {
			open = false
			_ = l.Close() // its error is that a request is open, if any
		}
	}
	t.Cleanup(closeLog)
	return dir, closeLog
}

func runUsage(t *testing.T, wantCode int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	if code := run(append([]string{"usage"}, args...), &out, &errs); code != wantCode {
		t.Fatalf("usage %q: exit code %d, want %d\n%s%s", args, code, wantCode, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

// Two bills from one journal must not differ by how they are asked for.
func TestUsageIsAddedUp(t *testing.T) {
	dir, _ := writeUsage(t)
	const head = "requests,prompt_tokens,cached_tokens,completion_tokens,reasoning_tokens,total_tokens,audio_seconds,estimated,complete,client_aborted,upstream_failed,interrupted\n"
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{
			"default", nil, "key,model,day," + head +
				",qwen,2026-11-30,1,100,10,8,1,108,0,1,0,0,1,0\n" +
				"alice,llama\x1b[2J,2026-11-02,1,100,10,4,1,104,0,0,1,0,0,0\n" +
				"alice,qwen,2026-11-01,2,200,20,3,2,203,0,1,1,1,0,0\n",
		},
		{"all in one", []string{"-by", ""}, head + "4,400,40,15,4,415,0,2,2,1,1,0\n"},
		{"the last day is left out", []string{"-by", "day", "-from", "2026-11-02", "-to", "2026-11-30"}, "day," + head +
			"2026-11-02,1,100,10,4,1,104,0,0,1,0,0,0\n2026-11-30,1,100,10,8,1,108,0,1,0,0,1,0\n"},
		{"days that are not asked for", []string{"-by", "key", "-to", "2026-11-01"}, "key," + head + "alice,2,200,20,3,2,203,0,1,1,1,0,0\n"},
		{"nothing is no header", []string{"-by", "key", "-to", "2025-01-01"}, "key," + head},
		{
			"other columns",
			[]string{"-by", "served_model,backend,endpoint,user,name", "-from", "2026-11-30"},
			"served_model,backend,endpoint,user,name," + head + "served-qwen,gpu-1,/v1/chat/completions,user-,name-,1,100,10,8,1,108,0,1,0,0,1,0\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"export", "-data", dir, "-format", "csv"}, c.args...)
			if got, _ := runUsage(t, 0, args...); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestFormatsOfAnExportAgree(t *testing.T) {
	dir, _ := writeUsage(t)
	text, _ := runUsage(t, 0, "export", "-data", dir, "-format", "csv")
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	text, _ = runUsage(t, 0, "export", "-data", dir, "-format", "json")
	var objects []map[string]any
	if err := json.Unmarshal([]byte(text), &objects); err != nil || len(objects) != len(rows)-1 {
		t.Fatalf("%v\n%s", err, text)
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&objects); err != nil {
		t.Fatal(err)
	}
	for i, o := range objects {
		for j, name := range rows[0] {
			_, isText := o[name].(string)
			n, _ := o[name].(json.Number)
			if want := rows[i+1][j]; isText && o[name] != want || !isText && n.String() != want || isText != (j < 3) {
				t.Errorf("%s of row %d is %v, want %q", name, i, o[name], want)
			}
		}
	}
	table, _ := runUsage(t, 0, "export", "-data", dir, "-by", "key,model")
	want := `key    model           requests  prompt_tokens  cached_tokens  completion_tokens  reasoning_tokens  total_tokens  audio_seconds  estimated  complete  client_aborted  upstream_failed  interrupted
-      qwen                   1            100             10                  8                 1           108              0          1         0               0                1            0
alice  "llama\x1b[2J"         1            100             10                  4                 1           104              0          0         1               0                0            0
alice  qwen                   2            200             20                  3                 2           203              0          1         1               1                0            0
`
	if table != want {
		t.Errorf("got\n%s\nwant\n%s", table, want)
	}
}

// A journal must be verified without stopping the gateway that writes it.
func TestVerifyOfALiveJournal(t *testing.T) {
	dir, closeLog := writeUsage(t)
	file := filepath.Join(t.TempDir(), "llmproxy.yaml")
	if err := os.WriteFile(file, []byte("backends: [{url: http://a}]\ndata_dir: "+dir+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	live, _ := runUsage(t, 0, "verify", "-config", file)
	if !strings.Contains(live, "events     4, number 1 to 4\n") || !strings.Contains(live, "records    9, number 1 to 9\n") {
		t.Errorf("of a live gateway:\n%s", live)
	}
	closeLog()
	if dead, _ := runUsage(t, 0, "verify", "-data", dir); dead != live {
		t.Errorf("of one that ended:\n%s\nbefore\n%s", dead, live)
	}
}

// A bill from a damaged journal is too low, and has to say so.
func TestDamageIsTold(t *testing.T) {
	dir, closeLog := writeUsage(t)
	closeLog()
	segments, err := filepath.Glob(filepath.Join(dir, "journal", "*"))
	if err != nil {
		t.Fatal(err)
	}
	damaged := false
	for _, path := range segments {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		// The third request's end: what names its model comes twice, then.
		if i := strings.LastIndex(string(raw), "served-llama"); i > 0 {
			raw[i] ^= 1
			damaged = true
			if err := os.WriteFile(path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !damaged {
		t.Fatalf("nothing to damage in %v", segments)
	}
	out, errs := runUsage(t, exitFailed, "verify", "-data", dir)
	if !strings.Contains(out, "the events from 3 to 3 are missing\n") || !strings.Contains(out, " 1 records are missing\n") || !strings.HasSuffix(errs, "is not whole: 2 faults\n") {
		t.Errorf("%s%s", out, errs)
	}
	out, errs = runUsage(t, exitFailed, "export", "-data", dir, "-by", "key", "-format", "csv")
	if !strings.Contains(out, "alice,2,") || !strings.Contains(errs, "these totals may be too low") {
		t.Errorf("%s%s", out, errs)
	}
}

func TestUsageOfNothing(t *testing.T) {
	for _, do := range []string{"verify", "export"} {
		if _, errs := runUsage(t, exitFailed, do, "-data", filepath.Join(t.TempDir(), "absent")); !strings.Contains(errs, "has a gateway with this data_dir ever run") {
			t.Errorf("%s of no journal: %s", do, errs)
		}
	}
}
