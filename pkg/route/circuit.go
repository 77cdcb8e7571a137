package route

import "time"

// FailKind is how a request to a backend failed. Client errors, and clients
// that left, are not failures of the backend.
type FailKind int

const (
	// FailDial: no connection could be made.
	FailDial FailKind = iota
	// FailAnswer: the connection was lost, or the answer was a server error.
	FailAnswer
)

const (
	// failLimit is how many failed answers in a row eject a backend.
	failLimit = 5
	// The n-th ejection in a row lasts minEjection doubled n times, at most
	// maxEjection. Ejections are in a row when less than maxEjection lies
	// between the end of one and the start of the next.
	minEjection = 10 * time.Second
	maxEjection = 300 * time.Second
	maxLevel    = 5
	// probeTime is how long a probe without a verdict, on a backend that has
	// other requests in flight, keeps the next probe waiting.
	probeTime = 60 * time.Second
)

// circuit is the ejection state of a backend, in one word so that it changes in
// one compare-and-swap:
//
//	in ── dial error, or 5 failed answers in a row ──> out for 10 s * 2^level
//	out ── time over ──> half-open: one request, the probe, is let through
//	half-open ── success ──> in      half-open ── failure ──> out, level + 1
//	out, half-open ── active check (see SetHealthy) ──> in, level 0
//
// Verdicts that arrive while the time is not over belong to older requests and
// change nothing. Half-open is out with its time over, not a value of its own.
//
// Bits: 0-6 failures in a row, 7 out, 8 by a dial error, 9-11 level, 12-63 when
// the last ejection ends or ended (Unix ms).
type circuit uint64

const (
	outBit   circuit = 1 << 7
	dialBit  circuit = 1 << 8
	failBits circuit = 1<<7 - 1
)

func (c circuit) out() bool   { return c&outBit != 0 }
func (c circuit) dial() bool  { return c&dialBit != 0 }
func (c circuit) fails() int  { return int(c & failBits) }
func (c circuit) level() int  { return int(c >> 9 & 7) }
func (c circuit) end() int64  { return int64(c >> 12) }
func (c circuit) in() circuit { return c &^ (outBit | dialBit | failBits) }
func (c circuit) ended() bool { return c.end() != 0 }
func (c circuit) clean() bool { return c&(outBit|failBits) == 0 }

// over reports whether an ejection has run its time. One that seems longer than
// any can be was begun before the wall clock was set back.
func (c circuit) over(ms int64) bool {
	left := c.end() - ms
	return left <= 0 || left > maxEjection.Milliseconds()
}

func (c circuit) eject(kind FailKind, ms int64) circuit {
	level := 0
	if c.ended() && ms-c.end() < maxEjection.Milliseconds() {
		level = min(c.level()+1, maxLevel)
	}
	length := min(minEjection<<level, maxEjection)
	next := circuit(ms+length.Milliseconds())<<12 | circuit(level)<<9 | outBit
	if kind == FailDial {
		next |= dialBit
	}
	return next
}

// Failed counts a failure against the backend: a dial error ejects it at once,
// failed answers after five in a row, a failed probe ejects it again for
// longer. It reports whether this call took the backend out of use. Pools
// decide what that means for them: none gives up more than half of its healthy
// backends to ejection.
func (s *State) Failed(kind FailKind, now time.Time) (ejected bool) {
	ms := now.UnixMilli()
	for {
		word := s.circuit.Load()
		c := circuit(word)
		if c.out() && !c.over(ms) {
			return false
		}
		next := c + 1
		if c.out() || kind == FailDial || c.fails()+1 >= failLimit {
			next = c.eject(kind, ms)
		}
		if s.circuit.CompareAndSwap(word, uint64(next)) {
			switch {
			case c.out():
				s.probe.Store(0)
			case next.out():
				s.flipped()
			}
			return next.out() && !c.out()
		}
	}
}

// Succeeded ends a run of failures: the backend gave its first byte. It reports
// whether this call brought an ejected backend back.
func (s *State) Succeeded(now time.Time) (back bool) {
	for {
		word := s.circuit.Load()
		c := circuit(word)
		if c.clean() || c.out() && !c.over(now.UnixMilli()) {
			return false
		}
		if s.circuit.CompareAndSwap(word, uint64(c.in())) {
			if c.out() {
				s.probe.Store(0)
				s.cameBack(now.UnixNano())
				s.flipped()
			}
			return c.out()
		}
	}
}

// SetHealthy records the verdict of the active checks and reports whether it is
// new. Good news also ends an ejection: always when the backend was unhealthy
// before, else when a dial error caused it. So checks may repeat it.
func (s *State) SetHealthy(healthy bool) (changed bool) {
	if healthy {
		changed = s.back.CompareAndSwap(isDown, justBack)
	} else {
		changed = s.back.Swap(isDown) != isDown
	}
	word := s.circuit.Load()
	c := circuit(word)
	freed := healthy && c.out() && (changed || c.dial()) && s.circuit.CompareAndSwap(word, 0)
	if freed {
		s.cameBack(justBack)
	}
	if changed || freed {
		s.flipped()
	}
	return changed
}

// Healthy is the verdict of the active checks; true as long as there is none.
func (s *State) Healthy() bool { return s.back.Load() != isDown }

// Ejected reports whether failures have taken the backend out of use.
func (s *State) Ejected() bool { return circuit(s.circuit.Load()).out() }

// flipped tells the pools that the backend's availability changed.
func (s *State) flipped() {
	if s.flips != nil {
		s.flips.Add(1)
	}
}

// enterProbe enters the backend as its half-open probe, which at most one
// request at a time may be.
func (b *Backend) enterProbe(now time.Time) bool {
	c := circuit(b.circuit.Load())
	ns := now.UnixNano()
	claim := b.probe.Load()
	if !c.out() || !c.over(now.UnixMilli()) || claim > ns && claim-ns <= int64(probeTime) || !b.Enter() {
		return false
	}
	// The circuit is read again: the probe before this one may have ended
	// since, and its verdict stands.
	won := b.probe.CompareAndSwap(claim, ns+int64(probeTime))
	if won && circuit(b.circuit.Load()) == c {
		return true
	}
	if won {
		b.probe.CompareAndSwap(ns+int64(probeTime), 0)
	}
	b.Leave()
	return false
}
