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

// throng is many requests of one key, at all gateways at once.
type throng struct {
	*site
	limits   limit.Limits
	quota    int64
	accounts []quota.Account
	flying   atomic.Int64
	most     atomic.Int64 // that ever flew
	in       atomic.Int64
}

func newThrong() *throng {
	return &throng{
		site: newSite(3, true, admit.LocalShare, admit.LocalShare), quota: 20_000, accounts: make([]quota.Account, 3),
		limits: limit.Limits{
			PerSecond: limit.Rate{Each: 3, Burst: 8}, PerMinute: limit.Rate{Each: 2, Burst: 50},
			Tokens: limit.Rate{Each: 1, Burst: 60}, Concurrent: 4,
		},
	}
}

// tick is the time, which goes on.
func (h *throng) tick() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now++
	return at(time.Duration(h.now))
}

func (h *throng) request(gate int) *admit.Request {
	now := h.tick()
	r := asking(1, 0, &h.limits, 0)
	r.Now, r.Wall, r.Global = now, now, limit.Rate{Each: 2, Burst: 6}
	r.Account, r.Quota = &h.accounts[gate], h.quota
	r.Term = r.Account.Term(now, quota.Daily, time.UTC)
	return r
}

// client sends requests to one gateway, of which each is over before the next.
func (h *throng) client(gate int, rnd *rand.Rand, requests int) {
	for range requests {
		r := h.request(gate)
		r.Prompt, r.Output = 1+rnd.Int64N(4), rnd.Int64N(8)
		var ticket admit.Ticket
		if _, ok := h.gates[gate].Enter(&ticket, r); !ok {
			runtime.Gosched()
			continue
		}
		h.in.Add(1)
		flying := h.flying.Add(1)
		for most := h.most.Load(); flying > most && !h.most.CompareAndSwap(most, flying); most = h.most.Load() {
		}
		runtime.Gosched()
		used := rnd.Int64N(r.Prompt + r.Output + 1)
		if rnd.IntN(2) == 0 {
			ticket.Charge(h.tick(), used/2)
		}
		h.flying.Add(-1)
		if rnd.IntN(3) > 0 {
			ticket.Settle(h.tick(), used)
		}
		ticket.Leave(h.tick())
	}
}

// run lets two clients loose at each gateway, while meanwhile happens over and over.
func (h *throng) run(seed uint64, meanwhile func(rnd *rand.Rand)) {
	var work, weather sync.WaitGroup
	var over atomic.Bool
	weather.Go(func() {
		for rnd := rand.New(rand.NewPCG(seed, 99)); !over.Load(); runtime.Gosched() {
			meanwhile(rnd)
			h.gates[rnd.IntN(3)].Sweep(at(0))
		}
	})
	for i := range uint64(6) {
		work.Go(func() { h.client(int(i%3), rand.New(rand.NewPCG(seed, i)), 2000) })
	}
	work.Wait()
	over.Store(true)
	weather.Wait()
}

// check tells what has stayed taken, or was taken too often.
func (h *throng) check(t *testing.T) {
	t.Helper()
	h.become(up)
	used := int64(0)
	for i, g := range h.gates {
		term := g.Ask(h.request(i))
		if used += term.Own(); term.Reserved() != 0 {
			t.Errorf("gateway %d: %d reserved", i, term.Reserved())
		}
	}
	if got := h.gates[0].Ask(h.request(0)).Used(); got != used || used > h.quota {
		t.Errorf("%d used, want %d, at most %d", got, used, h.quota)
	}
	for i, g := range h.gates {
		if _, inFlight := g.Use(admit.Identity{1}, &h.limits, at(0)); inFlight != 0 {
			t.Errorf("gateway %d: %d in flight", i, inFlight)
		}
		if g.Sweep(at(time.Hour)); g.Len() != 0 {
			t.Errorf("gateway %d still knows the key", i)
		}
	}
	if h.in.Load() < 100 {
		t.Errorf("only %d were let in", h.in.Load())
	}
	if fault := h.left(); fault != "" {
		t.Error(fault)
	}
}

func TestAtOnceAtSeveralGatesNeverMoreThanOneWould(t *testing.T) {
	for seed := range uint64(3) {
		h := newThrong()
		h.run(seed, func(*rand.Rand) {})
		if h.most.Load() > h.limits.Concurrent {
			t.Errorf("%d at once, want %d at most", h.most.Load(), h.limits.Concurrent)
		}
		h.check(t)
	}
}

func TestAtOnceWithAStoreThatComesAndGoes(t *testing.T) {
	for seed := range uint64(3) {
		h := newThrong()
		h.run(seed, func(rnd *rand.Rand) { h.stores[rnd.IntN(3)].become(mood(rnd.IntN(3))) })
		h.check(t)
	}
}
