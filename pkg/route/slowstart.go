package route

import "time"

const (
	// minRamp is the part of its weight a backend begins with when it came back
	// (Envoy's min_weight_percent has the same default).
	minRamp = 0.1
	// State.back is isDown while the active checks are against the backend, and
	// justBack from when it came back without a clock at hand until the next
	// pick tells the time.
	isDown   = -2
	justBack = -1
	// A backend in slow start is owed whole requests in fractions; it saves up
	// no more than two, for it must not make up at once for what it declined.
	owedOne = 1 << 32
	maxOwed = 2 * owedOne
)

// cameBack begins a slow start, unless the active checks are against the backend.
func (s *State) cameBack(at int64) {
	if old := s.back.Load(); old != isDown {
		s.back.CompareAndSwap(old, at)
	}
}

// ramp is the part of its weight a backend has at the moment: less than 1 for a
// slow start's length after it came back. One that lies in the future by more
// than that is from before the wall clock was set back.
func (s *State) ramp(now, slow int64) float64 {
	back := s.back.Load()
	elapsed := now - back
	if back == 0 || elapsed >= slow || elapsed <= -slow {
		return 1
	}
	return minRamp + (1-minRamp)*float64(max(elapsed, 0))/float64(slow)
}

// rampsUntil is when the last slow start among the backends ends, in Unix ns; 0
// when none is under way. It begins those that are waiting for the time.
func (g *group) rampsUntil(now int64) (until int64) {
	slow := int64(g.table.slow)
	for _, b := range g.backends {
		b.back.CompareAndSwap(justBack, now)
		if b.ramp(now, slow) < 1 {
			until = max(until, b.back.Load()+slow)
		}
	}
	return until
}

// query is a new pick from p by this view.
func (v *view) query(p *Pool, now time.Time, tried *Tried) query {
	q := query{strategy: p.strategy, now: now, ns: now.UnixNano(), tried: tried}
	if v.ramps > q.ns {
		q.slow = int64(p.table.slow)
	}
	return q
}

// ration gives each backend in slow start its share of one more request: by the
// weights they all have at the moment, of those that can take it. Until it is
// owed a whole request it is withheld from choice, and when it is it competes
// like any other. That bounds its share under every strategy, and so an idle
// backend does not swallow all there is. Those furthest up the ramp are not
// rationed: they are who the others are measured by.
func (t *tier) ration(q *query) {
	sum := 0.0
	q.top = 0
	for _, b := range t.backends {
		if q.usable(b) && !b.Full() {
			part := b.ramp(q.ns, q.slow)
			sum += part * float64(b.Weight)
			q.top = max(q.top, part)
		}
	}
	q.rationed = true
	for i, b := range t.backends {
		part := b.ramp(q.ns, q.slow)
		if part < q.top && q.usable(b) && !b.Full() && t.owed[i].Load() < maxOwed {
			t.owed[i].Add(int64(owedOne * part * float64(b.Weight) / sum))
		}
	}
}

// withheld reports whether slow start keeps the i-th backend from this choice.
func (t *tier) withheld(q *query, i int) bool {
	return q.rationed && t.owed[i].Load() < owedOne && t.backends[i].ramp(q.ns, q.slow) < q.top
}

// spend takes the request that the i-th backend got from what it is owed.
func (t *tier) spend(q *query, i int) {
	if q.rationed && t.backends[i].ramp(q.ns, q.slow) < q.top {
		t.owed[i].Add(-owedOne)
	}
}
