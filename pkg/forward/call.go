package forward

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/llmproxy/llmproxy/pkg/openai"
	"github.com/llmproxy/llmproxy/pkg/route"
	"github.com/llmproxy/llmproxy/pkg/stats"
	"github.com/llmproxy/llmproxy/pkg/usage"
)

// Cause is why a call was interrupted.
type Cause uint8

// The causes. BackendDead ends an attempt; the others end the call.
const (
	None Cause = iota
	ClientLeft
	ShuttingDown
	BackendDead
)

// Call is one request on its way to an engine and the answer on its way back.
// The exported fields before the answer are the caller's to set before Open, the
// others tell what became of it. A Call is used by one goroutine at a time, but
// for Interrupt. After Close and Reset it may be
// used again.
type Call struct {
	Pool *route.Pool
	// Pin is the one backend that can answer, whatever becomes of it; nil: any
	// of Pool.
	Pin *route.Backend
	// Search asks one backend after the other until one does not answer 404: it
	// is not known where what the request names was made.
	Search   bool
	Model    string // the name sent upstream, for the fallback rules that name models
	Region   string
	Method   string
	Path     string   // the endpoint's path on the engine, with a query if there is one
	BodyType []byte   // the Content-Type of the body; nil: JSON
	Header   []byte   // further request header lines, each with its line end
	Body     [][]byte // the body in parts, which stay as they are until the answer is open
	Upload   *Upload  // the body when it is not in memory
	// Shape is that of the error bodies that pass as they are; Native lets pass
	// any.
	Shape  openai.Shape
	Native bool
	ID     []byte // X-Request-Id without the attempt's number
	Start  time.Time

	// The answer, from a successful Open on.
	head      head
	headBytes []byte // what head points into
	length    int64  // of the body for the client, -1 when it is not known
	sse       bool
	Events    openai.Events
	// Chunked makes Relay write in HTTP/1.1 chunks (RFC 9112, section 7.1), the
	// last one included; the caller's to set once the answer is open.
	Chunked bool
	// Tap sees what the client is about to get, without chunks; nil: nobody does.
	// The caller's to set once the answer is open.
	Tap func(p []byte)
	// Meter reads the usage out of the answer, Filter then takes out of a stream
	// what the client has not asked for, and Report is called every markEvery of a
	// stream and, with final, before the bytes that end the answer are passed on.
	// All are the caller's to set once the answer is open; nil: none.
	Meter  *usage.Meter
	Filter *usage.Filter
	Report func(final bool)
	// Relayed counts the bytes of the body that were handed to the client.
	Relayed int64
	// FirstToken and LastByte are when the first token and the last bytes of
	// a stream were relayed; zero when they were not, or it was no stream.
	FirstToken, LastByte time.Time
	// Backend is the backend of the last attempt, nil when there was none.
	Backend *route.Backend
	// Outcome is how the last attempt ended.
	Outcome stats.Outcome
	// Attempts counts the attempts made.
	Attempts int

	// The attempt that is under way.
	up      *Upstream
	entered bool // the backend counts this call as in flight
	pooled  pooled
	conn    *conn
	framing framing
	buf     *readBuffer // holds what held points into
	held    []byte      // read from the upstream, not yet relayed
	first   []byte      // what held points into when one read did not do
	opened  bool        // Open succeeded
	sendErr error       // of sending the request

	// While Relay runs.
	client     io.Writer
	clientErr  error     // of a Write to it
	framingErr error     // in what came
	ended      bool      // the last chunk went out with the one before it
	settled    bool      // Report has heard of the end
	marked     time.Time // when Report was last called
	apart      bool      // what is written is not in buf

	// Bound once: a method value allocates.
	relayed func(buf *readBuffer, in []byte) (more bool)
	sending func() (sent bool, err error)

	dirty    bool      // the connection must not be used again
	sends    int       // requests written, replays included
	picked   time.Time // when the attempt's backend was chosen
	sent     time.Time // when the attempt began
	deadline time.Time // timeouts.total; zero for none
	// timeouts.first_byte and timeouts.between_chunks.
	firstByte, idle time.Duration

	tried    route.Tried
	retrying bool // this call holds a share of the pool's retry budget

	mu         sync.Mutex // guards what follows: Interrupt comes from other goroutines
	cause      Cause
	dead       bool // BackendDead for the attempt under way
	complete   bool // the client has all that it waits for; its leaving says nothing
	attached   *conn
	cancelDial context.CancelFunc
	wake       chan struct{}

	next, prev *Call // the list of up's calls, guarded by up.mu
}

// NewCall returns an empty call.
func NewCall() *Call {
	c := &Call{wake: make(chan struct{}, 1)}
	c.relayed, c.sending = c.relayRead, c.sendFirst
	return c
}

// Reset makes the call ready for its next request. It must have been closed.
func (c *Call) Reset() {
	first, headBytes, wake, fields := c.first, c.headBytes, c.wake, c.head.fields
	if cap(first) > keepFirst {
		first = nil
	}
	if cap(headBytes) > keepFirst {
		headBytes = nil
	}
	select {
	case <-wake:
	default:
	}
	clear(fields) // they point into what other requests had
	*c = Call{first: first[:0], headBytes: headBytes[:0], wake: wake, head: head{fields: fields[:0]}, relayed: c.relayed, sending: c.sending}
}

// keepFirst is how large a buffer a call keeps from one request to the next.
const keepFirst = 4 << 10

var past = time.Unix(1, 0)

// drainGrace is how long an answer that the client has read to its end may
// take to end on the upstream side, so that its connection is used again.
const drainGrace = 100 * time.Millisecond

// Interrupt ends what the call is waiting for, whatever that is. It does not
// block and may be called from any goroutine, at any time before Reset.
func (c *Call) Interrupt(cause Cause) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cause == BackendDead {
		c.dead = true
	} else if c.cause == None {
		c.cause = cause
	}
	if c.cancelDial != nil {
		c.cancelDial()
	}
	if c.attached != nil {
		limit := past
		if c.complete && cause == ClientLeft {
			limit = time.Now().Add(drainGrace)
		}
		_ = c.attached.raw.SetDeadline(limit) // fails on a closed connection only
	}
	if cause != BackendDead {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// Interrupted returns why the call has to end, None while it has not.
func (c *Call) Interrupted() Cause {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// attachDial lets Interrupt end a dial; nil when it is over. It returns false
// when the call was interrupted already.
func (c *Call) attachDial(cancel context.CancelFunc) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancelDial = cancel
	return c.cause == None
}

// attach puts the call on a connection.
func (c *Call) attach(u *Upstream, p pooled, k *conn) bool {
	c.up, c.pooled, c.conn = u, p, k
	c.dirty = true // until an answer has been read to its end
	k.limit = time.Time{}
	c.mu.Lock()
	ok := c.cause == None
	if ok {
		c.attached = k
	}
	c.dead = false
	c.mu.Unlock()
	c.sendErr = nil
	u.enlist(c)
	return ok
}

// detach gives the connection back. Interrupt cannot touch it any more before
// another call gets it.
func (c *Call) detach() {
	if c.conn == nil {
		return
	}
	c.up.delist(c)
	c.mu.Lock()
	c.attached = nil
	touched := c.cause != None || c.dead
	c.dead = false
	c.mu.Unlock()
	reusable := !c.dirty
	if reusable && (touched || !c.conn.limit.IsZero()) {
		reusable = c.conn.raw.SetDeadline(time.Time{}) == nil
	}
	c.up.release(c.pooled, reusable && !c.conn.ended.Load())
	c.pooled, c.conn = nil, nil
}

// limit moves the read deadline to d from now, but not beyond the call's own.
// Zero means none.
func (c *Call) limit(d time.Duration) {
	var at time.Time
	if d > 0 {
		at = time.Now().Add(d)
	}
	c.limitAt(earlier(at, c.deadline))
}

// limitSilence allows timeouts.between_chunks without a byte. The timer is moved
// only when a quarter of that has gone by, so that a token costs no timer
// change; the limit is by as much later, so that it is never too early.
func (c *Call) limitSilence() {
	if c.idle <= 0 {
		c.limit(0)
		return
	}
	least := time.Now().Add(c.idle)
	most := least.Add(c.idle / 4)
	if at := c.conn.limit; at.Before(least) || at.After(most) {
		c.limitAt(earlier(most, c.deadline))
	}
}

func (c *Call) limitAt(at time.Time) {
	if at.Equal(c.conn.limit) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != None || c.dead {
		return // Interrupt's own deadline stands
	}
	_ = c.conn.raw.SetReadDeadline(at) // a closed connection shows at the read
	c.conn.limit = at
}

// Why a read or a write of an upstream failed, where it is not the network.
var (
	// ErrShuttingDown: Interrupt said so.
	ErrShuttingDown = errors.New("gateway is shutting down")
	// ErrTimeout: one of Timeouts is over.
	ErrTimeout = errors.New("timeout")

	errClientLeft  = errors.New("client left")
	errBackendDead = errors.New("backend declared dead")
)

func (c *Call) reason(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.cause == ClientLeft:
		return errClientLeft
	case c.cause == ShuttingDown:
		return ErrShuttingDown
	case c.dead:
		return errBackendDead
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ErrTimeout
	}
	return err
}

// upstreamDone gives the connection back after the body's last byte.
func (c *Call) upstreamDone() {
	c.dirty = !c.head.keepAlive
	c.detach()
	c.leave()
}

func (c *Call) leave() {
	if c.entered {
		c.entered = false
		c.Backend.Leave()
	}
}

// Close gives back whatever the call still has: an unfinished answer costs its
// connection. It may be called more than once.
func (c *Call) Close() {
	if c.opened {
		c.opened = false
		if c.Outcome == stats.OK && c.Events.Failed {
			c.Outcome = stats.Broken // in the engine's own words
		}
		c.up.stats.Attempts[c.Outcome].Inc()
	}
	c.dropBuffer()
	defer c.leave()
	c.detach()
}

// retryDone gives back the call's share of the retry budget. An answer that is
// open is no retry any more, however long it streams.
func (c *Call) retryDone() {
	if c.retrying {
		c.retrying = false
		c.Pool.RetryDone()
	}
}
