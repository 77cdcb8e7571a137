package route

import (
	"sync/atomic"
	"time"
)

// Pool is the backends that can serve one model.
type Pool struct {
	// Label names the pool in metrics. It comes from configuration only: the
	// exact name as sent upstream, else the most specific glob that matches,
	// else "*".
	Label    string
	literals int // characters of Label that are no wildcard
	*group
	retries atomic.Int64 // requests that hold a share of the retry budget
	parts   atomic.Pointer[[]part]
}

// Backends are the members in the order of the Table. The slice must not be
// changed.
func (p *Pool) Backends() []*Backend { return p.backends }

// Pick chooses a backend this request has not tried, enters it and adds it to
// tried; the caller must Leave it. Backends in region come first while one of
// them is available and not overloaded; "" is no region. A backend that said it
// is busy is the last choice. When the time of an ejection is over, one request
// that has tried nothing yet is sent there as the probe; those that are ejected
// but in use (the half rule) get one request in eight while others are sound.
// Where a backend is in slow start, a pick takes time in proportion to the pool.
func (p *Pool) Pick(now time.Time, region string, tried *Tried) (*Backend, PickErr) {
	v := p.current(now)
	q := v.query(p, now, tried)
	if len(v.spared) > 0 {
		if b := v.pickSpared(&q, region); b != nil {
			return b, Picked
		}
		q.sound = true
		if b, err := v.pick(&q, region); err == Picked {
			return b, Picked
		}
		q.sound = false
	}
	return v.pick(&q, region)
}

// Next chooses for an attempt after a failure. first is the backend of the
// first attempt, model the name sent upstream. When a fallback entry holds for
// them, its order comes first, slow start or not; what is left of the pool follows by strategy, a
// backend that is ejected but in use (the half rule) after those that are not,
// and then the others that are ejected, which is better than to ask again who
// failed just now. When no other backend is to be had, one that was tried is chosen
// again, the last one only if there is no other, and repeat is true: the caller
// then waits before it sends. The backend returned is entered.
func (p *Pool) Next(now time.Time, region string, first *Backend, model string, tried *Tried) (b *Backend, repeat bool, err PickErr) {
	v := p.current(now)
	q := v.query(p, now, tried)
	if b := p.follow(v, &q, first, model); b != nil {
		return b, false, Picked
	}
	for _, q.sound = range [...]bool{true, false} {
		if b, err = v.pick(&q, region); err == Picked {
			return b, false, Picked
		}
	}
	if b := v.pickResting(&q); b != nil {
		return b, false, Picked
	}
	q.again = true
	if b, err = v.pick(&q, region); err == Picked {
		return b, true, Picked
	}
	q.last = true
	b, err = v.pick(&q, region)
	return b, true, err
}

// follow enters the first backend in the fallback order of first that is in
// use, not busy and not tried.
func (p *Pool) follow(v *view, q *query, first *Backend, model string) *Backend {
	for i := range p.orders[first.Index] {
		order := &p.orders[first.Index][i]
		if !order.holds(model) {
			continue
		}
		for _, b := range order.then {
			if v.uses(b) && q.usable(b) && b.Enter() {
				q.tried.Add(b)
				return b
			}
		}
		return nil
	}
	return nil
}
