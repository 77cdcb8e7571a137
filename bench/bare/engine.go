//go:build linux

package main

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// readBuffer is what one read takes at most: large, for bodies of many MB.
const readBuffer = 256 << 10

// engine is an inference server whose answers cost next to nothing.
type engine struct {
	*answers
	poll     *poller
	listener int
	full     bool // out of descriptors: accepts again when one is given back
	conns    []*conn
	timers   timers
	manner   behaviour
	counts   counts
	began    time.Time
	now      time.Duration // since began, read once for each wake
	buf      []byte
}

func runEngine(args []string) error {
	flags := flag.NewFlagSet("bare engine", flag.ContinueOnError)
	address := flags.String("listen", "127.0.0.1:9000", "address to listen on")
	if err := flags.Parse(args); err != nil {
		return err
	}
	e := &engine{answers: newAnswers(), manner: usual(), buf: make([]byte, readBuffer), began: time.Now()}
	if err := e.listen(*address); err != nil {
		return fmt.Errorf("cannot listen on %s: %w", *address, err)
	}
	fmt.Fprintln(os.Stdout, "listening")
	return e.serve()
}

func (e *engine) listen(address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !at.Addr().Is4() {
		return errNotIPv4
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}); err != nil {
		return err
	}
	const backlog = 16384 // the kernel lowers it to net.core.somaxconn
	if err := unix.Listen(fd, backlog); err != nil {
		return err
	}
	if e.poll, err = newPoller(); err != nil {
		return err
	}
	e.listener = fd
	return e.poll.set(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN, int32(fd), 0)
}

// serve answers until the process is ended by a signal.
func (e *engine) serve() error {
	for {
		e.now = time.Since(e.began)
		events, err := e.poll.wait(e.timers.next(e.now, -1))
		if err != nil {
			return err
		}
		e.now = time.Since(e.began)
		for i := range events {
			if fd := int(events[i].Fd); fd == e.listener {
				e.accept()
			} else {
				e.ready(e.conns[fd], events[i].Events)
			}
		}
		for t := e.timers.expired(e.now); t != nil; t = e.timers.expired(e.now) {
			c := e.conns[t.id]
			e.advance(c)
			e.resume(c)
		}
	}
}

// accept takes all connections that wait.
func (e *engine) accept() {
	for {
		fd, errno := accept(e.listener)
		switch errno {
		case 0:
		case unix.EMFILE, unix.ENFILE:
			e.full = true
			e.watch(unix.EPOLL_CTL_MOD, e.listener, 0)
			return
		default: // none left, or the peer is gone again
			return
		}
		noDelay(fd)
		for len(e.conns) <= fd {
			e.conns = append(e.conns, nil)
		}
		if e.conns[fd] == nil {
			e.conns[fd] = &conn{timer: timer{id: fd}}
		}
		e.conns[fd].open(fd)
		e.counts.Connections++
		e.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN|unix.EPOLLRDHUP)
	}
}

// watch cannot fail for a descriptor that is open, short of the kernel's memory.
func (e *engine) watch(op, fd int, interest uint32) {
	if err := e.poll.set(op, fd, interest, int32(fd), 0); err != nil {
		panic(err)
	}
}

// ready serves what the poller has seen of c.
func (e *engine) ready(c *conn, seen uint32) {
	if seen&unix.EPOLLOUT != 0 {
		e.flush(c)
		e.resume(c)
	}
	switch {
	case seen&(unix.EPOLLIN|hungUp) == 0 || c.phase == closed:
	case c.phase == answering && seen&hungUp != 0:
		e.drop(c)
	default:
		e.receive(c)
	}
}

func (e *engine) receive(c *conn) {
	n, errno := receive(c.fd, e.buf)
	switch {
	case errno == unix.EAGAIN:
	case errno != 0 || n == 0:
		e.drop(c)
	default:
		e.read(c, e.buf[:n])
	}
}

// drop closes c, whatever it was doing.
func (e *engine) drop(c *conn) {
	if c.phase == answering {
		e.counts.Aborted++
		e.counts.LastAbort = time.Now().UnixNano()
		if c.stream {
			e.counts.StreamsOpen--
		}
	}
	e.timers.cancel(&c.timer)
	unix.Close(c.fd)
	c.phase = closed
	e.counts.Connections--
	if e.full {
		e.full = false
		e.watch(unix.EPOLL_CTL_MOD, e.listener, unix.EPOLLIN)
	}
}
