//go:build !race

package limit_test

import (
	"testing"

	"github.com/llmproxy/llmproxy/pkg/limit"
)

// The race detector allocates on its own; these run without it.
func TestAllocations(t *testing.T) {
	var b, reloaded limit.Bucket
	var tokens limit.Tokens
	var slots limit.Slots
	fast, slow := limit.PerSecond(1e6, 0), limit.PerMinute(100)
	now := int64(0)
	for name, f := range map[string]func(){
		"Take and Return": func() {
			if b.Take(now, fast, 1) != 0 {
				t.Fail()
			}
			b.Return(now, now, fast, 1)
		},
		"Take refused after a reload": func() {
			reloaded.Take(now, slow, 100)
			if reloaded.Take(now, fast, 1) == 0 {
				t.Fail()
			}
			reloaded.Look(now, slow)
		},
		"Reserve and Charge": func() {
			held, _ := tokens.Reserve(now, fast, 50)
			tokens.Charge(now, fast, 64, held)
			tokens.Look(now, fast)
		},
		"Slots": func() {
			if ok, _ := slots.Enter(1); !ok {
				t.Fail()
			}
			slots.Leave()
		},
	} {
		t.Run(name, func(t *testing.T) {
			if n := testing.AllocsPerRun(100, f); n != 0 {
				t.Errorf("%v allocations, want none", n)
			}
		})
	}
}
