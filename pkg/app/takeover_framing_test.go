package app_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/app"
)

// part is what an engine writes at once, and what of it is for the client.
type part struct{ wire, payload string }

// chunk is a part that is one chunk.
func chunk(s string) part { return part{itoa16(len(s)) + "\r\n" + s + "\r\n", s} }

// join makes one part of several.
func join(parts ...part) (all part) {
	for _, p := range parts {
		all.wire += p.wire
		all.payload += p.payload
	}
	return all
}

const (
	chunkedHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
	closingHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
	wholeAnswer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
	firstEvent  = "data: {}\n\n"
	doneEvent   = "data: [DONE]\n\n"
)

var lastChunk = part{wire: "0\r\n\r\n"}

// script is an engine that answers a stream with parts, each written when the
// client has the payload of the one before, and then ends the connection where
// there is an end.
type script struct {
	head  string
	parts []part
	end   func(net.Conn)
	more  chan struct{} // the client has what was written
	begun func()        // called when the client has the first part
}

// perform runs a gateway over the script.
func (s *script) perform(t *testing.T, front transport, yaml string, o app.Options) *site {
	t.Helper()
	s.more = make(chan struct{}, len(s.parts)+1)
	url := serveTCP(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			body, _ := io.ReadAll(req.Body)
			if !strings.Contains(string(body), `"stream":true`) {
				io.WriteString(c, wholeAnswer)
				continue
			}
			wire := s.head
			for _, p := range s.parts {
				io.WriteString(c, wire+p.wire)
				wire = ""
				select {
				case <-s.more:
				case <-t.Context().Done():
					return
				}
			}
			if s.end != nil {
				s.end(c)
				return
			}
		}
	})
	st := &site{t: t, front: front.front}
	st.start(yaml+"routing: {retry: {enabled: false}}\nbackends: [{url: "+url+", name: e0, keep_alive: 100ms}]\n", o)
	return st
}

// follow reads a stream part by part and returns what the gateway adds to it.
func (s *script) follow(c *rawClient) (added string) {
	c.t.Helper()
	c.streamHead()
	body := &chunked{br: c.br}
	for i, p := range s.parts {
		got := make([]byte, len(p.payload))
		if _, err := io.ReadFull(body, got); err != nil || string(got) != p.payload {
			c.t.Fatalf("part %d of %d bytes: %v, %.100q", i, len(got), err, got)
		}
		if i == 0 && s.begun != nil {
			s.begun()
		}
		s.more <- struct{}{}
	}
	return c.body(body)
}

// framings are ways in which an engine may cut a stream.
func framings() map[string]script {
	event := func(n int) string { return "data: " + strings.Repeat("x", n-8) + "\n\n" }
	bytewise := make([]part, 500)
	for i := range bytewise {
		bytewise[i] = chunk(string(rune('a' + i%26)))
	}
	first, done, all := chunk(firstEvent), chunk(doneEvent), func(parts ...part) script { return script{head: chunkedHead, parts: parts} }
	ways := map[string]script{
		"a first event larger than a read":            all(chunk(event(100<<10)), join(done, lastChunk)),
		"a first event larger than a read, and all":   all(join(chunk(event(100<<10)), done, lastChunk)),
		"a first event in many chunks":                all(join(append([]part{chunk("data: ")}, append(bytewise, chunk("\n\n"))...)...), join(done, lastChunk)),
		"all in one read":                             all(join(first, done, lastChunk)),
		"several chunks and the last one in one read": all(first, join(first, first, done, lastChunk)),
		"many small chunks and the last one":          all(first, join(append(bytewise, done, lastChunk)...)),
		"more than a read of small chunks":            all(first, join(append(bytewise, chunk(event(64<<10)), done, lastChunk)...)),
		"the last chunk alone":                        all(first, done, lastChunk),
		"the last chunk in pieces":                    all(first, done, part{wire: "0\r"}, part{wire: "\n\r\n"}),
		"trailers":                                    all(first, part{done.wire + "0\r\nX-Sum: 1\r\nServer-Timing: a\r\n\r\n", done.payload}),
		"trailers alone":                              all(first, done, part{wire: "0\r\nX-Sum: 1\r\n\r\n"}),
		"chunk extensions, capitals, zeros":           all(first, part{"000E;a=b\r\n" + doneEvent + "\r\n0;last\r\n\r\n", doneEvent}),
	}
	const readSize = 32<<10 - 15 // what the gateway reads at once: a buffer without the room for framing
	const around = len("7ff1\r\n\r\n")
	for _, n := range []int{readSize - 1, readSize, readSize + 1, 32 << 10, 2 * readSize} {
		plain := func(s string) part { return part{s, s} }
		ways["to the end of the connection, a read of "+itoa(n)] = script{
			head: closingHead, parts: []part{plain(firstEvent), plain(event(n)), plain(doneEvent)}, end: func(net.Conn) {},
		}
		ways["a chunk of "+itoa(n)] = all(first, chunk(event(n)), join(done, lastChunk))
		ways["a chunk that is with its framing "+itoa(n)] = all(first, chunk(event(n-around)), join(done, lastChunk))
		ways["a chunk and the last one, together "+itoa(n)] = all(first, join(chunk(event(n-around-len(lastChunk.wire))), lastChunk))
	}
	return ways
}

// TestFraming: however an engine cuts a stream, the client gets its payload,
// in chunks as the standard has them, and nothing behind.
func TestFraming(t *testing.T) {
	leavesNothing(t)
	for name, s := range framings() {
		t.Run(name, func(t *testing.T) {
			together(t)
			g := s.perform(t, fronts[0], "", app.Options{})
			c := g.dial()
			for range 2 {
				c.send(post("/v1/chat/completions", streamChat))
				if added := s.follow(c); added != "" {
					t.Errorf("went on with %q", added)
				}
			}
			c.send(post("/v1/chat/completions", wholeChat))
			if resp, body := c.answer("POST"); resp.StatusCode != 200 || body != "{}" {
				t.Errorf("afterwards: %d %q", resp.StatusCode, body)
			}
			c.Close()
			g.nothingLeft()
		})
	}
}

// TestBrokenStreamKeepsItsConnection: the client is told, the body ends as a
// body does, and the next request is served.
func TestBrokenStreamKeepsItsConnection(t *testing.T) {
	leavesNothing(t)
	dies := func(net.Conn) {}
	first := chunk(firstEvent)
	for _, w := range []struct {
		name  string
		parts []part
		end   func(net.Conn)
		added string // a regular expression
	}{
		{"dies after the first event", []part{first}, dies, `data: {"error":.*"code":"bad_gateway".*}\n\n`},
		{"dies between events", []part{first, first}, dies, `data: {"error":.*"code":"bad_gateway".*}\n\n`},
		{"dies in an event", []part{first, chunk(`data: {"id`)}, dies, `\n\ndata: {"error":.*"code":"bad_gateway".*}\n\n`},
		{"dies in a chunk", []part{first, {"100\r\ndata: ", "data: "}}, dies, `\n\ndata: {"error":.*"code":"bad_gateway".*}\n\n`},
		{"dies in a long first event", []part{chunk("data: " + strings.Repeat("x", 100<<10))}, dies, `\n\ndata: {"error":.*"code":"bad_gateway".*}\n\n`},
		{"resets", []part{first, first}, func(c net.Conn) { c.(*net.TCPConn).SetLinger(0) }, `data: {"error":.*"code":"bad_gateway".*}\n\n`},
		{"writes no chunks", []part{first, {wire: "zz\r\n"}}, dies, `data: {"error":.*"code":"bad_gateway".*}\n\n`},
		{"falls silent", []part{first}, func(c net.Conn) { io.Copy(io.Discard, c) }, `data: {"error":.*"code":"gateway_timeout".*}\n\n`},
		{"dies behind [DONE]", []part{first, chunk(doneEvent)}, dies, ``},
		{"dies behind an error event", []part{first, chunk("data: {\"error\":{\"message\":\"x\"}}\n\n")}, dies, ``},
	} {
		for _, front := range fronts {
			t.Run(w.name+"/"+front.name, func(t *testing.T) {
				s := script{head: chunkedHead, parts: w.parts, end: w.end}
				g := s.perform(t, front, "timeouts: {between_chunks: 200ms}\n", app.Options{})
				c := g.dial()
				c.send(post("/v1/chat/completions", streamChat))
				if added := s.follow(c); !regexp.MustCompile("^" + w.added + "$").MatchString(added) {
					t.Errorf("added %q, want %s", added, w.added)
				}
				c.send(post("/v1/chat/completions", wholeChat))
				if resp, body := c.answer("POST"); resp.StatusCode != 200 || body != "{}" {
					t.Errorf("afterwards: %d %q", resp.StatusCode, body)
				}
				c.Close()
				g.nothingLeft()
			})
		}
	}
}
