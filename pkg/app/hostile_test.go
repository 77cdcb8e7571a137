package app_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// timeouts.total is for the whole request: connecting and sending too.
func TestTotalBoundsConnectingAndSending(t *testing.T) {
	never := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	deaf := func(t *testing.T) string { // accepts and never reads
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		return "http://" + ln.Addr().String()
	}
	for _, c := range []struct {
		name string
		dial func(context.Context, string, string) (net.Conn, error)
		body string
	}{
		{"connecting", never, `{}`},
		{"sending", nil, `{"image":"` + strings.Repeat("x", 30<<20) + `"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			yaml := fmt.Sprintf("backends: [{url: %q, name: e0}]\nhealth_check: {enabled: false}\ntimeouts: {total: 300ms, connect: 30s}\n", deaf(t))
			g := apptest.StartWith(t, app.Options{Dial: c.dial}, yaml)
			begin := time.Now()
			status, answer := g.Post(t, "/v1/chat/completions", c.body)
			if took := time.Since(begin); status != 504 || took > 10*time.Second {
				t.Errorf("%d after %v: %s", status, took, answer)
			}
			if n := g.Metric(`llmproxy_backend_ejections_total{backend="e0"}`); n != 0 {
				t.Error("the backend was ejected for the client's limit")
			}
		})
	}
}

// An answer that has no body by its status is complete without one.
func TestNoContentIsNoAbort(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	engine := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })}
	go func() { _ = engine.Serve(ln) }()
	t.Cleanup(func() { engine.Close() })
	g := apptest.Start(t, fmt.Sprintf("backends: [{url: %q, name: e0}]\n", "http://"+ln.Addr().String()))
	if status, answer := g.Post(t, "/v1/chat/completions", `{}`); status != 204 || answer != "" {
		t.Errorf("%d %q", status, answer)
	}
	if ok, gone := g.Metric(`llmproxy_attempts_total{backend="e0",outcome="ok"}`), g.Metric(`llmproxy_client_aborts_total{phase="streaming"}`); ok != 1 || gone != 0 {
		t.Errorf("counted %v ok, %v aborts", ok, gone)
	}
}

// Zero is no limit, not another setting's.
func TestZeroTimeoutsAreNone(t *testing.T) {
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, "server: {header_timeout: 200ms, body_timeout: 0, idle_timeout: 0}\n", e)
	c := dialRaw(t, g.Addr)
	for range 2 { // the second after an idle time, with a slow body
		raw := post("/v1/chat/completions", wholeChat)
		cut := len(raw) - 5
		c.send(raw[:cut])
		<-time.After(500 * time.Millisecond) // more than header_timeout
		c.send(raw[cut:])
		if resp, body := c.answer("POST"); resp.StatusCode != 200 {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		<-time.After(500 * time.Millisecond)
	}
}

// A request that waits before a backend it has tried holds none of its places;
// and an engine that asks for more patience than the gateway has is passed on.
func TestWhoWaitsHoldsNoPlace(t *testing.T) {
	e := apptest.StartEngine(t, mockvllm.Options{})
	if err := e.Fault(mockvllm.FaultRule{Fault: "429=3000", Path: "/v1/chat/completions", Count: 1}); err != nil {
		t.Fatal(err)
	}
	g := apptest.Start(t, fmt.Sprintf("backends: [{url: %q, name: e0, max_in_flight: 1}]\n", e.URL))
	begin := time.Now()
	status, _ := g.Post(t, "/v1/chat/completions", wholeChat)
	if took := time.Since(begin); status != 429 || took > 5*time.Second {
		t.Errorf("%d after %v, want 429 at once", status, took)
	}
	if status, answer := g.Post(t, "/v1/chat/completions", wholeChat); status != 200 {
		t.Errorf("the next request: %d %s", status, answer)
	}
}

// What a first attempt's answer was must not colour the next one's.
func TestErrorAfterABrokenStreamIsNoStream(t *testing.T) {
	a := apptest.StartEngine(t, mockvllm.Options{Name: "a"})
	b := apptest.StartEngine(t, mockvllm.Options{Name: "b"})
	for e, fault := range map[*apptest.Engine]string{a: "error-event-first", b: "404"} {
		if err := e.Fault(mockvllm.FaultRule{Fault: fault, Path: "/v1/chat/completions"}); err != nil {
			t.Fatal(err)
		}
	}
	g := apptest.Start(t, fmt.Sprintf("backends: [{url: %q, weight: 1000}, {url: %q}]\nload_balance_strategy: round_robin\n", a.URL, b.URL))
	resp, err := http.Post(g.URL+"/v1/chat/completions", "application/json", strings.NewReader(streamChat))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 404 || resp.ContentLength <= 0 || resp.Header.Get("Cache-Control") != "" {
		t.Errorf("%d, length %d, %v", resp.StatusCode, resp.ContentLength, resp.Header)
	}
	if n := len(posts(a)); n != 1 {
		t.Errorf("the stream that broke was asked for %d times; this test wants it first", n)
	}
}

// A final answer is the client's, whatever an earlier backend said.
func TestFinalAnswerIsNotHiddenByABusyBackend(t *testing.T) {
	a := apptest.StartEngine(t, mockvllm.Options{Name: "a"})
	b := apptest.StartEngine(t, mockvllm.Options{Name: "b"})
	for e, fault := range map[*apptest.Engine]string{a: "429=7", b: "500-json"} {
		if err := e.Fault(mockvllm.FaultRule{Fault: fault, Path: "/v1/chat/completions"}); err != nil {
			t.Fatal(err)
		}
	}
	g := apptest.Start(t, fmt.Sprintf("backends: [{url: %q, weight: 1000}, {url: %q}]\nload_balance_strategy: round_robin\n", a.URL, b.URL))
	if status, answer := g.Post(t, "/v1/chat/completions", wholeChat); status != 500 || len(posts(a)) != 1 {
		t.Errorf("%d %s", status, answer)
	}
}

// What is pooled must not colour the next request's line.
func TestAccessLogLineIsOfItsOwnRequest(t *testing.T) {
	e := apptest.StartEngine(t, mockvllm.Options{})
	log, err := os.Create(filepath.Join(t.TempDir(), "access.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	g := apptest.StartWith(t, app.Options{AccessLog: log}, "log: {access: true}\n", e)
	g.Post(t, "/v1/chat/completions", streamChat)
	for range 20 { // one of them gets the exchange of the stream
		g.Post(t, "/v1/models/none", `{}`)
	}
	g.Close()
	lines, err := os.ReadFile(log.Name())
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(lines), `"stream":true`); n != 1 || strings.Count(string(lines), "\n") != 21 {
		t.Errorf("%d lines of streams, want 1:\n%s", n, lines)
	}
}

// A reload may change how a backend is reached; when its host then goes silent,
// the streams on the old connections must be told as well.
func TestSilentHostEndsStreamsOfBeforeAReload(t *testing.T) {
	e := apptest.StartEngine(t, mockvllm.Options{})
	yaml := func(keepAlive string) string {
		return fmt.Sprintf("backends: [{url: %q, name: e0, keep_alive: %s}]\n"+
			"health_check: {interval: 100ms, timeout: 100ms, unhealthy_threshold: 2}\ntimeouts: {between_chunks: 0}\n", e.URL, keepAlive)
	}
	g := apptest.Start(t, yaml("4s"))
	resp, err := http.Post(g.URL+"/v1/chat/completions", "application/json",
		strings.NewReader(strings.TrimSuffix(streamChat, "}")+`,"mock_fault":"stall=2"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := g.Reload(apptest.Config(t, yaml("3s"))); err != nil {
		t.Fatal(err)
	}
	if err := e.Fault(mockvllm.FaultRule{Fault: "hang", Path: "/health"}); err != nil {
		t.Fatal(err)
	}
	body := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(resp.Body)
		body <- string(b)
	}()
	select {
	case b := <-body:
		if !strings.Contains(b, `data: {"error":`) || strings.Contains(b, "[DONE]") {
			t.Errorf("the stream ended with %q", b)
		}
	case <-time.After(20 * time.Second):
		t.Error("the stream hangs")
	}
	e.ClearFaults()
}
