package forward

import (
	"errors"
	"io"
	"time"

	"github.com/llmproxy/llmproxy/pkg/route"
	"github.com/llmproxy/llmproxy/pkg/stats"
)

// Status, ContentType, Length, SSE and Fields describe the answer of a
// successful Open. Length is -1 when it is not known. The slices are valid until
// Close.
func (c *Call) Status() int         { return c.head.status }
func (c *Call) ContentType() []byte { return c.head.contentType }
func (c *Call) Length() int         { return int(c.length) }
func (c *Call) SSE() bool           { return c.sse }

// Fields calls f with each header field of the engine that the client may see.
func (c *Call) Fields(f func(name, value []byte)) {
	for _, h := range c.head.fields[:c.head.nfields] {
		f(h.name, h.value)
	}
}

// ErrBroken is wrapped by the error of a Relay whose upstream ended early, or
// was interrupted by Shutdown or a dead backend.
var ErrBroken = errors.New("upstream answer ended early")

// Relay writes the answer to w: what one read of the upstream returns is one
// Write, at once. An error that is not an ErrBroken came from w or from the
// client's leaving.
func (c *Call) Relay(w io.Writer) error {
	p := c.held
	for {
		if len(p) > 0 {
			c.watch(p)
			if _, err := w.Write(p); err != nil {
				return err
			}
		}
		c.dropBuffer()
		if c.conn == nil { // it was read to its end before it was opened
			c.Outcome = stats.OK
			return nil
		}
		var err error
		c.limitSilence()
		p, err = c.read()
		if errors.Is(err, io.EOF) {
			c.upstreamDone()
			c.Outcome = stats.OK
			return nil
		}
		if err != nil {
			return c.broken(err)
		}
	}
}

func (c *Call) broken(err error) error {
	if errors.Is(err, errClientLeft) {
		return err
	}
	c.Outcome = stats.Broken
	if !errors.Is(err, ErrShuttingDown) && !c.late() && c.Backend.Failed(route.FailAnswer, time.Now()) {
		c.up.stats.Ejections.Inc()
	}
	return &brokenError{err}
}

type brokenError struct{ reason error }

func (e *brokenError) Error() string   { return ErrBroken.Error() + ": " + e.reason.Error() }
func (e *brokenError) Unwrap() []error { return []error{ErrBroken, e.reason} }

// watch looks at the bytes in passing.
func (c *Call) watch(p []byte) {
	if !c.sse {
		return
	}
	c.Events.Scan(p)
	c.LastByte = time.Now()
	if c.FirstToken.IsZero() && c.Events.HasContent() {
		c.FirstToken = c.LastByte
	}
	if c.Events.Done && !c.complete {
		c.mu.Lock()
		c.complete = true
		c.mu.Unlock()
	}
}
