package admit_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

// BenchmarkDecide is all that is decided about a request, and what its end costs: the
// key, its address and model, five limits and the global one. busy keys take turns.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 100_000} {
		d := newDesk(b, n)
		for _, busy := range []int{1, 10, 1000} {
			if busy > n {
				break
			}
			b.Run(fmt.Sprintf("keys=%d/busy=%d", n, busy), func(b *testing.B) {
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					if !d.serve(d.secrets[i*(n/busy)]) {
						b.Fatal("refused")
					}
					if i++; i == busy {
						i = 0
					}
				}
			})
		}
	}
}

// BenchmarkEnter is the gate's part of it.
func BenchmarkEnter(b *testing.B) {
	d := newDesk(b, 10)
	key, _ := d.ring.Find(d.secrets[0], birth)
	r := asking(1, 0, d.ring.Limits(key), 100)
	r.Output, r.Global, r.Quota = 200, d.global, 1e15
	r.Term = d.book.Account(key.ID()).Term(birth, quota.Daily, time.UTC)
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for now := time.Duration(0); b.Loop(); now += time.Microsecond {
			r.Now = at(now)
			var ticket admit.Ticket
			if _, ok := d.gate.Enter(&ticket, r); !ok {
				b.Fatal("refused")
			}
			ticket.Settle(r.Now, 250)
			ticket.Leave(r.Now)
		}
	})
	b.Run("contended", func(b *testing.B) { // one key from all cores
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			mine := *r
			for now := time.Duration(0); pb.Next(); now += time.Microsecond {
				mine.Now = at(now)
				var ticket admit.Ticket
				d.gate.Enter(&ticket, &mine)
				ticket.Leave(mine.Now)
			}
		})
	})
}

// BenchmarkRefuse is what a refusal costs, by the limit that refuses.
func BenchmarkRefuse(b *testing.B) {
	for l := admit.Concurrent; l < admit.NLimits; l++ {
		b.Run(l.String(), func(b *testing.B) {
			g := newGate()
			r := reached(1 << l).request(0)
			r.Term = new(quota.Account).Term(birth, quota.Daily, time.UTC)
			enter(b, g, r)
			b.ReportAllocs()
			for b.Loop() {
				var ticket admit.Ticket
				if refusal, ok := g.Enter(&ticket, r); ok || refusal.Limit != l {
					b.Fatal(refusal.Limit)
				}
			}
		})
	}
}

// BenchmarkStranger is a client without a key: one that is known, and one for whom
// the table has no room.
func BenchmarkStranger(b *testing.B) {
	l := &limit.Limits{PerSecond: limit.PerSecond(1e9, 0)}
	for _, size := range []int{0, 1} {
		b.Run([]string{"known", "overflow"}[size], func(b *testing.B) {
			g := admit.New(birth, size)
			enter(b, g, asking(200, 0, &limit.Limits{PerSecond: limit.Rate{Each: time.Hour, Burst: 1}}, 0))
			r := stranger(5, 0)
			r.Limits = l
			b.ReportAllocs()
			for b.Loop() {
				var ticket admit.Ticket
				if _, ok := g.Enter(&ticket, r); !ok {
					b.Fatal("refused")
				}
				ticket.Leave(r.Now)
				r.Now = r.Now.Add(2)
			}
		})
	}
}

// BenchmarkSweep looks through a full table of which nothing can be forgotten.
func BenchmarkSweep(b *testing.B) {
	g := newGate()
	come(g, 0, admit.DefaultSize, 0, false)
	b.ReportAllocs()
	for b.Loop() {
		g.Sweep(birth)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/admit.DefaultSize, "ns/client")
}

// A decision among 100,000 keys takes no longer than among 10, and a microsecond at
// most. Of many tries the best counts: others use the machine too.
func TestADecisionTakesAMicrosecond(t *testing.T) {
	if testing.Short() || raceCost > 1 {
		t.Skip("it measures time")
	}
	best := func(d *desk) time.Duration {
		const batch = 2000
		var all []time.Duration
		for range 50 {
			begin := time.Now()
			for i := range batch {
				if !d.serve(d.secrets[i%10]) {
					t.Fatal("refused")
				}
			}
			all = append(all, time.Since(begin)/batch)
		}
		return slices.Min(all)
	}
	few, many := best(newDesk(t, 10)), best(newDesk(t, 100_000))
	t.Logf("%v among 10 keys, %v among 100,000", few, many)
	if many > time.Microsecond || float64(many) > 1.5*float64(few) {
		t.Errorf("%v among 100,000 keys, %v among 10, want a microsecond at most and no more", many, few)
	}
}
