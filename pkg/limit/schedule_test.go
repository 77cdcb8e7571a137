package limit_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/limit"
)

const steps = 30

func TestOneAfterTheOtherExactlyTheRate(t *testing.T) {
	schedules(t, func(rnd *rand.Rand) string {
		var b limit.Bucket
		var log takes
		r := anyRate(rnd)
		now := rnd.Int64N(3)
		for range steps {
			now += anyGap(rnd, r)
			if left, _ := b.Look(now, r); left != log.left(now, r) {
				return fmt.Sprintf("%v at %d after %v: %d left, want %d", r, now, log, left, log.left(now, r))
			}
			n := 1 + rnd.Int64N(r.Burst)
			want := log.wait(now, r, n)
			if wait := b.Take(now, r, n); wait != want {
				return fmt.Sprintf("%v: %d at %d after %v waits %d, want %d", r, n, now, log, wait, want)
			}
			switch {
			case want > 0:
			case rnd.IntN(3) == 0: // another limit refused: as if nothing had been taken
				b.Return(now, now, r, n)
			default:
				log = append(log, take{at: now, n: n})
			}
		}
		return ""
	})
}

// caller is a goroutine that is held up between any two of its steps: a time that it has read gets old.
type caller struct {
	now, taken int64
	rate       limit.Rate
	holds      int // index of the take in the log; -1: none
}

// plan is what callers do.
type plan struct {
	rate  func(step int) limit.Rate
	late  bool       // takes with a time that was read a while ago
	undo  bool       // undoes half of what was taken, with such a time too
	bound limit.Rate // what no window may exceed
}

// play lets callers take and undo in any order and tells of the worst window, if it is over the bound.
func (p plan) play(rnd *rand.Rand) string {
	var b limit.Bucket
	var log takes
	callers := []caller{{holds: -1}, {holds: -1}, {holds: -1}}
	clock := int64(0)
	for step := range steps {
		clock += anyGap(rnd, p.bound)
		c := &callers[rnd.IntN(len(callers))]
		switch {
		case rnd.IntN(3) == 0:
			c.now = clock
		case c.holds >= 0:
			log[c.holds].undone = true
			b.Return(c.now, c.taken, c.rate, log[c.holds].n)
			c.holds = -1
		default:
			if !p.late {
				c.now = clock
			}
			rate := p.rate(step)
			n := 1 + rnd.Int64N(rate.Burst)
			if b.Take(c.now, rate, n) > 0 {
				break
			}
			if log = append(log, take{at: c.now, n: n}); p.undo && rnd.IntN(2) == 0 {
				c.holds, c.taken, c.rate = len(log)-1, c.now, rate
			}
		}
	}
	if over := log.worst(p.bound); over > 0 {
		return fmt.Sprintf("%d ns over %v: %+v", over, p.bound, log)
	}
	return ""
}

func TestNoWindowIsOverWhenUndoneLate(t *testing.T) {
	schedules(t, func(rnd *rand.Rand) string {
		r := anyRate(rnd)
		return plan{rate: func(int) limit.Rate { return r }, late: true, undo: true, bound: r}.play(rnd)
	})
}

func TestNoWindowIsOverTheLargerWhenAReloadComesBeforeTheUndoing(t *testing.T) {
	schedules(t, func(rnd *rand.Rand) string {
		a, b := anyRate(rnd), anyRate(rnd)
		reload := rnd.IntN(steps)
		rate := func(step int) limit.Rate {
			if step < reload {
				return a
			}
			return b
		}
		return plan{rate: rate, undo: true, bound: larger(a, b)}.play(rnd)
	})
}

func TestNoWindowIsOverTheLargerOfTwoRatesThatAlternate(t *testing.T) {
	schedules(t, func(rnd *rand.Rand) string {
		rates := []limit.Rate{anyRate(rnd), anyRate(rnd)}
		rate := func(int) limit.Rate { return rates[rnd.IntN(2)] }
		return plan{rate: rate, bound: larger(rates[0], rates[1])}.play(rnd)
	})
}

func larger(a, b limit.Rate) limit.Rate {
	return limit.Rate{Each: min(a.Each, b.Each), Burst: max(a.Burst, b.Burst)}
}

// What an undoing loses is no more than the time it came late.
func TestUndoneLateLosesOnlyThatTime(t *testing.T) {
	schedules(t, func(rnd *rand.Rand) string {
		var b limit.Bucket
		var log takes
		r := anyRate(rnd)
		now, lost := int64(0), int64(0)
		for range steps {
			now += anyGap(rnd, r)
			n := 1 + rnd.Int64N(r.Burst)
			best := log.wait(now, r, n)
			wait := b.Take(now, r, n)
			if wait < best || int64(wait-best) > lost {
				return fmt.Sprintf("%v: %d at %d after %v waits %d, want %d to %d ns more", r, n, now, log, wait, best, lost)
			}
			if wait > 0 {
				continue
			}
			if rnd.IntN(2) == 0 {
				log = append(log, take{at: now, n: n})
				continue
			}
			taken := now
			now += anyGap(rnd, r)
			b.Return(now, taken, r, n)
			lost += now - taken
		}
		return ""
	})
}

func TestTokensNoWindowIsOverAndNothingStaysHeld(t *testing.T) {
	schedules(t, func(rnd *rand.Rand) string {
		r := anyRate(rnd)
		return plan{rate: func(int) limit.Rate { return r }, late: true, bound: r}.stream(rnd)
	})
}

func TestTokensNoWindowIsOverTheLargerOfTwoRatesThatAlternate(t *testing.T) {
	schedules(t, func(rnd *rand.Rand) string {
		rates := []limit.Rate{anyRate(rnd), anyRate(rnd)}
		rate := func(int) limit.Rate { return rates[rnd.IntN(2)] }
		return plan{rate: rate, bound: larger(rates[0], rates[1])}.stream(rnd)
	})
}

// stream lets callers reserve, and charge in parts, none more than it holds.
func (p plan) stream(rnd *rand.Rand) string {
	var tokens limit.Tokens
	var log takes
	var callers [3]struct {
		now, held int64
		rate      limit.Rate
	}
	clock := int64(0)
	for step := range steps {
		clock += anyGap(rnd, p.bound)
		c := &callers[rnd.IntN(len(callers))]
		switch {
		case rnd.IntN(3) == 0:
			c.now = clock
		case c.held == 0:
			if !p.late {
				c.now = clock
			}
			c.rate = p.rate(step)
			c.held, _ = tokens.Reserve(c.now, c.rate, 1+rnd.Int64N(2*c.rate.Burst))
		default:
			part := 1 + rnd.Int64N(c.held)
			used := rnd.Int64N(part + 1)
			tokens.Charge(c.now, c.rate, used, part)
			c.held -= part
			log = append(log, take{at: c.now, n: used})
		}
	}
	if held := callers[0].held + callers[1].held + callers[2].held; tokens.Reserved() != held {
		return fmt.Sprintf("%d reserved, want %d", tokens.Reserved(), held)
	}
	if over := log.worst(p.bound); over > 0 {
		return fmt.Sprintf("%d ns over %v: %+v", over, p.bound, log)
	}
	return ""
}
