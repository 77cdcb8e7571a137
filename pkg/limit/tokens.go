package limit

import (
	"math"
	"sync/atomic"
	"time"
)

// Tokens is a bucket of which first an estimate is reserved and later the actual number charged. What is reserved does
// not come back with time; what is charged does. Nobody is let in while what was charged and what all others hold leaves
// no room. The zero Tokens is full.
type Tokens struct {
	bucket    Bucket
	reserved  atomic.Int64
	elsewhere atomic.Int64 // reserved by others, as Set has it
}

// Reserve holds n tokens, at most r.Burst, or none: wait is the time until they could be held, if the others use all of
// what they hold. It is 0 when they are held. No tokens are held of a rate that is no limit, and an n of 0 passes even
// in debt. Whoever is refused may stand in the way of others during the call.
func (t *Tokens) Reserve(now int64, r Rate, n int64) (held int64, wait time.Duration) {
	if !r.Limited() || n <= 0 {
		return 0, 0
	}
	now, r = instant(now), r.bounded()
	held = min(n, r.Burst)
	// Claimed before the look: of two who look at once, one sees the other. The bucket is looked at last, since Charge
	// changes it first.
	all := t.reserved.Add(held)
	over := max(t.bucket.at(now, r)-now, 0)
	if all > r.Burst {
		over += r.time(all - r.Burst)
	} else {
		over -= r.time(r.Burst - all)
	}
	if over > 0 {
		t.reserved.Add(-held)
		return 0, time.Duration(over)
	}
	return held, 0
}

// Hold holds n tokens whether they are there or not.
func (t *Tokens) Hold(n int64) { t.reserved.Add(max(n, 0)) }

// Set makes what is owed the time until all tokens are back but those that are held, of which all together hold so many:
// somebody else counts, and has said so. What others hold is looked at and keeps nobody out. atLeast is as of Bucket.Set.
func (t *Tokens) Set(now int64, r Rate, owed time.Duration, held int64, atLeast bool) {
	t.bucket.Set(now, r, owed, atLeast)
	t.elsewhere.Store(max(0, held-t.reserved.Load()))
}

// Due is that of a Bucket, for what was charged.
func (t *Tokens) Due(now int64, r Rate) int64 { return t.bucket.Due(now, r) }

// Debt is that of a Bucket, for what was charged.
func (t *Tokens) Debt(now, since int64) (tokens, until int64) { return t.bucket.Debt(now, since) }

// Charge takes used tokens, whether they are there or not, and gives back held ones. It is called once at the end of a
// request, or many times for a part each while its answer runs. What was used beyond what was held is debt, and others
// wait for it. A used of less than 0 is 0.
func (t *Tokens) Charge(now int64, r Rate, used, held int64) {
	if r.Limited() && used > 0 {
		t.bucket.charge(instant(now), r.bounded(), used)
	}
	// Last, so that in between the tokens count twice and not never.
	if held > 0 && t.reserved.Add(-held) < 0 {
		t.reserved.Add(held)
		panic("BUG: more tokens given back than were held")
	}
}

// Look is how many tokens could be reserved now, and the time until all are back if those that are held are used now.
func (t *Tokens) Look(now int64, r Rate) (left int64, full time.Duration) {
	if !r.Limited() {
		return math.MaxInt64, 0
	}
	now, r = instant(now), r.bounded()
	reserved := max(t.reserved.Load()+t.elsewhere.Load(), 0)
	owed := t.bucket.owed(now, r) + r.time(reserved)
	return max(r.time(r.Burst)-owed, 0) / int64(r.Each), time.Duration(owed)
}

// Idle tells that t is as good as new.
func (t *Tokens) Idle(now int64) bool { return t.reserved.Load() == 0 && t.bucket.Idle(now) }

// Reserved is how many tokens are held.
func (t *Tokens) Reserved() int64 { return t.reserved.Load() }
