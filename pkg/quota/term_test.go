package quota_test

import (
	"math"
	"testing"
	"time"
	"unsafe"

	"github.com/llmproxy/llmproxy/pkg/quota"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) // a Monday

func today() *quota.Term { return new(quota.Account).Term(noon, quota.Daily, time.UTC) }

func checkUse(t *testing.T, term *quota.Term, used, reserved int64) {
	t.Helper()
	if term.Used() != used || term.Reserved() != reserved {
		t.Errorf("used %d, reserved %d; want %d and %d", term.Used(), term.Reserved(), used, reserved)
	}
}

func TestReserve(t *testing.T) {
	type step struct {
		reserve, held, used int64 // held < 0: refused
		settle              bool
	}
	const far = math.MaxInt64
	for _, c := range []struct {
		name           string
		limit          int64
		steps          []step
		used, reserved int64
	}{
		{"five of 175 on a limit of 100", 100, []step{{reserve: 175, held: 100}, {reserve: 175, held: -1}, {reserve: 175, held: -1}, {reserve: 175, held: -1}, {reserve: 175, held: -1}}, 0, 100},
		{"what is reserved counts", 100, []step{{reserve: 60, held: 60}, {reserve: 41, held: -1}, {reserve: 40, held: 40}, {reserve: 1, held: -1}}, 0, 100},
		{"what was used counts", 100, []step{{reserve: 60, used: 50, settle: true}, {reserve: 51, held: -1}, {reserve: 50, held: 50}}, 50, 50},
		{"what was not used comes back", 100, []step{{reserve: 100, settle: true}, {reserve: 100, held: 100}}, 0, 100},
		{"more used than reserved", 100, []step{{reserve: 100, used: 300, settle: true}, {reserve: 1, held: -1}, {reserve: 0, held: 0}}, 300, 0},
		{"no limit", 0, []step{{reserve: 500, used: 700, settle: true}, {reserve: 1000, held: 1000}}, 700, 1000},
		{"no limit and absurd numbers", 0, []step{{reserve: far, held: 1e12}, {reserve: far, held: 1e12}}, 0, 2e12},
		{"a limit and absurd numbers", far, []step{{reserve: far, held: 1e12}, {reserve: far, held: 1e12}}, 0, 2e12},
		{"less than nothing widens no limit", 100, []step{{reserve: -1000, held: 0}, {reserve: 101, held: 100}, {reserve: 1, held: -1}}, 0, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			term := today()
			for i, s := range c.steps {
				ok := term.Reserve(s.reserve, c.limit)
				if ok != (s.held >= 0) {
					t.Fatalf("step %d: %d is reserved: %v", i, s.reserve, ok)
				}
				held := term.Held(s.reserve, c.limit)
				if s.settle {
					term.Settle(held, s.used)
				} else if ok && held != s.held {
					t.Fatalf("step %d: held %d, want %d", i, held, s.held)
				}
			}
			checkUse(t, term, c.used, c.reserved)
		})
	}
}

func TestALimitThatShrinksRefuses(t *testing.T) {
	term := today()
	if !term.Reserve(1000, 1000) || term.Reserve(1, 10) || !term.Reserve(0, 10) {
		t.Error("1000 reserved leave nothing of 10, which is enough for nothing")
	}
	term.Settle(1000, 5)
	if !term.Reserve(5, 10) {
		t.Error("5 used leave 5 of 10")
	}
}

// A key that ten thousand requests share must not slow the key beside it.
func TestTermFillsOneCacheLine(t *testing.T) {
	if n := unsafe.Sizeof(quota.Term{}); n != 64 {
		t.Errorf("a term has %d bytes, want 64", n)
	}
}

// What a request has used while it runs must not be free to take.
func TestHoldReservesWhateverTheLimit(t *testing.T) {
	term := today()
	if !term.Reserve(100, 100) {
		t.Fatal("not reserved")
	}
	term.Hold(50)
	term.Hold(-1000)
	checkUse(t, term, 0, 150)
	term.Settle(150, 120)
	checkUse(t, term, 120, 0)
	term.Settle(0, -500)
	checkUse(t, term, 120, 0)
}
