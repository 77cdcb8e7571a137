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

// Ended tells whether the upstream's answer has come to its end.
func (c *Call) Ended() bool { return c.framing.done() }

// Fields calls f with each header field of the engine that the client may see.
func (c *Call) Fields(f func(name, value []byte)) {
	for _, h := range c.head.fields {
		f(h.name, h.value)
	}
}

// Sent reports whether any attempt came as far as to send the request to an engine.
func (c *Call) Sent() bool { return c.sends > 0 }

// ErrBroken is wrapped by the error of a Relay whose upstream ended early, or
// was interrupted by Shutdown or a dead backend.
var ErrBroken = errors.New("upstream answer ended early")

// Relay writes the answer to w: what one read of the upstream returns is one
// Write, at once. An error that is not an ErrBroken came from w or from the
// client's leaving.
func (c *Call) Relay(w io.Writer) error {
	c.client, c.clientErr = w, nil
	more := c.relay(c.held)
	c.dropBuffer()
	if cap(c.first) > keepFirst {
		c.first = nil
	}
	var err error
	if c.conn != nil && more {
		err = c.readAll(c.relayed)
	}
	switch {
	case c.clientErr != nil:
		if c.framing.done() {
			c.upstreamDone() // its connection is as good as ever
		}
		return c.clientErr
	case err != nil:
		err = c.ending(err)
	case !c.framing.done():
		err = c.framingErr
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return c.broken(err)
	}
	c.upstreamDone()
	c.Outcome = stats.OK
	return c.finish(w)
}

// finish writes what the end of the body leaves to write, where that came behind
// the last of its bytes.
func (c *Call) finish(w io.Writer) error {
	if c.ended {
		return nil
	}
	var held []byte
	if c.Filter != nil {
		held = c.Filter.Flush()
	}
	if c.Meter != nil {
		c.settle()
	}
	return c.End(w, held)
}

// relayRead relays what one read brought, and tells whether there is more to
// come.
func (c *Call) relayRead(buf *readBuffer, in []byte) (more bool) {
	c.buf = buf
	out, err := c.payload(in)
	if err == nil {
		more = c.relay(out)
	}
	c.framingErr = err
	c.dropBuffer()
	return more
}

// relay writes p, which stands in c.buf, to the client.
func (c *Call) relay(p []byte) (more bool) {
	if len(p) > 0 {
		if c.Tap != nil {
			c.Tap(p)
		}
		c.watch(p)
		c.ended = c.framing.done()
		if c.Meter != nil {
			p = c.meter(p)
		}
		c.Relayed += int64(len(p))
		if c.clientErr = c.write(c.client, p, c.ended); c.clientErr != nil {
			return false
		}
	}
	if c.framing.done() {
		return false
	}
	c.limitSilence()
	return true
}

// End writes p, the caller's own end of an answer that broke, and the last chunk
// where there are chunks.
func (c *Call) End(w io.Writer, p []byte) error {
	c.dropBuffer()
	c.Relayed += int64(len(p))
	if len(p) > 0 {
		return c.write(w, p, true)
	}
	if c.Chunked {
		_, err := w.Write(lastChunk)
		return err
	}
	return nil
}

// markEvery is how often a stream's progress is reported.
const markEvery = 2 * time.Second

// meter has the usage read out of p, and returns what the client gets of it.
func (c *Call) meter(p []byte) []byte {
	if !c.sse {
		c.Meter.Whole(p)
		if c.ended {
			c.settle()
		}
		return p
	}
	c.Meter.Scan(p)
	out := p
	if c.Filter != nil {
		out = c.Filter.Filter(p)
		if c.ended {
			out = append(out, c.Filter.Flush()...)
		}
		c.apart = len(out) > 0 && &out[0] != &p[0]
	}
	switch {
	case c.ended || c.Events.Done:
		c.settle()
	case c.marked.IsZero():
		c.marked = c.LastByte
	case c.LastByte.Sub(c.marked) >= markEvery:
		c.marked = c.LastByte
		c.Report(false)
	}
	return out
}

func (c *Call) settle() {
	if !c.settled {
		c.settled = true
		c.Report(true)
	}
}

// write passes p on, framed when the client wants chunks.
func (c *Call) write(w io.Writer, p []byte, last bool) error {
	if len(p) == 0 {
		c.ended = false // the last chunk has nothing to go with
		return nil
	}
	if !c.Chunked {
		_, err := w.Write(p)
		return err
	}
	if c.buf != nil && !c.apart {
		_, err := w.Write(frame(c.buf, p, last))
		return err
	}
	// It was gathered from several reads: a stream's beginning, or an event that
	// the filter had to wait for.
	buf := readBuffers.Get().(*readBuffer)
	defer readBuffers.Put(buf)
	for len(p) > 0 {
		n := copy(buf.room(), p)
		p = p[n:]
		if _, err := w.Write(frame(buf, buf.room()[:n], last && len(p) == 0)); err != nil {
			return err
		}
	}
	return nil
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
