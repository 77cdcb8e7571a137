package app_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// TestPipelinedClientLeaves: requests that follow one another on a connection
// are answered in turn; when the client goes, the one being answered is given
// up and those behind it never reach an engine. Other connections do not care.
func TestPipelinedClientLeaves(t *testing.T) {
	chat, whole := &surfaces[0], &surfaces[1]
	const gone, never = "gone", "never"
	times := 2
	if long {
		times = 100
	}
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			leavesNothing(t)
			s := startSite(t, tr, mockvllm.Options{StepBase: slowToken})
			other := s.dial()
			stays := func() {
				t.Helper()
				tag := s.tag()
				if err := other.SetDeadline(time.Now().Add(patience)); err != nil {
					t.Fatal(err)
				}
				other.send(whole.request(2, tag, ""))
				if resp, body := other.answer("POST"); resp.StatusCode != 200 || strings.Count(body, "["+tag+"]") != 2 {
					t.Errorf("on another connection: %d %s", resp.StatusCode, body)
				}
			}
			stays()
			for _, d := range departures {
				for range times {
					answered, streaming := s.tag(), s.tag()
					c := s.dial()
					c.send(whole.request(2, answered, "") + chat.request(3000, streaming, "") + whole.request(2, never, ""))
					if resp, body := c.answer("POST"); resp.StatusCode != 200 || strings.Count(body, "["+answered+"]") != 2 {
						t.Errorf("the first of three: %d %s", resp.StatusCode, body)
					}
					if _, err := io.CopyN(io.Discard, c.br, 700); err != nil {
						t.Fatal(err)
					}
					stays()
					d.leave(c.Conn)
					s.gone++
					if row := s.await(streaming, "to its end", (*mockvllm.Entry).Ended); !isAborted(&row) {
						t.Errorf("%s: the engine saw %+v", d.name, row)
					}
					c.Close()
					stays()
				}
			}
			for range times { // gone before anything is answered
				c := s.dial()
				c.send(chat.request(3000, gone, "") + whole.request(2, never, ""))
				tcpOf(c.Conn).CloseWrite()
				s.gone++
				_ = c.ended()
				stays()
			}
			other.Close()
			s.nothingLeft()
			for _, r := range posts(s.engine) {
				if r.Tag == never || r.Tag == gone && !isAborted(&r) {
					t.Errorf("work for a client that had left: %+v", r)
				}
			}
		})
	}
}
