package forward

import (
	"bytes"
	"errors"
	"strings"
	"syscall"
	"time"

	"github.com/llmproxy/llmproxy/pkg/openai"
	"github.com/llmproxy/llmproxy/pkg/route"
	"github.com/llmproxy/llmproxy/pkg/stats"
)

const (
	// maxWhole is how much of an answer that is no stream is held, until it
	// is whole or longer, so that an engine's death meanwhile can be made good.
	maxWhole = 64 << 10
	// maxFirst bounds the wait for the end of a stream's first event.
	maxFirst = 64 << 10
	// commentGrace is how long SSE comments are held for an event to follow:
	// an engine that sends them keeps somebody's connection alive.
	commentGrace = 5 * time.Second
)

// examine decides whether an answer goes to the client. It reads a stream up
// to its first event, and anything else until it is whole or too long to hold.
func (f *Forwarder) examine(c *Call) *Failure {
	c.sse = c.head.status < 300 && isEventStream(c.head.contentType)
	switch {
	case c.head.status >= 400:
		return f.examineError(c)
	case c.head.status >= 300:
		return &Failure{Err: openai.BadGateway(), outcome: stats.ServerError}
	}
	var fail *Failure
	if c.sse {
		fail = f.firstEvent(c)
	} else {
		fail = f.whole(c)
	}
	if fail != nil {
		return fail
	}
	f.commit(c)
	return nil
}

// commit makes what is held the beginning of the client's answer.
func (f *Forwarder) commit(c *Call) {
	c.opened = true
	c.length = max(c.head.length, -1)
	if c.sse {
		c.length = -1
	}
	if c.framing.done() {
		if !c.sse {
			c.length = int64(len(c.held))
		}
		c.upstreamDone()
	}
}

// whole reads until the answer is complete or too long to hold.
func (f *Forwarder) whole(c *Call) *Failure {
	for !c.framing.done() && len(c.held) < maxWhole {
		c.limitSilence()
		if err := c.gather(); err != nil {
			return failureOf(c, c.cutShort(err))
		}
	}
	return nil
}

// cutShort keeps the errors that have a meaning of their own; the others are
// an answer that ended early.
func (c *Call) cutShort(err error) error {
	if errors.Is(err, errClientLeft) || errors.Is(err, ErrShuttingDown) || errors.Is(err, ErrTimeout) || errors.Is(err, errBackendDead) {
		return err
	}
	return ErrBroken
}

// firstEvent reads until the stream's first event is there.
func (f *Forwarder) firstEvent(c *Call) *Failure {
	var commented time.Time
	for len(c.held) < maxFirst {
		kind, data := openai.FirstEvent(c.held)
		switch kind {
		case openai.FirstData:
			return nil
		case openai.FirstError:
			return c.eventFailure(data)
		case openai.FirstComment:
			if commented.IsZero() {
				commented = time.Now()
			}
		}
		if c.framing.done() {
			if len(c.held) == 0 {
				return failureOf(c, ErrBroken)
			}
			return nil
		}
		var first, grace time.Time // when first_byte is over, and the time of comments
		if f.Timeouts.FirstByte > 0 {
			first = c.sent.Add(f.Timeouts.FirstByte)
		}
		if !commented.IsZero() {
			grace = commented.Add(commentGrace)
		}
		at := earlier(earlier(first, grace), c.deadline)
		c.limitAt(at)
		if err := c.gather(); err != nil {
			if errors.Is(err, ErrTimeout) && at.Equal(grace) {
				return nil // the engine lives; the client shall see it
			}
			return failureOf(c, c.cutShort(err))
		}
	}
	return nil
}

func isEventStream(contentType []byte) bool {
	const sse = "text/event-stream"
	return len(contentType) >= len(sse) && is(contentType[:len(sse)], sse)
}

// late tells whether timeouts.total is over.
func (c *Call) late() bool { return !c.deadline.IsZero() && !time.Now().Before(c.deadline) }

// examineError reads an error answer and decides by the table of retries.
func (f *Forwarder) examineError(c *Call) *Failure {
	if fail := f.whole(c); fail != nil {
		return fail
	}
	status, body := c.head.status, c.held
	err, shape := openai.EngineError(status, body)
	fail := &Failure{Err: err, outcome: stats.OK, retryAfter: c.retryAfter()}
	if shape == c.Shape || (c.Native && len(body) > 0) {
		fail.Body, fail.ContentType = bytes.Clone(body), bytes.Clone(c.head.contentType)
	}
	if err.RetryAfter == 0 {
		err.RetryAfter = fail.retryAfter
	}
	switch {
	case status == 401:
		fail = &Failure{Err: openai.BadGateway(), outcome: stats.Unauthorized}
		if c.Search {
			fail.retry = search
		}
	case status == 429, status == 503 && queueFull(err.Message):
		fail.outcome, fail.retry = stats.Overloaded, budget
	case status == 502, status == 503, status == 504, status == 500 && openai.EngineDead(body):
		fail.outcome, fail.retry = stats.ServerError, budget
	case status >= 500:
		fail.outcome = stats.ServerError
	case status == 404 && c.Search:
		fail.retry = search
	case fail.Body != nil:
		f.commit(c)
		return nil
	}
	if c.framing.done() {
		c.upstreamDone()
	}
	return fail
}

// Refusal is an open answer that is no stream, as an error: what the engine
// says in place of the stream that it was asked for.
func (c *Call) Refusal() *openai.Error {
	if c.head.status < 400 {
		return openai.BadGateway()
	}
	err, _ := openai.EngineError(c.head.status, c.held)
	return err
}

// queueFull tells an engine that has too much to do from one that is not
// able: both are 503.
func queueFull(message string) bool {
	m := strings.ToLower(message)
	return strings.Contains(m, "queue") || strings.Contains(m, "overloaded")
}

// eventFailure is a stream whose first event is an error: it becomes the
// status that the engine should have sent.
func (c *Call) eventFailure(data []byte) *Failure {
	err, shape := openai.EventError(data)
	fail := &Failure{Err: err, outcome: stats.OK}
	if shape == c.Shape {
		fail.Body = bytes.Clone(data)
	}
	switch {
	case err.Status == 429, err.Status == 503 && queueFull(err.Message):
		fail.outcome, fail.retry = stats.Overloaded, budget
	case err.Status >= 500, err.Status == 424: // TGI's "failed during generation"
		fail.outcome, fail.retry = stats.ServerError, budget
	}
	return fail
}

// retryAfter is the engine's Retry-After in seconds (RFC 9110, section
// 10.2.3), zero when there is none. Dates are not read: no engine sends one.
func (c *Call) retryAfter() time.Duration {
	for _, h := range c.head.fields {
		if is(h.name, "retry-after") {
			if n, ok := parseLength(h.value); ok && n < 3600 {
				return time.Duration(n) * time.Second
			}
		}
	}
	return 0
}

type dialError struct{ error }

func (e *dialError) Unwrap() error { return e.error }

// failureOf is the table of retries for attempts that brought no answer.
func failureOf(c *Call, err error) *Failure {
	if c.Interrupted() != None {
		return interrupted()
	}
	var dial *dialError
	switch {
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return &Failure{Err: openai.Unavailable("", time.Second), outcome: stats.DialFailed, ours: true}
	case errors.Is(err, syscall.EADDRNOTAVAIL): // no port left, but perhaps towards another backend
		return &Failure{Err: openai.Unavailable("", time.Second), outcome: stats.DialFailed, retry: outside, ours: true}
	case errors.As(err, &dial):
		return &Failure{Err: openai.BadGateway(), outcome: stats.DialFailed, retry: outside, Gone: errors.Is(err, syscall.ECONNREFUSED)}
	case errors.Is(err, errLost), errors.Is(err, errReusedLost), errors.Is(err, errBackendDead):
		return &Failure{Err: openai.BadGateway(), outcome: stats.Lost, retry: outside}
	case errors.Is(err, ErrTimeout):
		return &Failure{Err: openai.GatewayTimeout(), outcome: stats.Timeout, retry: budget, ours: c.late()}
	case errors.Is(err, ErrBroken): // an engine sends the head long before it dies in prefill
		return &Failure{Err: openai.BadGateway(), outcome: stats.ServerError, retry: outside}
	}
	return &Failure{Err: openai.BadGateway(), outcome: stats.ServerError, retry: budget}
}

// interrupted is a call that ended for no fault of a backend. A client that
// left does not see the error.
func interrupted() *Failure {
	return &Failure{Err: openai.ShuttingDown(), outcome: stats.ClientGone}
}

// unavailable is a request that no backend may be asked for.
func unavailable(err route.PickErr, c *Call) *Failure {
	if err == route.Full {
		return &Failure{Err: openai.Overloaded(time.Second)}
	}
	return &Failure{Err: openai.Unavailable(c.Model, time.Second)}
}
