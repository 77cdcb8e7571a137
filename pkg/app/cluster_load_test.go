package app_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// clusterCall is one request of a load and its answer. The times are since the load
// began.
type clusterCall struct {
	began, ended time.Duration
	gateway      int
	status       int
	tokens       int    // in an answer of 200
	body         string // of any other answer
	err          error
}

func (c *clusterCall) took() time.Duration { return c.ended - c.began }

// clusterLoad is clients of one key that ask all gateways by turns.
type clusterLoad struct {
	site    *clusterSite
	through []int // gateways
	key     clusterKey
	body    string
	clients int
	every   time.Duration // a client asks again after that, or when it is answered, if that is later

	begin time.Time
	end   context.CancelFunc
	work  sync.WaitGroup
	mu    sync.Mutex // protects calls
	calls []clusterCall
}

// clusterChat is answered with so many tokens, known beforehand.
func clusterChat(tag string, tokens int) string {
	return fmt.Sprintf(`{"model":"mock-model","mock_tag":%q,"max_tokens":%d,"mock_tokens":%d,"messages":[{"role":"user","content":"hi"}]}`, tag, tokens, tokens)
}

// hammer has so many clients ask through the gateways, all when none are named,
// until stop.
func (s *clusterSite) hammer(k clusterKey, body string, clients int, every time.Duration, through ...int) *clusterLoad {
	s.t.Helper()
	if len(through) == 0 {
		through = []int{0, 1, 2}
	}
	ctx, end := context.WithCancel(s.t.Context())
	l := &clusterLoad{site: s, through: through, key: k, body: body, clients: clients, every: every, begin: time.Now(), end: end}
	for i := range clients {
		l.work.Go(func() { l.client(ctx, i) })
	}
	s.t.Cleanup(func() { l.stop() })
	return l
}

// client is one of them; it begins with the gateway of its number.
func (l *clusterLoad) client(ctx context.Context, number int) {
	wires := make([]clusterWire, len(l.site.gateways))
	defer func() {
		for i := range wires {
			wires[i].close()
		}
	}()
	select { // they do not ask all at the same time
	case <-ctx.Done():
	case <-time.After(l.every * time.Duration(number) / time.Duration(l.clients)):
	}
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	for n := number; ctx.Err() == nil; n++ {
		at := l.through[n%len(l.through)]
		g := limitKey{l.site.gateways[at].addr, l.key.Key}
		c := clusterCall{gateway: at, began: time.Since(l.begin)}
		wires[at].ask(g.addr, g.request("POST", chatPath, l.body), &c)
		c.ended = time.Since(l.begin)
		l.mu.Lock()
		l.calls = append(l.calls, c)
		l.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// so is the time of the load.
func (l *clusterLoad) so() time.Duration { return time.Since(l.begin) }

// runs lets the load go on for so long.
func (l *clusterLoad) runs(d time.Duration) { <-time.After(d) }

// stop ends the load and returns what became of its requests, in the order of their
// ends.
func (l *clusterLoad) stop() []clusterCall {
	l.end()
	l.work.Wait()
	slices.SortFunc(l.calls, func(a, b clusterCall) int { return int(a.ended - b.ended) })
	return l.calls
}

// clusterWire is a connection that is kept.
type clusterWire struct {
	conn net.Conn
	in   *bufio.Reader
}

func (w *clusterWire) close() {
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}

// ask sends a request and reads its answer into c.
func (w *clusterWire) ask(addr, request string, c *clusterCall) {
	if w.conn == nil {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			c.err = err
			return
		}
		w.conn, w.in = conn, bufio.NewReader(conn)
	}
	if c.err = w.exchange(request, c); c.err != nil {
		w.close()
	}
}

func (w *clusterWire) exchange(request string, c *clusterCall) error {
	if err := w.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(w.conn, request); err != nil {
		return err
	}
	resp, err := http.ReadResponse(w.in, &http.Request{Method: http.MethodPost})
	if err != nil {
		return err
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if c.status = resp.StatusCode; c.status != http.StatusOK {
		c.body = string(b)
	} else if _, err := fmt.Sscanf(between(string(b), `"total_tokens":`, `,`), "%d", &c.tokens); err != nil {
		return fmt.Errorf("an answer without its tokens: %w: %s", err, b)
	}
	if resp.Close {
		w.close()
	}
	return nil
}

// admitted are the requests that were let in. Every other one must have been refused
// by a limit.
func admitted(t testing.TB, calls []clusterCall) (in []clusterCall) {
	t.Helper()
	wrong := 0
	for _, c := range calls {
		switch {
		case c.status == http.StatusOK:
			in = append(in, c)
		case c.status == http.StatusTooManyRequests && c.err == nil && strings.Contains(c.body, "rate_limit_exceeded"):
		default:
			if wrong++; wrong <= 5 {
				t.Errorf("gateway %d after %v: %d %s: %v", c.gateway, c.began, c.status, c.body, c.err)
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d requests were neither served nor refused by a limit", wrong, len(calls))
	}
	return in
}

func oneEach(clusterCall) float64     { return 1 }
func itsTokens(c clusterCall) float64 { return float64(c.tokens) }

// burstOf is the most that was let in within any stretch of time, beyond what comes
// back in it, which is what the burst must have been. calls are in the order of
// their ends. What began and ended in a stretch was let in within it, wherever
// exactly.
func burstOf(calls []clusterCall, perSecond float64, weight func(clusterCall) float64) (most float64) {
	for _, first := range calls {
		sum := 0.0
		for i := range calls {
			if calls[i].began < first.began {
				continue
			}
			sum += weight(calls[i])
			most = max(most, sum-perSecond*(calls[i].ended-first.began).Seconds())
		}
	}
	return most
}

// quantile is the time that a part of the requests took at most, of those that began
// in a stretch of time.
func quantile(calls []clusterCall, q float64, from, to time.Duration) time.Duration {
	var took []time.Duration
	for i := range calls {
		if calls[i].began >= from && calls[i].began < to {
			took = append(took, calls[i].took())
		}
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[int(q*float64(len(took)-1))]
}
