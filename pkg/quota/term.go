package quota

import (
	"sync/atomic"
	"time"
)

// Term is one period of one account. Its methods are safe for concurrent use.
type Term struct {
	// Start names the term: of one account a later term has a higher one. It is in
	// Unix nanoseconds, as End is, and never 0. When only End changes, because the
	// period or the location does, the use is that of the term before.
	Start, End int64

	loc    *time.Location
	counts *counts
	own    counts // in the same cache line, and in nobody else's
	// earliest is what the clock may be set back to, in Unix seconds; below that it was
	// far ahead when the term began, and End is not to be waited for.
	earliest uint32
	period   Period
}

type counts struct {
	taken atomic.Int64 // used and reserved, by which Reserve decides
	used  atomic.Int64
	heard atomic.Pointer[heard]
}

// heard is what was so when this gateway last heard of the others: what they had used,
// what they had reserved, and what this one had taken.
type heard struct{ used, reserved, taken atomic.Int64 }

// most is the largest reservation, so that what clients ask for can never overflow.
const most = 1e12

// Reserve takes what Held says, if the term's use and reservations stay within
// limit. 0 is no limit, and who wants nothing gets it. A request that wants more than the whole limit gets it
// when nothing else has been used or reserved.
func (t *Term) Reserve(n, limit int64) bool {
	n = t.Held(n, limit)
	if limit == 0 || n == 0 {
		t.counts.taken.Add(n)
		return true
	}
	return t.take(n, limit)
}

func (t *Term) take(n, limit int64) bool {
	for {
		taken := t.counts.taken.Load()
		if n > limit-taken {
			return false
		}
		if t.counts.taken.CompareAndSwap(taken, taken+n) {
			return true
		}
	}
}

// Held is what Reserve holds when it returns true: n, at most limit where there is
// one, and at most 1e12.
func (t *Term) Held(n, limit int64) int64 {
	n = min(max(n, 0), most)
	if limit > 0 {
		n = min(n, limit)
	}
	return n
}

// Hold reserves n more, whatever the limit: a request that is under way has used
// them.
func (t *Term) Hold(n int64) { t.counts.taken.Add(max(n, 0)) }

// Settle gives back what a Reserve holds, and counts what was used, be it more. It
// is called once for each Reserve, also when the term has ended.
func (t *Term) Settle(held, used int64) {
	used = max(used, 0)
	// In this order, so that what is shown as used was never free to take.
	t.counts.taken.Add(used - held)
	t.counts.used.Add(used)
}

// Used is what was used, in tokens, also by other gateways as far as was Heard.
func (t *Term) Used() int64 {
	used, _, _ := t.others()
	return t.counts.used.Load() + used
}

func (t *Term) others() (used, reserved, taken int64) {
	if h := t.counts.heard.Load(); h != nil {
		return h.used.Load(), h.reserved.Load(), h.taken.Load()
	}
	return 0, 0, 0
}

// Own is what was used by this gateway alone.
func (t *Term) Own() int64 { return t.counts.used.Load() }

// Heard says what all gateways have used, own of it this one, and what is reserved at
// all of them.
func (t *Term) Heard(used, own, reserved int64) {
	h := t.counts.heard.Load()
	if h == nil {
		h = new(heard)
		if !t.counts.heard.CompareAndSwap(nil, h) {
			h = t.counts.heard.Load()
		}
	}
	mine := t.Reserved()
	h.used.Store(max(0, used-own))
	h.reserved.Store(max(0, reserved-mine))
	h.taken.Store(own + mine)
}

// ReserveShare is Reserve where the gateways do not hear of each other: beyond what it
// had taken when they last did, each of the several takes its part, which it is told by
// its place, of what was left then. If all had heard the same they stay within limit
// together.
func (t *Term) ReserveShare(n, limit int64, place, several int) bool {
	if n = t.Held(n, limit); limit == 0 || n == 0 {
		return t.Reserve(n, 0)
	}
	used, reserved, taken := t.others()
	left, among := limit-used-reserved-taken, int64(max(1, several))
	part, rest := left/among, left%among
	if rest < 0 { // more was taken than the limit
		part, rest = part-1, rest+among
	}
	if int64(place) < rest {
		part++
	}
	return t.take(n, taken+part)
}

// Reserved is what is held for requests under way, in tokens. While one settles,
// what it used may be in here too.
func (t *Term) Reserved() int64 {
	used := t.counts.used.Load() // first: what was taken is never less than what was used before
	return t.counts.taken.Load() - used
}
