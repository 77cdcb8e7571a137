//go:build unix && (!linux || peekwatch)

package listener

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// peekPeriod is how often watched sockets are looked at.
const peekPeriod = 100 * time.Millisecond

// watch looks into the watched sockets of a listener from time to time. Where
// poll(2) does not report the end of one side, it sees none behind unread
// bytes, such as the last record of TLS. The build tag peekwatch brings it to
// Linux for tests.
type watch struct {
	l    *Listener
	done chan struct{}
}

func newWatch(l *Listener) (*watch, error) {
	w := &watch{l: l, done: make(chan struct{})}
	go w.run()
	return w, nil
}

// add does nothing: run looks at all connections that are open.
func (w *watch) add(*Conn) error { return nil }

func (w *watch) run() {
	tick := time.NewTicker(peekPeriod)
	defer tick.Stop()
	for {
		select {
		case <-w.done:
			return
		case <-tick.C:
		}
		for _, c := range w.l.open() {
			if c.watched() && c.raw != nil && ended(c.raw) {
				c.notify(Left)
			}
		}
	}
}

// close ends run.
func (w *watch) close() { close(w.done) }

func (c *Conn) watched() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leave != nil
}

// ended tells whether the client ended its side or the connection broke.
func ended(raw syscall.RawConn) bool {
	gone := false
	// An error means that it is closed on our side.
	_ = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, 0); n != 1 || err != nil {
			return
		}
		if poll[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0 {
			gone = true // macOS says so even behind unread bytes
			return
		}
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		gone = err == nil && n == 0 || err != nil && err != unix.EAGAIN && err != unix.EINTR
	})
	return gone
}
