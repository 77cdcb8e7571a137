package quota

import (
	"math"
	"sync/atomic"
	"time"
)

// Account is the use of one key. The zero Account has used nothing. Its methods are
// safe for concurrent use.
type Account struct {
	term atomic.Pointer[Term]
	gone atomic.Int64 // see absence
}

// Term is the account's term at now. It costs a load and four comparisons, unless
// the term has ended, or p or loc is another one than before; locations are
// compared by their address.
//
// A term's use is gone only when the next one begins: no clock that is set back
// and no change of p brings it back, and a term never begins twice. So a term is
// the one before it with another End when the natural start of the period is not
// later than the term's. If the clock is set back by more than a period it was
// wrong when the term began: the term then ends with the period that the clock
// shows, rather than when that time comes again.
func (a *Account) Term(now time.Time, p Period, loc *time.Location) *Term {
	if t := a.term.Load(); t.serves(now.UnixNano(), p, loc) {
		return t
	}
	return a.roll(now, p, loc)
}

func (t *Term) serves(now int64, p Period, loc *time.Location) bool {
	return t != nil && now < t.End && now >= int64(t.earliest)*int64(time.Second) && t.period == p && t.loc == loc
}

func (a *Account) roll(now time.Time, p Period, loc *time.Location) *Term {
	start, end := p.Bounds(now, loc)
	before, _ := p.Bounds(start.Add(-1), loc)
	for {
		old := a.term.Load()
		if old.serves(now.UnixNano(), p, loc) {
			return old
		}
		t := &Term{
			Start: max(1, start.UnixNano()), End: end.UnixNano(),
			earliest: uint32(min(max(0, before.Unix()), math.MaxUint32)), loc: loc, period: p,
		}
		t.follow(old, now.UnixNano())
		if a.term.CompareAndSwap(old, t) {
			return t
		}
	}
}

// follow makes t, which has the natural bounds of its period, the term after old.
func (t *Term) follow(old *Term, now int64) {
	t.counts = &t.own
	switch {
	case old == nil || t.Start > old.Start:
	case now >= old.End && old.Start >= t.End:
		// The clock was ahead, and old ended all the same.
		t.Start = old.Start + 1
	default:
		t.Start, t.counts = old.Start, old.counts
	}
}

// Last is the last term that the account had, nil if it had none.
func (a *Account) Last() *Term { return a.term.Load() }

// Reset begins a term without use, from now on and until the End of the one before.
// What is under way settles in that one. If the account was never asked for its
// term, the End is far away until it is.
func (a *Account) Reset(now time.Time) *Term {
	for {
		old := a.term.Load()
		t := begun(now.UnixNano(), 0)
		if old != nil {
			t.Start, t.End, t.earliest = max(t.Start, old.Start+1), old.End, old.earliest
			t.period, t.loc = old.period, old.loc
		}
		if a.term.CompareAndSwap(old, t) {
			return t
		}
	}
}

// Follow begins the term that another gateway has begun, which started at start, unless
// the account is that far. What is under way settles in the one before.
func (a *Account) Follow(start int64) *Term {
	for {
		old := a.term.Load()
		if old != nil && old.Start >= start {
			return old
		}
		t := begun(start, 0)
		if old != nil {
			t.End, t.earliest, t.period, t.loc = old.End, old.earliest, old.period, old.loc
		}
		if a.term.CompareAndSwap(old, t) {
			return t
		}
	}
}

// begun is a term of which only the start and the use are known. It has no
// location, so that it serves nobody until Account.Term has found out the rest.
func begun(start, used int64) *Term {
	t := &Term{Start: max(1, start), End: math.MaxInt64}
	t.counts = &t.own
	t.counts.taken.Store(used)
	t.counts.used.Store(used)
	return t
}
