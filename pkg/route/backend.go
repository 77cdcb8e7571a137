package route

import (
	"math"
	"sync/atomic"
	"time"
)

// BackendConfig is the part of a backend that configuration fixes.
type BackendConfig struct {
	// Name is the backend's label in logs and metrics. Name and URL together
	// are its identity across reloads.
	Name string
	// URL is where the engine listens: scheme, host, port, perhaps a path prefix.
	URL string
	// Weight is the share of requests relative to the other backends of a
	// pool; 0 counts as 1.
	Weight int
	// Models are the names the backend serves: exact, or globs in which *
	// stands for any run of characters and ? for one. None means any model.
	Models []string
	// Region is where the backend stands; "" is nowhere in particular.
	Region string
	// MaxInFlight bounds the requests in flight at once; 0 means no bound.
	MaxInFlight int
	// Surfaces are what the backend serves; 0 means everything.
	Surfaces Surfaces
	// Draining keeps new requests away: no pool picks the backend and it does
	// not count as healthy. It stays a member and keeps its State, so that what
	// runs can end and a request that only it can answer may still Enter. See
	// also SetDrain and Drained.
	Draining bool
}

// Backend is one engine in one Table.
type Backend struct {
	BackendConfig
	// Index is the position in the Table.
	Index int
	// State is shared with the same backend in the tables before and after.
	*State
}

// Enter counts a request in. It returns false, and counts nothing, when the
// backend is at MaxInFlight. Each Enter that returned true needs one Leave.
func (b *Backend) Enter() bool {
	if b.MaxInFlight <= 0 {
		b.inFlight.Add(1)
		return true
	}
	for {
		n := b.inFlight.Load()
		if n >= int64(b.MaxInFlight) {
			return false
		}
		if b.inFlight.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Leave counts a request out. It panics when more requests leave than entered.
func (b *Backend) Leave() {
	claim := b.probe.Load()
	n := b.inFlight.Add(-1)
	if n < 0 {
		panic("BUG: a request left backend " + b.Name + " twice")
	}
	// A probe that ends without a verdict (its client left) must not keep the
	// next probe waiting. Probes enter before they claim, so at zero the claim
	// read above is nobody's any more.
	if n == 0 && claim != 0 {
		b.probe.CompareAndSwap(claim, 0)
	}
}

// Usable reports whether the backend is worth a request that no other backend
// can answer: the active checks have nothing against it and it is not ejected.
// A draining backend may be usable.
func (b *Backend) Usable() bool { return b.Healthy() && !b.Ejected() }

// Drained reports whether new requests are kept away: by the configuration, or
// by SetDrain.
func (b *Backend) Drained() bool { return b.Draining || b.drain.Load() }

// Full reports whether the backend is at MaxInFlight.
func (b *Backend) Full() bool {
	return b.MaxInFlight > 0 && b.inFlight.Load() >= int64(b.MaxInFlight)
}

// State is what is known about a backend while the gateway runs. It holds
// atomics only and is safe for concurrent use; the zero value is an idle,
// healthy backend of which nothing is known.
type State struct {
	inFlight atomic.Int64
	circuit  atomic.Uint64 // a circuit
	probe    atomic.Int64  // until when (Unix ns) a half-open probe is under way; 0: none
	latency  atomic.Uint64 // peak EWMA in seconds as float64 bits; 0: unknown
	seen     atomic.Int64  // when latency was last fed, Unix ns
	busy     atomic.Int64  // until when the engine counts as overloaded, Unix ns
	back     atomic.Int64  // when it last came back, Unix ns; 0: it was never away; or isDown, justBack
	drain    atomic.Bool   // an operator drains it
	flips    *atomic.Uint64
}

// InFlight is the number of requests that entered and have not left.
func (s *State) InFlight() int64 { return s.inFlight.Load() }

// SetDrain drains the backend, or calls that off, beside what the configuration
// says: while either wants it, it drains. It holds in every table that shares the
// State, so over reloads, and until the process ends. One whose drain is called
// off comes back in slow start: its caches are cold.
func (s *State) SetDrain(on bool) {
	if s.drain.Swap(on) == on {
		return
	}
	if !on {
		s.cameBack(justBack)
	}
	s.flipped()
}

const (
	// latencyTau is the time in which an old sample loses all but 1/e of its say.
	latencyTau = 10 * time.Second
	// penaltySample is what a failure counts as, in seconds. Without it a
	// backend that refuses quickly would look like the fastest (the load
	// biaser of Linkerd, 5 s).
	penaltySample = 5.0
	// unknownSample stands for the latency of a busy backend that has not
	// answered a stream yet, in seconds.
	unknownSample = 1.0
	// busyLimit bounds how long Busy can hold, also against a wall clock that
	// was set back.
	busyLimit = 5 * time.Minute
)

// Observe feeds the time to the first event of a stream into the latency, a
// peak EWMA: a slower sample counts in full at once, a faster one with the
// weight of the time since the last (Finagle's PeakEwma). Durations of answers
// that do not stream must not be fed: they measure the length of the answer.
func (s *State) Observe(ttft time.Duration, now time.Time) {
	s.feed(max(ttft.Seconds(), 1e-6), now)
}

// Latency is what was made of those times, before it fades; false: there were none.
func (s *State) Latency() (time.Duration, bool) {
	known := math.Float64frombits(s.latency.Load())
	return time.Duration(known * float64(time.Second)), known > 0
}

// Penalize feeds a failure, or a quick 429, as a slow sample of 5 s.
func (s *State) Penalize(now time.Time) {
	s.feed(max(penaltySample, math.Float64frombits(s.latency.Load())), now)
}

func (s *State) feed(sample float64, now time.Time) {
	for {
		old := s.latency.Load()
		next := sample
		if known := math.Float64frombits(old); known > sample {
			keep := decay(now.UnixNano() - s.seen.Load())
			next = known*keep + sample*(1-keep)
		}
		if s.latency.CompareAndSwap(old, math.Float64bits(next)) {
			s.seen.Store(now.UnixNano())
			return
		}
	}
}

// expected is the latency in seconds to reckon with for one more request, given
// n in flight. Nothing known and nothing in flight gives 0, so that the next
// request finds out; what is known fades while nothing is in flight, so that a
// backend that was slow once is tried again.
func (s *State) expected(now, n int64) float64 {
	known := math.Float64frombits(s.latency.Load())
	switch {
	case n > 0 && known == 0:
		return unknownSample
	case n > 0 || known == 0:
		return known
	default:
		return known * decay(now-s.seen.Load())
	}
}

// decay is exp(-elapsed/latencyTau) as (1+x/16)^-16, a fifth of the cost of Exp
// and near enough: a pick needs it for every idle backend.
func decay(elapsed int64) float64 {
	d := 1 + float64(max(elapsed, 0))/float64(16*latencyTau)
	d *= d
	d *= d
	d *= d
	d *= d
	return 1 / d
}

// Busy marks the engine as overloaded until the given time, five minutes away
// at most: it said so, by a 429 or "queue full". A busy backend is the last
// choice, and a request leaves its region for one that is not.
func (s *State) Busy(until time.Time) {
	end := until.UnixNano()
	for {
		old := s.busy.Load()
		if old >= end || s.busy.CompareAndSwap(old, end) {
			return
		}
	}
}

func (s *State) overloaded(now int64) bool {
	left := s.busy.Load() - now
	return left > 0 && left <= int64(busyLimit)
}
