package app_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// fronts are what a client may speak to the gateway.
var fronts = transports[:2]

// chunked reads a chunked body as RFC 9112, section 7.1, has it and nothing
// looser: sizes without leading zeros, no extensions, no trailers.
type chunked struct {
	br   *bufio.Reader
	left int // of the current chunk
	err  error
}

var sizeLine = regexp.MustCompile(`^(0|[1-9a-f][0-9a-f]{0,6})\r\n$`)

func (c *chunked) Read(p []byte) (int, error) {
	if c.left == 0 && c.err == nil {
		c.left, c.err = c.next()
	}
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.br.Read(p[:min(len(p), c.left)])
	if c.left -= n; c.left == 0 {
		c.err = c.lineEnd()
	}
	return n, err
}

// next reads a size line, and what follows the last one.
func (c *chunked) next() (size int, err error) {
	line, err := c.br.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("no next chunk, only %q: %w", line, err)
	}
	if !sizeLine.MatchString(line) {
		return 0, fmt.Errorf("not a chunk's size: %q", line)
	}
	if line == "0\r\n" {
		if err := c.lineEnd(); err != nil {
			return 0, err
		}
		return 0, io.EOF
	}
	_, err = fmt.Sscanf(line, "%x", &size)
	return size, err
}

func (c *chunked) lineEnd() error {
	end := make([]byte, 2)
	if _, err := io.ReadFull(c.br, end); err != nil || string(end) != "\r\n" {
		return fmt.Errorf("no line end behind a chunk: %q, %w", end, err)
	}
	return nil
}

// head reads the head of an answer and fails the test unless it has that first
// line.
func (c *rawClient) head(first string) textproto.MIMEHeader {
	c.t.Helper()
	r := textproto.NewReader(c.br)
	line, err := r.ReadLine()
	if err != nil || line != first {
		c.t.Fatalf("the head begins with %q, %v", line, err)
	}
	h, err := r.ReadMIMEHeader()
	if err != nil {
		c.t.Fatalf("a broken head: %v, %v", h, err)
	}
	return h
}

// streamHead reads the head of a stream that comes in chunks and leaves the
// connection open.
func (c *rawClient) streamHead() {
	c.t.Helper()
	h := c.head("HTTP/1.1 200 OK")
	for name, want := range map[string]string{
		"Transfer-Encoding": "chunked", "Connection": "", "Content-Length": "",
		"Cache-Control": "no-cache", "X-Accel-Buffering": "no",
	} {
		if got := strings.Join(h[name], "|"); got != want {
			c.t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if len(h) != 6 || !strings.HasPrefix(h.Get("Content-Type"), "text/event-stream") || len(h.Get("X-Request-Id")) != 32 || h.Get("Date") == "" {
		c.t.Errorf("head %v", h)
	}
}

// stream reads such a stream to its end.
func (c *rawClient) stream() string {
	c.t.Helper()
	c.streamHead()
	return c.body(&chunked{br: c.br})
}

// body reads what is left of a body.
func (c *rawClient) body(r io.Reader) string {
	c.t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		c.t.Fatalf("after %d bytes: %v", len(b), err)
	}
	return string(b)
}

// closed fails the test unless the connection ends, in order and without a word.
func (c *rawClient) closed() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.br); len(rest) > 0 || err != nil {
		c.t.Errorf("not just closed: %q, %v", rest, err)
	}
}

// stays fails the test when anything comes on the connection within d.
func (c *rawClient) stays(d time.Duration) {
	c.t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(d)); err != nil {
		c.t.Fatal(err)
	}
	if b, err := c.br.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("did not stay as it was: %q, %v", b, err)
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		c.t.Fatal(err)
	}
}

// turn is a request and what must be the answer: a stream, a whole one or a
// refusal, by its letter.
type turn struct {
	letter  rune
	request string
	tag     string
}

// turns makes requests of letters; more is put into the body of the whole ones.
func (s *site) turns(letters, more string) []turn {
	var all []turn
	for _, l := range letters {
		tag := s.tag()
		request := post("/v1/chat/completions", `{}`)
		switch l {
		case 's':
			request = surfaces[0].request(4, tag, "")
		case 'w':
			request = surfaces[1].request(4, tag, more)
		}
		all = append(all, turn{l, request, tag})
	}
	return all
}

// takes reads the answer.
func (c *rawClient) takes(u turn) {
	c.t.Helper()
	var got string
	status, want := 200, 200
	switch u.letter {
	case 's':
		got = c.stream()
		if !strings.HasPrefix(got, "data: {") || !strings.HasSuffix(got, "}\n\ndata: [DONE]\n\n") {
			c.t.Errorf("not a whole stream: %q", got)
		}
	default:
		var resp *http.Response
		resp, got = c.answer("POST")
		status = resp.StatusCode
		if resp.Close || len(resp.TransferEncoding) > 0 || resp.ContentLength != int64(len(got)) {
			c.t.Errorf("head %+v", resp)
		}
	}
	tokens := 4
	if u.letter == 'x' {
		want, tokens = 400, 0
	}
	if n := strings.Count(got, "["+u.tag+"]"); n != tokens || status != want {
		c.t.Errorf("status %d, %d tokens of its own, want %d: %q", status, n, tokens, got)
	}
}

// TestServesOnAfterAStream: the connection of a stream serves what follows, also
// when that was sent before the stream's end, in whatever pieces.
func TestServesOnAfterAStream(t *testing.T) {
	together := func(second string) int { return len(second) } // all in one piece
	headEnd := func(second string) int { return strings.Index(second, "\r\n\r\n") + 4 }
	large := `"x":"` + strings.Repeat("x", 100<<10) + `"`
	cases := []struct {
		name, letters, more string
		cut                 func(second string) int // how much of the second comes with the first
	}{
		{"a whole request gets no answer", "sw", "", nil},
		{"a second stream gets no answer", "ss", "", nil},
		{"a refusal ends the connection", "sxsw", "", nil},
		{"fails in the long run", strings.Repeat("sw", 25), "", nil},
		{"pipelined requests are lost", "sws", "", together},
		{"a pipelined refusal ends the connection", "sxsw", "", together},
		{"many pipelined streams lose one", strings.Repeat("s", 20), "", together},
		{"of a pipelined body only the beginning is kept", "sws", large, together},
		{"the first byte of the next request is lost", "sws", "", func(string) int { return 1 }},
		{"half a head is lost", "sws", "", func(string) int { return 40 }},
		{"a head without its body is lost", "sws", "", headEnd},
		{"a body but for its last byte is lost", "sws", "", func(second string) int { return len(second) - 1 }},
	}
	for _, front := range fronts {
		t.Run(front.name, func(t *testing.T) {
			leavesNothing(t)
			s := startSite(t, front, mockvllm.Options{})
			for _, w := range cases {
				t.Run(w.name, func(t *testing.T) {
					c := s.dial()
					c.t = t
					defer c.Close()
					c.takeTurns(s.turns(w.letters, w.more), w.cut)
					apptest.Eventually(t, "one connection", func() bool { return s.Metric("llmproxy_connections_open") == 1 })
					if n := c.br.Buffered(); n > 0 {
						t.Errorf("%d bytes too many", n)
					}
				})
			}
			s.nothingLeft()
		})
	}
}

// takeTurns sends the first request with as much of those behind it as cut says
// and the rest after the first answer; without cut, each after the answer before.
func (c *rawClient) takeTurns(all []turn, cut func(second string) int) {
	c.t.Helper()
	var behind string
	for _, u := range all[1:] {
		behind += u.request
	}
	n := 0
	if cut != nil {
		if n = cut(all[1].request); n == len(all[1].request) {
			n = len(behind)
		}
	}
	c.send(all[0].request + behind[:n])
	for i, u := range all {
		switch {
		case i > 0 && cut == nil:
			c.send(u.request)
		case i == 1:
			c.send(behind[n:])
		}
		c.takes(u)
	}
}

// TestIdleAfterAStream: between a stream and the next request the time is
// idle_timeout, and its end is no error.
func TestIdleAfterAStream(t *testing.T) {
	leavesNothing(t)
	const half = "POST /v1/chat/completions HTTP/1.1\r\nHo"
	cases := []struct {
		fronts                int
		name, letters, server string
		kept                  time.Duration
		half                  string // a beginning of a request, answered 408
	}{
		{2, "told 408", "s", "header_timeout: 10s, idle_timeout: 300ms", 0, ""},
		{1, "told 408 when header_timeout is shorter", "ss", "header_timeout: 200ms, idle_timeout: 300ms", 0, ""},
		{1, "told 408 after a whole answer", "sw", "header_timeout: 10s, idle_timeout: 300ms", 0, ""},
		{1, "closed before idle_timeout", "s", "header_timeout: 10s, idle_timeout: 10s", 500 * time.Millisecond, ""},
		{2, "closed at header_timeout", "s", "header_timeout: 200ms, idle_timeout: 10s", 500 * time.Millisecond, ""},
		{1, "no idle_timeout is another setting's", "s", "header_timeout: 200ms, idle_timeout: 0", 500 * time.Millisecond, ""},
		{1, "header_timeout is off for the next head", "s", "header_timeout: 200ms, idle_timeout: 10s", 0, half},
	}
	t.Run("all", func(t *testing.T) {
		for _, w := range cases {
			for _, front := range fronts[:w.fronts] {
				t.Run(w.name+"/"+front.name, func(t *testing.T) {
					together(t)
					e := apptest.StartEngine(t, mockvllm.Options{})
					s := &site{t: t, front: front.front}
					s.start("server: {"+w.server+"}\nbackends: [{url: "+e.URL+", name: e0}]\n", app.Options{})
					c := s.dial()
					c.takeTurns(s.turns(w.letters, ""), nil)
					if w.kept > 0 {
						c.stays(w.kept)
						c.takeTurns(s.turns("s", ""), nil)
					} else if w.half != "" {
						c.send(w.half)
						if resp, _ := c.answer("POST"); resp.StatusCode != 408 {
							t.Errorf("status %d", resp.StatusCode)
						}
					}
					if w.kept == 0 {
						c.closed()
					}
					c.Close()
					s.nothingLeft()
				})
			}
		}
	})
}

// TestStreamEndsItsConnection: who does not want the connection any more has it
// closed behind the stream, and is told so.
func TestStreamEndsItsConnection(t *testing.T) {
	for _, w := range []struct {
		name, version, line, first string
		chunks                     bool
	}{
		{"HTTP/1.0 gets chunks", "HTTP/1.0", "X-A: b", "HTTP/1.0 200 OK", false},
		{"HTTP/1.0 with keep-alive has no end", "HTTP/1.0", "Connection: keep-alive", "HTTP/1.0 200 OK", false},
		{"Connection: close is not heard", "HTTP/1.1", "Connection: close", "HTTP/1.1 200 OK", true},
		{"Connection: Close is not heard", "HTTP/1.1", "Connection: Close", "HTTP/1.1 200 OK", true},
	} {
		for _, front := range fronts {
			t.Run(w.name+"/"+front.name, func(t *testing.T) {
				leavesNothing(t)
				s := startSite(t, front, mockvllm.Options{})
				c := s.dial()
				c.send(strings.Replace(post("/v1/chat/completions", streamChat, w.line), "HTTP/1.1", w.version, 1))
				h := c.head(w.first)
				if got := h.Get("Connection"); got != "close" {
					t.Errorf("Connection: %q", got)
				}
				var from io.Reader = c.br
				if w.chunks {
					from = &chunked{br: c.br}
				}
				if got := h.Get("Transfer-Encoding"); (got == "chunked") != w.chunks || h.Get("Content-Length") != "" {
					t.Errorf("head %v", h)
				}
				if got := c.body(from); !strings.HasPrefix(got, "data: {") || !strings.HasSuffix(got, "}\n\ndata: [DONE]\n\n") {
					t.Errorf("not a whole stream: %q", got)
				}
				c.closed()
				s.nothingLeft()
			})
		}
	}
}
