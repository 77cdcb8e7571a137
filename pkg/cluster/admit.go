package cluster

import (
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/redis"
)

// noLimits is for tags of which only the quota is counted.
var noLimits limit.Limits

// Admit asks Redis for all that q wants.
func (c *Cluster) Admit(q *admit.Ask, r *admit.Answer) bool {
	s := c.shardOf(q.Tag)
	a := ask{tag: q.Tag, limits: q.Limits, ttl: leaseTime}
	if q.Limits == nil {
		a.limits = &noLimits
	}
	if q.Term != nil {
		a.quota = quotaOf(q.Term, c.o.Self.Node)
		a.quota.limit, a.quota.hold, a.quota.tooMuch = q.Quota, q.Hold, q.TooMuch
	}
	var l *lease
	if q.Look {
		a.quota.hold = 0
	} else {
		a.requests = 1
		if a.limits.Tokens.Limited() {
			a.tokens = min(q.Tokens, a.limits.Tokens.Burst)
		}
		l = c.lease(q, s, &a)
	}
	ends := c.endsOf(q.Tag)
	last, untold := ends.untold()
	var w answer
	err := errNotAsked
	if !q.Waited || s != c.shardOf(admit.Everybody) { // else it has waited long enough
		w, err = c.ask(s, &a)
	}
	if err == nil && w.by != admit.None && untold && c.await(ends, last) {
		if again, err := c.ask(s, &a); err == nil {
			w = again
		}
	}
	if err != nil {
		c.alone.Add(1)
		if l != nil && !errors.Is(err, errNotAsked) {
			l.member = l.full() // perhaps
		}
		c.keep(l, r)
		return false
	}
	if q.Term != nil && w.start > q.Term.Start {
		q.Term = q.Account.Follow(w.start)
	}
	w.fill(r)
	if r.By == admit.None && l != nil {
		l.term, l.start = q.Term, w.start
		l.member = l.full()
		c.keep(l, r)
	}
	return true
}

// keep makes a lease known.
func (c *Cluster) keep(l *lease, r *admit.Answer) {
	if l == nil {
		return
	}
	r.Lease = l
	c.leases.Store(l.number, l)
}

// lease is one for what a wants to hold; nil: it holds nothing.
func (c *Cluster) lease(q *admit.Ask, s *shard, a *ask) *lease {
	if a.limits.Concurrent == 0 && a.tokens == 0 && a.quota.hold == 0 {
		return nil
	}
	n := c.number.Add(1)
	var name [64]byte // one string
	a.lease = string(strconv.AppendUint(append(append(name[:0], c.o.Self.Node...), '.'), n, 36))
	l := &lease{
		cluster: c, shard: s, tag: q.Tag, number: n, name: a.lease, rate: a.limits.Tokens, term: q.Term,
		held: a.held(), quota: a.heldOfQuota(), start: a.quota.start, put: time.Now(),
	}
	l.said = l.quota
	return l
}

// Of an ask: that was not sent, and that Redis had too late.
var (
	errNotAsked = fmt.Errorf("%w: it does not answer", redis.ErrAway)
	errLate     = fmt.Errorf("%w: it answers late", redis.ErrAway)
)

// ask runs the script. An error means that Redis may have taken it all the same.
func (c *Cluster) ask(s *shard, a *ask) (w answer, err error) {
	if s.away() {
		return w, errNotAsked
	}
	a.notAfter = s.clock(time.Now()) + (c.o.Timeout + lateness).Microseconds()
	m, err := c.run(s, a.call(c.o.Prefix))
	if err != nil {
		return w, err
	}
	if err = w.read(m); err == nil && w.late {
		s.ahead.Store(w.now - ticks(time.Now())) // perhaps it is only its clock that was set
		err = errLate
	}
	return w, err
}

// fill is for the gate.
func (w *answer) fill(r *admit.Answer) {
	*r = admit.Answer{
		By: w.by, Wait: w.wait, Exhausted: w.exhausted, Second: w.second, Minute: w.minute, Tokens: w.tokens,
		Reserved: w.reserved, InFlight: w.inFlight, Start: w.start, Used: w.used, Own: w.own, Held: w.quotaReserved,
	}
}

// ends counts the requests of some tags that have ended here, and those of them that
// Redis has been told of: the oldest, as the post keeps their order.
type ends struct{ all, told atomic.Uint32 }

// endsOf is where a tag's requests are counted.
func (c *Cluster) endsOf(tag string) *ends {
	h := uint32(2166136261) // FNV-1a
	for i := range len(tag) {
		h = (h ^ uint32(tag[i])) * 16777619
	}
	return &c.ends[h%uint32(len(c.ends))]
}

// untold is the number of the last request that has ended, and whether Redis may not
// know of it yet.
func (e *ends) untold() (last uint32, untold bool) {
	told := e.told.Load()
	last = e.all.Load()
	return last, last != told
}

// await waits until Redis knows of the requests up to the last that had ended when a
// new one came: a client that has its answer may ask again, and must not be refused by
// the request before. It is false when that takes too long.
func (c *Cluster) await(e *ends, last uint32) bool {
	timer := time.NewTimer(c.o.Timeout)
	defer timer.Stop()
	for {
		round := *c.round.Load()
		if int32(e.told.Load()-last) >= 0 { // they may go round
			return true
		}
		select {
		case <-round:
		case <-timer.C:
			return false
		}
	}
}

// Global takes one of the requests of all gateways, from what this one has drawn.
func (c *Cluster) Global(now time.Time, r limit.Rate) (wait time.Duration, ok bool) {
	wait, err := c.stock.take(now, r)
	if err != nil {
		c.alone.Add(1)
		return c.stock.owed(), false
	}
	return wait, true
}

// GiveBack returns what Global has taken.
func (c *Cluster) GiveBack(now time.Time) { c.stock.giveBack(now) }
