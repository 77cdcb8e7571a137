package forward

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A read buffer has room around what is read into it, so that a chunk's size
// line and line end can be written there and all of it leaves in one write.
const (
	bufferSize = 32 << 10
	roomBefore = 8 // "7fff\r\n"
	roomAfter  = 7 // "\r\n0\r\n\r\n"
	// readSize is what one read of an upstream takes at most, and so what one
	// write to a client carries at most.
	readSize = bufferSize - roomBefore - roomAfter
)

type readBuffer [bufferSize]byte

// readBuffers holds the buffers between two reads. A stream that waits for its
// next token owns none.
var readBuffers = sync.Pool{New: func() any { return new(readBuffer) }}

// room is the part of the buffer to read into.
func (b *readBuffer) room() []byte { return b[roomBefore : roomBefore+readSize : roomBefore+readSize] }

// conn is an upstream connection. HostClient pools it as a net.Conn; between
// two requests it belongs to nobody.
type conn struct {
	net.Conn          // *tls.Conn for https
	raw      net.Conn // the socket below, whose deadlines cut reads and writes short
	sys      syscall.RawConn

	// What readReady hands from the callback of RawConn.Read to its caller;
	// the callback is bound once so that a read allocates nothing.
	onReadable func(fd uintptr) bool
	buf        *readBuffer
	n          int
	err        error

	limit time.Time // the read deadline in force, zero for none
}

func newConn(raw net.Conn, t *tls.Conn) *conn {
	c := &conn{Conn: raw, raw: raw}
	if t != nil {
		c.Conn = t
		return c
	}
	if s, ok := raw.(syscall.Conn); ok {
		if sys, err := s.SyscallConn(); err == nil {
			c.sys = sys
			c.onReadable = c.readOnce
		}
	}
	return c
}

// readReady waits until the connection has bytes and returns them in a pooled
// buffer, which is taken only then and is the caller's to give back.
func (c *conn) readReady() (*readBuffer, []byte, error) {
	if c.sys == nil {
		buf := readBuffers.Get().(*readBuffer)
		n, err := c.Conn.Read(buf.room())
		if n > 0 {
			return buf, buf.room()[:n], nil
		}
		readBuffers.Put(buf)
		return nil, nil, err
	}
	if err := c.sys.Read(c.onReadable); err != nil {
		return nil, nil, err
	}
	buf := c.buf
	c.buf = nil
	if c.err != nil {
		return nil, nil, c.err
	}
	return buf, buf.room()[:c.n], nil
}

func (c *conn) readOnce(fd uintptr) bool {
	buf := readBuffers.Get().(*readBuffer)
	for {
		n, err := unix.Read(int(fd), buf.room())
		if err == unix.EINTR {
			continue
		}
		if n > 0 {
			c.buf, c.n, c.err = buf, n, nil
			return true
		}
		readBuffers.Put(buf)
		if err == unix.EAGAIN {
			return false
		}
		c.n, c.err = 0, err
		if err == nil {
			c.err = io.EOF
		}
		return true
	}
}

// stale tells whether an idle connection was closed by the engine, or holds
// bytes that nobody asked for.
func (c *conn) stale() bool {
	s, ok := c.raw.(syscall.Conn)
	if !ok {
		return false
	}
	sys := c.sys
	if sys == nil {
		var err error
		if sys, err = s.SyscallConn(); err != nil {
			return true
		}
	}
	quiet := false
	err := sys.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		quiet = err == unix.EAGAIN
		return true
	})
	return err != nil || !quiet
}
