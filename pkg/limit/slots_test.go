package limit_test

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/limit"
)

func TestSlotsNeverMoreThanMost(t *testing.T) {
	const most = 3
	var slots limit.Slots
	var inside, entered atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2000 {
				ok, retired := slots.Enter(most)
				if retired {
					t.Error("retired by nobody")
				}
				if !ok {
					runtime.Gosched()
					continue
				}
				entered.Add(1)
				if n := inside.Add(1); n > most {
					t.Errorf("%d inside, want at most %d", n, most)
				}
				inside.Add(-1)
				slots.Leave()
			}
		})
	}
	wg.Wait()
	if slots.Len() != 0 || entered.Load() == 0 {
		t.Errorf("%d left inside after %d", slots.Len(), entered.Load())
	}
}

// With a count that is raised first and looked at then, one of two who come at once for the last slot is enough to
// refuse both.
func TestSlotsRefuseNobodyWhileThereIsRoom(t *testing.T) {
	var slots limit.Slots
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5000 {
				if ok, _ := slots.Enter(4); !ok {
					t.Error("refused, and at most 3 others are inside")
					return
				}
				slots.Leave()
			}
		})
	}
	wg.Wait()
}

func TestSlotsWithoutALimit(t *testing.T) {
	var slots limit.Slots
	for range 1000 {
		if ok, _ := slots.Enter(0); !ok {
			t.Fatal("refused")
		}
	}
	if slots.Len() != 1000 {
		t.Errorf("%d, want 1000", slots.Len())
	}
}

func TestSlotsForgottenOnlyWhenEmpty(t *testing.T) {
	var slots limit.Slots
	slots.Enter(1)
	if slots.Retire() {
		t.Fatal("retired with a request under way: its limits would be forgotten")
	}
	slots.Leave()
	if !slots.Retire() || slots.Retire() {
		t.Fatal("not retired once")
	}
	if ok, retired := slots.Enter(0); ok || !retired || slots.Len() != 0 {
		t.Errorf("entered what was forgotten: %v, %v, %d", ok, retired, slots.Len())
	}
	slots.Revive()
	slots.Revive()
	if ok, retired := slots.Enter(1); !ok || retired || slots.Len() != 1 {
		t.Errorf("not entered what was revived: %v, %v, %d", ok, retired, slots.Len())
	}
}

func TestSlotsGivenBackTwice(t *testing.T) {
	for name, prepare := range map[string]func(*limit.Slots){
		"empty":   func(*limit.Slots) {},
		"retired": func(s *limit.Slots) { s.Retire() },
	} {
		var slots limit.Slots
		prepare(&slots)
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			slots.Leave()
		}()
		if ok, retired := slots.Enter(1); ok != (name == "empty") || retired == ok {
			t.Errorf("%s: the count is off: %v, %v", name, ok, retired)
		}
	}
}
