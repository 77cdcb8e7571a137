//go:build linux

package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// maxReason bounds what is kept of an answer that is not 200.
const maxReason = 200

// caller is one connection of the load and the request it carries.
type caller struct {
	id, target int
	fd         int   // -1 is not connected
	generation int32 // of fd, so that what was seen of an earlier one is told apart
	watchesOut bool
	connecting bool
	used       bool   // the connection has carried an answer
	in         []byte // half a head
	out        []byte // of the request, still to be sent
	timer      timer  // of the next start

	// Of the request.
	busy  bool
	start time.Duration // what latencies count from
	began bool          // a byte of the answer has come

	// Of the answer.
	head    bool   // was read
	failed  []byte // the status other than 200 and the answer's first words
	close   bool
	body    framing
	stamps  stampScan
	done    needle
	isDone  bool // data: [DONE] was read
	waiting bool // for the first event of a stream
}

func newCaller(id, target int) *caller {
	return &caller{id: id, target: target, fd: -1, timer: timer{id: id}}
}

// hangUp closes the connection.
func (c *caller) hangUp() {
	if c.fd < 0 {
		return
	}
	unix.Close(c.fd)
	c.fd, c.generation = -1, c.generation+1
}

// start sends a request that was due then.
func (l *load) start(c *caller, due time.Duration) {
	c.busy, c.start, c.out = true, due, l.ask
	c.stamps, c.waiting = stampScan{name: needle{text: contentName}}, l.streams()
	c.done, c.isDone = needle{text: doneLine}, false
	l.send(c)
}

// send sends the request, on a new connection where there is none.
func (l *load) send(c *caller) {
	c.in, c.head, c.began = c.in[:0], false, false
	if c.fd < 0 {
		if err := l.connect(c); err != nil {
			l.fail(c, "cannot connect", err)
		}
		return
	}
	l.flush(c)
}

func (l *load) connect(c *caller) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	noDelay(fd)
	c.fd, c.connecting, c.watchesOut, c.used = fd, true, true, false
	if err := unix.Connect(fd, &l.sockaddrs[c.target]); err != nil && err != unix.EINPROGRESS {
		return err
	}
	return l.poll.set(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLOUT, int32(c.id), c.generation)
}

// ready serves what the poller has seen of c.
func (l *load) ready(c *caller, seen uint32) {
	if c.connecting && seen&(unix.EPOLLOUT|hungUp) != 0 {
		code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = unix.Errno(code)
		}
		if err != nil {
			l.fail(c, "cannot connect", err)
			return
		}
		c.connecting = false
		if l.mode != openLoop { // there the request was due whether connected or not
			c.start = l.now
		}
	}
	generation := c.generation
	if seen&unix.EPOLLOUT != 0 {
		l.flush(c)
	}
	if seen&(unix.EPOLLIN|hungUp) != 0 && c.generation == generation {
		l.receive(c)
	}
}

// flush sends what of the request the socket takes.
func (l *load) flush(c *caller) {
	if len(c.out) > 0 {
		n, errno := send(c.fd, c.out)
		if errno != 0 {
			l.broken(c, errno)
			return
		}
		c.out = c.out[n:]
	}
	if wants := len(c.out) > 0; wants != c.watchesOut {
		interest := uint32(unix.EPOLLIN | unix.EPOLLRDHUP)
		if wants {
			interest |= unix.EPOLLOUT
		}
		c.watchesOut = wants
		if err := l.poll.set(unix.EPOLL_CTL_MOD, c.fd, interest, int32(c.id), c.generation); err != nil {
			l.fail(c, "cannot send", err)
		}
	}
}

func (l *load) receive(c *caller) {
	n, errno := receive(c.fd, l.buf)
	switch {
	case errno == unix.EAGAIN:
	case errno != 0 || n == 0:
		l.broken(c, errno)
	case !c.busy:
		c.hangUp() // nothing was asked
	default:
		c.began = true
		l.read(c, l.buf[:n])
	}
}

// broken deals with a connection that has ended: quietly between answers, and
// once more for a request that crossed with the end of a kept connection.
func (l *load) broken(c *caller, errno unix.Errno) {
	switch {
	case !c.busy:
		c.hangUp()
	case errno == 0 && c.head && c.body.kind == byClose:
		l.complete(c)
	case c.used && !c.began:
		c.hangUp()
		c.out = l.ask
		l.send(c)
	case errno != 0:
		l.fail(c, "connection broken", errno)
	default:
		l.fail(c, "connection closed before the end of the answer", nil)
	}
}

// read takes in what has come of the answer.
func (l *load) read(c *caller, b []byte) {
	if !c.head {
		var err error
		if b, err = l.readHead(c, b); err != nil {
			l.fail(c, "cannot read the answer", err)
			return
		}
	}
	for c.head && !c.body.ended && len(b) > 0 {
		data, rest, err := c.body.next(b)
		if err != nil {
			l.fail(c, "cannot read the answer", err)
			return
		}
		b = rest
		switch {
		case len(c.failed) > 0:
			c.failed = append(c.failed, data[:min(len(data), max(0, maxReason-len(c.failed)))]...)
		case l.streams():
			l.readEvents(c, data)
		}
	}
	if c.head && c.body.ended {
		l.complete(c)
	}
}

// readHead reads the answer's head once it is whole, and returns what follows.
func (l *load) readHead(c *caller, b []byte) ([]byte, error) {
	for {
		if len(c.in) > 0 {
			c.in = append(c.in, b...)
			b = c.in
		}
		h, n, err := parseHead(b)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			if len(c.in) == 0 {
				c.in = append(c.in, b...)
			}
			return nil, nil
		}
		if len(h.start) < len("HTTP/1.1 200") || string(h.start[:7]) != "HTTP/1." {
			return nil, fmt.Errorf("status line %q", h.start)
		}
		status := h.start[len("HTTP/1.1 "):]
		if status[0] == '1' { // 100 Continue and the like: the answer follows
			b = b[n:]
			c.in = c.in[:0]
			continue
		}
		c.failed = c.failed[:0]
		if string(status[:3]) != "200" {
			c.failed = append(append(c.failed, status...), ": "...)
		}
		c.head, c.close = true, h.close || h.start[7] == '0' && !h.keepAlive
		c.body = h.framing(byClose)
		return b[n:], nil
	}
}

func (l *load) readEvents(c *caller, data []byte) {
	if _, ok := c.done.in(data); ok {
		c.isDone = true
	}
	var now int64
	for {
		stamp, rest, ok := c.stamps.next(data)
		if !ok {
			return
		}
		data = rest
		if now == 0 {
			now = time.Now().UnixNano()
		}
		l.arrived(c, time.Duration(now-stamp))
	}
}

// arrived counts an event that took that long from the engine.
func (l *load) arrived(c *caller, took time.Duration) {
	if l.counting {
		l.events++
		l.event.add(took)
	}
	if !c.waiting {
		return
	}
	c.waiting = false
	if l.counting {
		l.ttft.add(time.Since(l.began) - c.start)
	}
	if l.mode == holding {
		l.held++
	}
}

// complete ends a request whose answer has ended.
func (l *load) complete(c *caller) {
	c.used = true
	switch {
	case len(c.failed) > 0:
		if l.firstOfErrors() {
			l.firstError = "answered " + string(c.failed)
		}
	case l.streams() && !c.isDone:
		if l.firstOfErrors() {
			l.firstError = "stream ended before [DONE]"
		}
	case l.counting:
		l.requests++
		if !l.streams() {
			l.whole.add(time.Since(l.began) - c.start)
		}
	}
	if c.close || c.body.kind == byClose {
		c.hangUp()
	}
	l.next(c, 0)
}
