package forward

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"
)

// errLost is a connection that ended, for whatever reason, before the first
// byte of an answer.
var errLost = errors.New("connection lost before the first byte of an answer")

// smallBody is the largest body that is sent in one piece with its head. A
// larger one is not copied.
const smallBody = 16 << 10

// sendTimeout bounds the sending of a large body to an engine that does not
// read it.
const sendTimeout = 60 * time.Second

// sendFirst sends the request. An engine may refuse a body before it has read
// it, so a lost connection still has its answer looked for.
func (c *Call) sendFirst() (sent bool, err error) {
	c.sendErr = c.send(c.up)
	if c.sendErr != nil && !errors.Is(c.sendErr, errLost) {
		return false, c.sendErr
	}
	c.limit(c.firstByte)
	return c.sendErr == nil, nil
}

// send writes the request.
func (c *Call) send(u *Upstream) error {
	c.sends++
	length := c.Upload.length()
	for _, part := range c.Body {
		length += int64(len(part))
	}
	buf := readBuffers.Get().(*readBuffer)
	defer readBuffers.Put(buf)
	out := c.appendHead(buf[:0], u, length)
	if c.Upload != nil {
		return c.sendUpload(out)
	}
	if length <= smallBody {
		for _, part := range c.Body {
			out = append(out, part...)
		}
		_, err := c.conn.Write(out)
		return lost(err)
	}
	c.writeLimit(sendTimeout)
	defer c.writeLimit(0)
	parts := append(net.Buffers{out}, c.Body...)
	if c.conn.sys != nil {
		_, err := parts.WriteTo(c.conn.raw) // writev
		return lost(err)
	}
	for _, part := range parts {
		if _, err := c.conn.Write(part); err != nil {
			return lost(err)
		}
	}
	return nil
}

// lost gives a failed read or write its kind; a deadline keeps its own.
func lost(err error) error {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", errLost, err)
}

func (c *Call) writeLimit(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != None || c.dead {
		return
	}
	var at time.Time
	if d > 0 {
		at = earlier(time.Now().Add(d), c.deadline)
	}
	_ = c.conn.raw.SetWriteDeadline(at) // a closed connection shows at the write
}

// appendHead writes the request line and the header: nothing of the client's
// but what Header allows.
func (c *Call) appendHead(b []byte, u *Upstream, length int64) []byte {
	b = append(b, c.Method...)
	b = append(b, ' ')
	b = append(b, u.prefix...)
	b = append(b, c.Path...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, u.host...)
	if u.APIKey != "" {
		b = append(b, "\r\nAuthorization: Bearer "...)
		b = append(b, u.APIKey...)
	}
	switch {
	case c.BodyType != nil:
		b = append(b, "\r\nContent-Type: "...)
		b = append(b, c.BodyType...)
		b = append(b, "\r\nContent-Length: "...)
		b = strconv.AppendInt(b, length, 10)
	case length > 0 || c.Method == "POST":
		b = append(b, "\r\nContent-Type: application/json\r\nContent-Length: "...)
		b = strconv.AppendInt(b, length, 10)
	}
	b = append(b, "\r\nX-Request-Id: "...)
	b = append(b, c.ID...)
	b = append(b, '-')
	b = strconv.AppendInt(b, int64(c.sends), 10)
	b = append(b, "\r\n"...)
	b = append(b, c.Header...)
	return append(b, "\r\n"...)
}

// readHead sends the request and reads until the answer's head is whole. What
// came of the body with it is decoded and held.
func (c *Call) readHead() error {
	c.headBytes = c.headBytes[:0]
	for before := c.sending; ; before = nil {
		buf, in, err := c.readReady(before)
		if err != nil {
			if len(c.headBytes) > 0 && !errors.Is(err, os.ErrDeadlineExceeded) {
				return io.ErrUnexpectedEOF // an answer had begun
			}
			return lost(err)
		}
		end := len(in)
		if i := bytes.Index(in, headEnd); i >= 0 && len(c.headBytes) == 0 {
			end = i + len(headEnd) // the usual case: nothing but the head is copied
		}
		c.headBytes = append(c.headBytes, in[:end]...)
		k, err := c.head.parse(c.headBytes)
		if err == nil && k == 0 && end < len(in) { // that was an interim response
			c.headBytes = append(c.headBytes, in[end:]...)
			end = len(in)
			k, err = c.head.parse(c.headBytes)
		}
		if err == nil && (k > maxHead || k == 0 && len(c.headBytes) > maxHead) {
			err = errMalformed
		}
		if err == nil && k > 0 {
			return c.hold(buf, in[end-(len(c.headBytes)-k):])
		}
		readBuffers.Put(buf)
		if err != nil {
			return err
		}
	}
}

var headEnd = []byte("\r\n\r\n")

// hold keeps the body bytes that came with the head, which stand in buf.
func (c *Call) hold(buf *readBuffer, in []byte) error {
	c.framing.reset(c.head.length)
	c.first = c.first[:0] // of an attempt before this one
	out, err := c.payload(in)
	if err != nil || len(out) == 0 {
		readBuffers.Put(buf)
		return err
	}
	c.buf, c.held = buf, out
	return nil
}
