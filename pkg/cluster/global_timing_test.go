package cluster

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/redis"
)

// plentiful is a stock that lasts.
func plentiful(b *testing.B) *stock {
	m, ok := message(bytesOf(1, 1<<50, 1<<50, 0, 0))
	if !ok {
		b.Fatal("no answer")
	}
	s := newStock(func(redis.Call) (rueidis.RedisMessage, error) { return m, nil }, "p:", time.Now)
	s.slow = mostLife
	return s
}

func BenchmarkStockTake(b *testing.B) {
	s, now, r := plentiful(b), time.Now(), limit.PerSecond(1e9, 1<<50)
	b.ReportAllocs()
	for b.Loop() {
		if wait, err := s.take(now, r); wait != 0 || err != nil {
			b.Fatal(wait, err)
		}
	}
}

func BenchmarkStockTakeParallel(b *testing.B) {
	s, now, r := plentiful(b), time.Now(), limit.PerSecond(1e9, 1<<50)
	var failed atomic.Bool
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if wait, err := s.take(now, r); wait != 0 || err != nil {
				failed.Store(true)
			}
		}
	})
	if failed.Load() {
		b.Fatal("it refused")
	}
}

func BenchmarkBreaker(b *testing.B) {
	var k breaker
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		k.ok(now)
	}
}

// How long Redis is busy with one draw, and with one beat of three gateways.
func BenchmarkGlobalOnRedis(b *testing.B) {
	s := newStage(b)
	a := drawAsk{rate: limit.PerSecond(1e6, 1e6), want: 10, life: mostLife}
	for range 3 {
		s.beat(beatAsk{tag: "g", node: "gateway-" + time.Now().String(), beat: 1, self: make([]byte, 200)})
	}
	for name, do := range map[string]func(){
		"draw": func() { s.draw(a, "p:") },
		"beat": func() { s.beat(beatAsk{tag: "g", node: "gateway", beat: 1}) },
	} {
		b.Run(name, func(b *testing.B) {
			s.server.Must("CONFIG", "RESETSTAT")
			for b.Loop() {
				do()
			}
			b.ReportMetric(s.scriptTime(), "µs-in-redis/op")
		})
	}
}
