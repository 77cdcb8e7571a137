package app_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// receipt is what a client knows of its request.
type receipt struct {
	id     string // X-Request-Id of the answer, "" when none came
	status int    // 0: no answer came
	whole  bool   // the client has the last byte of a 200
	left   bool   // it went away on purpose
}

// customers send requests at a constant rate whatever becomes of them: every
// other one a stream, every sixteenth a stream that its client leaves.
type customers struct {
	endpoint, model string
	client          *http.Client
	stop            func() // ends the arrivals
	last            func() // called when a client reads the last event of a stream
	work            sync.WaitGroup

	mu       sync.Mutex // guards receipts
	receipts []receipt
}

// startCustomers sends rate requests a second; 0 is for those who call request.
func startCustomers(t testing.TB, url, model string, rate int) *customers {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	c := &customers{
		endpoint: url + "/v1/chat/completions", model: model, stop: stop, last: func() {},
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}, Timeout: patience},
	}
	if rate > 0 {
		c.work.Go(func() { c.arrive(ctx, time.Second/time.Duration(rate)) })
	}
	t.Cleanup(c.end)
	return c
}

// arrive starts the requests that are due.
func (c *customers) arrive(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	begin := time.Now()
	for n := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for ; time.Duration(n)*every <= time.Since(begin); n++ {
			number := n
			c.work.Go(func() { c.request(number) })
		}
	}
}

// request sends one and keeps its receipt.
func (c *customers) request(n int) {
	r := c.send(n)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.receipts = append(c.receipts, r)
}

func (c *customers) send(n int) (r receipt) {
	stream := n%2 == 0
	body := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":%q}],"max_tokens":%d,"stream":%t}`,
		c.model, strings.Repeat("hi ", n%50), 1+n%30, stream)
	resp, err := c.client.Post(c.endpoint, "application/json", strings.NewReader(body))
	if err != nil {
		return r
	}
	defer resp.Body.Close()
	r.id, r.status, r.left = resp.Header.Get("X-Request-Id"), resp.StatusCode, n%16 == 0
	switch {
	case r.left:
		_, _ = resp.Body.Read(make([]byte, 1))
	case stream:
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if lines.Text() == "data: [DONE]" {
				r.whole = true
				c.last()
			}
		}
	default:
		_, err := io.Copy(io.Discard, resp.Body)
		r.whole = err == nil && resp.StatusCode == http.StatusOK
	}
	return r
}

func (c *customers) done() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.receipts)
}

// more waits until n more requests have ended, however.
func (c *customers) more(t testing.TB, n int) {
	t.Helper()
	growsTo(t, "requests that have ended", c.done()+n, c.done)
}

// end stops the arrivals and waits for what is under way.
func (c *customers) end() {
	c.stop()
	c.work.Wait()
	c.client.CloseIdleConnections()
}

// growsTo waits for a count to reach want, for as long as it grows.
func growsTo(t testing.TB, what string, want int, count func() int) {
	t.Helper()
	for n := count(); n < want; n = count() {
		apptest.Eventually(t, fmt.Sprintf("%s, more than %d of %d", what, n, want), func() bool { return count() > n })
	}
}
