// Package listener is the client's side of the gateway: it accepts
// connections whatever the machine runs short of, tells the moment a client
// goes while its request is being served, and gives everything back on Close.
//
// The watch reads nothing from a socket. On Linux it costs one epoll_ctl per
// connection and nothing per request; elsewhere watched sockets are looked at
// every 100 ms. A connection that is no socket (an in-memory pipe) is read
// ahead by a goroutine of its own, up to 64 KiB, so that its end is seen too.
package listener

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	defaultUserTimeout = 30 * time.Second
	keepAlivePeriod    = 15 * time.Second
)

// Options say what a Listener allows a client. The zero value sets no limit.
type Options struct {
	// MaxConns and MaxConnsPerIP cap the open connections in all and of one
	// address; 0 = no limit. A connection over a cap is closed at once. IPv4
	// and IPv4-mapped IPv6 are one address; unix sockets have none.
	MaxConns, MaxConnsPerIP int

	// WriteTimeout fails the Write to a client that takes no byte for this
	// long; 0 = never. It rolls: any progress starts it anew, and it is
	// refreshed coarsely, so the failure comes never sooner and at most two
	// and a half times later. A write deadline set by hand stands in for it
	// until it is cleared.
	WriteTimeout time.Duration

	// UserTimeout is how long sent bytes may stay unacknowledged before the
	// kernel drops the client (TCP_USER_TIMEOUT, Linux only); 0 = 30 s,
	// negative = the system's own (about 15 minutes). Linux also applies it
	// to a client that keeps its receive window shut.
	UserTimeout time.Duration

	// SocketMode is the mode of the file of a unix socket that Listen makes,
	// who may connect; 0 = what the process's umask leaves.
	SocketMode fs.FileMode

	// Logf reports faults of accepting, at most one line in ten seconds;
	// nil = silent.
	Logf func(format string, args ...any)
}

// Stats are the totals of a Listener since it was made.
type Stats struct {
	Accepted           int64 // handed out by Accept
	Open               int64 // of these, not yet closed
	RefusedMaxConns    int64 // closed at once: over MaxConns
	RefusedPerIP       int64 // closed at once: over MaxConnsPerIP
	RefusedDescriptors int64 // closed at once: the last file descriptor
	RefusedUnwatchable int64 // closed at once: the kernel would not watch it
	AcceptFaults       int64 // times accept failed and was tried again
}

// Listener is a net.Listener whose connections are *Conn.
type Listener struct {
	ln      net.Listener
	opts    Options
	bufs    sync.Pool // of *readBuffer
	done    chan struct{}
	reserve reserve
	faults  throttle

	away        atomic.Int64 // unix nanoseconds of Accept's last return; 0 = it runs
	interrupted atomic.Bool
	idleOver    atomic.Bool // CloseIdle was called

	accepted, acceptFaults                 atomic.Int64
	refusedMaxConns, refusedPerIP          atomic.Int64
	refusedDescriptors, refusedUnwatchable atomic.Int64

	// mu protects what follows. It is never held while a callback runs.
	mu     sync.Mutex
	closed bool
	lastID uint64
	conns  map[uint64]*Conn
	perIP  map[netip.Addr]int
	watch  *watch // made with the first socket, ends with the last
}

// Listen listens on a TCP address (dual stack when the host is empty) or, with
// network "unix" or an address "unix:/path", on a unix socket. A socket file
// that nobody listens on any more is replaced, one that somebody does is an
// error; Close removes the file.
func Listen(network, addr string, o Options) (*Listener, error) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	var ln net.Listener
	var err error
	if network == "unix" {
		ln, err = listenUnix(addr, o.SocketMode)
	} else {
		ln, err = openTCP(network, addr)
	}
	if err != nil {
		return nil, err
	}
	l, err := New(ln, o)
	if err != nil {
		ln.Close()
		return nil, err
	}
	return l, nil
}

func openTCP(network, addr string) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: -1} // set per connection, see Conn
	// Go listens with Multipath TCP by default; its sockets report the end of
	// a connection differently.
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), network, addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	return ln, nil
}

// New wraps ln, which it closes with itself. It fails when ln is a socket and
// the system has no descriptor left for the watch.
func New(ln net.Listener, o Options) (*Listener, error) {
	if o.UserTimeout == 0 {
		o.UserTimeout = defaultUserTimeout
	}
	l := &Listener{
		ln:    ln,
		opts:  o,
		done:  make(chan struct{}),
		conns: map[uint64]*Conn{},
		perIP: map[netip.Addr]int{},
	}
	l.bufs.New = func() any { return new(readBuffer) }
	if _, ok := ln.(syscall.Conn); !ok {
		return l, nil
	}
	if _, err := l.watcher(); err != nil {
		return nil, err
	}
	if err := l.reserve.open(); err != nil {
		l.watch.close()
		return nil, err
	}
	return l, nil
}

// Addr is the address listened on.
func (l *Listener) Addr() net.Addr { return l.ln.Addr() }

// Close ends Accept. Connections stay open and watched.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.endWatch()
	l.mu.Unlock()
	close(l.done)
	err := l.ln.Close()
	l.reserve.close()
	return err
}

// Interrupt calls the leave callback of every watched connection with
// Interrupted, now and, for a request that comes later, as soon as it is
// watched: the deadline of a shutdown has passed.
func (l *Listener) Interrupt() {
	l.interrupted.Store(true)
	for _, c := range l.open() {
		c.notify(Interrupted)
	}
}

// CloseIdle closes the connections that are in Await, now and from now on: a
// shutdown has begun.
func (l *Listener) CloseIdle() {
	l.idleOver.Store(true)
	for _, c := range l.open() {
		if c.idle.CompareAndSwap(true, false) {
			c.Close()
		}
	}
}

// Stats returns the totals so far.
func (l *Listener) Stats() Stats {
	l.mu.Lock()
	open := len(l.conns)
	l.mu.Unlock()
	return Stats{
		Accepted:           l.accepted.Load(),
		Open:               int64(open),
		RefusedMaxConns:    l.refusedMaxConns.Load(),
		RefusedPerIP:       l.refusedPerIP.Load(),
		RefusedDescriptors: l.refusedDescriptors.Load(),
		RefusedUnwatchable: l.refusedUnwatchable.Load(),
		AcceptFaults:       l.acceptFaults.Load(),
	}
}

// open is a copy of the open connections.
func (l *Listener) open() []*Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	conns := make([]*Conn, 0, len(l.conns))
	for _, c := range l.conns {
		conns = append(conns, c)
	}
	return conns
}

// find returns the open connection with this id, or nil.
func (l *Listener) find(id uint64) *Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conns[id]
}

// enter counts nc in and returns its Conn, or closes it when a cap is reached
// and returns nil.
func (l *Listener) enter(nc net.Conn) *Conn {
	c := &Conn{Conn: nc, l: l, ip: clientIP(nc)}
	l.mu.Lock()
	var refused *atomic.Int64
	switch {
	case l.opts.MaxConns > 0 && len(l.conns) >= l.opts.MaxConns:
		refused = &l.refusedMaxConns
	case l.opts.MaxConnsPerIP > 0 && c.ip.IsValid() && l.perIP[c.ip] >= l.opts.MaxConnsPerIP:
		refused = &l.refusedPerIP
	}
	if refused != nil {
		l.mu.Unlock()
		refused.Add(1)
		reset(nc)
		l.faults.logf(l.opts.Logf, "refused a connection from %s: too many are open", nc.RemoteAddr())
		return nil
	}
	l.lastID++
	c.id = l.lastID
	l.conns[c.id] = c
	if l.opts.MaxConnsPerIP > 0 && c.ip.IsValid() {
		l.perIP[c.ip]++
	}
	l.mu.Unlock()
	return c
}

// forget gives back what enter took.
func (l *Listener) forget(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c.id)
	if l.opts.MaxConnsPerIP > 0 && c.ip.IsValid() {
		if l.perIP[c.ip]--; l.perIP[c.ip] == 0 {
			delete(l.perIP, c.ip)
		}
	}
	l.endWatch()
}

// watcher returns the watch, making it if there is none yet.
func (l *Listener) watcher() (*watch, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watch == nil {
		w, err := newWatch(l)
		if err != nil {
			return nil, fmt.Errorf("cannot watch connections: %w", err)
		}
		l.watch = w
	}
	return l.watch, nil
}

// endWatch stops the watch once the listener and its last connection are
// closed. l.mu is held.
func (l *Listener) endWatch() {
	if l.closed && len(l.conns) == 0 && l.watch != nil {
		l.watch.close()
		l.watch = nil
	}
}

// clientIP is the address that MaxConnsPerIP counts; invalid = not counted.
func clientIP(nc net.Conn) netip.Addr {
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// reset closes nc with a RST, which leaves no state behind on this machine.
func reset(nc net.Conn) {
	if tc, ok := nc.(*net.TCPConn); ok {
		_ = tc.SetLinger(0) // on failure it is closed all the same
	}
	nc.Close()
}
