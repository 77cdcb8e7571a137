package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/bench/results"
)

// fakeEngine answers as the engine does. leave, if there is one, is called when
// a client gave up a request whose answer is held back.
type fakeEngine struct {
	mu     sync.Mutex
	state  engineState
	held   bool // answers are held back
	arrive func(*engineState)
	leave  func(*engineState)
}

func (e *fakeEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path != "/control":
		e.chat(w, r)
	case r.Method == http.MethodGet:
		e.mu.Lock()
		defer e.mu.Unlock()
		_ = json.NewEncoder(w).Encode(e.state)
	default:
		e.mu.Lock()
		defer e.mu.Unlock()
		e.held = r.URL.Query().Has("delay")
	}
}

func (e *fakeEngine) chat(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	e.mu.Lock()
	held := e.held
	e.state.Requests++
	if held && e.arrive != nil {
		e.arrive(&e.state)
	}
	e.mu.Unlock()
	if held {
		<-r.Context().Done()
		e.mu.Lock()
		defer e.mu.Unlock()
		e.leave(&e.state)
		return
	}
	if strings.Contains(string(body), `"stream":true`) {
		fmt.Fprint(w, "data: {}\n\ndata: [DONE]\n\n")
		return
	}
	fmt.Fprint(w, `{"choices":[]}`)
}

// newTestBench returns a bench whose engine is a fake.
func newTestBench(t *testing.T, fake http.Handler) *bench {
	t.Helper()
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	b := &bench{
		dir: t.TempDir(), short: true, lastPort: 21000, patience: 100 * time.Millisecond,
		engine:   &engine{addr: server.Listener.Addr().String()},
		progress: func(string, ...any) {},
	}
	t.Cleanup(b.stop)
	return b
}

// answering is a gateway whose process does nothing: the test answers for it.
func answering(t *testing.T, status int) func(dir, listen, engine string) (*exec.Cmd, error) {
	return func(_, listen, _ string) (*exec.Cmd, error) {
		ln, err := net.Listen("tcp", listen)
		if err != nil {
			return nil, err
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			(&fakeEngine{}).chat(w, r)
		})}
		t.Cleanup(func() { server.Close() })
		go server.Serve(ln)
		return exec.Command("sleep", "60"), nil
	}
}

func TestPeerThatFailsIsMissing(t *testing.T) {
	fails := func(context.Context, string) error { return errors.New("no network\nand a long log") }
	for _, c := range []struct {
		name string
		peer peer
		want string // part of the reason; "": it is there
	}{
		{"it works", peer{start: answering(t, 200)}, ""},
		{"not installed", peer{install: fails, start: answering(t, 200)}, "cannot install it: no network"},
		{"version unknown", peer{start: answering(t, 200), version: func(context.Context, string) (string, error) { return "", errors.New("no -v") }}, "no -v"},
		{"no configuration", peer{start: func(string, string, string) (*exec.Cmd, error) { return nil, errors.New("no template") }}, "no template"},
		{"no such program", peer{start: shellLess("/nowhere/gateway")}, "/nowhere/gateway"},
		{"ends at once", peer{start: shell("echo starting; echo port taken >&2; exit 1")}, "it ended: port taken"},
		{"answers with errors", peer{start: answering(t, 500)}, "500"},
		{"never listens", peer{start: shell("sleep 60")}, "refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newTestBench(t, &fakeEngine{})
			g := &gateway{peer: c.peer}
			g.name = "x"
			b.gateways = []*gateway{g}
			if err := b.prepare(t.Context(), g); err != nil {
				t.Fatalf("it ended the run: %v", err)
			}
			if reason := g.row().Missing; (c.want == "") != (reason == "") || !strings.Contains(reason, c.want) || strings.Contains(reason, "\n") {
				t.Errorf("missing because %q, want %q", reason, c.want)
			}
			if present := len(b.present()) == 1; present != (c.want == "") || present != g.process.alive() {
				t.Errorf("it is measured: %v, it runs: %v", present, g.process.alive())
			}
		})
	}
}

func shellLess(path string) func(dir, listen, engine string) (*exec.Cmd, error) {
	return func(string, string, string) (*exec.Cmd, error) { return exec.Command(path), nil }
}

// What one gateway does must neither end the run nor go unseen.
func TestMeasureGoesOn(t *testing.T) {
	b := newTestBench(t, &fakeEngine{})
	g := &gateway{peer: peer{name: "x", start: answering(t, 200)}}
	if err := b.prepare(t.Context(), g); err != nil || g.missing != "" {
		t.Fatal(err, g.missing)
	}
	one := []results.Sample{{Values: map[string]float64{"cpu": 1}}}
	dies := func(_ context.Context, g *gateway) ([]results.Sample, error) {
		if err := g.process.cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		<-g.process.ended
		return slices.Clone(one), nil
	}
	var plan []step
	for i, run := range []func(context.Context, *gateway) ([]results.Sample, error){
		func(context.Context, *gateway) ([]results.Sample, error) { return nil, errors.New("timed out") },
		dies,
		func(context.Context, *gateway) ([]results.Sample, error) { return slices.Clone(one), nil },
	} {
		plan = append(plan, step{g, "closed", i + 1, run})
	}
	if err := b.measure(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	want := []string{"timed out", "it ended without a word", ""}
	if len(b.samples) != len(want) {
		t.Fatalf("samples: %+v", b.samples)
	}
	for i, s := range b.samples {
		if s.Error != want[i] || (s.Values == nil) != (want[i] != "") || s.Peer != "x" || s.Measure != "closed" || s.Round != i+1 {
			t.Errorf("sample %d: %+v, want the error %q", i, s, want[i])
		}
	}
}

func TestLeave(t *testing.T) {
	notice := func(s *engineState) { s.Aborted++; s.LastAbort = time.Now().UnixNano() }
	nothing := func(*engineState) {}
	for _, c := range []struct {
		name          string
		arrive, leave func(*engineState)
		noticed       bool
	}{
		{"noticed", nothing, notice, true},
		{"not noticed", nothing, nothing, false},
		{"an abort of before is not this one's", notice, nothing, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newTestBench(t, &fakeEngine{held: true, arrive: c.arrive, leave: c.leave})
			g := &gateway{addr: b.engine.addr}
			ms, err := b.leave(t.Context(), g, abortCase{})
			if err != nil || (ms >= 0) != c.noticed || ms < 0 && ms != -1 {
				t.Errorf("%v ms, %v", ms, err)
			}
		})
	}
}

// A gateway asks for the key that it has been given, and refuses a request with two.
func TestRequestByHandHasOneKey(t *testing.T) {
	for _, header := range [][]string{nil, {"X-One: 1"}, {"Authorization: Bearer other"}} {
		ours, its := net.Pipe()
		go func() {
			_ = send(ours, &gateway{addr: "127.0.0.1:1", peer: peer{header: header}}, "{}")
			ours.Close()
		}()
		r, err := http.ReadRequest(bufio.NewReader(its))
		if err != nil {
			t.Fatal(err)
		}
		want := "Bearer sk-bench"
		if slices.Contains(header, "Authorization: Bearer other") {
			want = "Bearer other"
		}
		if got := r.Header.Values("Authorization"); len(got) != 1 || got[0] != want {
			t.Errorf("with %q it has the keys %q", header, got)
		}
		its.Close()
	}
}

// The names are a contract with the report; and a figure that cannot be computed
// must not be there, as NaN has no JSON.
func TestValuesAreThoseOfTheMeasure(t *testing.T) {
	full := &outcome{Requests: 4, RPS: 2, Events: 8, EventsPerSecond: 4}
	want := map[string]string{
		results.Closed:   "cpu p50 p99 requests_per_second",
		results.Open:     "cpu p50 p99 p999 requests_per_second",
		results.OpenSlow: "cpu p50 p99 requests_per_second",
		results.Stream:   "cpu_event event_p50 event_p99 event_p999 events_per_second ttft_p50 ttft_p99",
		results.Burst:    "cpu_event event_p50 event_p99 event_p999 events_per_second ttft_p50 ttft_p99",
		results.Flood:    "cpu_event events_per_second",
		results.Body:     "cpu p50 p99 requests_per_second",
	}
	both := append((&bench{kind: sideBySide}).measures(), (&bench{kind: clusters}).measures()...)
	for _, m := range both {
		v := m.values(full, work{cpu: 8000})
		if got := strings.Join(slices.Sorted(maps.Keys(v)), " "); got != want[m.name] {
			t.Errorf("%s has %s, want %s", m.name, got, want[m.name])
		}
		if cpu := v["cpu"] + v["cpu_event"]; cpu != 2 && cpu != 1 {
			t.Errorf("%s: 8 us for 4 requests or 8 events are %v each", m.name, cpu)
		}
		if v := m.values(full, work{}); len(v) > 0 && (v["cpu"] != 0 || v["cpu_event"] != 0) {
			t.Errorf("%s: CPU of no gateway: %v", m.name, v)
		}
		if v := m.values(&outcome{}, work{8000, &redisWork{}}); len(v) != 1 {
			t.Errorf("%s: figures of no request: %v", m.name, v)
		}
	}
	for name := range want {
		if !slices.ContainsFunc(both, func(m measure) bool { return m.name == name }) {
			t.Errorf("not measured: %s", name)
		}
	}
}

// The machine's speed drifts between rounds; ratios of medians would carry that.
func TestRatioIsOfTheSameRound(t *testing.T) {
	r := &results.Run{}
	for round, cpu := range [][2]float64{{10, 20}, {30, 60}, {11, 0}} { // nginx, x
		for i, name := range []string{"nginx", "x"} {
			if cpu[i] > 0 {
				r.Samples = append(r.Samples, results.Sample{Peer: name, Measure: "closed", Round: round + 1, Values: map[string]float64{"cpu": cpu[i]}})
			}
		}
	}
	r.Peers = []results.Peer{{Name: "nginx"}, {Name: "x"}, {Name: "y", Missing: "no network"}}
	if got := ratio(r, "x", "closed", "cpu"); got != "2.00" {
		t.Errorf("ratio %s", got)
	}
	if text := table(r); !strings.Contains(text, "y is missing: no network") {
		t.Errorf("the table hides what is missing:\n%s", text)
	}
}

func TestFreeAddrIsFree(t *testing.T) {
	b := &bench{lastPort: 21000}
	first, err := b.freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", first)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	again := &bench{lastPort: 21000}
	if second, err := again.freeAddr(); err != nil || second == first {
		t.Errorf("%s is taken, %v", second, err)
	}
}

func TestDeathIsTheLastLine(t *testing.T) {
	p, err := begin(exec.Command("sh", "-c", "echo one; echo two; echo"), "", filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	<-p.ended
	if got := p.death().Error(); got != "it ended: two" {
		t.Error(got)
	}
}
