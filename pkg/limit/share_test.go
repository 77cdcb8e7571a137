package limit_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/limit"
)

func TestSharesAddUpToTheWhole(t *testing.T) {
	schedules(t, func(rnd *rand.Rand) string {
		l := limit.Limits{PerSecond: anyRate(rnd), PerMinute: anyRate(rnd), Tokens: anyRate(rnd), Concurrent: 1 + rnd.Int64N(20)}
		n := 1 + rnd.IntN(12)
		var bursts [3]int64
		concurrent := int64(0)
		for place := range n {
			s := l.Share(place, n)
			concurrent += s.Concurrent
			for i, r := range [][2]limit.Rate{{s.PerSecond, l.PerSecond}, {s.PerMinute, l.PerMinute}, {s.Tokens, l.Tokens}} {
				if r[0].Each != r[1].Each*time.Duration(n) {
					return fmt.Sprintf("one of %d of %+v is %+v", n, r[1], r[0])
				}
				bursts[i] += r[0].Burst
			}
		}
		want := [4]int64{l.PerSecond.Burst, l.PerMinute.Burst, l.Tokens.Burst, l.Concurrent}
		for i, got := range append(bursts[:], concurrent) {
			if got != max(want[i], int64(n)) {
				return fmt.Sprintf("%d shares of %d are %d", n, want[i], got)
			}
		}
		return ""
	})
}

func TestSharesAtTheEdges(t *testing.T) {
	const longest = 1 << 61
	for _, c := range []struct {
		name           string
		of             limit.Rate
		place, several int
		want           limit.Rate
	}{
		{"no limit is none for anybody", limit.Rate{}, 1, 3, limit.Rate{}},
		{"of a burst alone, which is no limit", limit.Rate{Burst: 7}, 0, 3, limit.Rate{Burst: 7}},
		{"the only one", limit.Rate{Each: 5, Burst: 7}, 0, 1, limit.Rate{Each: 5, Burst: 7}},
		{"nobody has been seen yet", limit.Rate{Each: 5, Burst: 7}, 0, 0, limit.Rate{Each: 5, Burst: 7}},
		{"the first has the rest", limit.Rate{Each: 5, Burst: 7}, 0, 3, limit.Rate{Each: 15, Burst: 3}},
		{"the last has not", limit.Rate{Each: 5, Burst: 7}, 2, 3, limit.Rate{Each: 15, Burst: 2}},
		{"one that is beyond all", limit.Rate{Each: 5, Burst: 7}, 9, 3, limit.Rate{Each: 15, Burst: 2}},
		{"fewer units than gateways", limit.Rate{Each: 5, Burst: 2}, 2, 3, limit.Rate{Each: 15, Burst: 1}},
		{"a burst of nothing is one", limit.Rate{Each: 5}, 2, 3, limit.Rate{Each: 15, Burst: 1}},
		{"longer than anything", limit.Rate{Each: math.MaxInt64, Burst: 1}, 0, 1000, limit.Rate{Each: longest / 1000 * 1000, Burst: 1}},
		{"more than comes back in 73 years", limit.Rate{Each: 1 << 60, Burst: math.MaxInt64}, 0, 2, limit.Rate{Each: longest, Burst: 1}},
	} {
		if got := c.of.Share(c.place, c.several); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
	none := limit.Limits{}
	if got := none.Share(0, 3); got != none {
		t.Errorf("%+v of no limits", got)
	}
}

// A bucket that somebody else keeps is what they say, at whatever rate it counted before.
func TestSetIsWhatIsOwed(t *testing.T) {
	schedules(t, func(rnd *rand.Rand) string {
		var b limit.Bucket
		now := int64(0)
		for range steps {
			r := anyRate(rnd)
			now += anyGap(rnd, r)
			b.Take(now, anyRate(rnd), 1+rnd.Int64N(3))
			owed := rnd.Int64N(2*r.Burst*int64(r.Each) + 1)
			b.Set(now, r, time.Duration(owed), false)
			left := max(0, r.Burst*int64(r.Each)-owed) / int64(r.Each)
			if got, full := b.Look(now, r); got != left || int64(full) != owed {
				return fmt.Sprintf("%+v owes %d: %d left, full in %d, want %d left", r, owed, got, full, left)
			}
			less := time.Duration(rnd.Int64N(owed + 1))
			b.Set(now, r, less, true)
			if _, full := b.Look(now, r); int64(full) != owed {
				return fmt.Sprintf("%d owed became %d, though at least %d", owed, full, less)
			}
			more := time.Duration(owed + rnd.Int64N(50))
			b.Set(now, r, more, true)
			if _, full := b.Look(now, r); full != more {
				return fmt.Sprintf("%d owed became %d, and not at least %d", owed, full, more)
			}
		}
		return ""
	})
}

func TestSetAtTheEdges(t *testing.T) {
	var b limit.Bucket
	r := limit.PerMinute(60)
	b.Set(5, limit.Rate{}, time.Hour, false)
	if !b.Idle(5) {
		t.Error("what is not limited is owed")
	}
	b.Set(5, r, -time.Hour, false)
	if left, full := b.Look(5, r); left != 60 || full != 0 {
		t.Errorf("less than nothing is owed: %d left, full in %v", left, full)
	}
	b.Set(math.MaxInt64, r, math.MaxInt64, false)
	if wait := b.Take(math.MaxInt64, r, 1); wait <= 0 {
		t.Errorf("all there is is owed, and one waits %v", wait)
	}
	b.Set(5, r, 0, false)
	if b.Take(5, r, 60) != 0 {
		t.Error("the burst is not there again")
	}
}

// Some buckets that have heard the same, and are then left alone with their shares, let
// pass what one would have.
func TestSharesOfWhatIsLeft(t *testing.T) {
	schedules(t, func(rnd *rand.Rand) string {
		var log takes
		var one limit.Bucket
		r, now := anyRate(rnd), int64(0)
		for range steps / 2 {
			now += anyGap(rnd, r)
			if n := 1 + rnd.Int64N(r.Burst); one.Take(now, r, n) == 0 {
				log = append(log, take{at: now, n: n})
			}
		}
		_, owed := one.Look(now, r)
		each := make([]limit.Bucket, 1+rnd.IntN(5))
		for i := range each {
			each[i].Take(now-1, r, 1) // it was there before
			each[i].Set(now, r, owed, false)
		}
		for range steps {
			now += anyGap(rnd, r) / 2
			i := rnd.IntN(len(each))
			share := r.Share(i, len(each))
			if n := 1 + rnd.Int64N(share.Burst); each[i].Take(now, share, n) == 0 {
				log = append(log, take{at: now, n: n})
			}
		}
		bound := limit.Rate{Each: r.Each, Burst: r.Burst}
		if n := int64(len(each)); n > r.Burst { // a unit for each
			bound.Burst += n
		}
		if over := log.worst(bound); over > 0 {
			return fmt.Sprintf("%d with %+v: %d ns over: %+v", len(each), r, over, log)
		}
		return ""
	})
}

// What others hold shows, and keeps nobody out here: each has a share.
func TestHeldElsewhere(t *testing.T) {
	var tokens limit.Tokens
	r := limit.PerMinute(60)
	tokens.Hold(10)
	tokens.Hold(-5)
	if tokens.Reserved() != 10 || tokens.Idle(0) {
		t.Errorf("%d reserved", tokens.Reserved())
	}
	look := func(when string, left int64, full time.Duration) {
		t.Helper()
		if l, f := tokens.Look(0, r); l != left || f != full {
			t.Errorf("%s: %d left, full in %v, want %d and %v", when, l, f, left, full)
		}
	}
	look("held", 50, 10*time.Second)
	tokens.Set(0, r, 5*time.Second, 30, false)
	look("others hold 20, and 5 are owed", 25, 35*time.Second)
	if held, wait := tokens.Reserve(0, r, 45); held != 45 || wait != 0 {
		t.Errorf("all but 10 held here and 5 owed: %d held, waits %v", held, wait)
	}
	tokens.Charge(0, r, 0, 55)
	tokens.Set(0, r, time.Second, 0, true)
	look("given back, and at least one owed", 55, 5*time.Second)
	tokens.Set(0, r, 0, 3, false)
	look("others hold 3", 57, 3*time.Second)
	if !tokens.Idle(0) {
		t.Error("what others hold is kept here")
	}
}

// Answers arrive while requests take, at rates that alternate: the bucket goes on.
func TestSetAtOnceWithOthers(t *testing.T) {
	var b limit.Bucket
	whole := limit.PerSecond(1000, 10)
	rates := []limit.Rate{whole, whole.Share(0, 3), whole.Share(2, 3)}
	var work sync.WaitGroup
	for i := range 4 {
		work.Go(func() {
			for now := range int64(20_000) {
				r := rates[(int(now)/50+i)%len(rates)]
				switch {
				case i == 0:
					b.Set(now, r, time.Duration(now%7)*r.Each, now%2 == 0)
				case b.Take(now, r, 1) == 0:
					b.Return(now, now, r, 1)
				}
				if now%64 == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	work.Wait()
	const later = 3600 * second
	if left, full := b.Look(later, whole); left != 10 || full != 0 {
		t.Errorf("an hour later %d are left, and all are back in %v", left, full)
	}
	b.Set(later, whole, 3*whole.Each, false)
	if left, _ := b.Look(later, whole); left != 7 {
		t.Errorf("%d left, want 7", left)
	}
}

// Whoever was not told of what was taken is told of as much as has not come back: all of
// it while what was owed before is owed yet, and of nothing twice.
func TestDebtIsWhatWasTakenSince(t *testing.T) {
	schedules(t, func(rnd *rand.Rand) string {
		var b limit.Bucket
		r := anyRate(rnd)
		share := r.Share(rnd.IntN(3), 3)
		now := anyGap(rnd, r)
		b.Set(now, r, time.Duration(rnd.Int64N(r.Burst*int64(r.Each)+1)), false)
		due := b.Due(now, share)
		since, taken, told := due, int64(0), int64(0)
		for range steps {
			now += anyGap(rnd, r) / 4
			if n := 1 + rnd.Int64N(share.Burst); b.Take(now, share, n) == 0 {
				taken += n
			}
			if rnd.IntN(3) > 0 {
				continue
			}
			var units int64
			units, since = b.Debt(now, since)
			told += units
			back := max(0, now-due)/int64(share.Each) + 1 // at most, and one that is under way
			if now <= due {
				back = 0
			}
			if told > taken || told < taken-back {
				return fmt.Sprintf("%+v: told of %d, taken %d, of which at most %d are back", share, told, taken, back)
			}
			if units, since = b.Debt(now, since); units != 0 {
				return fmt.Sprintf("told of %d twice", units)
			}
		}
		return ""
	})
}

func TestDebtOfNothing(t *testing.T) {
	var b limit.Bucket
	if due := b.Due(7, limit.Rate{}); due != 0 {
		t.Errorf("no limit is due at %d", due)
	}
	if units, until := b.Debt(7, 3); units != 0 || until != 7 {
		t.Errorf("%d taken of a new bucket, until %d", units, until)
	}
	if due := b.Due(7, limit.PerMinute(60)); due != 7 {
		t.Errorf("a full bucket is due at %d", due)
	}
}
