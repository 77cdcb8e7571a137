package forward

import (
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/llmproxy/llmproxy/pkg/socket"
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

	// What the callbacks of RawConn.Read are given and give back; they are
	// bound once so that a read allocates nothing.
	readOnce, readAll func(fd uintptr) bool
	before            func() (sent bool, err error)         // of readOnce
	each              func(buf *readBuffer, in []byte) bool // of readAll
	buf               *readBuffer
	n                 int
	err               error
	writeSome, look   func(fd uintptr) bool
	still             bool   // nothing was there to read
	out               []byte // what it has still to write
	outErr            error

	limit time.Time // the read deadline in force, zero for none

	hangups *Hangups // watches it; nil when nobody does
	id      uint64   // among those watched
	ended   atomic.Bool
	endMu   sync.Mutex // guards woken, and that it comes with its deadline
	woken   bool
}

func newConn(raw net.Conn, t *tls.Conn) *conn {
	k := &conn{Conn: raw, raw: raw}
	k.look = k.lookOnce
	if t != nil {
		k.Conn = t
		return k
	}
	if s, ok := raw.(syscall.Conn); ok {
		if sys, err := s.SyscallConn(); err == nil {
			k.sys = sys
			k.readOnce, k.readAll, k.writeSome = k.once, k.all, k.some
		}
	}
	return k
}

// Close closes the connection.
func (k *conn) Close() error {
	if k.hangups != nil {
		k.hangups.remove(k)
	}
	return k.Conn.Close()
}

// once waits for bytes; false is "not yet". Before the first wait it calls
// before, if there is one: what an engine answers to what before sends cannot
// be missed, so there is no need to look for it at once.
func (k *conn) once(fd uintptr) bool {
	if before := k.before; before != nil {
		k.before = nil
		sent, err := before()
		if err != nil {
			k.n, k.err = 0, err
			return true
		}
		if sent && k.quiet() {
			return false
		}
	}
	k.buf = readBuffers.Get().(*readBuffer)
	var wait bool
	k.n, wait, k.err = socket.Read(fd, k.buf.room())
	if k.n == 0 {
		readBuffers.Put(k.buf)
		k.buf = nil
	}
	return !wait
}

// all passes on whatever comes, until each is content.
func (k *conn) all(fd uintptr) bool {
	for {
		buf := readBuffers.Get().(*readBuffer)
		n, wait, err := socket.Read(fd, buf.room())
		if n == 0 {
			readBuffers.Put(buf)
			k.err = err
			return !wait
		}
		if !k.each(buf, buf.room()[:n]) {
			k.err = nil
			return true
		}
		// A short read has emptied the socket; what comes later is told.
		if n < readSize && k.quiet() {
			return false
		}
	}
}

// quiet tells whether the next bytes, or the end, will be told.
func (k *conn) quiet() bool { return k.hangups != nil && !k.ended.Load() }

// Write writes p whole.
func (k *conn) Write(p []byte) (int, error) {
	if k.sys == nil {
		return k.Conn.Write(p)
	}
	k.out = p
	err := k.sys.Write(k.writeSome)
	n := len(p) - len(k.out)
	k.out = nil
	if err == nil {
		err = k.outErr
	}
	return n, err
}

// some writes what the socket takes; false is "not all yet".
func (k *conn) some(fd uintptr) bool {
	for {
		n, wait, err := socket.Write(fd, k.out)
		k.out, k.outErr = k.out[n:], err
		if wait || err != nil || len(k.out) == 0 {
			return !wait
		}
	}
}

// stale tells whether an idle connection was closed by the engine, or holds
// bytes that nobody asked for: the next request would get them for its answer.
// The look costs a system call, and each reuse is worth it.
func (k *conn) stale() bool {
	sys := k.sys
	if sys == nil { // under TLS
		s, ok := k.raw.(syscall.Conn)
		if !ok {
			return false
		}
		var err error
		if sys, err = s.SyscallConn(); err != nil {
			return true
		}
	}
	k.still = false
	return sys.Read(k.look) != nil || !k.still
}

func (k *conn) lookOnce(fd uintptr) bool {
	k.still = socket.Quiet(fd)
	return true
}
