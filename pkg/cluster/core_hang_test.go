package cluster

import (
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/quota"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// of are some of the durations: the middle one, the one that a hundredth is above, and
// the longest.
func of(all []time.Duration) (p50, p99, most time.Duration) {
	slices.Sort(all)
	return all[len(all)/2], all[len(all)*99/100], all[len(all)-1]
}

// slack is what a busy machine may add to any wait here. The figures are logged.
const slack = 200 * time.Millisecond

func TestNobodyWaitsForARedisThatHangs(t *testing.T) {
	s := redistest.Start(t)
	p := newPeer(t, "a", at(s.Addr())).up()
	o := all
	r := p.must(o)
	s.Stop()
	var mu sync.Mutex
	var took []time.Duration
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for range 125 {
				p.shards[0].breaker.close() // all of them ask
				begin := time.Now()
				r, _, ok := p.enter(o)
				d := time.Since(begin)
				if ok {
					t.Error("it was answered")
				}
				r.end(0, 0)
				mu.Lock()
				took = append(took, d)
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	p50, p99, most := of(took)
	t.Logf("a request waits for a Redis that hangs: p50 %v, p99 %v, most %v of %d; timeout %v", p50, p99, most, len(took), p.o.Timeout)
	if p50 > p.o.Timeout+10*time.Millisecond || p99 > p.o.Timeout+slack {
		t.Error("it waits too long")
	}
	p.down()
	took = took[:0]
	for range 1000 {
		begin := time.Now()
		r, _, _ := p.enter(o)
		took = append(took, time.Since(begin))
		r.end(0, 0)
	}
	p50, p99, most = of(took)
	t.Logf("one that does not ask: p50 %v, p99 %v, most %v", p50, p99, most)
	if p50 > 50*time.Microsecond {
		t.Error("it waits")
	}
	s.Continue()
	p.up()
	r.end(0, 0)
	p.holdsNothing(o)
}

// A request that is refused, and whose client has had an answer of which Redis was not
// told, waits for that, but not for a Redis that hangs meanwhile.
func TestARefusalDoesNotWaitForARedisThatHangs(t *testing.T) {
	s := redistest.Start(t)
	p := newPeer(t, "a", at(s.Addr()), hastily).byHand()
	o := all
	o.limits.Concurrent = 1
	p.must(o).end(0, 0) // and nobody tells
	begin := time.Now()
	r, w, ok := p.enter(o)
	took := time.Since(begin)
	if r != nil || !ok || w.By == 0 {
		t.Errorf("%+v", w)
	}
	if took > p.o.Timeout+slack {
		t.Errorf("it took %v", took)
	}
}

func TestCloseTellsWhatIsInThePost(t *testing.T) {
	s := redistest.Start(t)
	direct := newPeer(t, "direct", at(s.Addr()), patiently).up()
	p := newPeer(t, "a", at(s.Addr()), patiently).up()
	var under []*request
	for range 1000 {
		under = append(under, p.must(all))
	}
	direct.holds(all, 1000, 100)
	for _, r := range under {
		r.charge(1, 99)
		r.end(3, 2)
	}
	p.Close()
	direct.holds(all, 0, 0)
	direct.uses(all, 3000)
	if n := len(direct.Status().Gateways); n > 2 {
		t.Errorf("there are %d gateways", n)
	}
	direct.until("it has gone", func() bool { return len(direct.Status().Gateways) == 1 })
}

func TestCloseDoesNotWaitForARedisThatHangs(t *testing.T) {
	s := redistest.Start(t)
	for _, name := range []string{"idle", "while it tells everything"} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, "a", at(s.Addr())).up()
			var under []*request
			o := want{limits: limit.Limits{Concurrent: 1e6}}
			for range 2000 {
				r, _, _ := p.enter(o)
				under = append(under, r)
			}
			p.up()
			s.Stop()
			defer s.Continue()
			for _, r := range under[:1000] {
				r.end(0, 0)
			}
			if name != "idle" {
				p.resyncByHand()
			}
			begin := time.Now()
			p.Close()
			took := time.Since(begin)
			t.Logf("Close took %v", took)
			if took > time.Second {
				t.Error("that is too long")
			}
		})
	}
}

// To tell all of a hundred thousand keys takes seconds.
func TestCloseDoesNotWaitUntilAllIsTold(t *testing.T) {
	p := newPeer(t, "a", at(redistest.Start(t).Addr()), patiently).up()
	for n := range 100_000 {
		p.book.Account([8]byte{1, byte(n >> 16), byte(n >> 8), byte(n)}).Term(time.Now(), quota.Daily, time.UTC).Settle(0, 5)
	}
	p.resyncByHand()
	begin := time.Now()
	p.Close()
	if took := time.Since(begin); took > time.Second {
		t.Errorf("Close took %v", took)
	}
}

func TestNoGoroutineIsLeft(t *testing.T) {
	s := redistest.Start(t)
	newPeer(t, "first", at(s.Addr())).up().Close()
	before := runtime.NumGoroutine()
	for _, stop := range []bool{false, true} {
		p := newPeer(t, "a", at(s.Addr())).up()
		r, _, _ := p.enter(all)
		if stop {
			s.Stop()
			for range 10 {
				if r, _, _ := p.enter(all); r != nil {
					r.end(0, 0)
				}
			}
		}
		r.end(0, 0)
		p.Close()
		p.o.Redis.Close()
	}
	s.Continue()
	for end := time.Now().Add(promptly); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, there were %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
}
