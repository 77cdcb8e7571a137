//go:build !race

package route

import (
	"testing"
	"time"
)

// The promise of the hot path: resolving and picking allocate nothing.
func TestAllocations(t *testing.T) {
	config := TableConfig{
		SlowStart: time.Minute,
		Backends:  backends("a@x llama*", "b@x llama* *-chat", "c@y llama*", "d"),
		Mapping:   map[string]string{"l": "llama-3"},
		Fallback:  []FallbackConfig{{Primary: url("a"), Fallback: []string{url("c")}, Models: []string{"llama*"}}},
	}
	config.Backends[3].Surfaces = chat
	for _, config.Strategy = range []Strategy{RoundRobin, LeastConnections, Latency} {
		table := mustBuild(t, config, nil)
		table.Backends()[1].Failed(FailDial, noon)
		table.Backends()[2].SetHealthy(false)
		table.Backends()[2].SetHealthy(true) // in slow start
		table.Resolve("llama-chat")
		var tried Tried
		now := noon.Add(time.Second)
		if n := testing.AllocsPerRun(100, func() {
			for _, model := range [...]string{"l", "llama-3", "llama-9", "llama-chat", "unheard-of", ""} {
				r, ok := table.Resolve(model)
				if !ok {
					continue
				}
				tried.Reset()
				first, _ := r.Pool.Pick(now, "x", &tried)
				if r.Pool.Serving(chat) != r.Pool {
					t.Fatal("chat, which all serve, has a pool of its own")
				}
				if part := r.Pool.Serving(rerank); part != nil {
					if b, err := part.Pick(now, "x", nil); err == Picked {
						b.Leave()
					}
				}
				next, _, err := r.Pool.Next(now, "x", first, "llama-3", &tried)
				first.Observe(time.Second, now)
				first.Failed(FailAnswer, now)
				first.Succeeded(now)
				first.Leave()
				if err == Picked {
					next.Leave()
				}
			}
		}); n != 0 {
			t.Errorf("%v: %v allocations", config.Strategy, n)
		}
	}
}
