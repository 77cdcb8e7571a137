package cluster

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/quota"
	"github.com/llmproxy/llmproxy/pkg/redis"
)

const (
	// batch is how many calls are sent at once: as many as go down the connection that
	// requests use, behind what those have sent. patience is how long they may take, in
	// timeouts of a request: nobody waits for them.
	batch    = 50
	patience = 10
	// termMemory is how long a term that is over is told of: as long as Redis keeps it.
	termMemory = 48 * time.Hour
	// mostOwed bounds what is remembered of a Redis that is away.
	mostOwed = 100_000
)

// work tells Redis what changes, in order, until ctx ends.
func (c *Cluster) work(ctx context.Context) {
	renew := time.NewTicker(renewAfter / 4)
	defer renew.Stop()
	for {
		select {
		case <-c.events.bell:
			c.settle()
		case r := <-c.resyncs:
			c.settle()
			c.resync(r)
		case <-renew.C:
			c.settle()
			c.renew(time.Now())
		case <-ctx.Done():
			c.settle()
			return
		}
	}
}

// settle tells all that is in the post by now.
func (c *Cluster) settle() {
	for e := c.events.take(); e != nil; {
		c.some = c.some[:0]
		for ; e != nil && len(c.some) < batch; e = e.next {
			c.some = append(c.some, e)
		}
		c.tell(c.some)
	}
}

// tell sends some events. What does not arrive is made up for by a resync.
func (c *Cluster) tell(some []*event) {
	calls, of := c.calls[:0], c.of[:0]
	for _, e := range some {
		t := e.apply(c)
		if t.shard.away() {
			c.miss(&t)
			continue
		}
		calls, of = append(calls, t.what.call(c.o.Prefix)), append(of, t)
	}
	c.calls, c.of = calls, of
	for i, r := range c.runAll(calls) {
		c.count(of[i].shard, r.Err)
		if errors.Is(r.Err, redis.ErrAway) {
			c.miss(&of[i])
		} else {
			of[i].removed()
		}
	}
	for _, e := range some {
		if e.end {
			c.endsOf(e.lease.tag).told.Add(1)
		}
	}
	next := make(chan struct{})
	close(*c.round.Swap(&next))
}

// told is a settlement on its way.
type told struct {
	what  settlement
	shard *shard
}

// apply changes the lease as the event says, and returns what Redis is to be told.
func (e *event) apply(c *Cluster) told {
	l := e.lease
	if l == nil {
		return told{settlement{tag: e.tag, quota: quotaOf(e.term, c.o.Self.Node)}, c.shardOf(e.tag)}
	}
	l.held, l.quota = e.held, e.quota
	t := told{l.settlement(e.charge, e.end, c.o.Self.Node), l.shard}
	l.member = t.what.keep
	if l.over = e.end; !l.over {
		l.put = time.Now()
	}
	return t
}

// miss notes that Redis has not been told.
func (c *Cluster) miss(t *told) {
	s := t.shard
	s.stale.Store(true)
	if t.removes() {
		s.owed = append(without(s.owed, time.Time{}), owed{t.what.tag, t.what.lease, time.Now()})
	}
}

// removed notes that Redis has been told to remove a member.
func (t *told) removed() {
	if s, now := t.shard, time.Now(); t.removes() {
		s.removed = append(without(s.removed, now.Add(-leaseTime)), owed{t.what.tag, t.what.lease, now})
	}
}

func (t *told) removes() bool { return t.what.lease != "" && t.what.lease != t.what.keep }

// renew prolongs the leases that need it.
func (c *Cluster) renew(now time.Time) {
	var due []*lease
	c.leases.Range(func(_ uint64, l *lease) bool {
		if now.Sub(l.put) >= renewAfter && !l.shard.away() {
			due = append(due, l)
		}
		return true
	})
	for len(due) > 0 {
		n := min(batch, len(due))
		var some []*event
		for _, l := range due[:n] {
			if !l.over {
				some = append(some, l.renewal())
			}
		}
		c.tell(some)
		c.settle() // somebody may wait for it
		due = due[n:]
	}
}

// renewal is an event that changes nothing, so that Redis is told anew. The end of a
// lease that ends at this moment is told behind it.
func (l *lease) renewal() *event { return &event{lease: l, held: l.held, quota: l.quota} }

// resync is a part of Redis that is to be told all that it may have missed. With open
// it may be asked afterwards.
type resync struct {
	shard *shard
	open  bool
}

// resync tells it which requests are under way, which have ended, what was let in
// without it, and what each account has used.
func (c *Cluster) resync(r resync) {
	s := r.shard
	if !c.tellOwed(s) {
		return
	}
	s.stale.Store(false)
	var some []redis.Call
	ok := true
	more := func(call redis.Call) bool {
		if some = append(some, call); len(some) == batch {
			ok, some = c.tellAll(s, some), some[:0]
			if !s.away() {
				c.settle() // somebody may wait for it
			}
		}
		ok = ok && !c.closing.Load()
		return ok
	}
	c.leases.Range(func(_ uint64, l *lease) bool {
		if l.shard != s || l.over {
			return true
		}
		t := l.renewal().apply(c)
		return more(t.what.call(c.o.Prefix))
	})
	if ok && s.away() {
		ok = c.tellDebts(s)
	}
	if ok {
		c.o.Accounts(func(id [8]byte, t *quota.Term) bool {
			tag := hex.EncodeToString(id[:])
			if c.shardOf(tag) != s || t.End < time.Now().Add(-termMemory).UnixNano() {
				return true
			}
			what := settlement{tag: tag, quota: quotaOf(t, c.o.Self.Node)}
			return more(what.call(c.o.Prefix))
		})
	}
	if !ok || !c.tellAll(s, some) {
		s.stale.Store(true)
		return
	}
	s.swept.Store(time.Now().UnixNano())
	if r.open {
		if s.told.Swap(true) && s.breaker.open() {
			c.o.Log.Info("Redis is asked again; it has been told what it missed", "part", s.tag)
		}
		s.breaker.close()
		c.ready.Do(func() { close(c.first) })
	}
}

// tellDebts says what was let in without it.
func (c *Cluster) tellDebts(s *shard) bool {
	var some []redis.Call
	var told []func()
	send := func() bool {
		if !c.tellAll(s, some) {
			return false
		}
		for _, done := range told {
			done()
		}
		some, told = some[:0], told[:0]
		return true
	}
	ok := true
	c.o.Debts(func(d admit.Debt, done func()) bool {
		if c.shardOf(d.Tag) == s {
			some, told = append(some, (*debt)(&d).call(c.o.Prefix)), append(told, done)
		}
		ok = len(some) < batch || send()
		return ok
	})
	return ok && send()
}

// tellOwed removes the members that should not be there.
func (c *Cluster) tellOwed(s *shard) bool {
	if s.lost.Swap(false) { // a replica that lagged has them
		s.owed = slices.Concat(s.removed, s.owed)
	}
	for len(s.owed) > 0 {
		n := min(batch, len(s.owed))
		var some []redis.Call
		for _, o := range s.owed[:n] {
			what := settlement{tag: o.tag, lease: o.member}
			some = append(some, what.call(c.o.Prefix))
		}
		if !c.tellAll(s, some) {
			return false
		}
		s.owed = s.owed[n:]
	}
	return true
}

// tellAll is false when one of them did not arrive.
func (c *Cluster) tellAll(s *shard, calls []redis.Call) bool {
	all := true
	for _, r := range c.runAll(calls) {
		c.count(s, r.Err)
		all = all && !errors.Is(r.Err, redis.ErrAway)
	}
	return all
}

func (c *Cluster) runAll(calls []redis.Call) []redis.Result {
	if len(calls) == 0 {
		return nil
	}
	return c.o.Redis.RunAll(calls, patience*c.o.Timeout)
}

// Publish has Redis told what an account has used, as soon as can be.
func (c *Cluster) Publish(id [8]byte, t *quota.Term) {
	c.events.put(&event{tag: hex.EncodeToString(id[:]), term: t})
}
