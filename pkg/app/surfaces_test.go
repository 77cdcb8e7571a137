package app_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// surfaceDoc is the table that TestSurfaces holds the gateway to. Written anew
// with LLMPROXY_WRITE=1.
const surfaceDoc = "../../docs/surfaces.md"

const surfaceIntro = `# Every surface, and the engines that have it

Written by ` + "`LLMPROXY_WRITE=1 go test ./pkg/app -run 'TestSurfaces$'`" + `; the same test fails when the gateway behaves differently.
What it saw of every surface in front of a fake engine of every kind:

- **whole**, **stream**: the answer in one piece, and as server-sent events; each has the bytes that the engine sends when
  it is asked directly.
- **-**: the engine does not have it. With ` + "`engine`" + ` set at its backend the gateway answers 404 (code
  ` + "`endpoint_not_supported`" + `) in the shape of the surface's own errors, or asks another engine of the pool that has it.
- **404**, **405**: some versions of the engine have it and this one has not; its answer is passed on.
- **mapped model**: where the name of ` + "`routing.model_mapping`" + ` is put into the request; in a form before or after the file.
- **before the first byte**: what a 503 of one engine of two, an answer cut short and a stream that begins with an error
  come to: "failed over" is the other engine's answer; "passed on" is an error, because no other engine has the response
  that was asked for.
- **after it**: the last event of a stream whose engine was lost. Nothing that says the stream is complete follows. An
  engine's own error event is passed on as it is.
- **client leaves**: what the engine was doing when its client left: waiting (it had not begun), prefill (no token yet) or
  decode (in mid-stream). It heard of it within a second, and nothing was left in flight.
- **errors**: the shape of error bodies, a 4xx of the engine included, whatever shape the engine gave it.

`

// TestSurfaces asks every surface of every kind of engine for what it has, and
// breaks it in every way, and compares what it saw with docs/surfaces.md.
func TestSurfaces(t *testing.T) {
	leavesNothing(t)
	rows := apiRows(t)
	seen := make([][]apiSeen, len(apiDialects)) // by dialect and row
	t.Run("all", func(t *testing.T) {
		for i, d := range apiDialects {
			seen[i] = make([]apiSeen, len(rows))
			t.Run(d.name, func(t *testing.T) {
				t.Parallel()
				s := startAPISite(t, d.name, d.engine)
				for k, row := range rows {
					t.Run(row.name(), func(t *testing.T) { (&apiTry{apiSite: s, t: t, row: row, seen: &seen[i][k]}).run() })
				}
				quiet(t, s.gateway)
			})
		}
	})
	if t.Failed() {
		return // what was seen is not what should be
	}
	var doc strings.Builder
	doc.WriteString(surfaceIntro + "| surface |")
	for _, d := range apiDialects {
		doc.WriteString(" " + d.title + " |")
	}
	doc.WriteString(" mapped model | before the first byte | after it | client leaves | errors |\n" + strings.Repeat("|---", len(seen)+6) + "|\n")
	for k, row := range rows {
		var all apiSeen
		doc.WriteString("| `" + row.name() + "` |")
		for i := range seen {
			doc.WriteString(" " + strings.Join(seen[i][k].modes, ", ") + " |")
			all.add(&seen[i][k])
		}
		doc.WriteString(all.columns() + "\n")
	}
	checkDoc(t, surfaceDoc, doc.String())
}

// checkDoc compares a document with what its test has written, or puts that in
// its place.
func checkDoc(t *testing.T, path, doc string) {
	t.Helper()
	if os.Getenv("LLMPROXY_WRITE") != "" {
		if err := os.WriteFile(path, []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	wanted := strings.Split(string(want), "\n")
	for i, line := range strings.Split(doc, "\n") {
		if i >= len(wanted) || line != wanted[i] {
			t.Errorf("%s line %d is not what happens\n%s", path, i+1, line)
		}
	}
}

// apiSeen is what a surface was seen to do: words for the table, without those
// of another engine that are the same.
type apiSeen struct {
	modes                                 []string
	mapped, before, after, leaves, errors []string
}

func saw(words *[]string, word string) {
	if !slices.Contains(*words, word) {
		*words = append(*words, word)
	}
}

func (s *apiSeen) lists() []*[]string {
	return []*[]string{&s.mapped, &s.before, &s.after, &s.leaves, &s.errors}
}

func (s *apiSeen) add(o *apiSeen) {
	mine, others := s.lists(), o.lists()
	for i := range mine {
		for _, word := range *others[i] {
			saw(mine[i], word)
		}
	}
}

func (s *apiSeen) columns() (cells string) {
	for _, words := range s.lists() {
		if len(*words) == 0 {
			*words = []string{"-"}
		}
		cells += " " + strings.Join(*words, ", ") + " |"
	}
	return cells
}

// apiSite is two engines of a kind behind a gateway that asks e0 first.
type apiSite struct {
	outer           *testing.T // whose end is the site's
	dialect, engine string
	engines         [2]*apptest.Engine
	gateway         *apptest.Gateway
	mixed           map[string]*apptest.Gateway // with another kind of engine, by its dialect
	others          map[string]*apptest.Engine  // that engine
}

// apiStep is how long an engine takes for a token: enough for a client to leave
// in mid-stream.
const apiStep = time.Millisecond

func startAPISite(t *testing.T, dialect, engine string) *apiSite {
	t.Helper()
	s := &apiSite{outer: t, dialect: dialect, engine: engine, mixed: map[string]*apptest.Gateway{}, others: map[string]*apptest.Engine{}}
	yaml := "region: here\nload_balance_strategy: round_robin\nhealth_check: {enabled: false}\n" +
		"routing: {retry: {initial_wait: 1ms, max_wait: 2ms}, model_mapping: {alias: mock-model}}\nbackends:\n"
	for i := range s.engines {
		s.engines[i] = apptest.StartEngine(t, mockvllm.Options{Dialect: dialect, StepBase: apiStep})
		yaml += fmt.Sprintf("  - {url: %q, name: e%d, region: %s, engine: %s}\n", s.engines[i].URL, i, []string{"here", "there"}[i], engine)
	}
	s.gateway = apptest.Start(t, yaml)
	return s
}

// beside is a gateway that would ask an engine of another kind before the
// site's own; both are started when they are first wanted.
func (s *apiSite) beside(dialect, engine string) (*apptest.Gateway, *apptest.Engine) {
	if s.mixed[dialect] == nil {
		other := apptest.StartEngine(s.outer, mockvllm.Options{Dialect: dialect})
		s.others[dialect] = other
		s.mixed[dialect] = apptest.Start(s.outer, fmt.Sprintf("region: here\nload_balance_strategy: round_robin\nhealth_check: {enabled: false}\n"+
			"backends: [{url: %q, name: other, region: here, engine: %s}, {url: %q, name: own, region: there, engine: %s}]\n",
			other.URL, engine, s.engines[0].URL, s.engine))
	}
	return s.mixed[dialect], s.others[dialect]
}
