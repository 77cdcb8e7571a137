package cluster

import (
	"fmt"
	"maps"
	"math"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
)

// plain is one tag as one would write it for one thread: nothing in it is a sum
// that is kept, all are made anew from the leases and from what each node said.
type plain struct {
	second, minute, tokens level
	leases                 map[string]held
	term                   *plainTerm
}

type level struct {
	units float64
	at    int64 // µs
}

type held struct {
	end                  int64 // ms
	tokens, quota, start int64
}

type plainTerm struct {
	start, end int64 // ns; end 0 is never
	nodes      map[string]int64
}

func newPlain() *plain { return &plain{leases: map[string]held{}} }

// copy is what a replica has that gets no more.
func (p *plain) copy() *plain {
	c := *p
	c.leases = maps.Clone(p.leases)
	if p.term != nil {
		t := *p.term
		t.nodes = maps.Clone(t.nodes)
		c.term = &t
	}
	return &c
}

// sunk is the level at now, in steps of 2^-20 units.
func (l level) sunk(now int64, r limit.Rate) float64 {
	if !r.Limited() {
		return l.units
	}
	back := float64(now-l.at) * 1000 / float64(r.Each)
	return max(0, l.units-math.Floor(float64(back*(1<<20)))/(1<<20))
}

func (l *level) take(now int64, r limit.Rate, n int64) {
	if r.Limited() && n > 0 {
		*l = level{l.sunk(now, r) + float64(n), now}
	}
}

func over(units float64, r limit.Rate) time.Duration {
	return time.Duration(math.Ceil(units*float64(r.Each)/1000)) * time.Microsecond
}

// begin is what every call begins with.
func (p *plain) begin(now int64, q *quotaAsk, admits bool) {
	for _, l := range []*level{&p.second, &p.minute, &p.tokens} {
		l.at = min(l.at, now)
	}
	for m, h := range p.leases {
		if h.end <= now/1000 {
			delete(p.leases, m)
		}
	}
	if q.start != 0 {
		p.follow(now, *q, admits)
	}
}

func (p *plain) follow(now int64, q quotaAsk, admits bool) {
	if q.start > (now+60e6)*1000 {
		if p.term != nil || !admits {
			return
		}
		q.start = now * 1000
	}
	switch t := p.term; {
	case t == nil || q.start > t.start:
		p.term = &plainTerm{q.start, q.end, map[string]int64{q.node: q.used}}
	case q.start == t.start:
		t.end, t.nodes[q.node] = q.end, max(t.nodes[q.node], q.used)
	}
}

func (p *plain) reserved() (n int64) {
	for _, h := range p.leases {
		n += h.tokens
	}
	return n
}

func (p *plain) quota(node string) (start, used, reserved, own int64) {
	if p.term == nil {
		return 0, 0, 0, 0
	}
	for _, n := range p.term.nodes {
		used += n
	}
	for _, h := range p.leases {
		if h.start == p.term.start {
			reserved += h.quota
		}
	}
	return p.term.start, used, reserved, p.term.nodes[node]
}

func (p *plain) put(now int64, ttl time.Duration, m string, h held) {
	h.end = now/1000 + ttl.Milliseconds()
	p.leases[m] = h
}

func (p *plain) admit(now int64, a *ask) (r answer) {
	if a.notAfter > 0 && now > a.notAfter {
		return answer{now: now, late: true}
	}
	p.begin(now, &a.quota, true)
	l := a.limits
	if a.requests > 0 {
		p.try(now, a, &r)
	}
	if a.requests > 0 && r.by == admit.None {
		p.second.take(now, l.PerSecond, a.requests)
		p.minute.take(now, l.PerMinute, a.requests)
		if a.lease != "" {
			start, _, _, _ := p.quota("")
			h := held{tokens: a.held(), quota: a.heldOfQuota(), start: start}
			p.put(now, a.ttl, member(a.lease, h.tokens, h.quota, start), h)
		}
	}
	r.now = now
	r.second = over(p.second.sunk(now, l.PerSecond), l.PerSecond)
	r.minute = over(p.minute.sunk(now, l.PerMinute), l.PerMinute)
	r.tokens = over(p.tokens.sunk(now, l.Tokens), l.Tokens)
	r.reserved, r.inFlight = p.reserved(), int64(len(p.leases))
	r.start, r.used, r.quotaReserved, r.own = p.quota(a.quota.node)
	return r
}

func (p *plain) try(now int64, a *ask, r *answer) {
	refuse := func(by admit.Limit, wait time.Duration) {
		if r.by == admit.None || wait > r.wait {
			r.by, r.wait, r.exhausted = by, wait, false
		}
	}
	rate := func(by admit.Limit, r limit.Rate, units float64) {
		if r.Limited() && units > float64(r.Burst) {
			refuse(by, over(units-float64(r.Burst), r))
		}
	}
	l := a.limits
	if l.Concurrent > 0 && int64(len(p.leases)) >= l.Concurrent {
		refuse(admit.Concurrent, time.Second)
	}
	if n := a.held(); n > 0 {
		rate(admit.Tokens, l.Tokens, p.tokens.sunk(now, l.Tokens)+float64(p.reserved()+n))
	}
	_, used, reserved, _ := p.quota("")
	q, hold := &a.quota, a.heldOfQuota()
	limited := q.start != 0 && q.limit > 0 && hold > 0
	switch {
	case limited && used+hold > q.limit:
		wait := longest * time.Microsecond
		if p.term.end != never {
			wait = max(time.Second, time.Duration(p.term.end/1000-now)*time.Microsecond)
		}
		refuse(admit.Quota, wait)
		r.exhausted = r.by == admit.Quota
	case limited && used+reserved+hold > q.limit:
		refuse(admit.Quota, time.Second)
	}
	rate(admit.PerSecond, l.PerSecond, p.second.sunk(now, l.PerSecond)+float64(a.requests))
	rate(admit.PerMinute, l.PerMinute, p.minute.sunk(now, l.PerMinute)+float64(a.requests))
}

func (p *plain) settle(now int64, s *settlement, h held) (r settled) {
	p.begin(now, &s.quota, false)
	if s.lease != s.keep {
		delete(p.leases, s.lease)
	}
	if s.keep != "" {
		p.put(now, s.ttl, s.keep, h)
	}
	p.tokens.take(now, s.tokens, s.charge)
	r.now = now
	r.start, r.used, _, r.own = p.quota(s.quota.node)
	return r
}

func (p *plain) String() string {
	if p.term == nil {
		return fmt.Sprintf("%+v, no term", *p)
	}
	return fmt.Sprintf("%+v, term %+v", *p, *p.term)
}
