package route

import (
	"fmt"
	"testing"
	"time"
)

// poolsOfTen is n backends in pools of ten, each pool with a glob of its own.
func poolsOfTen(n int) TableConfig {
	var c TableConfig
	for i := range n {
		c.Backends = append(c.Backends, backend(fmt.Sprintf("b%d*%d model-%03d-*", i, 1+i%3, i/10)))
	}
	return c
}

func BenchmarkResolveGlob(b *testing.B) {
	for _, n := range []int{3, 10, 32, 1000} {
		b.Run(fmt.Sprintf("backends=%d", n), func(b *testing.B) {
			table := mustBuild(b, poolsOfTen(n), nil)
			model := fmt.Sprintf("model-%03d-instruct", (n-1)/10)
			b.ReportAllocs()
			for b.Loop() {
				table.Resolve(model)
			}
		})
	}
}

func BenchmarkResolveExact(b *testing.B) {
	config := poolsOfTen(1000)
	config.Mapping = map[string]string{"alias": "model-050-instruct"}
	table := mustBuild(b, config, nil)
	b.ReportAllocs()
	for b.Loop() {
		table.Resolve("alias")
	}
}

// BenchmarkPick picks from one pool of so many backends; pools=10 is 1,000
// backends in pools of ten.
func BenchmarkPick(b *testing.B) {
	run := func(name string, c TableConfig) {
		for _, c.Strategy = range []Strategy{RoundRobin, LeastConnections, Latency} {
			b.Run(fmt.Sprintf("%v/%s", c.Strategy, name), func(b *testing.B) {
				table := mustBuild(b, c, nil)
				pool := mustResolve(b, table, "model-000-x")
				now := time.Now()
				for i, b := range pool.Backends() {
					b.Observe(time.Duration(100+i)*time.Millisecond, now)
				}
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					var tried Tried
					for pb.Next() {
						tried.Reset()
						backend, _ := pool.Pick(now, "", &tried)
						backend.Leave()
					}
				})
			})
		}
	}
	for _, n := range []int{3, 10, 32, 1000} {
		var one TableConfig
		for i := range n {
			one.Backends = append(one.Backends, backend(fmt.Sprintf("b%d*%d", i, 1+i%3)))
		}
		run(fmt.Sprintf("backends=%d", n), one)
	}
	run("1000-in-pools-of-10", poolsOfTen(1000))
}
