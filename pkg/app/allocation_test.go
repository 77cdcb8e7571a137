//go:build !race

package app_test

import (
	"bytes"
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// The most allocations that a request may cost the gateway on connections that
// are kept alive, from the client's first byte to the last of the answer: the
// server, the journey, the transport and the metrics together.
const (
	wholeBudget  = 2   // one of them is fasthttp's, for the first byte of a request
	streamBudget = 6.5 // others are fasthttp's for handing a connection over, the goroutine that takes it, and its new name when it goes back; none is an event's
)

// TestRequestAllocations measures whole requests against an engine that
// allocates nothing itself.
func TestRequestAllocations(t *testing.T) {
	leavesNothing(t)
	event := "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"}}]}\n\n"
	stream := strings.Repeat(itoa16(len(event))+"\r\n"+event+"\r\n", 20) + "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
	body := `{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"` + strings.Repeat("word ", 100) + `"}}]}`
	for _, w := range []struct {
		name, request, answer, end string
		budget                     float64
	}{
		{"whole", wholeChat, "HTTP/1.1 200 OK\r\ndate: Mon, 01 Jan 2024 00:00:00 GMT\r\nserver: uvicorn\r\ncontent-length: " + itoa(len(body)) + "\r\ncontent-type: application/json\r\n\r\n" + body, `"}}]}`, wholeBudget},
		{"stream", streamChat, "HTTP/1.1 200 OK\r\ndate: Mon, 01 Jan 2024 00:00:00 GMT\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n" + stream, "\r\n0\r\n\r\n", streamBudget},
	} {
		t.Run(w.name, func(t *testing.T) {
			url := serveTCP(t, func(c net.Conn) {
				buf, answer, end := make([]byte, 16<<10), []byte(w.answer), []byte(w.request[len(w.request)-8:])
				for n := 0; ; {
					k, err := c.Read(buf[n:])
					if err != nil {
						return
					}
					if n += k; !bytes.HasSuffix(buf[:n], end) {
						continue
					}
					n = 0
					if _, err := c.Write(answer); err != nil {
						return
					}
				}
			})
			g := apptest.Start(t, "backends: [{url: "+url+", name: e0}]\nhealth_check: {enabled: false}\n")
			c := dialRaw(t, g.Addr)
			defer c.Close()
			request, end, buf := []byte(post(chatPath, w.request, "Authorization: Bearer x", "User-Agent: sdk/1", "Accept: application/json")), []byte(w.end), make([]byte, 64<<10)
			once := func() {
				if _, err := c.Write(request); err != nil {
					t.Fatal(err)
				}
				for n := 0; !bytes.HasSuffix(buf[:n], end); {
					k, err := c.Conn.Read(buf[n:])
					if err != nil {
						t.Fatal(err)
					}
					n += k
				}
			}
			for range 200 {
				once()
			}
			const rounds = 2000
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range rounds {
				once()
			}
			runtime.ReadMemStats(&after)
			got := float64(after.Mallocs-before.Mallocs) / rounds
			t.Logf("%.2f allocations and %.0f bytes a request", got, float64(after.TotalAlloc-before.TotalAlloc)/rounds)
			if got > w.budget {
				t.Errorf("%.2f allocations a request, the budget is %v", got, w.budget)
			}
			if !bytes.HasPrefix(buf, []byte("HTTP/1.1 200 OK\r\n")) {
				t.Errorf("%.200s", buf)
			}
			c.Close()
			quiet(t, g)
		})
	}
}
