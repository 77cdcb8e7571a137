package forward

import (
	"errors"
	"io"
	"time"
)

// await runs f as RawConn.Read does: again and again, whenever the connection
// may be readable, until f returns true.
func (c *Call) await(f func(fd uintptr) bool) error {
	for {
		err := c.conn.sys.Read(f)
		if err == nil || !c.conn.wokenByEnd() {
			return err
		}
		c.mu.Lock()
		if c.cause == None && !c.dead { // else Interrupt's own deadline stands
			_ = c.conn.raw.SetReadDeadline(c.conn.limit)
		}
		c.mu.Unlock()
		if !c.conn.limit.IsZero() && time.Now().After(c.conn.limit) {
			return err
		}
	}
}

// readReady waits until the connection has bytes and returns them in a pooled
// buffer, which is taken only then and is the caller's to give back. before, if
// there is one, is called first; it tells whether it sent all that the answer
// is waiting for.
func (c *Call) readReady(before func() (sent bool, err error)) (*readBuffer, []byte, error) {
	k := c.conn
	if k.sys == nil {
		if before != nil {
			if _, err := before(); err != nil {
				return nil, nil, err
			}
		}
		for {
			buf := readBuffers.Get().(*readBuffer)
			n, err := k.Conn.Read(buf.room())
			if n > 0 {
				return buf, buf.room()[:n], nil
			}
			readBuffers.Put(buf)
			if err != nil {
				return nil, nil, err
			}
		}
	}
	k.before = before
	err := c.await(k.readOnce)
	if err == nil {
		err = k.err
	}
	buf := k.buf
	k.buf = nil
	if err != nil {
		return nil, nil, err
	}
	return buf, buf.room()[:k.n], nil
}

// readAll passes what each read of the upstream brings to each, which gives the
// buffer back, until that returns false or the connection ends, which is an
// error.
func (c *Call) readAll(each func(buf *readBuffer, in []byte) bool) error {
	k := c.conn
	if k.sys != nil {
		k.each = each
		if err := c.await(k.readAll); err != nil {
			return err
		}
		return k.err
	}
	for {
		buf := readBuffers.Get().(*readBuffer)
		n, err := k.Conn.Read(buf.room())
		if n == 0 && err != nil {
			readBuffers.Put(buf)
			return err
		}
		if !each(buf, buf.room()[:n]) {
			return nil
		}
	}
}

// payload takes the framing off what a read brought.
func (c *Call) payload(in []byte) ([]byte, error) {
	out, err := c.framing.decode(in)
	if errors.Is(err, errExcess) && c.framing.done() {
		c.head.keepAlive = false // the body is whole; the connection is not used again
		err = nil
	}
	return out, err
}

// ending is what a failed read means for the answer: io.EOF after a whole one.
func (c *Call) ending(err error) error {
	if errors.Is(err, io.EOF) {
		return c.framing.end()
	}
	return c.reason(err)
}

// read returns what one read of the upstream brought, framing taken off;
// io.EOF after the body's last byte. The bytes stay valid until the next read
// or dropBuffer.
func (c *Call) read() ([]byte, error) {
	c.dropBuffer()
	for !c.framing.done() {
		buf, in, err := c.readReady(nil)
		if err != nil {
			return nil, c.ending(err)
		}
		out, err := c.payload(in)
		if err != nil || len(out) == 0 {
			readBuffers.Put(buf)
		}
		if err != nil {
			return nil, err
		}
		if len(out) > 0 {
			c.buf = buf
			return out, nil
		}
	}
	return nil, io.EOF
}

func (c *Call) dropBuffer() {
	c.held = nil
	if c.buf != nil {
		readBuffers.Put(c.buf)
		c.buf = nil
	}
}

// gather reads once more and adds it to what is held; nil at the end of the
// body too.
func (c *Call) gather() error {
	if c.buf != nil {
		c.first = append(c.first[:0], c.held...)
		c.dropBuffer()
	}
	p, err := c.read()
	if len(c.first) > 0 {
		c.first = append(c.first, p...)
		c.dropBuffer()
		p = c.first
	}
	c.held = p
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
