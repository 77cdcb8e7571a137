package result

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sample is a run of ten requests, one a second; the last three are a flood.
func sample() *Result {
	return &Result{
		Loads: []string{"team", "flood"},
		Lasts: 10_000,
		Sides: []*Side{{
			Name:     "llmproxy",
			At:       Series{0, 1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000},
			TTFT:     Series{100, 200, 300, -1, -1, 900, -1, 100, 100, 100},
			Took:     Series{150, 250, 350, 50, 30000, 950, 400, 200, 200, 200},
			Tokens:   Series{10, 10, 10, 0, 0, 5, 10, 15, 15, 25},
			Load:     Series{0, 0, 0, 0, 0, 0, 0, 1, 1, 1},
			Outcome:  "ooofgcoooo", // the seventh is whole and no stream
			Batch:    map[string]Series{"a": {500, 500, 0}, "b": {100, 0, 0}},
			Busy:     map[string]Series{"a": {1000, 1000, 0}, "b": {500, 0, 0}},
			Queued:   Series{100, 900, 0},
			Admitted: Series{2, 3, 0},
		}},
	}
}

func TestMeasures(t *testing.T) {
	const s = time.Second
	for name, c := range map[string]struct {
		q    Question
		want string
	}{
		"a request without a token has no time":    {Question{Measure: "ttft", Not: "flood"}, "mean 375 ms, p50 300 ms, p99 900 ms"},
		"a failed request is not under the limit":  {Question{Measure: "under", Not: "flood", Until: 6 * s, Under: 250 * time.Millisecond}, "33.3 % under 250 ms"},
		"an answer that is no stream counts not":   {Question{Measure: "under", From: 5 * s, Under: 250 * time.Millisecond}, "75.0 % under 250 ms"},
		"all three ways to fail are unavailable":   {Question{Measure: "availability"}, "70.00 % (3 of 10 lost)"},
		"bounds choose by when requests were due":  {Question{Measure: "availability", From: 3 * s, Until: 6 * s}, "0.00 % (3 of 3 lost)"},
		"giving up is failing before the token":    {Question{Measure: "refused"}, "2 of 10 (1 gave up)"},
		"a cut answer is not refused":              {Question{Measure: "cut"}, "1 of 10"},
		"the share of one load in all tokens":      {Question{Measure: "share", Who: "flood"}, "55.0 %"},
		"an engine that did nothing is idle":       {Question{Measure: "gpu"}, "18 % (engines 3 to 33 %); a step under way 42 % of the time"},
		"seconds out of bounds are not of the use": {Question{Measure: "gpu", Until: s}, "30 % (engines 10 to 50 %); a step under way 75 % of the time"},
		"the queue's mean is by request":           {Question{Measure: "queue"}, "mean 200 ms, worst second 300 ms"},
		"a rate is over the time asked for":        {Question{Measure: "requests", From: 7 * s}, "1.5/s, 28 tokens/s"},
		"nobody asked then":                        {Question{Measure: "ttft", From: time.Minute}, "nothing was asked"},
	} {
		t.Run(name, func(t *testing.T) {
			r := sample()
			if !c.q.Known() || c.q.How() == "" {
				t.Fatalf("there is no measure %q", c.q.Measure)
			}
			if got := r.Measure(r.Sides[0], c.q); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// A limit that the configuration asks for is kept, and nothing is lost by it.
func TestWhatIsOverALimitIsNotLost(t *testing.T) {
	r := &Result{Loads: []string{"team"}}
	s := &Side{At: Series{0, 1, 2, 3}, TTFT: Series{9, -1, -1, -1}, Load: Series{0, 0, 0, 0}, Outcome: "olfl"}
	for measure, want := range map[string]string{
		"availability": "50.00 % (1 of 2 lost; 2 over a limit)",
		"refused":      "1 of 4; 2 over a limit",
	} {
		if got := r.Measure(s, Question{Measure: measure}); got != want {
			t.Errorf("%s: got %q, want %q", measure, got, want)
		}
	}
}

func TestMissingSideSaysWhy(t *testing.T) {
	r := &Result{}
	if got := r.Measure(&Side{Missing: "not installed"}, Question{Measure: "ttft"}); got != "not installed" {
		t.Errorf("got %q", got)
	}
}

// The report reads the file: a series must survive, and be one line.
func TestFileHoldsEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "scenario-1.json")
	if err := sample().Save(path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), `"ttft_ms": "100 200 300 -1 -1 900 -1 100 100 100"`) {
		t.Errorf("the series is not one line:\n%s", data)
	}
	var back Result
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	q := Question{Measure: "ttft"}
	if got, want := back.Measure(back.Sides[0], q), sample().Measure(sample().Sides[0], q); got != want {
		t.Errorf("read back: %q, want %q", got, want)
	}
}
