package cluster

import (
	"strconv"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// endless is limited in every way, and no benchmark gets there.
var endless = want{
	limits: limit.Limits{
		PerSecond: limit.PerSecond(1e9, 1e9), PerMinute: limit.PerMinute(1e10), Tokens: limit.PerMinute(1e12), Concurrent: 1e6,
	},
	tokens: 100, quota: 1e15, hold: 100,
}

// BenchmarkRequest is what a request costs that Redis is asked for: one is let in, used
// 100 tokens and ends. Commands are those at Redis.
func BenchmarkRequest(b *testing.B) {
	b.Run("one after the other", func(b *testing.B) {
		s, p := benched(b)
		for b.Loop() {
			r, _, _ := p.enter(endless)
			r.end(100, 100)
		}
		finished(b, s, p)
	})
	b.Run("50 at once", func(b *testing.B) {
		s, p := benched(b)
		b.SetParallelism(25)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				r, _, _ := p.enter(endless)
				r.end(100, 100)
			}
		})
		finished(b, s, p)
	})
	b.Run("nobody asked", func(b *testing.B) {
		s, p := benched(b)
		for range mostInRow {
			p.shards[0].breaker.failed(time.Now())
		}
		s.Stop()
		b.ReportAllocs()
		for b.Loop() {
			r, _, _ := p.enter(endless)
			r.end(100, 100)
		}
		s.Continue()
	})
}

func benched(b *testing.B) (*redistest.Server, *peer) {
	s := redistest.Start(b)
	p := newPeer(b, "0123456789abcdef", at(s.Addr()), patiently).up()
	p.must(endless).end(1, 1)
	p.told()
	s.Must("CONFIG", "RESETSTAT")
	b.ReportAllocs()
	b.ResetTimer()
	return s, p
}

func finished(b *testing.B, s *redistest.Server, p *peer) {
	b.StopTimer()
	p.told()
	n, err := strconv.Atoi(calls(s, "evalsha"))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(n)/float64(b.N), "commands/op")
	p.holdsNothing(endless)
}

// BenchmarkAdmit is the part of it that the request's goroutine does.
func BenchmarkAdmit(b *testing.B) {
	p := newPeer(b, "0123456789abcdef", at(redistest.Start(b).Addr()), patiently).up()
	q := admit.Ask{Tag: endless.tag(), Limits: &endless.limits, Tokens: 100, Quota: 1e15, Hold: 100}
	q.Account, q.Term = p.account(endless)
	b.ReportAllocs()
	for b.Loop() {
		var w admit.Answer
		if !p.Admit(&q, &w) {
			b.Fatal("nobody was asked")
		}
		w.Lease.End(0)
	}
}
