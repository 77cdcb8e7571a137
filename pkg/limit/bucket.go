package limit

import (
	"math"
	"math/bits"
	"runtime"
	"sync/atomic"
	"time"
)

// Bucket lets n units pass while it holds n, and fills with time: the generic cell rate algorithm. Its level is one
// atomic word, and no window of time sees more than Burst + time/Each pass. The zero Bucket is full.
//
// The rate may be another at each call, as after a reload. What was taken stays taken, and no window sees more than the
// larger Burst and the faster Each of both rates allow together.
type Bucket struct {
	empty  atomic.Int64 // when all units are back, the "theoretical arrival time"; negative while the rate changes
	each   atomic.Int64 // of the rate in which empty counts, as is burst; 0: of none yet
	burst  atomic.Int64
	latest atomic.Int64 // no take that is in empty was later than this
}

// Take takes n units, at most r.Burst, or none: wait is the time until they could be taken if nobody else took any. It
// is 0 when they were taken.
func (b *Bucket) Take(now int64, r Rate, n int64) (wait time.Duration) {
	if !r.Limited() || n <= 0 {
		return 0
	}
	now, r = instant(now), r.bounded()
	n = min(n, r.Burst)
	spare, cost := r.time(r.Burst-n), r.time(n)
	for {
		empty := b.at(now, r)
		start := max(now, empty)
		if over := start - now - spare; over > 0 {
			return time.Duration(over)
		}
		b.stamp(now)
		if b.empty.CompareAndSwap(empty, start+cost) {
			return 0
		}
	}
}

// Return undoes a Take of n units at the time taken that let them pass. What would have flowed over since, had they
// been there, stays lost: up to the time between taken and now, or the latest Take. So what was let pass and not undone
// keeps within the rate, however late or out of order the undoing comes. r is the rate of that Take.
func (b *Bucket) Return(now, taken int64, r Rate, n int64) {
	if !r.Limited() || n <= 0 {
		return
	}
	now, taken, r = instant(now), instant(taken), r.bounded()
	n = min(n, r.Burst)
	for {
		empty, counts := b.load()
		// Others may have taken after now was read: the caller was held up in between. They are stamped before they
		// show in empty, so that this sees everyone whom empty shows.
		lost := max(now, b.latest.Load(), taken) - taken
		back := min(r.time(n), counts.time(n))
		if back <= lost {
			return
		}
		if b.empty.CompareAndSwap(empty, max(empty-back+lost, 0)) {
			return
		}
	}
}

// Look is how many units could be taken now, and the time until all are back.
func (b *Bucket) Look(now int64, r Rate) (left int64, full time.Duration) {
	if !r.Limited() {
		return math.MaxInt64, 0
	}
	now, r = instant(now), r.bounded()
	owed := b.owed(now, r)
	return max(r.time(r.Burst)-owed, 0) / int64(r.Each), time.Duration(owed)
}

// Idle tells that b is as good as a new one.
func (b *Bucket) Idle(now int64) bool {
	empty := b.empty.Load()
	return empty >= 0 && empty <= instant(now)
}

// Set makes what is owed the time until all units are back, in the rate r: somebody else counts, and has said so.
// atLeast leaves it where more is owed already.
func (b *Bucket) Set(now int64, r Rate, owed time.Duration, atLeast bool) {
	if !r.Limited() {
		return
	}
	now, r = instant(now), r.bounded()
	for {
		empty, counts := b.load()
		if counts != r {
			b.count(now, r, empty, counts)
			continue
		}
		next := now + instant(int64(owed))
		if atLeast && next <= empty {
			return
		}
		b.stamp(now)
		if b.empty.CompareAndSwap(empty, next) {
			return
		}
	}
}

// Due is when all units are back, if later than now; from here on b counts in the rate r.
func (b *Bucket) Due(now int64, r Rate) int64 {
	if !r.Limited() {
		return 0
	}
	now = instant(now)
	return max(now, b.at(now, r.bounded()))
}

// Debt is how many units were taken since Due said since, but for those that came back meanwhile; and until is what to
// call since the next time.
func (b *Bucket) Debt(now, since int64) (units, until int64) {
	empty, counts := b.load()
	from := max(since, instant(now))
	if empty <= from || !counts.Limited() {
		return 0, from
	}
	return (empty-from-1)/int64(counts.Each) + 1, empty
}

// charge takes n units whether they are there or not.
func (b *Bucket) charge(now int64, r Rate, n int64) {
	for {
		// Counted in the rate of the latest take: the caller may have begun long before a reload.
		empty, counts := b.load()
		if !counts.Limited() {
			b.count(now, r, empty, counts)
			continue
		}
		b.stamp(now)
		next := min(max(now, empty)+counts.time(n), 2*far)
		if b.empty.CompareAndSwap(empty, next) {
			return
		}
	}
}

// owed is the time until all units are back, at rate r.
func (b *Bucket) owed(now int64, r Rate) int64 {
	empty, counts := b.load()
	return converted(max(empty-now, 0), counts, r)
}

// at is empty in terms of r, in which b counts from here on.
func (b *Bucket) at(now int64, r Rate) int64 {
	for {
		empty, counts := b.load()
		if counts == r {
			return empty
		}
		b.count(now, r, empty, counts)
	}
}

// load is empty, and the rate in which it counts.
func (b *Bucket) load() (empty int64, counts Rate) {
	for {
		empty = b.empty.Load()
		counts = Rate{Each: time.Duration(b.each.Load()), Burst: b.burst.Load()}
		if empty >= 0 && b.empty.Load() == empty {
			return empty, counts
		}
		runtime.Gosched() // a reload: another is in the middle of count
	}
}

// count has b count in r, unless somebody changed it since load said empty and counts.
func (b *Bucket) count(now int64, r Rate, empty int64, counts Rate) {
	if !b.empty.CompareAndSwap(empty, -1) {
		return
	}
	b.each.Store(int64(r.Each))
	b.burst.Store(r.Burst)
	next := empty
	// Not from now alone, which may be from before the latest take.
	if now = max(now, b.latest.Load()); empty > now {
		next = now + converted(empty-now, counts, r)
	}
	if next == empty && counts.Limited() {
		next++ // nobody who still reckons with the other rate may find the same word
	}
	b.empty.Store(next)
}

// converted is how long is owed at the rate to, of what is owed at another. Rates whose bursts come back in the same
// time, as all those a minute do, owe for the same time. To a slower one whose burst takes longer more is owed, by so
// much that the burst of either is not given again; and back from there as much less.
func converted(owed int64, from, to Rate) int64 {
	if owed == 0 || from.Each == to.Each {
		return owed
	}
	fast, slow := from, to
	if to.Each < from.Each {
		fast, slow = to, from
	}
	short := fast.time(max(fast.Burst, slow.Burst))
	long := max(slow.time(slow.Burst), short)
	if to == slow {
		return scaled(owed, long, short)
	}
	return scaled(owed, short, long)
}

// scaled is n*by/of, rounded up, at most far.
func scaled(n, by, of int64) int64 {
	hi, lo := bits.Mul64(uint64(n), uint64(by))
	lo, carry := bits.Add64(lo, uint64(of)-1, 0)
	if hi += carry; hi >= uint64(of) {
		return far
	}
	quotient, _ := bits.Div64(hi, lo, uint64(of))
	return int64(min(quotient, far))
}

// stamp notes that somebody takes at now, and must come before it shows in empty.
func (b *Bucket) stamp(now int64) {
	for {
		latest := b.latest.Load()
		if latest >= now || b.latest.CompareAndSwap(latest, now) {
			return
		}
	}
}
