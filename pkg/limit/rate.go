// Package limit counts what was taken against what a rate gives, without a lock: requests by the second and the minute
// (Bucket), tokens of which first only an estimate is known (Tokens), and requests under way (Slots).
//
// The clock is the caller's: every now is in nanoseconds of one monotonic clock that began at 0 or later, read before
// the call. Calls may arrive in another order than their nows, as they do from many goroutines; what is said about
// windows of time holds all the same. A now outside of 0 to 73 years counts as the nearer end.
package limit

import (
	"math/bits"
	"time"
)

// far is the longest time that is reckoned with, 73 years; two of them still add up without overflow.
const far = 1 << 61

// Rate is how fast units come back and how many can be taken at once. The zero Rate is no limit. A limited one has at
// least a Burst of 1, and at most what comes back in 73 years.
type Rate struct {
	Each  time.Duration // in which one unit comes back
	Burst int64         // units
}

// PerSecond is the rate of n units a second, of which burst can be taken at once; a burst of 0 or less is n. An n of 0
// or less is no limit. The time of a unit is rounded up to a nanosecond, so that no rate gives more than it says; 10⁹ a
// second is the most.
func PerSecond(n, burst int64) Rate {
	if burst <= 0 {
		burst = n
	}
	return per(time.Second, n, burst)
}

// PerMinute is the rate of n units a minute, all of which can be taken at once. An n of 0 or less is no limit. It is
// rounded as PerSecond is.
func PerMinute(n int64) Rate { return per(time.Minute, n, n) }

func per(d time.Duration, n, burst int64) Rate {
	if n <= 0 {
		return Rate{}
	}
	return Rate{Each: (d-1)/time.Duration(n) + 1, Burst: burst}
}

// Limited is false for a rate that lets everything pass.
func (r Rate) Limited() bool { return r.Each > 0 }

// bounded is r with values that multiply without overflow.
func (r Rate) bounded() Rate {
	r.Each = min(r.Each, far)
	r.Burst = max(r.Burst, 1)
	if r.time(r.Burst) == far {
		r.Burst = far / int64(r.Each)
	}
	return r
}

// time is how long n units take to come back, at most far.
func (r Rate) time(n int64) int64 {
	hi, lo := bits.Mul64(uint64(n), uint64(r.Each))
	if hi != 0 || lo > far {
		return far
	}
	return int64(lo)
}

// Share is the part of the limits that one of several has, who are told apart by
// their place, 0 to several-1: together they let pass what l does, but that each has
// at least one unit of what is limited.
func (l *Limits) Share(place, several int) Limits {
	return Limits{
		PerSecond: l.PerSecond.Share(place, several), PerMinute: l.PerMinute.Share(place, several), Tokens: l.Tokens.Share(place, several),
		Concurrent: share(l.Concurrent, place, several),
	}
}

// Share is the part of the rate that one of several has.
func (r Rate) Share(place, several int) Rate {
	if !r.Limited() || several <= 1 {
		return r
	}
	r = r.bounded()
	return Rate{Each: time.Duration(min(r.time(1), far/int64(several)) * int64(several)), Burst: share(r.Burst, place, several)}
}

func share(n int64, place, several int) int64 {
	if n <= 0 || several <= 1 {
		return n
	}
	part := n / int64(several)
	if int64(place) < n%int64(several) {
		part++
	}
	return max(1, part)
}

// instant is now within the time that is reckoned with.
func instant(now int64) int64 { return min(max(now, 0), far) }

// Limits are those of one key, ready to use; zero values are no limit.
type Limits struct {
	PerSecond  Rate  // requests
	PerMinute  Rate  // requests
	Tokens     Rate  // tokens a minute
	Concurrent int64 // requests under way
}
