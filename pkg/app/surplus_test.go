package app_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// An engine that sends an answer nobody asked for, however soon after the right
// one, must not have it taken for the next client's.
func TestSurplusAnswerIsNobodys(t *testing.T) {
	sent := make(chan struct{}, 100)
	url := serveTCP(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		for n := 0; ; n++ {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			for _, body := range []string{`{"id":"right"}`, `{"id":"surplus"}`} {
				_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			}
			sent <- struct{}{} // on loopback it has arrived
		}
	})
	g := apptest.Start(t, "backends: [{url: "+url+", name: e0}]\nhealth_check: {enabled: false}\n")
	for i := range 50 {
		resp, err := http.Post("http://"+g.Addr+chatPath, "application/json", strings.NewReader(wholeChat))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(body) != `{"id":"right"}` {
			t.Fatalf("request %d got %q, %v", i, body, err)
		}
		<-sent
	}
}
