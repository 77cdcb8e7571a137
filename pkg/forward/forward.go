// Package forward carries one request to an engine and its answer back: it
// picks the backend, sends, retries and falls back until the first byte of an
// answer is certain, then relays. It owns the transport (pooled connections on
// fasthttp's HostClient, dialling, deadlines) and the table that says what may
// be tried again.
package forward

import (
	"errors"
	"slices"
	"time"

	"github.com/llmproxy/llmproxy/pkg/openai"
	"github.com/llmproxy/llmproxy/pkg/route"
	"github.com/llmproxy/llmproxy/pkg/stats"
)

// Timeouts bound the phases of a request; zero is none. None of them is a
// deadline of the server or the client library, which would cut a long stream.
type Timeouts struct {
	FirstByte     time.Duration // from sending a request to the first event, or to the head of a whole answer
	BetweenChunks time.Duration // silence within an answer
	Total         time.Duration // the whole request
}

// Retry says how often and when a request that has no answer yet is tried
// again.
type Retry struct {
	Enabled              bool
	MaxRetries           int // further attempts, of any kind
	InitialWait, MaxWait time.Duration
}

// Forwarder is the forwarding part of one configuration.
type Forwarder struct {
	Upstreams []*Upstream // by Backend.Index
	Timeouts  Timeouts
	Retry     Retry
	Stats     *stats.Set
	// Jitter returns a random number in [0, 1).
	Jitter func() float64
}

// Failure is a request that got no answer from any backend.
type Failure struct {
	Err *openai.Error
	// Body is the engine's own error, to be passed on as it is; nil when the
	// client is to get Err. ContentType is its type, JSON when empty.
	Body, ContentType []byte
	// Gone: the backend's process is not there, nor what it kept.
	Gone bool

	outcome    stats.Outcome
	retry      retry
	retryAfter time.Duration
	ours       bool // the backend has no part in it
}

// retry is what the table of retries says of a failure.
type retry uint8

const (
	never   retry = iota
	budget        // elsewhere, if the pool's retry budget has room
	outside       // elsewhere, and the first time outside the budget: the engine is gone, not overloaded
	search        // elsewhere, and no failure at all: the engine has not what the request names
)

// maxSearch bounds the backends that are asked for what one of them has, and
// maxSearchBody those that are sent a body each.
const (
	maxSearch     = 32
	maxSearchBody = 8
)

// Open finds a backend that answers and holds its answer's beginning: the first
// event of a stream, the whole or the first 64 KiB of anything else. After a
// nil result the answer is to be relayed; in any case the call is to be closed.
func (f *Forwarder) Open(c *Call) *Failure {
	defer c.retryDone()
	if f.Timeouts.Total > 0 {
		c.deadline = c.Start.Add(f.Timeouts.Total)
	}
	c.firstByte, c.idle = f.Timeouts.FirstByte, f.Timeouts.BetweenChunks
	c.picked = time.Now()
	b, perr := c.pick()
	if perr != route.Picked {
		return unavailable(perr, c)
	}
	var shown *Failure // what the client gets: the last, but one that says when to come back stays
	first, wait := b, f.Retry.InitialWait
	for spent := false; ; {
		fail := f.try(c, b)
		if fail == nil {
			return nil
		}
		if fail.retry == never {
			return fail // it is final, whatever came before
		}
		if shown == nil || fail.outcome == stats.Overloaded || shown.outcome != stats.Overloaded {
			shown = fail
		}
		if !f.again(c, fail, &spent) {
			return shown
		}
		if b = f.next(c, first, fail, &wait); b == nil && c.Interrupted() != None {
			return interrupted()
		}
		if b == nil && fail.retry == search && c.missed() {
			return unavailable(route.Full, c)
		}
		if b == nil {
			return shown
		}
	}
}

// pick enters the backend of the first attempt.
func (c *Call) pick() (*route.Backend, route.PickErr) {
	if b := c.Pin; b != nil {
		if !b.Enter() {
			return nil, route.Full
		}
		return b, route.Picked
	}
	return c.Pool.Pick(c.picked, c.Region, &c.tried)
}

// next enters the backend of the next attempt; nil when there is none, or when
// the call was interrupted while it waited. Before a backend that was tried
// already it waits, and takes up no place meanwhile. An engine that asks for
// more patience than max_wait is not waited for: the client may have it.
func (f *Forwarder) next(c *Call, first *route.Backend, fail *Failure, wait *time.Duration) *route.Backend {
	c.picked = time.Now()
	b, repeat, err := c.Pool.Next(c.picked, c.Region, first, c.Model, &c.tried)
	if err != route.Picked || !repeat {
		return b
	}
	b.Leave()
	if fail.retry == search {
		return nil // all were asked
	}
	if fail.retryAfter > f.Retry.MaxWait || !f.backOff(c, max(*wait, fail.retryAfter)) {
		return nil
	}
	*wait = min(2**wait, f.Retry.MaxWait)
	c.picked = time.Now()
	if !b.Enter() {
		b, _, _ = c.Pool.Next(c.picked, c.Region, first, c.Model, &c.tried)
	}
	return b
}

// missed tells whether a search passed over a backend that was full.
func (c *Call) missed() bool {
	return slices.ContainsFunc(c.Pool.Backends(), func(b *route.Backend) bool { return b.Full() && !c.tried.Has(b) })
}

// again decides whether a failed request is tried once more. spent tells
// whether its one attempt outside the retry budget is.
func (f *Forwarder) again(c *Call, fail *Failure, spent *bool) bool {
	if fail.retry == search {
		f.Stats.Retries.Inc()
		return c.Attempts < maxSearchBody || len(c.Body) == 0 && c.Attempts < maxSearch
	}
	if fail.retry == never || c.Pin != nil || !f.Retry.Enabled || c.Attempts > f.Retry.MaxRetries {
		return false
	}
	if !c.deadline.IsZero() && time.Now().After(c.deadline) {
		return false
	}
	if fail.retry == outside && !*spent {
		*spent = true
	} else if !c.retrying {
		if c.retrying = c.Pool.TryRetry(); !c.retrying {
			f.Stats.RetriesDenied.Inc()
			return false
		}
	}
	f.Stats.Retries.Inc()
	return true
}

// backOff waits for d, less up to a half of it by chance. It returns false when
// the call is interrupted, or would have no time left for an attempt.
func (f *Forwarder) backOff(c *Call, d time.Duration) bool {
	if !c.deadline.IsZero() && time.Until(c.deadline) < d {
		return false
	}
	t := time.NewTimer(d - time.Duration(f.Jitter()*float64(d)/2))
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.wake:
	}
	return c.Interrupted() == None
}

// try makes an attempt at b, which has entered the call, and settles what it
// says about b.
func (f *Forwarder) try(c *Call, b *route.Backend) *Failure {
	c.Backend, c.entered = b, true
	c.Attempts++
	c.sent = time.Now()
	u := f.Upstreams[b.Index]
	err := f.attempt(c, u, false)
	if errors.Is(err, errReusedLost) && c.Interrupted() == None {
		err = f.attempt(c, u, true) // the engine closed an idle connection as we wrote on it
	}
	var fail *Failure
	if err == nil {
		fail = f.examine(c)
	} else {
		fail = failureOf(c, err)
	}
	if fail == nil {
		c.Outcome = stats.ClientGone // until Relay has passed it on
		now := time.Now()
		if c.sse {
			b.Observe(now.Sub(c.sent), now)
		}
		b.Succeeded(now)
		return nil
	}
	c.Outcome = fail.outcome
	f.blame(u, b, fail)
	c.dropBuffer()
	c.detach()
	c.leave()
	u.stats.Attempts[fail.outcome].Inc()
	return fail
}

// blame tells the backend's state what a failed attempt says about it.
func (f *Forwarder) blame(u *Upstream, b *route.Backend, fail *Failure) {
	if fail.ours {
		return
	}
	now := time.Now()
	ejected := false
	switch fail.outcome {
	case stats.DialFailed:
		ejected = b.Failed(route.FailDial, now)
	case stats.Lost, stats.Timeout, stats.ServerError:
		ejected = b.Failed(route.FailAnswer, now)
	case stats.Overloaded:
		b.Busy(now.Add(max(fail.retryAfter, time.Second)))
	case stats.OK: // a client's error: the engine is well
		b.Succeeded(now)
		return
	default:
		return // the client left, or the gateway's own key is wrong
	}
	b.Penalize(now)
	if ejected {
		u.stats.Ejections.Inc()
	}
}

var errReusedLost = errors.New("reused connection lost before the first byte of an answer")

// attempt sends the request to u and reads the head of the answer.
func (f *Forwarder) attempt(c *Call, u *Upstream, fresh bool) error {
	c.detach() // of the lost connection before a replay
	p, k, reused, err := u.acquire(c, fresh)
	if err != nil && c.late() {
		return ErrTimeout
	}
	if err != nil {
		return &dialError{err}
	}
	if !c.attach(u, p, k) {
		c.dirty = false      // nothing was written
		return c.reason(nil) // attach refuses an interrupted call only
	}
	if err = c.readHead(); err == nil {
		c.head.keepAlive = c.head.keepAlive && c.sendErr == nil
		return nil
	}
	if c.sendErr != nil {
		err = c.sendErr
	}
	err = c.reason(err)
	if reused && errors.Is(err, errLost) {
		return errReusedLost
	}
	return err
}
