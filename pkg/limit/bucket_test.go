package limit_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/limit"
)

const second = int64(time.Second)

func TestRates(t *testing.T) {
	for _, c := range []struct {
		name string
		got  limit.Rate
		want limit.Rate
	}{
		{"burst left out is one second", limit.PerSecond(100, 0), limit.Rate{Each: 10 * time.Millisecond, Burst: 100}},
		{"burst of its own", limit.PerSecond(100, 7), limit.Rate{Each: 10 * time.Millisecond, Burst: 7}},
		{"a third of a second never gives a fourth", limit.PerSecond(3, 0), limit.Rate{Each: 333333334, Burst: 3}},
		{"a minute at once", limit.PerMinute(60), limit.Rate{Each: time.Second, Burst: 60}},
		{"faster than the clock", limit.PerMinute(1e12), limit.Rate{Each: 1, Burst: 1e12}},
		{"none a second is no limit", limit.PerSecond(0, 9), limit.Rate{}},
		{"none a minute is no limit", limit.PerMinute(0), limit.Rate{}},
		{"less than none is no limit", limit.PerMinute(-1), limit.Rate{}},
		{"the most", limit.PerMinute(math.MaxInt64), limit.Rate{Each: 1, Burst: math.MaxInt64}},
	} {
		if c.got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, c.got, c.want)
		}
		if c.got.Limited() != (c.want.Each > 0) {
			t.Errorf("%s: limited: %v", c.name, c.got.Limited())
		}
	}
}

func TestTakeSaysTheTrueTime(t *testing.T) {
	var b limit.Bucket
	r := limit.PerMinute(60)
	if wait := b.Take(second, r, 60); wait != 0 {
		t.Fatalf("the first minute waits %v", wait)
	}
	wait := b.Take(2*second, r, 5)
	if wait != 4*time.Second {
		t.Errorf("5 after one came back wait %v, want 4s", wait)
	}
	if early := b.Take(2*second+int64(wait)-1, r, 5); early != 1 {
		t.Errorf("a nanosecond early waits %v, want 1ns", early)
	}
	if late := b.Take(2*second+int64(wait), r, 5); late != 0 {
		t.Errorf("at the time that was said it waits %v", late)
	}
}

func TestWhatIsMoreThanTheBurstWaitsForAFullBucket(t *testing.T) {
	var b limit.Bucket
	r := limit.PerSecond(10, 5)
	if wait := b.Take(0, r, 1); wait != 0 {
		t.Fatal(wait)
	}
	if wait := b.Take(0, r, 50); wait != 100*time.Millisecond {
		t.Errorf("waits %v, want until the bucket is full, 100ms", wait)
	}
	if wait := b.Take(second, r, 50); wait != 0 {
		t.Errorf("at a full bucket it waits %v, and would for ever", wait)
	}
	if left, full := b.Look(second, r); left != 0 || full != 500*time.Millisecond {
		t.Errorf("%d left, full in %v: it took another number than the burst", left, full)
	}
}

func TestNoLimitLeavesNoTrace(t *testing.T) {
	var b limit.Bucket
	if wait := b.Take(0, limit.Rate{}, math.MaxInt64); wait != 0 || !b.Idle(0) {
		t.Errorf("waits %v, idle %v", wait, b.Idle(0))
	}
	b.Return(0, 0, limit.Rate{}, 1)
	if left, full := b.Look(0, limit.Rate{}); left != math.MaxInt64 || full != 0 {
		t.Errorf("%d left, full in %v", left, full)
	}
	if wait := b.Take(0, limit.PerSecond(1, 1), 0); wait != 0 || !b.Idle(0) {
		t.Errorf("nothing waits %v, idle %v", wait, b.Idle(0))
	}
}

func TestIdleIsAsGoodAsNew(t *testing.T) {
	var b limit.Bucket
	r := limit.PerSecond(10, 5)
	b.Take(0, r, 2)
	if b.Idle(second/5 - 1) {
		t.Error("idle while a unit is missing: to forget it would give that unit")
	}
	if !b.Idle(second / 5) {
		t.Error("not idle although all is back: it would never be forgotten")
	}
	if left, _ := b.Look(second/5, r); left != 5 {
		t.Errorf("%d left, want 5", left)
	}
}

// A caller that is held up between reading the clock and undoing must not give back what others have used meanwhile.
func TestUndoneByAHeldUpCallerGivesNothingTwice(t *testing.T) {
	var b limit.Bucket
	r := limit.Rate{Each: 1, Burst: 10}
	b.Take(0, r, 10)
	if wait := b.Take(10, r, 10); wait != 0 {
		t.Fatal(wait) // all flowed back
	}
	b.Return(0, 0, r, 10)
	if wait := b.Take(10, r, 1); wait != 1 {
		t.Errorf("waits %v, want 1ns: 10 were taken at this time", wait)
	}
}

func TestReloadKeepsWhatWasTaken(t *testing.T) {
	for _, c := range []struct {
		name       string
		before     limit.Rate
		take, debt int64
		after      limit.Rate
		left       int64
		full       time.Duration
	}{
		{"the same", limit.PerMinute(60), 20, 0, limit.PerMinute(60), 40, 20 * time.Second},
		{"larger burst", limit.PerSecond(10, 10), 10, 0, limit.PerSecond(10, 30), 20, time.Second},
		{"smaller burst", limit.PerSecond(10, 30), 15, 0, limit.PerSecond(10, 10), 0, 1500 * time.Millisecond},
		{"slower, of longer return: no second burst", limit.PerSecond(1000, 1000), 1000, 0, limit.PerSecond(1, 10), 0, 10 * time.Second},
		{"slower, of longer return: half", limit.PerSecond(1000, 1000), 500, 0, limit.PerSecond(1, 10), 5, 5 * time.Second},
		{"slower, of larger burst: the same units", limit.PerSecond(1000, 10), 10, 0, limit.PerSecond(1, 100), 90, 10 * time.Second},
		{"slower, of shorter return", limit.PerSecond(10, 100), 50, 0, limit.PerSecond(1, 4), 0, 5 * time.Second},
		{"slower: nobody waits for more than a minute", limit.PerMinute(6000), 6000, 0, limit.PerMinute(60), 0, time.Minute},
		{"faster: the same share", limit.PerMinute(60), 30, 0, limit.PerMinute(6000), 3000, 30 * time.Second},
		{"faster, of shorter return", limit.PerSecond(1, 10), 5, 0, limit.PerSecond(1000, 1000), 500, 500 * time.Millisecond},
		{"faster: a debt", limit.PerMinute(60), 60, 60, limit.PerMinute(600), 0, 2 * time.Minute},
	} {
		var b limit.Tokens
		b.Charge(0, c.before, c.take+c.debt, 0)
		if left, full := b.Look(0, c.after); left != c.left || full != c.full {
			t.Errorf("%s: looks like %d left, full in %v, want %d and %v", c.name, left, full, c.left, c.full)
		}
		counted := func(r limit.Rate) {
			held, _ := b.Reserve(0, r, 1)
			b.Charge(0, r, 0, held)
		}
		counted(c.after)
		left, full := b.Look(0, c.after)
		if off := full - c.full; left > c.left || left < c.left-1 || off < 0 || off > 1 {
			t.Errorf("%s: is %d left, full in %v, want %d and %v, or 1ns more", c.name, left, full, c.left, c.full)
		}
		counted(c.before)
		counted(c.after)
		if _, full := b.Look(0, c.after); full-c.full > time.Microsecond {
			t.Errorf("%s: there and back it is full in %v, want %v", c.name, full, c.full)
		}
	}
}

// A few of many are not many of a few.
func TestReloadBeforeTheUndoingGivesBackNoMoreThanWasTaken(t *testing.T) {
	var b limit.Bucket
	before, after := limit.PerMinute(6000), limit.PerMinute(60)
	b.Take(0, before, 3000)
	b.Take(0, before, 30)
	b.Take(0, after, 60) // refused, and counts in the new rate
	b.Return(0, 0, before, 30)
	if left, _ := b.Look(0, after); left < 29 || left > 30 {
		t.Errorf("%d left, want half of 60", left)
	}
}

func TestReloadOfExtremeRatesDoesNotOverflow(t *testing.T) {
	fast := limit.Rate{Each: 1 << 57, Burst: 1}
	for name, slow := range map[string]limit.Rate{
		"the quotient has 65 bits": {Each: 1 << 60, Burst: 2},
		"the quotient has 64 bits": {Each: 1 << 59, Burst: 4},
	} {
		var tokens limit.Tokens
		tokens.Charge(0, fast, 16, 0)
		if left, full := tokens.Look(0, slow); left != 0 || full != 1<<61 {
			t.Errorf("%s: %d left, full in %d ns, want the longest time there is", name, left, full)
		}
	}
}

// A caller that is held up between reading the clock and the first take after a reload must not date back what others
// took meanwhile.
func TestReloadByAHeldUpCallerForgetsNothing(t *testing.T) {
	var b limit.Bucket
	b.Take(1000, limit.Rate{Each: 10, Burst: 10}, 10)
	after := limit.Rate{Each: 1, Burst: 10}
	b.Take(0, after, 1)
	if left, full := b.Look(1000, after); left != 0 || full != 10 {
		t.Errorf("%d left, full in %v, want 0 and 10ns: 10 were taken at this time", left, full)
	}
}

// Whoever ends long after a reload pays in tokens, not in the time that those took at the old rate.
func TestReloadChargesOldAnswersAtTheNewRate(t *testing.T) {
	var tokens limit.Tokens
	before, after := limit.PerMinute(6000), limit.PerMinute(60)
	held, _ := tokens.Reserve(0, before, 30)
	tokens.Reserve(second, after, 1)
	tokens.Charge(second, before, 30, held)
	if left, _ := tokens.Look(second, after); left != 29 {
		t.Errorf("%d left, want 60 less 30 less 1", left)
	}
}

func TestExtremesNeitherPanicNorLetMorePass(t *testing.T) {
	values := []int64{math.MinInt64, -1, 0, 1, 2, 1e9, 6e10, 1e12, 1 << 60, 1 << 61, 1<<61 + 1, 1 << 62, math.MaxInt64}
	some := func(rnd *rand.Rand) int64 { return values[rnd.IntN(len(values))] }
	schedules(t, func(rnd *rand.Rand) string {
		var b limit.Bucket
		var tokens limit.Tokens
		r := limit.Rate{Each: time.Duration(some(rnd)), Burst: some(rnd)}
		now := some(rnd)
		passed := int64(0)
		for range steps / 4 {
			n := some(rnd)
			if wait := b.Take(now, r, n); wait < 0 {
				return "a negative wait"
			} else if wait == 0 && n > 0 {
				passed += min(n, max(r.Burst, 1))
			}
			if r.Limited() && (passed < 0 || passed > max(r.Burst, 1)) {
				return "more than a burst at once"
			}
			held, wait := tokens.Reserve(now, r, n)
			if left, full := tokens.Look(some(rnd), r); wait < 0 || held < 0 || left < 0 || full < 0 {
				return "a negative number"
			}
			tokens.Charge(some(rnd), r, some(rnd), held)
			if left, full := b.Look(some(rnd), r); left < 0 || full < 0 {
				return "a negative number"
			}
		}
		b.Return(some(rnd), some(rnd), r, some(rnd))
		b.Take(some(rnd), limit.Rate{Each: time.Duration(some(rnd)), Burst: some(rnd)}, some(rnd))
		if tokens.Reserved() != 0 {
			return "something stays reserved"
		}
		return ""
	})
}
