package admit_test

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
)

// once lets one request a minute pass.
var once = &limit.Limits{PerMinute: limit.PerMinute(1)}

// stranger is a request of the n-th client without a key.
func stranger(n int, now time.Duration) *admit.Request {
	r := asking(0, now, once, 0)
	binary.BigEndian.PutUint32(r.Who[:], uint32(n)*2654435761) // spread, as hashes are
	binary.BigEndian.PutUint32(r.Who[4:], uint32(n))
	r.Known = false
	return r
}

// come lets clients ask once and leave, and tells how many were let in.
func come(g *admit.Gate, from, to int, now time.Duration, known bool) (in int) {
	for n := from; n < to; n++ {
		r := stranger(n, now)
		r.Known = known
		var ticket admit.Ticket
		if _, ok := g.Enter(&ticket, r); ok {
			in++
		}
		ticket.Leave(r.Now)
	}
	return in
}

// Clients without a key cannot fill the memory by inventing names for themselves:
// beyond the table they share what is left, and nobody with a key is affected.
func TestStrangersAreBounded(t *testing.T) {
	const many, keys = 100_000, 1000
	g := newGate()
	if in := come(g, 0, admit.DefaultSize, 0, false); in != admit.DefaultSize {
		t.Errorf("%d strangers were let in, want %d: each has a limit of its own", in, admit.DefaultSize)
	}
	if in := come(g, admit.DefaultSize, admit.DefaultSize+many, 0, false); in == 0 || in > 64 {
		t.Errorf("%d more strangers were let in, want 1 to 64, who share what they are limited by", in)
	}
	if n := g.Len(); n != admit.DefaultSize {
		t.Errorf("%d are told apart, want %d", n, admit.DefaultSize)
	}
	const first = 1 << 30
	if in := come(g, first, first+keys, 0, true); in != keys {
		t.Errorf("%d of %d keys were let in", in, keys)
	}
	if in := come(g, first, first+keys, 0, true); in != 0 {
		t.Errorf("%d keys were let in twice", in)
	}
	if in := come(g, 0, 1000, 0, false); in != 0 {
		t.Errorf("%d strangers who were there before were let in twice", in)
	}
	if n := g.Len(); n != admit.DefaultSize+keys {
		t.Errorf("%d are told apart, want %d", n, admit.DefaultSize+keys)
	}
}

// A full table makes room by itself once those in it are idle, without waiting for
// the next sweep.
func TestAFullTableForgetsTheIdle(t *testing.T) {
	const size = 100
	g := admit.New(birth, size)
	come(g, 0, size, 0, false)
	busy := enter(t, g, asking(200, 0, &limit.Limits{Concurrent: 1}, 0))
	if in := come(g, size, size+5000, 59*time.Second, false); in > 64 {
		t.Errorf("%d were let in while nobody was idle", in)
	}
	if in := come(g, size, 2*size, 2*time.Minute, false); in < size-1 {
		t.Errorf("%d of %d were let in after all had become idle", in, size)
	}
	if n := g.Len(); n > size+1 || n < size-1 {
		t.Errorf("%d are told apart, want about %d", n, size)
	}
	if refusal := refuse(t, g, asking(200, 2*time.Minute, &limit.Limits{Concurrent: 1}, 0)); refusal.Limit != admit.Concurrent {
		t.Errorf("a request under way was forgotten: refused by %s", refusal.Limit)
	}
	busy.Leave(at(2 * time.Minute))
}

// Whoever has anything taken is not forgotten: not a slot, not a reservation, not a
// debt.
func TestOnlyTheIdleAreForgotten(t *testing.T) {
	l := &limit.Limits{PerSecond: limit.PerSecond(1, 0), PerMinute: limit.PerMinute(6), Tokens: limit.PerMinute(60), Concurrent: 1}
	for _, c := range []struct {
		name string
		do   func(ticket *admit.Ticket)
		idle time.Duration // after this
	}{
		{"left at once", func(k *admit.Ticket) { k.Leave(at(0)) }, 10 * time.Second},
		{"used what was reserved", func(k *admit.Ticket) { k.Settle(at(0), 30); k.Leave(at(0)) }, 30 * time.Second},
		{"owes", func(k *admit.Ticket) { k.Settle(at(0), 300); k.Leave(at(0)) }, 300 * time.Second},
		{"charged and gone", func(k *admit.Ticket) { k.Charge(at(0), 40); k.Leave(at(0)) }, 40 * time.Second},
		{"still there, all charged", func(k *admit.Ticket) { k.Settle(at(0), 0) }, time.Hour},
	} {
		g := newGate()
		ticket := enter(t, g, asking(1, 0, l, 30))
		c.do(ticket)
		g.Sweep(at(c.idle - 2))
		if g.Len() != 1 {
			t.Errorf("%s: forgotten before %v", c.name, c.idle)
		}
		ticket.Leave(at(0))
		g.Sweep(at(c.idle))
		if g.Len() != 0 {
			t.Errorf("%s: not forgotten after %v", c.name, c.idle)
		}
	}
}

// Who comes and goes just while its key is being forgotten is not forgotten with it.
func TestForgettingLosesNobody(t *testing.T) {
	g := newGate()
	var minute atomic.Int64
	var over atomic.Bool
	var sweeping sync.WaitGroup
	sweeping.Go(func() {
		for !over.Load() {
			g.Sweep(at(time.Duration(minute.Load()) * time.Minute))
		}
	})
	in := 0
	times := 1_000_000 / raceCost
	for range times {
		now := time.Duration(minute.Add(2)) * time.Minute // idle for a minute
		for range 2 {
			var ticket admit.Ticket
			if _, ok := g.Enter(&ticket, asking(1, now, once, 0)); ok {
				in++
			}
			ticket.Leave(at(now))
		}
	}
	over.Store(true)
	sweeping.Wait()
	if in != times {
		t.Errorf("%d were let in, of %d that came first", in, times)
	}
}
