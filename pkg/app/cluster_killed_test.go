package app_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// TestClusterGatewayKilled: what a gateway held when it died was never given back, or
// given back while it lived.
func TestClusterGatewayKilled(t *testing.T) {
	together(t)
	const streams = 50
	s := startCluster(t, clusterPlan{hook: true, step: 20 * time.Millisecond, wait: time.Second})
	k := s.create(`,"max_concurrent":50,"total_quota":1000000000,"quota_reset_period":"never"`)
	steady := s.create(`,"total_quota":1000000000,"quota_reset_period":"never"`)
	load := s.hammer(steady, clusterChat("steady", 2), 4, 20*time.Millisecond, 1, 2)
	begun := s.streams(0, k, streams)
	if n := begun.served(); n != streams {
		t.Fatalf("%d streams were let in, want %d", n, streams)
	}
	if n := s.streams(1, k, 1).served(); n != 0 {
		t.Error("a stream too much was let in at another gateway")
	}
	g := s.gateways[0]
	apptest.Eventually(t, "it has noted how far the streams have come, which it does every 2 s", func() bool {
		far := 0
		for _, e := range s.engines {
			for _, r := range posts(e) {
				if r.Tag == "long" && !r.FirstToken.IsZero() && time.Since(r.FirstToken) > 2200*time.Millisecond {
					far++
				}
			}
		}
		return far == streams
	})
	if long { // for longer than a lease that nobody renews
		load.runs(35 * time.Second)
		if n := s.streams(2, k, 1).served(); n != 0 {
			t.Error("slots are free while their requests live")
		}
	}
	struck := load.so()
	g.kill()
	begun.leave()
	freed := s.freed(k, streams)
	t.Logf("all is free again after %v", freed)
	load.runs(time.Second)
	for _, c := range load.stop() {
		if c.status != http.StatusOK || c.err != nil {
			t.Fatalf("another gateway's request failed at %v, a gateway was killed at %v: %d %s: %v", c.began, struck, c.status, c.body, c.err)
		}
	}
	t.Logf("the others: p50 %v p99 %v before, p50 %v p99 %v after",
		quantile(load.calls, 0.5, 0, struck), quantile(load.calls, 0.99, 0, struck), quantile(load.calls, 0.5, struck, time.Hour), quantile(load.calls, 0.99, struck, time.Hour))
	g.run(t)
	s.together()
	s.audit(k, "")
	s.audit(steady, "steady")
	for i, g := range s.gateways {
		growsTo(t, "events of gateway "+itoa(i), g.recorded(t), g.hook.count)
	}
}

// freed waits until all slots of a key are free, which a killed gateway held, and
// returns how long after it was killed that was, or would have been.
func (s *clusterSite) freed(k clusterKey, slots int) time.Duration {
	s.t.Helper()
	const lease = 30 * time.Second
	began, aged := time.Now(), time.Duration(0)
	if !long {
		// So many seconds are not waited for: in Redis they are over.
		aged = 25 * time.Second
		n := s.redis.Must("EVAL", `local all = redis.call('ZRANGE', KEYS[1], 0, -1)
			for _, m in ipairs(all) do redis.call('ZINCRBY', KEYS[1], -ARGV[1], m) end return #all`,
			"1", clusterPrefix+"{"+k.ID+"}:c", itoa(int(aged.Milliseconds())))
		if n != itoa(slots) {
			s.t.Fatalf("Redis has %s requests under way, want %d", n, slots)
		}
	}
	at := 1
	for s.streams(at, k, 1).leave().served() == 0 {
		if since := time.Since(began); since+aged > lease+time.Second && (long || since > patience) {
			s.t.Fatalf("nothing is free after %v", time.Since(began)+aged)
		}
		at = 3 - at
		<-time.After(20 * time.Millisecond)
	}
	took := time.Since(began) + aged
	apptest.Eventually(s.t, "all slots are free", func() bool {
		half := s.streams(1, k, slots/2)
		all := s.streams(2, k, slots-slots/2)
		return half.leave().served()+all.leave().served() == slots
	})
	return took
}

// clusterStreams are streams that take longer than any test.
type clusterStreams struct {
	end    context.CancelFunc
	client *http.Client
	mu     sync.Mutex // protects bodies
	bodies []io.Closer
}

// streams begins some, at the same time.
func (s *clusterSite) streams(gateway int, k clusterKey, n int) *clusterStreams {
	s.t.Helper()
	ctx, end := context.WithCancel(s.t.Context())
	c := &clusterStreams{end: end, client: &http.Client{Transport: &http.Transport{}}}
	s.t.Cleanup(func() { c.leave() })
	var work sync.WaitGroup
	for range n {
		work.Go(func() {
			if err := c.begin(ctx, s.gateways[gateway].url, k); err != nil {
				s.t.Errorf("a stream: %v", err)
			}
		})
	}
	work.Wait()
	return c
}

// begin begins one; that it is refused by a limit is no error.
func (c *clusterStreams) begin(ctx context.Context, url string, k clusterKey) error {
	const body = `{"model":"mock-model","mock_tag":"long","max_tokens":6000,"mock_tokens":6000,"stream":true,"messages":[{"role":"user","content":"hi"}]}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+chatPath, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+k.Key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		if resp.StatusCode != http.StatusTooManyRequests {
			return errors.New(resp.Status)
		}
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bodies = append(c.bodies, resp.Body)
	return nil
}

// served is how many were let in.
func (c *clusterStreams) served() int { return len(c.bodies) }

// leave ends them from the client's side.
func (c *clusterStreams) leave() *clusterStreams {
	c.end()
	for _, b := range c.bodies {
		b.Close()
	}
	c.client.CloseIdleConnections()
	return c
}
