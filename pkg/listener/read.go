package listener

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/llmproxy/llmproxy/pkg/socket"
)

// readBuffer holds a small request whole.
type readBuffer [4096]byte

// firstRead makes the wait for the next request hold no buffer. fasthttp,
// told to reduce its memory, waits for a request with a 1-byte Read. Here that
// byte is read together with what stands behind it, into a buffer taken when
// the socket is readable and given back when its last byte is handed out: a
// small request costs one read(2), and an idle connection no memory.
//
// Longer reads with nothing held back (request bodies, TLS records) go
// straight to the socket.
type firstRead struct {
	fill func(fd uintptr) bool // readReady, made once; nil = not for this connection
	pool *sync.Pool            // of *readBuffer
	buf  *readBuffer           // holds rest; nil = rest is empty
	rest []byte                // read and not handed out yet
	err  error                 // why readReady found nothing
}

func (f *firstRead) prepare(pool *sync.Pool) {
	f.pool = pool
	f.fill = f.readReady
}

// readReady fills buf from the socket fd; false = it has nothing to read yet.
func (f *firstRead) readReady(fd uintptr) bool {
	buf := f.pool.Get().(*readBuffer)
	n, wait, err := socket.Read(fd, buf[:])
	if n > 0 {
		f.buf, f.rest = buf, buf[:n]
		return true
	}
	f.pool.Put(buf)
	f.err = err
	return !wait
}

// take hands out what is held back.
func (f *firstRead) take(p []byte) int {
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	if len(f.rest) == 0 {
		f.pool.Put(f.buf)
		f.buf, f.rest = nil, nil
	}
	return n
}

// Read reads into p as net.Conn says.
func (c *Conn) Read(p []byte) (int, error) {
	f := &c.first
	if c.pump != nil {
		return c.pump.Read(p)
	}
	if f.buf == nil && (len(p) != 1 || f.fill == nil) {
		return c.Conn.Read(p)
	}
	if err := c.fetch(); err != nil {
		return 0, err
	}
	return f.take(p), nil
}

// fetch waits until there is something to read and holds it back.
func (c *Conn) fetch() error {
	f := &c.first
	if c.pump != nil {
		return c.pump.await()
	}
	if f.buf != nil || f.fill == nil {
		return nil
	}
	if err := c.raw.Read(f.fill); err != nil {
		return err
	}
	if f.buf == nil {
		return c.failed("read", f.err)
	}
	return nil
}

// failed is the error of a system call as package net would put it.
func (c *Conn) failed(call string, err error) error {
	if err == nil {
		return nil // before errno, which takes memory
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err
	}
	return &net.OpError{
		Op: call, Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(),
		Err: os.NewSyscallError(call, errno),
	}
}
