package app_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/config"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// An engine that died before the blank line behind its last event took with it
// what was held back to be looked through: [DONE], or the reason for its death.
func TestHeldEndOutlivesTheEngine(t *testing.T) {
	leavesNothing(t)
	for _, w := range []struct{ name, end, outcome string }{
		{"[DONE]", "data: [DONE]\n", "complete"},
		{"an error event", "data: {\"error\":{\"message\":\"out of memory\",\"code\":500}}\n", "upstream_failed"},
	} {
		t.Run(w.name, func(t *testing.T) {
			engine := func() (backends string, goOn chan struct{}) {
				url, goOn := pausing(t, chunkedHead+chunk(pingFirst).wire, chunk(w.end).wire)
				return "  - {url: " + url + ", name: e0, engine: vllm}\n", goOn
			}
			try := func(g *apptest.Gateway, goOn chan struct{}) (id, body string) {
				resp, err := http.Post(g.URL+chatPath, "application/json", strings.NewReader(streamChat))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				close(goOn)
				b, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Errorf("after %q: %v", b, err)
				}
				return resp.Header.Get("X-Request-Id"), string(b)
			}
			backends, goOn := engine()
			_, off := try(apptest.Start(t, unretried+"backends:\n"+backends), goOn)
			backends, goOn = engine()
			s := startBilled(t, &apiSite{}, "", backends)
			id, on := try(s.gateway, goOn)
			if on != off || on != pingFirst+w.end {
				t.Errorf("with the hook\n%q\nwithout\n%q\nthe engine said\n%q", on, off, pingFirst+w.end)
			}
			s.expect(t, id, bill{
				Model: "mock-model", Served: "mock-model", Backend: "e0", Endpoint: chatPath, Stream: true,
				Status: 200, Outcome: w.outcome, Attempts: 1, Completion: 1, Estimated: true,
			})
			s.settle()
		})
	}
}

// Engines of two kinds that both tell the usage unasked were taken for a third
// kind, of whose streams it has to be taken out.
func TestMixedPoolsKeepTheirBytes(t *testing.T) {
	leavesNothing(t)
	const path = "/v1/completions"
	kinds := []string{mockvllm.DialectTGI, mockvllm.DialectLlamaCPP}
	for i, kind := range kinds { // the one that answers
		t.Run(kind, func(t *testing.T) {
			site, backends := &apiSite{outer: t, dialect: kind, engine: kind}, ""
			for n, dialect := range []string{kind, kinds[1-i]} {
				site.engines[n] = apptest.StartEngine(t, mockvllm.Options{Dialect: dialect})
				backends += fmt.Sprintf("  - {url: %q, name: e%d, region: %s, engine: %s}\n", site.engines[n].URL, n, []string{"here", "there"}[n], dialect)
			}
			s := startBilled(t, site, "", backends)
			for _, b := range countedBodies {
				if strings.HasPrefix(b.fields, `"stream_options"`) || b.fields == "" {
					t.Run(b.name, func(t *testing.T) { s.untouched(t, &pingFronts[0], path, &b) })
				}
			}
			s.settle()
		})
	}
}

// slowReturn is an engine's connection that takes its time when it is given back,
// as a goroutine does that has to wait for a processor.
type slowReturn struct{ net.Conn }

func (c slowReturn) SetDeadline(at time.Time) error {
	if at.IsZero() {
		<-time.After(5 * pingEvery)
	}
	return c.Conn.SetDeadline(at)
}

// A ping between a stream's last chunk and the end of its request stood before the
// next answer on the connection.
func TestNoPingBehindTheLastChunk(t *testing.T) {
	leavesNothing(t)
	goOn := make(chan struct{})
	url := serveTCP(t, func(c net.Conn) {
		for in := bufio.NewReader(c); ; say(c, chunk(doneEvent).wire+lastChunk.wire) {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			say(c, chunkedHead+chunk(pingFirst).wire)
			select {
			case <-goOn:
			case <-t.Context().Done():
				return
			}
		}
	})
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, addr)
		return slowReturn{c}, err
	}
	for name, hook := range map[string]string{"metered": hookConfig(t.TempDir(), startBiller(t, http.StatusOK).URL, ", sync: os"), "not metered": ""} {
		t.Run(name, func(t *testing.T) {
			yaml := unretried + "backends: [{url: " + url + ", name: e0, engine: vllm}]\n" + hook
			g := apptest.StartWith(t, app.Options{Dial: dial}, yaml)
			c := apptest.Config(t, yaml)
			c.Server.SSEPingInterval = config.Duration(pingEvery)
			if err := g.Reload(c); err != nil {
				t.Fatal(err)
			}
			raw := dialRaw(t, g.Addr)
			for n := range 3 {
				raw.send(post(chatPath, streamChat))
				resp, err := http.ReadResponse(raw.br, &http.Request{Method: "POST"})
				if err != nil {
					t.Fatalf("answer %d: %v", n, err)
				}
				s := &pingedStream{rawClient: raw, stream: resp.Body}
				s.until(pingFirst)
				goOn <- struct{}{}
				if got := s.rest(); strings.ReplaceAll(got, keepAlive, "") != pingFirst+doneEvent {
					t.Errorf("stream %d is %q", n, got)
				}
			}
			if err := raw.Conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if rest := raw.ended(); rest != "" {
				t.Errorf("%q stands behind the last stream", rest)
			}
		})
	}
}
