package listener

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// After a failure Accept waits before it tries again, twice as long each time
// in a row.
const (
	minBackoff = time.Millisecond
	maxBackoff = 100 * time.Millisecond
)

// Accept waits for the next connection, a *Conn. It fails only when the
// listener is closed or broken for good: a shortage of descriptors or memory
// and a client that left in the queue are waited out. When the process runs
// out of descriptors, the last one serves to close new connections at once, so
// that clients are refused rather than kept waiting.
func (l *Listener) Accept() (net.Conn, error) {
	l.away.Store(0)
	defer func() { l.away.Store(time.Now().UnixNano()) }()
	backoff := minBackoff
	for {
		nc, err := l.ln.Accept()
		switch {
		case err == nil:
			backoff = minBackoff
			if c := l.receive(nc); c != nil {
				return c, nil
			}
		case l.isClosed():
			return nil, net.ErrClosed
		case !passing(err):
			return nil, err
		default:
			l.acceptFaults.Add(1)
			l.faults.logf(l.opts.Logf, "cannot accept a connection: %v", err)
			if exhausted(err) && l.reserve.release() {
				continue
			}
			if !l.pause(backoff) {
				return nil, net.ErrClosed
			}
			backoff = min(2*backoff, maxBackoff)
		}
	}
}

// Away is for how long nobody has waited for connections: the time since Accept
// returned, if it has not been called again. It is 0 once the listener is closed.
func (l *Listener) Away() time.Duration {
	since := l.away.Load()
	if since == 0 || l.isClosed() {
		return 0
	}
	return time.Since(time.Unix(0, since))
}

// receive makes an accepted connection ours, or refuses it and returns nil.
func (l *Listener) receive(nc net.Conn) *Conn {
	if !l.reserve.restore() {
		// nc holds the last descriptor.
		reset(nc)
		l.refusedDescriptors.Add(1)
		l.reserve.restore()
		return nil
	}
	c := l.enter(nc)
	if c == nil {
		return nil
	}
	if err := c.setUp(); err != nil {
		// A client whose end we would not see is worse than one refused: its
		// requests would go on generating for nobody.
		c.Close()
		l.refusedUnwatchable.Add(1)
		l.faults.logf(l.opts.Logf, "cannot watch a connection: %v", err)
		return nil
	}
	l.accepted.Add(1)
	return c
}

func (l *Listener) isClosed() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// pause waits for d and returns false when the listener is closed meanwhile.
func (l *Listener) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.done:
		return false
	}
}

// exhausted: the process or the system has no descriptor left.
func exhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// passing tells whether a failed accept is worth another try: accept(2)
// reports shortages, firewall verdicts and errors already pending on the new
// connection, none of which say anything about the listening socket.
func passing(err error) bool {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		var ne net.Error
		return errors.As(err, &ne) && ne.Timeout()
	}
	switch errno {
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EINTR, syscall.EAGAIN,
		syscall.EPERM, syscall.EPROTO, syscall.ENOPROTOOPT, syscall.EOPNOTSUPP,
		syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EHOSTUNREACH,
		syscall.ETIMEDOUT:
		return true
	}
	return false
}

// reserve is a descriptor kept to be given up when there is no other: it
// turns "cannot accept" into "accept and close". The zero value keeps none.
type reserve struct {
	mu   sync.Mutex // protects the rest
	used bool       // a reserve is wanted
	file *os.File   // nil while given up
}

func (r *reserve) open() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used = true
	var err error
	if r.file, err = os.Open(os.DevNull); err != nil {
		return fmt.Errorf("cannot keep a descriptor in reserve: %w", err)
	}
	return nil
}

// release gives the descriptor up; false = it was gone already.
func (r *reserve) release() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil {
		return false
	}
	r.file.Close()
	r.file = nil
	return true
}

// restore takes a descriptor again if it was given up; false = there is none.
func (r *reserve) restore() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.used || r.file != nil {
		return true
	}
	var err error
	r.file, err = os.Open(os.DevNull)
	return err == nil
}

func (r *reserve) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used = false
	if r.file != nil {
		r.file.Close()
		r.file = nil
	}
}

// throttle lets one line through in ten seconds and says how many it hid.
type throttle struct {
	next   atomic.Int64 // unix nanoseconds
	hidden atomic.Int64
}

func (t *throttle) logf(logf func(string, ...any), format string, args ...any) {
	if logf == nil {
		return
	}
	now, next := time.Now().UnixNano(), t.next.Load()
	if now < next || !t.next.CompareAndSwap(next, now+int64(10*time.Second)) {
		t.hidden.Add(1)
		return
	}
	logf(format+" (%d more since the last report)", append(args, t.hidden.Swap(0))...)
}
