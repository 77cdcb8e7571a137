package listener

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/llmproxy/llmproxy/pkg/socket"
)

// A lingering close waits for the client for at most lingerTime and reads
// away at most lingerBytes of what it still sends.
const (
	lingerTime  = time.Second
	lingerBytes = 1 << 20
)

// Cause says why a watched request is to be ended.
type Cause int

const (
	// Left: the client closed, half-closed, reset or lost its connection.
	Left Cause = iota
	// Interrupted: the listener was interrupted; the client still listens.
	Interrupted
)

// Conn is an accepted connection. As with any net.Conn, Read and Write may
// run beside each other, but only one Read and one Write at a time.
type Conn struct {
	net.Conn // what was accepted

	l    *Listener
	id   uint64     // unique within l: descriptors are reused, ids are not
	ip   netip.Addr // what MaxConnsPerIP counts, invalid = nothing
	pump *pump      // reads ahead when this is no socket, else nil

	raw    syscall.RawConn       // nil when this is no socket
	first  firstRead             // how a 1-byte Read of a socket waits
	drain  func(fd uintptr) bool // writeReady, made once; nil = not for this connection
	out    []byte                // what it has still to write
	outErr error

	closed, lingers atomic.Bool
	idle            atomic.Bool // in Await; whoever clears it decides what comes next

	// mu protects leave and gone, and is held while leave runs.
	mu    sync.Mutex
	leave func(Cause) // non-nil = watched
	gone  bool

	// writeMu protects the two below, and that a refresh of the rolling
	// deadline cannot overwrite one set by hand.
	writeMu sync.Mutex
	armedAt time.Time // when the rolling write deadline was last set
	byHand  bool      // SetWriteDeadline was called with a deadline
}

// FromConn finds the Conn in c: c itself, or what is below a connection that
// tells, by a method NetConn as *tls.Conn has, what it stands on. It returns nil
// when there is none.
func FromConn(c net.Conn) *Conn {
	for {
		switch on := c.(type) {
		case *Conn:
			return on
		case interface{ NetConn() net.Conn }:
			c = on.NetConn()
		default:
			return nil
		}
	}
}

// Watch calls leave once, from another goroutine, when the client goes or the
// listener is interrupted between now and Unwatch. If the client has gone
// already, it returns true and does not call leave. A half-closed connection
// counts as gone, whatever is still unread before its end.
//
// leave must not block and must not call Watch, Unwatch or Close; a lock that
// leave takes must not be held while calling Watch or Unwatch. There is one
// watch at a time.
func (c *Conn) Watch(leave func(cause Cause)) (gone bool) {
	c.mu.Lock()
	if c.gone {
		c.mu.Unlock()
		return true
	}
	c.leave = leave
	c.mu.Unlock()
	// Interrupt sets its flag before it looks at the connections: one of the
	// two sees the other.
	if c.l.interrupted.Load() {
		go c.notify(Interrupted)
	}
	return false
}

// Unwatch ends the watch. After it has returned, leave is not running and
// will not be called.
func (c *Conn) Unwatch() {
	c.mu.Lock()
	c.leave = nil
	c.mu.Unlock()
}

// notify ends the watch, if there is one, with cause.
func (c *Conn) notify(cause Cause) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cause == Left {
		c.gone = true
	}
	leave := c.leave
	if leave == nil {
		return
	}
	c.leave = nil
	defer func() {
		// One request's panic must not end the watch over all others.
		if p := recover(); p != nil {
			c.l.faults.logf(c.l.opts.Logf, "panic in a leave callback: %v\n%s", p, debug.Stack())
		}
	}()
	leave(cause)
}

// Await waits until there is something to read, for at most d. It fails when
// there will be nothing: the time is over, the client left or CloseIdle was
// called. It must not run beside a Read.
func (c *Conn) Await(d time.Duration) error {
	c.idle.Store(true)
	// CloseIdle sets its flag before it looks at the connections: one of the
	// two sees the other.
	if c.l.idleOver.Load() && c.idle.CompareAndSwap(true, false) {
		return net.ErrClosed
	}
	err := c.SetReadDeadline(time.Now().Add(d))
	if err == nil {
		err = c.fetch()
	}
	if !c.idle.CompareAndSwap(true, false) {
		return net.ErrClosed
	}
	return err
}

// Linger makes the coming Close wait for the client: it ends our side, reads
// away what the client still sends (1 MiB at most) and gives it 1 s to go.
// Without it, closing before all was read resets the connection, and an
// answer such as 413 is lost to a client that is still sending.
func (c *Conn) Linger() { c.lingers.Store(true) }

// Close closes the connection and gives its place back. Further calls do
// nothing.
func (c *Conn) Close() error {
	if !c.closed.CompareAndSwap(false, true) {
		return nil
	}
	if c.lingers.Load() {
		c.linger()
	}
	err := c.Conn.Close()
	if c.pump != nil {
		c.pump.stop()
	}
	c.l.forget(c)
	return err
}

func (c *Conn) linger() {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	until := time.Now().Add(lingerTime)
	if c.Conn.SetReadDeadline(until) != nil {
		return
	}
	buf := c.l.bufs.Get().(*readBuffer)
	defer c.l.bufs.Put(buf)
	for left := lingerBytes; left > 0; {
		n, err := c.Conn.Read(buf[:])
		if err != nil {
			return
		}
		left -= n
	}
	// It sends more than we care to read. With its window shut it stops, and
	// has the rest of the time to find our answer.
	went := make(chan struct{})
	if c.Watch(func(Cause) { close(went) }) {
		return
	}
	defer c.Unwatch()
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-went:
	case <-timer.C:
	}
}

// Write writes p, failing with a timeout when the client takes nothing for
// Options.WriteTimeout.
func (c *Conn) Write(p []byte) (int, error) {
	if c.l.opts.WriteTimeout <= 0 {
		return c.write(p)
	}
	done := 0
	for c.refresh(false); ; {
		n, err := c.write(p[done:])
		done += n
		// What was taken before the deadline is progress: a slow client may
		// go on with the rest.
		if n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !c.refresh(true) {
			return done, err
		}
	}
}

// write writes p whole, or as far as it comes.
func (c *Conn) write(p []byte) (int, error) {
	if c.drain == nil {
		return c.Conn.Write(p)
	}
	c.out = p
	err := c.raw.Write(c.drain)
	n := len(p) - len(c.out)
	c.out = nil
	if err == nil {
		err = c.failed("write", c.outErr)
	}
	return n, err
}

// writeReady writes what the socket fd takes of out; false = not all of it yet.
func (c *Conn) writeReady(fd uintptr) bool {
	for {
		n, wait, err := socket.Write(fd, c.out)
		c.out, c.outErr = c.out[n:], err
		if wait || err != nil || len(c.out) == 0 {
			return !wait
		}
	}
}

// refresh sets the rolling write deadline, unless it is still young and not
// forced. It returns false when a deadline set by hand is in force.
func (c *Conn) refresh(force bool) bool {
	timeout := c.l.opts.WriteTimeout
	now := time.Now()
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if c.byHand {
		return false
	}
	if force || now.Sub(c.armedAt) > timeout/4 {
		c.armedAt = now
		// A failure to set it shows in the write that follows.
		_ = c.Conn.SetWriteDeadline(now.Add(timeout + timeout/4))
	}
	return true
}

// SetWriteDeadline sets a fixed deadline in place of the rolling one; the zero
// time brings the rolling one back.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if t.IsZero() && !c.byHand && !c.armedAt.IsZero() {
		return nil // the rolling one is in force already
	}
	c.byHand = !t.IsZero()
	c.armedAt = time.Time{}
	return c.Conn.SetWriteDeadline(t)
}

// SetReadDeadline sets the deadline of Read; the zero time is none.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if c.pump != nil {
		c.pump.setDeadline(t)
		return nil
	}
	return c.Conn.SetReadDeadline(t)
}

// SetDeadline sets both deadlines. That the connection is closed already is no
// error: its next use says so, and a server that gave up here would leave what it
// was about to hand over to nobody.
func (c *Conn) SetDeadline(t time.Time) error {
	err := c.SetReadDeadline(t)
	if err == nil {
		err = c.SetWriteDeadline(t)
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// setUp makes a connection that was counted in ready for use.
func (c *Conn) setUp() error {
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		c.pump = newPump(c.Conn)
		go c.pump.run(func() { c.notify(Left) })
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	c.raw = raw
	switch nc := c.Conn.(type) {
	case *net.TCPConn:
		c.first.prepare(&c.l.bufs)
		c.drain = c.writeReady
		// A socket that takes no option is dead already, and its next use
		// says so.
		_ = nc.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: keepAlivePeriod, Interval: keepAlivePeriod, Count: 2,
		})
		if c.l.opts.UserTimeout > 0 {
			_ = setUserTimeout(raw, c.l.opts.UserTimeout)
		}
	case *net.UnixConn:
		c.first.prepare(&c.l.bufs)
		c.drain = c.writeReady
	}
	w, err := c.l.watcher()
	if err != nil {
		return err
	}
	return w.add(c)
}
