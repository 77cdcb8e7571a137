package route

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"
)

// query is one pick: what it asks for, and which backends it may not have.
type query struct {
	strategy Strategy
	now      time.Time
	ns       int64 // now, Unix ns
	tried    *Tried
	sound    bool // ejected backends will not do, though the pool cannot spare them
	busy     bool // busy backends will do
	again    bool // so will tried ones, but for the last
	last     bool // so will the last

	slow     int64   // how long a slow start lasts, ns; 0: no backend is in one
	rationed bool    // those in slow start get no more than they are owed
	top      float64 // but for those with so great a part of their weight, the greatest there is
}

func (q *query) usable(b *Backend) bool {
	if q.tried.Len() > 0 && !q.last {
		if q.again && q.tried.last == b.Index || !q.again && q.tried.Has(b) {
			return false
		}
	}
	if q.sound && b.Ejected() {
		return false
	}
	return q.busy || !b.overloaded(q.ns)
}

// score is what the strategy wants least of; equal scores are a tie.
func (q *query) score(b *Backend) float64 {
	switch q.strategy {
	case LeastConnections:
		n := float64(b.inFlight.Load())
		if q.slow > 0 && n > 1 {
			// Per weight of the moment; but a first request is none too many.
			n = 1 + (n-1)/b.ramp(q.ns, q.slow)
		}
		return n / float64(b.Weight)
	case Latency:
		n := b.inFlight.Load()
		return b.expected(q.ns, n) * float64(n+1) / float64(b.Weight)
	default:
		return 0
	}
}

const (
	// maxSlots bounds the length of a rotation. Weights that would need more,
	// such as 999 and 1000 over a hundred backends, are scaled down to it.
	maxSlots = 1 << 16
	// maxTurns bounds the slots a pick passes over because their backend will
	// not do.
	maxTurns = 64
)

// tier is a set of backends to choose from, with a rotation over them.
type tier struct {
	backends []*Backend // in use
	resting  []*Backend // ejected, due for a probe some time
	slots    []int32    // one turn each, as an index into backends
	cursor   atomic.Uint64
	owed     []atomic.Int64 // slow start: requests, in owedOnes, by index into backends
}

// fill takes the members for which mine is true.
func (t *tier) fill(members []*Backend, roles []role, start uint64, mine func(*Backend) bool) {
	for i, b := range members {
		switch {
		case !mine(b):
		case roles[i] == inUse, roles[i] == spared:
			t.backends = append(t.backends, b)
		case roles[i] == resting:
			t.resting = append(t.resting, b)
		}
	}
	weights := make([]int, len(t.backends))
	for i, b := range t.backends {
		weights[i] = b.Weight
	}
	t.slots = rotation(weights)
	t.cursor.Store(start)
	t.owed = make([]atomic.Int64, len(t.backends))
}

// rotation spreads turns by weight: each index occurs in exact proportion,
// its turns evenly spaced in time (earliest deadline first). The indexes set
// off at different moments, so that light ones do not come in a row.
func rotation(weights []int) []int32 {
	divisor, sum := 0, 0
	for _, w := range weights {
		for a := w; a != 0; {
			divisor, a = a, divisor%a
		}
		sum += w
	}
	type turn struct {
		at float64
		i  int32
	}
	var turns []turn
	for i, w := range weights {
		n := w / divisor
		if sum/divisor > maxSlots {
			n = max(1, w*maxSlots/sum)
		}
		phase := (float64(i) + 0.5) / float64(len(weights))
		for k := range n {
			turns = append(turns, turn{(float64(k) + phase) / float64(n), int32(i)})
		}
	}
	slices.SortStableFunc(turns, func(a, b turn) int { return cmp.Compare(a.at, b.at) })
	slots := make([]int32, len(turns))
	for s, t := range turns {
		slots[s] = t.i
	}
	return slots
}

// pick enters one backend of the tier. full tells that one was passed over, or
// lost to a faster request, only because it is at its MaxInFlight.
func (t *tier) pick(q *query) (b *Backend, full bool) {
	// Only a first attempt is a probe: a request that failed once should not
	// meet a second doubtful backend.
	if q.tried.Len() == 0 {
		for _, b := range t.resting {
			if b.enterProbe(q.now) {
				return b, false
			}
		}
	}
	if q.slow > 0 {
		t.ration(q)
	}
	for range t.backends {
		i, full := t.choose(q)
		switch {
		case i >= 0 && t.backends[i].Enter():
			t.spend(q, i)
			return t.backends[i], false
		case i < 0 && q.rationed:
			q.rationed = false // those not withheld filled up meanwhile
		case i < 0:
			return nil, full
		}
	}
	return nil, len(t.backends) > 0
}

// choose finds the index of the backend with the least score; of several, of the
// one whose turn it is. It is negative when none will do.
func (t *tier) choose(q *query) (first int, full bool) {
	if q.strategy == RoundRobin {
		if i := t.turn(q, 0); i >= 0 {
			return i, false
		}
	}
	first = -1
	least, ties := 0.0, 0
	n := len(t.backends)
	// Start anywhere, so that the first of many is not always the same.
	at := int(t.cursor.Load() % uint64(n))
	for range n {
		i := at
		b := t.backends[i]
		if at++; at == n {
			at = 0
		}
		switch {
		case !q.usable(b), t.withheld(q, i):
			continue
		case b.Full():
			full = true
			continue
		}
		score := q.score(b)
		switch {
		case ties == 0 || score < least:
			first, least, ties = i, score, 1
		case score == least:
			ties++
		}
	}
	if ties > 1 {
		if i := t.turn(q, least); i >= 0 {
			return i, false
		}
	}
	return first, full
}

// turn hands out the next slot whose backend will do and scores no more than
// most. Slots passed over are used up, so that the turns of a backend that will
// not do fall to the others by weight. It is negative when none is found.
func (t *tier) turn(q *query, most float64) int {
	for range min(len(t.slots), maxTurns) {
		slot := (t.cursor.Add(1) - 1) % uint64(len(t.slots))
		i := int(t.slots[slot])
		if b := t.backends[i]; q.usable(b) && !b.Full() && q.score(b) <= most && !t.withheld(q, i) {
			return i
		}
	}
	return -1
}
