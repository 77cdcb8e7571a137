package app_test

import (
	"context"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// closing calls Close and fails the test when that has not begun to drain.
func (s *site) closing() <-chan struct{} {
	s.t.Helper()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.Close()
	}()
	apptest.Eventually(s.t, "it drains", func() bool { return strings.Contains(s.Logs.String(), "msg=draining") })
	return closed
}

// TestShutdownAfterStreams: connections idle after a stream do not hold a
// shutdown up.
func TestShutdownAfterStreams(t *testing.T) {
	for _, front := range fronts {
		t.Run(front.name, func(t *testing.T) {
			leavesNothing(t)
			e := apptest.StartEngine(t, mockvllm.Options{})
			s := &site{t: t, front: front.front}
			s.start("server: {shutdown_timeout: 20s}\nbackends: [{url: "+e.URL+", name: e0}]\n", app.Options{})
			var idle []*rawClient
			for _, letters := range []string{"s", "ss", "sw", "ws", "sws", "sxs"} {
				c := s.dial()
				c.takeTurns(s.turns(letters, ""), nil)
				idle = append(idle, c)
			}
			closed := s.closing()
			for _, c := range idle {
				c.closed()
			}
			select {
			case <-closed:
			case <-time.After(patience):
				t.Error("waits for connections without a request")
			}
		})
	}
}

// TestShutdownInAStream: a stream that is open when a shutdown begins has until
// shutdown_timeout; its connection ends with it, and in order.
func TestShutdownInAStream(t *testing.T) {
	for _, w := range []struct {
		name, timeout string
		parts         []part
		end           func(net.Conn)
		added         string
	}{
		{"one that ends in time is cut", "20s", []part{chunk(firstEvent), join(chunk(doneEvent), lastChunk)}, nil, ``},
		{"one that does not end is not told", "200ms", []part{chunk(firstEvent)}, func(c net.Conn) { io.Copy(io.Discard, c) }, `data: {"error":.*"code":"shutting_down".*}\n\n`},
	} {
		for _, front := range fronts {
			t.Run(w.name+"/"+front.name, func(t *testing.T) {
				leavesNothing(t)
				s := script{head: chunkedHead, parts: w.parts, end: w.end}
				g := s.perform(t, front, "server: {shutdown_timeout: "+w.timeout+"}\n", app.Options{})
				var closed <-chan struct{}
				s.begun = func() { closed = g.closing() }
				c := g.dial()
				c.send(post("/v1/chat/completions", streamChat))
				if added := s.follow(c); !regexp.MustCompile("^" + w.added + "$").MatchString(added) {
					t.Errorf("added %q, want %s", added, w.added)
				}
				c.closed()
				select {
				case <-closed:
				case <-time.After(patience):
					t.Error("does not end after its last stream")
				}
			})
		}
	}
}

// TestClientResetsGivesBack: the place of a stream whose client goes in
// mid-answer is free again, however fast the engine is.
func TestClientResetsGivesBack(t *testing.T) {
	for _, front := range fronts {
		t.Run(front.name, func(t *testing.T) {
			leavesNothing(t)
			s := &site{t: t, front: front.front, engine: apptest.StartEngine(t, mockvllm.Options{})}
			s.start("backends: [{url: "+s.engine.URL+", name: e0, keep_alive: 100ms, max_in_flight: 1}]\n", app.Options{})
			for range 5 {
				c := s.dial()
				c.takeTurns(s.turns("sw", ""), nil)
				c.send(surfaces[0].request(20000, s.tag(), ""))
				if _, err := io.CopyN(io.Discard, c.br, 16<<10); err != nil {
					t.Fatal(err)
				}
				departures[1].leave(c.Conn)
				s.gone++
				quiet(t, s.Gateway)
			}
			s.nothingLeft()
		})
	}
}

// panicky is a connection to an engine that panics when it reads "boom".
type panicky struct{ net.Conn }

func (c panicky) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if strings.Contains(string(p[:n]), "boom") {
		panic("a test's")
	}
	return n, err
}

// TestPanicInAStream: it costs that stream, which does not look whole, and its
// connection; nothing stays in flight.
func TestPanicInAStream(t *testing.T) {
	leavesNothing(t)
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		return panicky{c}, err
	}
	s := script{head: chunkedHead, parts: []part{chunk(firstEvent), {wire: chunk("boom").wire}}}
	g := s.perform(t, fronts[0], "", app.Options{Dial: dial})
	c := g.dial()
	c.send(post("/v1/chat/completions", streamChat))
	c.streamHead()
	body := &chunked{br: c.br}
	if _, err := io.ReadFull(body, make([]byte, len(firstEvent))); err != nil {
		t.Fatal(err)
	}
	s.more <- struct{}{}
	if rest, err := io.ReadAll(body); len(rest) > 0 || err == nil {
		t.Errorf("went on with %q as if it were whole", rest)
	}
	quiet(t, g.Gateway)
	if n := g.Metric("llmproxy_panics_total"); n != 1 {
		t.Errorf("counted %v panics", n)
	}
	if status, answer := g.Post(t, "/v1/chat/completions", wholeChat); status != 200 {
		t.Errorf("afterwards: %d %s", status, answer)
	}
	quiet(t, g.Gateway)
}
