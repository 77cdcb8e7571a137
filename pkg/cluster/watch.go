package cluster

import (
	"context"
	"time"

	"github.com/llmproxy/llmproxy/pkg/redis"
)

const (
	beatEvery  = time.Second
	probeEvery = 250 * time.Millisecond // while a part of Redis is away
	// steady is how many beats in a row must be answered before one that was away is
	// asked again: long enough for all gateways to have told it what they let in
	// meanwhile.
	steady = 4
	// clockJump is by how much the clock of Redis has been set, in µs, for it to matter.
	clockJump = int64(time.Second / time.Microsecond)
	// sweepEvery is how often Redis is told everything, should anything be amiss.
	sweepEvery = time.Minute
)

// watch tells Redis that this gateway is there, finds out who else is, and whether
// Redis is, and still is what it was, until ctx ends.
func (c *Cluster) watch(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			c.leave()
			return
		case <-timer.C:
		}
		next := beatEvery
		for i, a := range c.beats() {
			if s := c.shards[i]; s.stale.Load() || s.away() {
				next = probeEvery
				if a != nil {
					c.callFor(ctx, resync{s, s.good >= steady || !s.away() || !s.told.Load()})
				}
			}
		}
		timer.Reset(next)
	}
}

// callFor has the worker do a resync.
func (c *Cluster) callFor(ctx context.Context, r resync) {
	select {
	case c.resyncs <- r:
	case <-ctx.Done():
	}
}

// beats sends one to each shard. The answer of one that did not is nil.
func (c *Cluster) beats() []*beatAnswer {
	calls := make([]redis.Call, len(c.shards))
	for i, s := range c.shards {
		b := beatAsk{tag: s.tag, node: c.o.Self.Node, beat: s.beat + 1}
		if i == 0 {
			b.self = c.self()
		}
		calls[i] = b.call(c.o.Prefix)
	}
	begin := time.Now()
	answers := make([]*beatAnswer, len(calls))
	for i, r := range c.o.Redis.RunAll(calls, c.o.Timeout) {
		s := c.shards[i]
		var a beatAnswer
		if r.Err == nil {
			r.Err = a.read(r.Message)
		}
		if r.Err != nil {
			s.good = 0
			c.cause.Store(&r.Err)
			if !s.away() {
				c.count(s, r.Err)
			}
			continue
		}
		if i == 0 {
			c.latency.Store(int64(time.Since(begin)))
			c.meet(a.gateways, time.Now())
		}
		c.heard(s, &a)
		answers[i] = &a
	}
	return answers
}

// heard takes over what a shard answered, and finds out whether it still knows what it
// was told.
func (c *Cluster) heard(s *shard, a *beatAnswer) {
	now := time.Now()
	ahead := a.now - ticks(now)
	if jump := ahead - s.ahead.Swap(ahead); s.beat > 0 && (jump > clockJump || jump < -clockJump) {
		s.stale.Store(true) // leases end by its clock
	}
	if s == c.shards[0] {
		c.skew.Store(int64(now.Sub(time.UnixMicro(a.now))))
	}
	if s.beat > 0 && a.before > s.beat+1 && c.warns(now) {
		c.o.Log.Error("another gateway has the node id of this one: its data_dir is a copy of this one's; give each a directory of its own, else what they use is counted once", "node", c.o.Self.Node)
	}
	if s.beat > 0 && (a.runID != s.runID || a.before < s.beat) {
		c.o.Log.Warn("Redis has forgotten what it was told, or is another one; it is told anew", "part", s.tag)
		s.lost.Store(true)
		s.stale.Store(true)
	}
	if now.UnixNano()-s.swept.Load() > int64(sweepEvery) {
		s.stale.Store(true)
	}
	s.runID = a.runID
	s.beat++
	s.good++
}

// meet takes over who is there. That there are fewer than before is believed after a
// while only: a Redis that has just lost everything knows of nobody.
func (c *Cluster) meet(all []Gateway, now time.Time) {
	c.seen.Store(&all)
	_, several := c.Place()
	if len(all) >= several {
		several, c.fewer = len(all), time.Time{}
	} else if c.fewer.IsZero() {
		c.fewer = now
	} else if now.Sub(c.fewer) > believed {
		several, c.fewer = len(all), time.Time{}
	}
	for i := range all {
		if all[i].Node == c.o.Self.Node {
			c.place.Store(uint64(i)<<32 | uint64(several))
		}
	}
}

// believed is how long there must be fewer gateways than before.
const believed = 10 * time.Second

// leave tells the others that this gateway has gone.
func (c *Cluster) leave() {
	b := beatAsk{tag: c.shards[0].tag, node: c.o.Self.Node, gone: true}
	_, _ = c.o.Redis.Run(b.call(c.o.Prefix), c.o.Timeout) // they find out anyway
}
