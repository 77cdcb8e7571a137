package auth

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"
)

// MaxWait is the longest that a failure is slowed.
const MaxWait = 2 * time.Second

const (
	failureEach  = int64(time.Second) // in which a source is forgiven one failure
	failureBurst = 20                 // failures that are not slowed
	failureSlots = 1 << 13
)

// Failures slows those who fail: a fixed table of one word for each source, an IPv4
// address or an IPv6 /64. Sources that share a word by chance are slowed together,
// and only when they fail. It is safe for concurrent use.
type Failures struct {
	seed maphash.Seed // nobody can look for addresses that share a victim's word
	// until is when a source will have been forgiven all, on the caller's clock.
	until [failureSlots]atomic.Int64
}

// NewFailures is a table in which nobody has failed.
func NewFailures() *Failures { return &Failures{seed: maphash.MakeSeed()} }

// Add counts a failure of ip and tells how long its answer has to wait, at most
// MaxWait: nothing for the first 20, and then so that one who waits fails once a
// second. now is in nanoseconds of a clock that does not go back. A source that does
// not wait owes no more than MaxWait: it has made its peace 22 seconds after the last
// failure.
func (f *Failures) Add(now int64, ip netip.Addr) (wait time.Duration) {
	free := now + failureBurst*failureEach
	word := &f.until[f.place(ip)]
	for {
		old := word.Load()
		until := min(max(old, now)+failureEach, free+int64(MaxWait))
		if word.CompareAndSwap(old, until) {
			return time.Duration(max(0, until-free))
		}
	}
}

func (f *Failures) place(ip netip.Addr) uint64 {
	bytes := ip.As16()
	source := bytes[:]
	if ip.Is6() && !ip.Is4In6() {
		source = source[:8]
	}
	return maphash.Bytes(f.seed, source) % failureSlots
}
