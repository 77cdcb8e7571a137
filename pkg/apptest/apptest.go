// Package apptest runs a whole gateway for tests: fake engines, the gateway in
// front of them, and clients, on loopback sockets, with everything given back
// when the test ends.
package apptest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/config"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// Engine is a fake engine on a loopback port.
type Engine struct {
	*mockvllm.Engine
	URL  string
	Addr string
}

// StartEngine serves a fake engine until the test ends.
func StartEngine(t testing.TB, o mockvllm.Options) *Engine {
	t.Helper()
	return startEngine(t, o, "127.0.0.1:0")
}

// Restart serves a new engine where e was, which must have been closed.
func (e *Engine) Restart(t testing.TB, o mockvllm.Options) *Engine {
	t.Helper()
	return startEngine(t, o, e.Addr)
}

func startEngine(t testing.TB, o mockvllm.Options, addr string) *Engine {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	e := mockvllm.New(o)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.Serve(ln) // ends with Close
	}()
	t.Cleanup(func() {
		_ = e.Close()
		<-done
	})
	return &Engine{Engine: e, URL: "http://" + ln.Addr().String(), Addr: ln.Addr().String()}
}

// Gateway is a running gateway.
type Gateway struct {
	*app.App
	URL  string
	Addr string
	Logs *Log
}

// Start runs a gateway over the engines. yaml is the rest of the
// configuration, below the list of backends; a yaml that has a "backends:" of
// its own is the whole of it.
func Start(t testing.TB, yaml string, engines ...*Engine) *Gateway {
	t.Helper()
	return StartWith(t, app.Options{}, yaml, engines...)
}

// StartWith is Start with options of the caller's; the listener and the log
// are Start's.
func StartWith(t testing.TB, o app.Options, yaml string, engines ...*Engine) *Gateway {
	t.Helper()
	c := Config(t, yaml, engines...)
	logs := &Log{}
	o.Version, o.GoVersion, o.Listener = "test", "go", mustListen(t)
	o.Log = slog.New(slog.NewTextHandler(logs, nil))
	a, err := app.New(c, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	addr := a.Addr().String()
	scheme := "http://"
	if c.TLS.CertFile != "" {
		scheme = "https://"
	}
	return &Gateway{App: a, URL: scheme + addr, Addr: addr, Logs: logs}
}

// Config parses what Start would run.
func Config(t testing.TB, yaml string, engines ...*Engine) *config.Config {
	t.Helper()
	var b strings.Builder
	if !strings.Contains("\n"+yaml, "\nbackends:") {
		b.WriteString("backends:\n")
		for i, e := range engines {
			fmt.Fprintf(&b, "  - {url: %q, name: e%d}\n", e.URL, i)
		}
	}
	b.WriteString(yaml)
	c, err := config.Parse("test.yaml", []byte(b.String()), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustListen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// Metrics returns the gateway's metrics page.
func (g *Gateway) Metrics() string {
	var b strings.Builder
	g.Stats().WritePrometheus(&b)
	return b.String()
}

// Metric returns the value of one series, written as on the page, and 0 when
// it is not there.
func (g *Gateway) Metric(series string) float64 {
	for line := range strings.Lines(g.Metrics()) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			var v float64
			if _, err := fmt.Sscan(rest, &v); err == nil {
				return v
			}
		}
	}
	return 0
}

// Post sends a JSON body and returns the status and the answer.
func (g *Gateway) Post(t testing.TB, path, body string) (int, string) {
	t.Helper()
	resp, err := http.Post(g.URL+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// Eventually waits until cond holds, for at most ten seconds.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			t.Fatalf("never happened: %s", what)
		case <-tick.C:
		}
	}
}
