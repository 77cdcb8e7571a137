package limit_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/limit"
)

// locked is the twin: a token bucket under a mutex.
type locked struct {
	mu     sync.Mutex // protects the rest
	level  int64
	latest int64
}

func (l *locked) take(now int64, r limit.Rate, n int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.level = min(l.level+max(now-l.latest, 0), r.Burst*int64(r.Each))
	l.latest = max(now, l.latest)
	if l.level < n*int64(r.Each) {
		return false
	}
	l.level -= n * int64(r.Each)
	return true
}

// bench runs f alone, and from all cores on one limit. The clock of each moves a nanosecond a call.
func bench(b *testing.B, f func(now int64)) {
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for now := int64(0); b.Loop(); now++ {
			f(now)
		}
	})
	b.Run("contended", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for now := int64(0); pb.Next(); now++ {
				f(now)
			}
		})
	})
}

var (
	ample = limit.Rate{Each: 1, Burst: 1e15} // lets everything pass
	scant = limit.Rate{Each: time.Hour, Burst: 1}
)

func BenchmarkTake(b *testing.B) {
	var bucket limit.Bucket
	bench(b, func(now int64) { bucket.Take(now, ample, 1) })
}

func BenchmarkTakeRefused(b *testing.B) {
	var bucket limit.Bucket
	bucket.Take(0, scant, 1)
	bench(b, func(now int64) { bucket.Take(now, scant, 1) })
}

func BenchmarkTakeAndReturn(b *testing.B) {
	var bucket limit.Bucket
	bench(b, func(now int64) {
		bucket.Take(now, ample, 1)
		bucket.Return(now, now, ample, 1)
	})
}

func BenchmarkReserveAndCharge(b *testing.B) {
	var tokens limit.Tokens
	bench(b, func(now int64) {
		held, _ := tokens.Reserve(now, ample, 100)
		tokens.Charge(now, ample, 90, held)
	})
}

func BenchmarkSlots(b *testing.B) {
	var slots limit.Slots
	bench(b, func(int64) {
		if ok, _ := slots.Enter(1000); ok {
			slots.Leave()
		}
	})
}

func BenchmarkTwinMutex(b *testing.B) {
	var l locked
	bench(b, func(now int64) { l.take(now, ample, 1) })
}

func BenchmarkTwinCounter(b *testing.B) {
	var n atomic.Int64
	bench(b, func(int64) { n.Add(1) })
}
