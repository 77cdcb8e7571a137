package mockvllm

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// tcpEngine serves an engine on loopback until the test ends.
func tcpEngine(t testing.TB, opt Options) (*Engine, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := New(opt)
	served := make(chan error, 1)
	go func() { served <- e.Serve(ln) }()
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error("Serve:", err)
		}
	})
	return e, ln.Addr().String()
}

// pipes is a listener without a network, for tests in a synctest bubble.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p pipes) Close() error {
	close(p)
	return nil
}

func (p pipes) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// pipeEngine serves an engine through dial; for use inside a bubble, which the
// caller leaves clean by calling the engine's Close.
func pipeEngine(opt Options) (e *Engine, dial func() net.Conn) {
	e = New(opt)
	p := make(pipes)
	go func() { _ = e.Serve(p) }()
	return e, func() net.Conn {
		client, server := net.Pipe()
		p <- server
		return client
	}
}

// request is an HTTP/1.1 POST of JSON.
func request(path, body string, headers ...string) string {
	h := ""
	if len(headers) > 0 {
		h = strings.Join(headers, "\r\n") + "\r\n"
	}
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s",
		path, h, len(body), body)
}

func get(path string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n"
}

// exchange sends raw bytes and returns everything until the connection ends.
func exchange(t testing.TB, addr, raw string) string {
	t.Helper()
	c := dial(t, addr)
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil && len(got) == 0 {
		return "error: " + err.Error()
	}
	return string(got)
}

func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

// await is WaitEntry with a deadline that fails the test.
func await(t testing.TB, e *Engine, what string, match func(Entry) bool) Entry {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	row, err := e.WaitEntry(ctx, match)
	if err != nil {
		t.Fatalf("no row %s; ledger: %+v", what, e.Ledger())
	}
	return row
}

// eventually polls a condition that has no ledger row.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("never happened: ", what)
		}
	}
}

const (
	chatPath = "/v1/chat/completions"
	closing  = "Connection: close"
	requestR = "X-Request-Id: r1"
)

// chatBody is a chat request with further fields.
func chatBody(more string) string {
	if more != "" {
		more = "," + more
	}
	return `{"model":"mock-model","messages":[{"role":"user","content":"hello"}]` + more + `}`
}
