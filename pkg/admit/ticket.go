package admit

import (
	"time"

	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

// Ticket is what a request that was let in has taken. The zero Ticket holds
// nothing, and giving that back does nothing. A Ticket is used by one goroutine
// at a time.
type Ticket struct {
	gate   *Gate
	state  *state
	limits *limit.Limits
	term   *quota.Term

	held      int64 // tokens, of tokens_per_minute
	quotaHeld int64 // tokens, of the quota
	prompt    int64 // tokens, estimated
	charged   int64 // tokens, of tokens_per_minute so far
	settled   bool
	alone     bool  // tokens_per_minute are counted by this gateway for itself
	lease     Lease // nil: this gateway counts alone, or the request holds nothing
}

// Valid reports whether the ticket was given by a gate.
func (t *Ticket) Valid() bool { return t.gate != nil }

// Charge says how many tokens have been generated so far, while the request runs.
// They count against the minute from now on instead of what was reserved for them,
// so that they are forgiven in time; and the quota holds at least so many.
func (t *Ticket) Charge(at time.Time, output int64) {
	if t.state == nil || t.settled || output <= t.charged {
		return
	}
	if more := t.prompt + output - t.quotaHeld; t.term != nil && more > 0 {
		t.term.Hold(more)
		t.quotaHeld += more
	}
	part := output - t.charged
	t.charged = output
	if t.limits.Tokens.Limited() {
		release := min(part, t.held)
		t.state.tokens.Charge(t.gate.clock(at), t.limits.Tokens, part, release)
		t.held -= release
	}
	if t.lease != nil {
		held := t.held
		if t.alone {
			held = 0
		}
		t.lease.Charge(part, held, t.quotaHeld)
	}
}

// Settle says how many tokens the request has used in all, and gives back what
// was reserved for more. 0 gives back everything. It counts once. What was used
// beyond the reservation is a debt, for which the next requests wait.
func (t *Ticket) Settle(at time.Time, used int64) {
	if t.state == nil || t.settled {
		return
	}
	t.settled = true
	used = max(used, 0)
	if t.limits.Tokens.Limited() {
		t.state.tokens.Charge(t.gate.clock(at), t.limits.Tokens, max(0, used-t.charged), t.held)
	}
	if t.term != nil {
		t.term.Settle(t.quotaHeld, used)
	}
	if t.lease != nil {
		t.lease.End(max(0, used-t.charged))
	}
}

// Answered tells the gate how long an answer came out, for the next estimate.
func (t *Ticket) Answered(output int64) {
	if t.state != nil && output > 0 {
		t.state.answers.add(float64(output))
		t.gate.answers.add(float64(output))
	}
}

// Leave gives back the request's slot, and all that is still reserved. It may be
// called again.
func (t *Ticket) Leave(at time.Time) {
	if t.state == nil {
		return
	}
	t.Settle(at, 0)
	t.state.slots.Leave()
	t.state = nil
}

// Standing is how far a limit is used up.
type Standing struct {
	Limit, Left int64
	Full        time.Duration // until all of it is there again
}

// Standings returns those of requests and of tokens, as they are at the moment;
// ok is false where there is no such limit. Of two limits on requests it is the
// one with less left.
func (g *Gate) Standings(who Identity, l *limit.Limits, at time.Time) (requests, tokens Standing, hasRequests, hasTokens bool) {
	s := g.seek(who)
	now := g.clock(at)
	for _, b := range [...]struct {
		bucket *limit.Bucket
		rate   limit.Rate
	}{{&s.perSecond, l.PerSecond}, {&s.perMinute, l.PerMinute}} {
		if !b.rate.Limited() {
			continue
		}
		left, full := b.bucket.Look(now, b.rate)
		if !hasRequests || left < requests.Left || left == requests.Left && full > requests.Full {
			requests, hasRequests = Standing{b.rate.Burst, left, full}, true
		}
	}
	if hasTokens = l.Tokens.Limited(); hasTokens {
		left, full := s.tokens.Look(now, l.Tokens)
		tokens = Standing{l.Tokens.Burst, left, full}
	}
	return requests, tokens, hasRequests, hasTokens
}

// nobody has used nothing.
var nobody state

// seek finds the state of an identity, of which there may be none.
func (g *Gate) seek(who Identity) *state {
	if s, ok := g.states.Load(who); ok {
		return s
	}
	if g.states.Size() >= g.size {
		return &g.overflow[who[0]%overflows]
	}
	return &nobody
}

// Use is what an identity has used of each of its limits.
func (g *Gate) Use(who Identity, l *limit.Limits, at time.Time) (limits []LimitUse, inFlight int64) {
	s := g.seek(who)
	now := g.clock(at)
	limits = []LimitUse{} // not nil, which would be null to the client
	add := func(by Limit, r limit.Rate, left int64, full time.Duration) {
		if r.Limited() {
			limits = append(limits, LimitUse{by.String(), r.Burst, left, full.Seconds()})
		}
	}
	left, full := s.perSecond.Look(now, l.PerSecond)
	add(PerSecond, l.PerSecond, left, full)
	left, full = s.perMinute.Look(now, l.PerMinute)
	add(PerMinute, l.PerMinute, left, full)
	left, full = s.tokens.Look(now, l.Tokens)
	add(Tokens, l.Tokens, left, full)
	if inFlight = s.slots.Len(); s.others != nil {
		inFlight += s.elsewhere.Load()
	}
	if l.Concurrent > 0 {
		limits = append(limits, LimitUse{Concurrent.String(), l.Concurrent, max(0, l.Concurrent-inFlight), 0})
	}
	return limits, inFlight
}
