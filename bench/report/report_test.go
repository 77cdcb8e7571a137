package main

import (
	"bytes"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gonum.org/v1/plot/plotter"

	"github.com/llmproxy/llmproxy/bench/results"
)

const golden = "testdata/BENCHMARKS.md"

// written is the page that report writes below root.
func written(t *testing.T, root string) string {
	t.Helper()
	if err := report(root); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "BENCHMARKS.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// copied is a directory with the made-up results.
func copied(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	return root
}

// TestPage compares the page of the made-up results with testdata, and rewrites
// that with LLMPROXY_WRITE=1.
func TestPage(t *testing.T) {
	got := written(t, copied(t))
	if os.Getenv("LLMPROXY_WRITE") != "" {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	wants := strings.Split(string(want), "\n")
	for i, line := range strings.Split(got, "\n") {
		if i >= len(wants) || line != wants[i] {
			t.Fatalf("line %d differs from %s; LLMPROXY_WRITE=1 rewrites it:\n%s", i+1, golden, line)
		}
	}
	if got != string(want) {
		t.Fatalf("%s has more lines than the page", golden)
	}
}

func TestTheSameResultsGiveTheSameBytes(t *testing.T) {
	a, b := copied(t), copied(t)
	written(t, a)
	written(t, b)
	files, err := filepath.Glob(filepath.Join(a, resultsDir, "*.svg"))
	if err != nil || len(files) != 3 {
		t.Fatalf("%d pictures, want 3 (%v)", len(files), err)
	}
	for _, path := range append(files, filepath.Join(a, "BENCHMARKS.md")) {
		name, err := filepath.Rel(a, path)
		if err != nil {
			t.Fatal(err)
		}
		one, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if other, err := os.ReadFile(filepath.Join(b, name)); err != nil || !bytes.Equal(one, other) {
			t.Errorf("%s differs between two runs (%v)", name, err)
		}
	}
}

func TestWhatThePageSays(t *testing.T) {
	page := written(t, copied(t))
	for name, text := range map[string]string{
		"a missed bar passes as met":                 "| 2. p99 added per event, all streams in step, × nginx | ≤ 2.5 × | ≤ 1 × | 2.88 (2.87 to 2.95) × | **missed** |",
		"a missed bar is not explained":              "The timer that watches for silent streams\nwalks all of them.",
		"a missed bar without a reason is silent":    "No reason is given yet.",
		"the generator's limit passes as a peer's":   "| haproxy (generator-bound) |",
		"a missing peer is dropped in silence":       `- vllm-router: no wheel of PyPI's vllm-router fits Python 3.11 \| x86`,
		"a missing scenario is dropped in silence":   "- Deployment 3: there is no result of `make loadtest SCENARIO=3`.",
		"a short run counts as a measurement":        "- Deployment 2: there is no result of `make loadtest SCENARIO=2`.",
		"requests that failed are dropped":           "- litellm, open: 5,400 failed: dial tcp 127.0.0.1:4000: connection refused",
		"an abort that was never seen looks instant": "| haproxy | 39 | no | no | no | 0 |",
		"one try for an abort in vain is hidden":     "| llmproxy | 0.20 | 0.30 | 0.20 | 0.20 (1 of 5 no) | 0 |",
		"an older file of one package is lost":       "### pkg/openai",
		"the last name wins over the newest date":    "| Pick | 25.5 ns |",
		"an older run of a package wins":             "| Request/direct | 13.4 µs ± 2% |",
		"a peer that is better is not told":          "| memory per open stream at 5,000, KiB | 11.9 | haproxy 4.60 | 2.59 × |",
		"metering has no ratio of one round":         "| CPU per request, 64 connections, µs | 20 | 26 | 1.30 (1.25 to 1.50) |",
		"a figure without metering only is dropped":  "| memory when idle, MiB | 10 | – | – |",
		"failures with metering are dropped":         "Went wrong: llmproxy-metered, closed: 3 failed: 503 Service Unavailable.",
		"what is said of metering is dropped":        "Two writes a request.",
		"limits have no ratio of one round":          "| CPU per request, 64 connections, µs | 20 | 23 | 1.10 (1.09 to 1.15) | 31 | 1.50 (1.50 to 1.55) | 23 | 1.14 (1.11 to 1.15) |",
		"what only many keys have is dropped":        "| memory when idle, MiB | 10 | – | – | – | – | 60 | 6 |",
		"failures with limits are dropped":           "Went wrong: llmproxy-quota, closed: 2 failed: 429 Too Many Requests.",
		"what is said of limits is dropped":          "Most of it is hashing.",
		"a Redis has no ratio of one round":          "| CPU per request, 64 connections, µs | 23 | 46 | 2 (2 to 2.50) | 31 | 62 | 2 | 66 | 2 (2 to 2.20) |",
		"a Redis's ratio is of absolute latencies":   "| added to a request at 200/s, p50, µs | 200 | 400 | 2 (1.90 to 2.50) |",
		"what only a Redis has is dropped":           "| Redis: CPU per request, 64 connections, µs | – | 21 | – | – | 21 | – | 21 | – |",
		"a gateway that did without is not told":     "| decisions without Redis, at worst of 1,000 requests, 64 connections | – | 0 | – | – | 0 | – | 2 | – |",
		"failures with a Redis are dropped":          "Went wrong: llmproxy-redis, open: 4 failed: 503 Service Unavailable.",
		"what is said of a Redis is dropped":         "Half of it is waiting.",
		"the row with all on is not told by name":    "| llmproxy (all on) | 20,000 |",
		"failures with all on are another's":         "- llmproxy (all on), closed: 1 failed: 502 Bad Gateway",
		"limits' own instructions are not told":      "| limited-event | 7,733 | 721 (10 %) |",
		"a refusal has a twin":                       "| wrong-key | 30,000 | – |",
		"metering's own instructions are not told":   "| metered-event | 7,713 | 701 (10 %) |",
		"what a benchmark reports itself is dropped": "| End/sync=os | 3 µs | 57 B | 0 | cpu 1.50 µs/record, p99 4.86 µs, 400,000 records/s |",
		"what a run changed is not told":             "Not as its configuration has it: keys (line 12); limits.tokens (line 20).",
	} {
		if !strings.Contains(page, text) {
			t.Errorf("%s: the page lacks %q", name, text)
		}
	}
	if strings.Contains(page, "| nginx (generator-bound) |") {
		t.Error("a peer below 70 % of the direct rate is called generator-bound")
	}
}

func TestWithoutAnyInput(t *testing.T) {
	page := written(t, t.TempDir())
	for _, text := range []string{"make bench-peers", "make bench`", "make bench-usage`", "make bench-limits`", "make bench-cluster`", "bench/budget.txt", "SCENARIO=5"} {
		if !strings.Contains(page[strings.Index(page, "## What was not measured"):], text) {
			t.Errorf("the page does not say that %s is missing", text)
		}
	}
}

func TestReasonForNoBar(t *testing.T) {
	root := copied(t)
	if err := os.WriteFile(filepath.Join(root, reasonFile), []byte("request-cup: a slip\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := report(root); err == nil || !strings.Contains(err.Error(), "request-cup") {
		t.Errorf("a slip in a key hides a reason: %v", err)
	}
}

func TestNewestRun(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, resultsDir), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"peers-a.json": `{"started": "2026-11-23T10:00:00Z", "commit": "newest"}`,
		"peers-b.json": `{"started": "2026-11-22T10:00:00Z", "commit": "name comes last"}`,
		"peers-c.json": `{"started": "2026-11-24T10:00:00Z", "commit": "short", "short": true}`,
		"usage-a.json": `{"started": "2026-11-25T10:00:00Z", "commit": "of another kind"}`,
	} {
		if err := os.WriteFile(filepath.Join(root, resultsDir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r, from, err := newestRun(root, "peers")
	if err != nil || r.Commit != "newest" || from != "bench/results/peers-a.json" {
		t.Errorf("took %s (%v), want peers-a.json", from, err)
	}
}

// run is one with a metric of one measure: values by peer, one a round.
func run(measure, metric string, values map[string][]float64) *results.Run {
	r := &results.Run{Rounds: 3}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		r.Peers = append(r.Peers, results.Peer{Name: name})
		for i, v := range values[name] {
			r.Samples = append(r.Samples, results.Sample{Peer: name, Measure: measure, Round: i + 1, Values: map[string]float64{metric: v}})
		}
	}
	return r
}

func TestRatio(t *testing.T) {
	for name, x := range map[string]struct {
		f      figure
		values map[string][]float64
		want   ratio
	}{
		"medians of different rounds are compared": {
			requestCPU,
			map[string][]float64{results.Ours: {10, 20, 60}, results.Nginx: {10, 40, 30}},
			ratio{1, 0.5, 2, 3},
		},
		"the direct way of another round is taken off": {
			burst[eventP99],
			map[string][]float64{results.Direct: {100, 200, 300}, results.Ours: {300, 600, 600}, results.Nginx: {200, 400, 600}},
			ratio{2, 1, 2, 3},
		},
		"noise below the direct way makes a ratio": {
			burst[eventP99],
			map[string][]float64{results.Direct: {100, 200, 300}, results.Ours: {300, 600, 600}, results.Nginx: {200, 190, 300}},
			ratio{2, 2, 2, 1},
		},
		"a round without the other counts": {
			requestCPU,
			map[string][]float64{results.Ours: {10, 20, 60}, results.Nginx: {10}},
			ratio{1, 1, 1, 1},
		},
	} {
		r := run(x.f.measure, x.f.metric, x.values)
		if got := x.f.over(r, results.Ours, x.f, results.Nginx); got != x.want {
			t.Errorf("%s: %+v, want %+v", name, got, x.want)
		}
	}
}

func TestLags(t *testing.T) {
	for name, x := range map[string]struct {
		f      figure
		values map[string][]float64
		want   []float64 // ratios
	}{
		"a lower rate counts as better":             {requestRate, map[string][]float64{results.Ours: {100}, "nginx": {250}, "caddy": {50}}, []float64{2.5}},
		"the worst is not first":                    {requestCPU, map[string][]float64{results.Ours: {10}, "nginx": {8}, "haproxy": {4}}, []float64{2.5, 1.25}},
		"our other row or the engine is a peer":     {requestCPU, map[string][]float64{results.Ours: {10}, results.OursOff: {8}, results.Direct: {1}}, nil},
		"an abort that nobody noticed beats ours":   {abortWhole, map[string][]float64{results.Ours: {0.2}, "haproxy": {-1}}, nil},
		"an abort that we never notice is all fine": {abortWhole, map[string][]float64{results.Ours: {-1}, "nginx": {0.2}}, []float64{math.Inf(1)}},
		"a peer within the noise is left out":       {openP99, map[string][]float64{results.Ours: {300}, results.Direct: {100}, "nginx": {90}}, []float64{0}},
	} {
		var got []float64
		for _, l := range lags(run(x.f.measure, x.f.metric, x.values)) {
			got = append(got, l.ratio)
		}
		if !slices.Equal(got, x.want) {
			t.Errorf("%s: ratios %v, want %v", name, got, x.want)
		}
	}
}

func TestVerdict(t *testing.T) {
	atMost := bar{f: idle, limit: 40, aim: 20, unit: "MiB"}
	atLeast := bar{f: requestRate, limit: 5, least: true}
	for name, x := range map[string]struct {
		bar  bar
		raw  float64
		want string
	}{
		"just above a limit passes":     {atMost, 40.01 * 1024, missed},
		"at the limit fails":            {atMost, 40 * 1024, met},
		"the aim is not told":           {atMost, 20 * 1024, aimReached},
		"just below a least one passes": {atLeast, 4.99, missed},
		"above a least one fails":       {atLeast, 6, met},
	} {
		r := run(x.bar.f.measure, x.bar.f.metric, map[string][]float64{results.Ours: {x.raw}})
		if _, got := x.bar.measure(r); got != x.want {
			t.Errorf("%s: %s, want %s", name, got, x.want)
		}
	}
	r := run(requestCPU.measure, requestCPU.metric, map[string][]float64{results.Ours: {1}})
	r.Peers = append(r.Peers, results.Peer{Name: results.Nginx, Missing: "no such package"})
	if text, got := bars[0].measure(r); got != notMeasured || text != "nginx: no such package" {
		t.Errorf("a bar without nginx is %q: %q", got, text)
	}
}

func TestNumber(t *testing.T) {
	for want, v := range map[string]float64{
		"0": 0, "0.05": 0.054, "1": 1, "1.13": 1.126, "14.1": 14.14, "100": 99.96, "-365": -365.4, "1,000": 999.6, "1,234,567": 1234567.2, "no": math.Inf(1),
	} {
		if got := number(v); got != want {
			t.Errorf("%v is told as %s, want %s", v, got, want)
		}
	}
}

func TestPictureTellsOursFromTheOthers(t *testing.T) {
	drawn := []barOf{{"nginx", 1}, {results.Ours, 2}, {results.OursOff, 3}, {"caddy", 4}}
	names, ours, theirs := series(drawn, func(v float64) float64 { return v })
	if names[3] != "nginx" || !slices.Equal(ours, plotter.Values{0, 3, 2, 0}) || !slices.Equal(theirs, plotter.Values{4, 0, 0, 1}) {
		t.Errorf("from the bottom %v, of ours %v, of the others %v", names, ours, theirs)
	}
}

func TestAxis(t *testing.T) {
	a := axisFor(10, 3000)
	if got := a.length(10); got <= 0 {
		t.Errorf("the smallest bar has the length %v", got)
	}
	if ticks := a.ticks.Ticks(0, a.end); ticks[len(ticks)-1].Label != "10,000" || ticks[len(ticks)-1].Value != a.length(10000) {
		t.Errorf("the last tick is %+v", ticks[len(ticks)-1])
	}
	if a.end <= a.length(3000) {
		t.Error("the largest bar leaves the picture")
	}
	if axisFor(10, 100).kind != "" {
		t.Error("a narrow range is drawn on a logarithmic axis")
	}
}
