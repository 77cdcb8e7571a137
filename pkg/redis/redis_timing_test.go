package redis_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/llmproxy/llmproxy/pkg/redis"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// asked is about what a request asks: one key read and written by a script with a few arguments.
var (
	askedLua = "local n = redis.call('INCR', KEYS[1]) return {n, ARGV[1], 0, 0}"
	asked    = redis.NewScript(askedLua)
	askedKey = []string{"llmproxy:{0123456789abcdef}:b"}
	askedArg = []string{"1", "60000000", "1000", "0", "1790000000000000", "a.1"}
)

// BenchmarkRun is against rueidis itself with a deadline for each call, which is what Run replaces.
func BenchmarkRun(b *testing.B) {
	s := redistest.Start(b)
	c := connected(b, redis.Options{Addrs: []string{s.Addr()}})
	bare, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{s.Addr()}, ForceSingleClient: true, PipelineMultiplex: -1, AlwaysPipelining: true, DisableRetry: true, DisableCache: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer bare.Close()
	lua := rueidis.NewLuaScript(askedLua)
	for name, call := range map[string]func() error{
		"pkg": func() error {
			_, err := c.Run(redis.Call{Script: asked, Keys: askedKey, Args: askedArg}, long)
			return err
		},
		"rueidis": func() error {
			ctx, cancel := context.WithTimeout(context.Background(), long)
			defer cancel()
			return lua.Exec(ctx, bare, askedKey, askedArg).Error()
		},
	} {
		for _, callers := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/callers=%d", name, callers), func(b *testing.B) { measure(b, callers, call) })
		}
	}
}

func measure(b *testing.B, callers int, call func() error) {
	b.ReportAllocs()
	times := make([][]time.Duration, callers)
	var all sync.WaitGroup
	b.ResetTimer()
	for i := range callers {
		all.Go(func() {
			for range b.N / callers {
				start := time.Now()
				if err := call(); err != nil {
					b.Error(err)
					return
				}
				times[i] = append(times[i], time.Since(start))
			}
		})
	}
	all.Wait()
	took := b.Elapsed()
	b.StopTimer()
	sorted := slices.Sorted(slices.Values(slices.Concat(times...)))
	if len(sorted) == 0 {
		return
	}
	b.ReportMetric(float64(sorted[len(sorted)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(sorted[len(sorted)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(len(sorted))/took.Seconds(), "calls/s")
}

func BenchmarkRunAll(b *testing.B) {
	s := redistest.Start(b)
	c := connected(b, redis.Options{Addrs: []string{s.Addr()}})
	for _, size := range []int{10, 50, 500} {
		calls := make([]redis.Call, size)
		for i := range calls {
			calls[i] = redis.Call{Script: asked, Keys: askedKey, Args: askedArg}
		}
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if r := c.RunAll(calls, long); r[0].Err != nil {
					b.Fatal(r[0].Err)
				}
			}
			b.ReportMetric(float64(size)*float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}
