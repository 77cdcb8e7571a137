//go:build !race

package cluster

import (
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/limit"
)

// The race detector allocates on its own; this runs without it.
func TestAllocationsOfTheStock(t *testing.T) {
	f := newFaked(t)
	f.answer = func() (int, error) { return 1 << 40, nil }
	f.take(thousand)
	empty := newFaked(t)
	empty.answer = func() (int, error) { return 0, nil }
	one := limit.PerSecond(1, 1)
	if wait, _ := empty.stock.take(empty.now, one); wait == 0 {
		t.Fatal("took what there was not")
	}
	var b breaker
	now := time.Now()
	for name, do := range map[string]func(){
		"take and give back": func() {
			if wait, err := f.stock.take(f.now, thousand); wait != 0 || err != nil {
				t.Fail()
			}
			f.giveBack(f.now)
		},
		"refuse": func() {
			if wait, err := empty.stock.take(empty.now, one); wait == 0 || err != nil {
				t.Fail()
			}
		},
		"owed":    func() { f.owed() },
		"breaker": func() { b.ok(now); b.failed(now); b.open() },
	} {
		if n := testing.AllocsPerRun(100, do); n != 0 {
			t.Errorf("%s: %v allocations, want none", name, n)
		}
	}
}
