//go:build !race

package admit_test

import (
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

// yes is a store that has room for everything, or is away, and costs nothing itself.
type yes struct{ away bool }

func (y *yes) Rates() bool                                        { return true }
func (y *yes) Global(time.Time, limit.Rate) (time.Duration, bool) { return 0, !y.away }
func (y *yes) GiveBack(time.Time)                                 {}
func (y *yes) Place() (place, several int)                        { return 0, 3 }
func (y *yes) Charge(_, _, _ int64)                               {}
func (y *yes) End(int64)                                          {}

func (y *yes) Admit(q *admit.Ask, r *admit.Answer) bool {
	if r.Lease = y; !y.away {
		r.Start, r.Used, r.InFlight = q.Term.Start, q.Term.Own(), 1
	}
	return !y.away
}

// asking is of a store that is there, or not.
func sharing(t testing.TB, y *yes) (*admit.Gate, *admit.Request) {
	g, account := newGate(), new(quota.Account)
	g.Share(y)
	g.OnError(admit.LocalShare, admit.LocalShare)
	l := &limit.Limits{PerSecond: limit.PerSecond(1e9, 0), PerMinute: limit.PerMinute(1e11), Tokens: limit.PerMinute(1e12), Concurrent: 100}
	r := asking(1, 0, l, 100)
	r.Global, r.Quota, r.Account = limit.PerSecond(1e9, 0), 1e15, account
	r.Term = account.Term(birth, quota.Daily, time.UTC)
	enter(t, g, r).Leave(birth)
	return g, r
}

// What goes through an interface is on the heap: what is asked, and what is answered.
// Alone there is, besides, once for each outage, nothing.
func TestAllocationsOfADecisionTogether(t *testing.T) {
	for name, y := range map[string]*yes{"up": {}, "away": {away: true}} {
		g, r := sharing(t, y)
		now := time.Duration(0)
		if n := testing.AllocsPerRun(1000, func() {
			now += time.Millisecond
			r.Now = at(now)
			var ticket admit.Ticket
			if _, ok := g.Enter(&ticket, r); !ok {
				t.Fatal("refused")
			}
			ticket.Charge(r.Now, 50)
			ticket.Settle(r.Now, 150)
			ticket.Leave(r.Now)
		}); n > 2 {
			t.Errorf("%s: %v allocations, want 2 at most", name, n)
		}
	}
}

// BenchmarkEnterTogether is the gate's part where a store is asked, or was in vain.
func BenchmarkEnterTogether(b *testing.B) {
	for _, y := range []*yes{{}, {away: true}} {
		b.Run(map[bool]string{false: "up", true: "away"}[y.away], func(b *testing.B) {
			g, r := sharing(b, y)
			b.ReportAllocs()
			for now := time.Duration(0); b.Loop(); now += time.Microsecond {
				r.Now = at(now)
				var ticket admit.Ticket
				if _, ok := g.Enter(&ticket, r); !ok {
					b.Fatal("refused")
				}
				ticket.Settle(r.Now, 50)
				ticket.Leave(r.Now)
			}
		})
	}
}
