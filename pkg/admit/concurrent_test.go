package admit_test

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

// rush is many clients with one key at once, on a clock that those who are refused
// advance, while idle keys are forgotten all the time.
type rush struct {
	gate    *admit.Gate
	limits  limit.Limits
	global  limit.Rate
	quota   int64
	term    *quota.Term
	clock   atomic.Int64
	reads   [clients]atomic.Int64 // what each client read of it last
	flying  atomic.Int64
	crowded atomic.Bool // more than the limit were under way at once
	forgot  int

	mu               sync.Mutex // guards what follows
	requests, tokens spent
	refused          [admit.NLimits]int
}

// clients are how many there are.
const clients = 6

// earliest is a time that no client is behind: who forgets by a later one makes
// those who are count from then on, which the test would not know.
func (r *rush) earliest() int64 {
	now := r.reads[0].Load()
	for i := range r.reads {
		now = min(now, r.reads[i].Load())
	}
	return now
}

// client sends requests until the time is over. None uses more than it holds.
func (r *rush) client(i uint64, rnd *rand.Rand, until int64) {
	for now := r.clock.Load(); now < until; now = r.clock.Load() {
		r.reads[i].Store(now)
		prompt, output := rnd.Int64N(5), rnd.Int64N(8)
		var ticket admit.Ticket
		refusal, ok := r.gate.Enter(&ticket, &admit.Request{
			Who: admit.Identity{1}, Known: true, Now: at(time.Duration(now)), Wall: at(time.Duration(now)),
			Limits: &r.limits, Global: r.global, Term: r.term, Quota: r.quota, Prompt: prompt, Output: output,
		})
		if !ok {
			r.mu.Lock()
			r.refused[refusal.Limit]++
			r.mu.Unlock()
			r.clock.CompareAndSwap(now, now+1+rnd.Int64N(8))
			runtime.Gosched()
			continue
		}
		if r.flying.Add(1) > r.limits.Concurrent {
			r.crowded.Store(true)
		}
		runtime.Gosched()
		used, end := rnd.Int64N(prompt+output+1), r.clock.Load()
		ticket.Charge(at(time.Duration(end)), used/2)
		ticket.Settle(at(time.Duration(end)), used)
		r.flying.Add(-1)
		ticket.Leave(at(time.Duration(end)))
		r.mu.Lock()
		r.requests.add(now, 1)
		r.tokens.add(end, used)
		r.mu.Unlock()
	}
}

const times = 20

// run lets clients loose for a time, over and over, with a pause in between in which
// the key gets idle.
func (r *rush) run(round uint64) {
	const long, pause = 150, 500
	var sweeping sync.WaitGroup
	var over atomic.Bool
	sweeping.Go(func() {
		for !over.Load() {
			r.gate.Sweep(at(time.Duration(r.earliest())))
			runtime.Gosched()
		}
	})
	for i := range uint64(times) {
		var work sync.WaitGroup
		for j := range uint64(clients) {
			work.Go(func() { r.client(j, rand.New(rand.NewPCG(round, i*clients+j)), r.clock.Load()+long) })
		}
		work.Wait()
		r.gate.Sweep(at(time.Duration(r.clock.Add(pause))))
		r.forgot += 1 - r.gate.Len()
	}
	over.Store(true)
	sweeping.Wait()
}

// newRush has limits of which one is tighter than the others.
func newRush(tight admit.Limit) *rush {
	rate := func(l admit.Limit, r limit.Rate) limit.Rate {
		if l != tight {
			r.Burst *= 4
			r.Each = max(1, r.Each/4)
		}
		return r
	}
	r := &rush{
		gate: newGate(), quota: 1 << 20, term: new(quota.Account).Term(birth, quota.Daily, time.UTC),
		limits: limit.Limits{
			PerSecond:  rate(admit.PerSecond, limit.Rate{Each: 7, Burst: 8}),
			PerMinute:  rate(admit.PerMinute, limit.Rate{Each: 9, Burst: 8}),
			Tokens:     rate(admit.Tokens, limit.Rate{Each: 2, Burst: 40}),
			Concurrent: 5,
		},
		global: rate(admit.Global, limit.Rate{Each: 8, Burst: 8}),
	}
	switch tight {
	case admit.Quota:
		r.quota = 300
	case admit.Concurrent:
		r.limits.Concurrent = 2
	}
	return r
}

// check tells what was let in that should not have been, and what stayed taken.
func (r *rush) check(t *testing.T) {
	for name, w := range map[string]struct {
		spent *spent
		rate  limit.Rate
	}{
		"second": {&r.requests, r.limits.PerSecond}, "minute": {&r.requests, r.limits.PerMinute},
		"tokens": {&r.tokens, r.limits.Tokens}, "global": {&r.requests, r.global},
	} {
		if over := w.spent.worst(w.rate); over > 0 {
			t.Errorf("the worst window of %s is %d ns over", name, over)
		}
	}
	if r.crowded.Load() {
		t.Errorf("more than %d at once", r.limits.Concurrent)
	}
	used := int64(0)
	for _, n := range r.tokens.n {
		used += n
	}
	if u, h := r.term.Used(), r.term.Reserved(); h != 0 || u != used || u > r.quota {
		t.Errorf("%d used, %d reserved of the quota, want %d and none", u, h, used)
	}
	if _, n := r.gate.Use(admit.Identity{1}, &r.limits, birth); n != 0 {
		t.Errorf("%d in flight", n)
	}
}

// Whatever runs at once, no window of time sees more than a limit allows, and nothing
// stays taken.
func TestAtOnceNeverMoreThanTheLimits(t *testing.T) {
	for tight := admit.Concurrent; tight < admit.NLimits; tight++ {
		t.Run(tight.String(), func(t *testing.T) {
			for round := range uint64(2) {
				r := newRush(tight)
				r.run(round)
				r.check(t)
				if r.refused[tight] == 0 {
					t.Error("it never refused anyone")
				}
				if r.forgot < times/2 { // the other sweeper may be at it
					t.Errorf("the key was forgotten in %d pauses of %d", r.forgot, times)
				}
			}
		})
	}
}
