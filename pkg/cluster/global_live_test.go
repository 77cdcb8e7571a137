package cluster

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/redis"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// gateways are stocks of one real Redis, each with a connection of its own, in real
// time.
type gateways struct {
	t      *testing.T
	begun  time.Time
	stocks []*stock
	asked  []atomic.Int64 // commands

	mu    sync.Mutex // protects takes
	takes [][]passed // of each
}

func newGateways(t *testing.T, server *redistest.Server, n int) *gateways {
	g := &gateways{t: t, begun: time.Now(), asked: make([]atomic.Int64, n), takes: make([][]passed, n)}
	prefix := strings.ReplaceAll(t.Name(), "/", "-") + ":"
	for i := range n {
		client := connected(t, server)
		g.stocks = append(g.stocks, newStock(func(call redis.Call) (rueidis.RedisMessage, error) {
			g.asked[i].Add(1)
			return client.Run(call, time.Second)
		}, prefix, time.Now))
	}
	return g
}

// hammer takes as fast as it can, or once in every, until ctx of the time is over.
func (g *gateways) hammer(i int, r limit.Rate, end time.Time, every time.Duration) {
	var mine []passed
	tick := time.NewTicker(max(every, 500*time.Microsecond))
	defer tick.Stop()
	for {
		from := time.Now()
		if !from.Before(end) {
			break
		}
		wait, err := g.stocks[i].take(from, r)
		if err != nil {
			g.t.Error(err)
			break
		}
		if wait == 0 {
			mine = append(mine, passed{int64(from.Sub(g.begun)), int64(time.Since(g.begun))})
		}
		if wait > 0 || every > 0 {
			<-tick.C
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.takes[i] = append(g.takes[i], mine...)
}

// finish checks that no window is over, and tells how much passed.
func (g *gateways) finish(r limit.Rate, during time.Duration) (share float64) {
	g.t.Helper()
	var all, returned []passed
	for _, takes := range g.takes {
		all = append(all, takes...)
	}
	for _, k := range all {
		returned = append(returned, passed{k.to, k.to})
	}
	if ns := worstWindow(all, r); ns > 0 {
		g.t.Errorf("a window is %v over", time.Duration(ns))
	}
	share, text := report(len(all), r, during)
	g.t.Logf("%s; by when takes returned the worst window has %v left", text, -time.Duration(worstWindow(returned, r)))
	for i := range g.stocks {
		g.t.Logf("gateway %d: %d passed, %.1f commands a second", i, len(g.takes[i]), float64(g.asked[i].Load())/during.Seconds())
	}
	return share
}

func long(short time.Duration) time.Duration {
	if os.Getenv("LLMPROXY_LONG") != "" {
		return 30*time.Second + short%time.Second
	}
	return short
}

// floor is the least that must pass.
func floor(least float64) float64 {
	if os.Getenv("LLMPROXY_LONG") != "" {
		return least
	}
	return 0.05
}

// How much passes depends on the machine, which may be busy: it is checked in the long
// form, and otherwise only that something does.
func TestStocksHammeredNoWindowIsOverAndLittleIsLost(t *testing.T) {
	for _, c := range []struct {
		name   string
		rate   limit.Rate
		during time.Duration
		least  float64 // of what there is
	}{
		{"1 a second, burst 1", limit.PerSecond(1, 1), 4500 * time.Millisecond, 0.70},
		{"10 a second, burst 10", limit.PerSecond(10, 10), 4 * time.Second, 0.95},
		{"1000 a second, burst 2000", limit.PerSecond(1000, 2000), 4 * time.Second, 0.97},
		{"50000 a second, burst 1000", limit.PerSecond(50000, 1000), 3 * time.Second, 0.50},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGateways(t, redistest.Start(t), 3)
			during := long(c.during)
			begin := time.Now()
			var wg sync.WaitGroup
			for i := range 12 {
				wg.Go(func() { g.hammer(i%3, c.rate, begin.Add(during), 0) })
			}
			wg.Wait()
			if share, least := g.finish(c.rate, during), floor(c.least); share < least {
				t.Errorf("%.1f %% passed, want %.0f", 100*share, 100*least)
			}
		})
	}
}

func TestOneStockAloneGetsAll(t *testing.T) {
	g := newGateways(t, redistest.Start(t), 3)
	r, during := limit.PerSecond(1000, 1000), long(3*time.Second)
	begin := time.Now()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { g.hammer(0, r, begin.Add(during), 0) })
	}
	wg.Wait()
	if share := g.finish(r, during); share < floor(0.93) {
		t.Errorf("%.1f %% passed", 100*share)
	}
}

// One takes all that it can get, another little, the third nothing: nothing is lost, and
// who wants little gets most of it.
func TestUnevenDemandLosesNothing(t *testing.T) {
	g := newGateways(t, redistest.Start(t), 3)
	r, during := limit.PerSecond(1000, 1000), long(3*time.Second)
	begin := time.Now()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { g.hammer(0, r, begin.Add(during), 0) })
	}
	wg.Go(func() { g.hammer(1, r, begin.Add(during), 20*time.Millisecond) })
	wg.Wait()
	if share := g.finish(r, during); share < floor(0.93) {
		t.Errorf("%.1f %% passed", 100*share)
	}
	if got, most := len(g.takes[1]), int(during/(20*time.Millisecond)); got < most/2 {
		t.Errorf("%d of %d passed where few came", got, most)
	}
}

// Below the limit everything passes, for few commands.
func TestBelowTheLimitEverythingPasses(t *testing.T) {
	g := newGateways(t, redistest.Start(t), 3)
	r, during := limit.PerSecond(3000, 3000), long(2*time.Second)
	begin := time.Now()
	var refused, waited atomic.Int64
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			tick := time.NewTicker(2 * time.Millisecond)
			defer tick.Stop()
			for now := range tick.C {
				if now.Sub(begin) > during {
					return
				}
				sent := g.asked[i].Load()
				from := time.Now()
				wait, err := g.stocks[i].take(from, r)
				if wait != 0 || err != nil {
					refused.Add(1)
				}
				if g.asked[i].Load() > sent && time.Since(from) > 50*time.Microsecond {
					waited.Add(1)
				}
			}
		})
	}
	wg.Wait()
	for i := range g.asked {
		t.Logf("gateway %d: %.1f commands a second", i, float64(g.asked[i].Load())/during.Seconds())
	}
	t.Logf("%d may have waited", waited.Load())
	if n := refused.Load(); n > 0 {
		t.Errorf("%d of %d were refused", n, 3*during/(2*time.Millisecond))
	}
}

// While gateways are at odds about the rate, the larger burst and the faster rate bound
// them, and the life of a portion.
func TestARateThatChangesUnderLoad(t *testing.T) {
	g := newGateways(t, redistest.Start(t), 3)
	slow, fast := limit.PerSecond(200, 100), limit.PerSecond(2000, 400)
	during := long(3 * time.Second)
	begin := time.Now()
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			for n, rate := range []limit.Rate{slow, fast, slow} {
				end := begin.Add(time.Duration(n+1)*during/3 + time.Duration(i%3)*50*time.Millisecond)
				g.hammer(i%3, rate, end, 0)
			}
		})
	}
	wg.Wait()
	bound := fast
	bound.Burst += mostLife / int64(fast.Each)
	g.finish(bound, during)
	most := slow.Burst + int64(during/3/slow.Each)
	first, last := 0, 0
	for _, takes := range g.takes {
		for _, k := range takes {
			switch at := begin.Add(time.Duration(k.from) - begin.Sub(g.begun)); {
			case at.Sub(begin) < during/3:
				first++
			case at.Sub(begin) > 2*during/3+500*time.Millisecond:
				last++
			}
		}
	}
	if int64(first) > most || last == 0 {
		t.Errorf("%d passed before, want %d at most; %d after", first, most, last)
	}
}

// newSlow is a stock behind a network that the test can break.
func newSlow(t *testing.T) (*stock, *redistest.Proxy, *redistest.Server) {
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr())
	client, err := redis.Open(redis.Options{Addrs: []string{proxy.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	until(t, "it is connected", func() bool {
		_, err := client.Do(promptly, "PING")
		return err == nil
	})
	run := func(call redis.Call) (rueidis.RedisMessage, error) { return client.Run(call, 20*time.Millisecond) }
	s := newStock(run, "p:", time.Now)
	until(t, "the script is known", func() bool {
		_, err := s.take(time.Now(), limit.PerSecond(1e6, 0))
		return err == nil
	})
	return s, proxy, server
}

func TestNobodyWaitsForARedisThatIsAway(t *testing.T) {
	for _, c := range []struct {
		name string
		harm func(*redistest.Proxy, *redistest.Server)
		mend func(*redistest.Proxy, *redistest.Server)
	}{
		{"cut off", func(p *redistest.Proxy, _ *redistest.Server) { p.Cut() }, func(p *redistest.Proxy, _ *redistest.Server) { p.Mend() }},
		{"stopped", func(_ *redistest.Proxy, s *redistest.Server) { s.Stop() }, func(_ *redistest.Proxy, s *redistest.Server) { s.Continue() }},
		{"killed", func(_ *redistest.Proxy, s *redistest.Server) { s.Kill() }, func(_ *redistest.Proxy, s *redistest.Server) { s.Restart() }},
		{"slow", func(p *redistest.Proxy, _ *redistest.Server) { p.SetDelay(200 * time.Millisecond) }, func(p *redistest.Proxy, _ *redistest.Server) { p.SetDelay(0) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, proxy, server := newSlow(t)
			r := limit.PerSecond(1000, 1000)
			before := runtime.NumGoroutine()
			c.harm(proxy, server)
			var slowest atomic.Int64
			var failed atomic.Int64
			var wg sync.WaitGroup
			for range 100 {
				wg.Go(func() {
					for range 3 {
						from := time.Now()
						if _, err := s.take(from, r); errors.Is(err, redis.ErrAway) {
							failed.Add(1)
						}
						for took := int64(time.Since(from)); ; {
							old := slowest.Load()
							if took <= old || slowest.CompareAndSwap(old, took) {
								break
							}
						}
					}
				})
			}
			wg.Wait()
			t.Logf("%d of 300 failed, the slowest after %v", failed.Load(), time.Duration(slowest.Load()))
			if failed.Load() < 250 || slowest.Load() > int64(100*time.Millisecond) {
				t.Errorf("%d of 300 failed, the slowest after %v", failed.Load(), time.Duration(slowest.Load()))
			}
			c.mend(proxy, server)
			until(t, "it passes again", func() bool {
				wait, err := s.take(time.Now(), r)
				return wait == 0 && err == nil
			})
			// Of 100 that asked; a new connection of the client may have a few more.
			until(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before+10 })
		})
	}
}
