package cluster

import (
	"sync/atomic"
	"time"

	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

// lease is what one request holds. The request's goroutine says what changes, the
// worker, to which all but the first fields belong once it is known, tells Redis.
type lease struct {
	cluster *Cluster
	shard   *shard
	tag     string
	number  uint64
	name    string
	rate    limit.Rate  // of tokens; zero: they are not counted here
	term    *quota.Term // nil: no account
	said    int64       // the request's: what it holds of the quota
	last    event       // of its end

	member      string // what Redis has, or may have; "" nothing
	held, quota int64
	start       int64     // of the term whose quota it holds
	put         time.Time // when Redis was last told of it
	over        bool
}

// Charge counts tokens, and what is held from here on.
func (l *lease) Charge(tokens, held, quota int64) {
	if !l.rate.Limited() && quota == l.said {
		return
	}
	l.said = quota
	l.cluster.events.put(&event{lease: l, charge: tokens, held: held, quota: quota})
}

// End counts the last tokens, and gives back what is held.
func (l *lease) End(tokens int64) {
	c := l.cluster
	c.leases.Delete(l.number)
	c.endsOf(l.tag).all.Add(1)
	l.last = event{lease: l, charge: tokens, end: true}
	c.events.put(&l.last)
}

// settlement is what Redis is to be told so that it has of the lease what is held now,
// or nothing at its end.
func (l *lease) settlement(charge int64, end bool, node string) settlement {
	s := settlement{tag: l.tag, lease: l.member, ttl: leaseTime, tokens: l.rate, charge: charge}
	if !end {
		s.keep = l.full()
	}
	s.quota = quotaOf(l.term, node)
	return s
}

// full is its member, with what it holds now.
func (l *lease) full() string {
	return member(l.name, l.held, l.quota, l.start)
}

// quotaOf is what this gateway has used in a term.
func quotaOf(t *quota.Term, node string) quotaAsk {
	if t == nil {
		return quotaAsk{}
	}
	return quotaAsk{node: node, start: t.Start, end: t.End, used: t.Own()}
}

// event is something that Redis is to be told: of a lease, or of a term of which the
// use has changed.
type event struct {
	next                *event
	lease               *lease
	charge, held, quota int64
	end                 bool

	tag  string // without a lease
	term *quota.Term
}

// post takes events to the worker. Many put, and one takes.
type post struct {
	head atomic.Pointer[event] // the newest
	bell chan struct{}
}

func (p *post) put(e *event) {
	for {
		old := p.head.Load()
		e.next = old
		if !p.head.CompareAndSwap(old, e) {
			continue
		}
		if old == nil {
			select {
			case p.bell <- struct{}{}:
			default: // it has rung
			}
		}
		return
	}
}

// take is all that was put, oldest first.
func (p *post) take() (first *event) {
	for e := p.head.Swap(nil); e != nil; {
		next := e.next
		e.next, first, e = first, e, next
	}
	return first
}
