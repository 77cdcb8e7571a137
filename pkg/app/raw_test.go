package app_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// patience is how long a test waits for what should take milliseconds.
const patience = 10 * time.Second

const (
	wholeChat  = `{"model":"mock-model","messages":[{"role":"user","content":"hi"}],"max_tokens":4}`
	streamChat = `{"model":"mock-model","messages":[{"role":"user","content":"hi"}],"max_tokens":4,"stream":true}`
)

// leavesNothing fails the test when goroutines are left once all that it
// started later has been closed. It is to be called first.
func leavesNothing(t *testing.T) {
	t.Helper()
	http.DefaultClient.CloseIdleConnections()
	base, _ := goroutines()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		deadline := time.Now().Add(patience)
		for {
			n, stacks := goroutines()
			if n <= base {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d goroutines, %d at the beginning\n%s", n, base, stacks)
			}
			runtime.Gosched()
		}
	})
}

// sleepers are goroutines of fasthttp that only sleep: its clock, one for the
// process and for ever, and the cleaners of worker and connection pools, which
// notice some seconds late that there is nothing left to clean.
var sleepers = []string{"fasthttp.updateServerDate", "fasthttp.(*workerPool).Start", "fasthttp.(*HostClient).connsCleaner"}

// goroutines counts them, without the sleepers.
func goroutines() (n int, stacks string) {
	b := make([]byte, 1<<20)
	stacks = string(b[:runtime.Stack(b, true)])
	for g := range strings.SplitSeq(stacks, "\n\n") {
		if !slices.ContainsFunc(sleepers, func(s string) bool { return strings.Contains(g, "\n"+"github.com/valyala/"+s) }) {
			n++
		}
	}
	return n, stacks
}

// quiet waits until no request is in flight and no client connection open.
func quiet(t *testing.T, g *apptest.Gateway) {
	t.Helper()
	http.DefaultClient.CloseIdleConnections()
	apptest.Eventually(t, "nothing in flight, no connection open", func() bool {
		for line := range strings.Lines(g.Metrics()) {
			if strings.HasPrefix(line, "llmproxy_requests_in_flight{") && !strings.HasSuffix(line, " 0\n") {
				return false
			}
		}
		return g.Metric("llmproxy_connections_open") == 0
	})
}

// rawClient speaks to the gateway byte by byte.
type rawClient struct {
	t testing.TB
	net.Conn
	br *bufio.Reader
}

func dialRaw(t testing.TB, addr string) *rawClient {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &rawClient{t: t, Conn: c, br: bufio.NewReader(c)}
}

func (c *rawClient) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatalf("cannot send: %v", err)
	}
}

// answer reads one answer to a request of that method.
func (c *rawClient) answer(method string) (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.br, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("no answer: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("status %d, the body ended early: %v", resp.StatusCode, err)
	}
	return resp, string(body)
}

// readAll returns what there is of a body, and whether it ended early.
func readAll(r io.Reader) (body []byte, cut bool) {
	body, err := io.ReadAll(r)
	return body, err != nil
}

// ended waits for the end of the connection and returns what came before it.
func (c *rawClient) ended() string {
	c.t.Helper()
	rest, err := io.ReadAll(c.br)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatal("the connection was not closed")
	}
	return string(rest)
}

// post is an HTTP/1.1 request with the extra header lines.
func post(path, body string, lines ...string) string {
	var b strings.Builder
	b.WriteString("POST " + path + " HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n")
	for _, l := range lines {
		b.WriteString(l + "\r\n")
	}
	b.WriteString("Content-Length: " + itoa(len(body)) + "\r\n\r\n" + body)
	return b.String()
}

func itoa(n int) string   { return strconv.Itoa(n) }
func itoa16(n int) string { return strconv.FormatInt(int64(n), 16) }

// posts counts the requests that reached an engine, health checks and lists of
// models aside.
func posts(e *apptest.Engine) []mockvllm.Entry {
	var rows []mockvllm.Entry
	for _, r := range e.Ledger() {
		if r.Path != "/health" && r.Path != "/v1/models" {
			rows = append(rows, r)
		}
	}
	return rows
}

// tap is a wire between the gateway and an engine that keeps what the engine
// said.
type tap struct {
	url string
	mu  sync.Mutex
	b   []byte
}

func startTap(t *testing.T, engine string) *tap {
	t.Helper()
	p := &tap{}
	p.url = serveTCP(t, func(c net.Conn) {
		up, err := net.Dial("tcp", engine)
		if err != nil {
			return
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.Copy(up, c)
			up.Close()
		}()
		_, _ = io.Copy(c, io.TeeReader(up, p))
		c.Close()
		<-done
	})
	return p
}

func (p *tap) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.b = append(p.b, b...)
	return len(b), nil
}

// last is the last answer that passed, and its body.
func (p *tap) last(t *testing.T) (*http.Response, string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := string(p.b)
	at := strings.LastIndex(s, "HTTP/1.1 ")
	if at < 0 {
		t.Fatal("the engine said nothing")
	}
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(s[at:])), &http.Request{Method: "POST"})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// serveTCP runs serve for every connection to the URL it returns.
func serveTCP(t testing.TB, serve func(net.Conn)) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	work.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			work.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		work.Wait()
	})
	return "http://" + ln.Addr().String()
}
