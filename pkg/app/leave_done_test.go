package app_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// TestLeavesAtDone: a client that goes at [DONE], as the SDKs do, was served.
// The connection to the engine, whose answer ends a moment later, is used
// again, and nothing of the departure sticks to it.
func TestLeavesAtDone(t *testing.T) {
	const (
		head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
		done = "e\r\ndata: [DONE]\n\n\r\n"
		slow = 200 * time.Millisecond // longer than an answer may take to end once its client has gone
	)
	for _, tr := range transports[:2] {
		for _, d := range departures {
			t.Run(tr.name+"/"+d.name, func(t *testing.T) {
				leavesNothing(t)
				s := &site{t: t, front: tr.front}
				gone, connections := make(chan struct{}), make(chan struct{}, 9)
				url := serveTCP(t, func(c net.Conn) {
					connections <- struct{}{}
					br := bufio.NewReader(c)
					for first := true; ; first = false {
						r, err := http.ReadRequest(br)
						if err != nil {
							return
						}
						_, _ = io.Copy(io.Discard, r.Body)
						if first {
							_, _ = io.WriteString(c, head+done)
							<-gone
						} else {
							<-time.After(slow)
							_, _ = io.WriteString(c, head+done)
						}
						_, _ = io.WriteString(c, "0\r\n\r\n")
					}
				})
				s.start("backends: [{url: '"+url+"', name: e0}]\nrouting: {retry: {enabled: false}}\n", app.Options{})
				c := s.dial()
				c.send(surfaces[0].request(4, "", ""))
				for line := ""; line != "data: [DONE]\n"; {
					var err error
					if line, err = c.br.ReadString('\n'); err != nil {
						t.Fatal(err)
					}
				}
				d.leave(c.Conn)
				close(gone)
				apptest.Eventually(t, "the request is over", func() bool {
					return s.Metric(`llmproxy_requests_total{model="*",backend="e0",status="200"}`) == 1
				})
				c.Close()
				next := s.dial()
				next.send(surfaces[0].request(4, "", ""))
				if resp, body := next.answer("POST"); resp.StatusCode != 200 || !strings.HasSuffix(body, "[DONE]\n\n") {
					t.Errorf("the next request: %d %s", resp.StatusCode, body)
				}
				next.Close()
				s.nothingLeft()
				if n := len(connections); n != 1 {
					t.Errorf("%d connections to the engine, want 1", n)
				}
			})
		}
	}
}
