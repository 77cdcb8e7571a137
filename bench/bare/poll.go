//go:build linux

package main

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hungUp are the signs that the peer has closed or is about to.
const hungUp = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR

// poller waits for many sockets at once, level-triggered, on this thread.
type poller struct {
	fd     int
	wake   unix.Timespec
	events [512]unix.EpollEvent
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot create an epoll descriptor: %w", err)
	}
	// Linux rounds waits up by 50 us unless told that a thread is in earnest.
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("cannot set the timer slack: %w", err)
	}
	return &poller{fd: fd}, nil
}

// wait returns what is ready, at the latest after timeout; a negative timeout
// is none. The result is valid until the next call. It needs Linux 5.11, the
// first whose epoll counts in less than milliseconds.
func (p *poller) wait(timeout time.Duration) ([]unix.EpollEvent, error) {
	var wake unsafe.Pointer
	if timeout >= 0 {
		p.wake = unix.NsecToTimespec(int64(timeout))
		wake = unsafe.Pointer(&p.wake)
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd),
		uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), uintptr(wake), 0, 0)
	switch errno {
	case 0:
		return p.events[:n], nil
	case unix.EINTR: // the runtime's own signals
		return nil, nil
	}
	return nil, fmt.Errorf("cannot wait for sockets: %w", errno)
}

// set makes the poller report interest (EPOLLIN ...) of fd as id and gen; op is
// EPOLL_CTL_ADD or EPOLL_CTL_MOD. Closing a socket takes it out.
func (p *poller) set(op, fd int, interest uint32, id, gen int32) error {
	event := unix.EpollEvent{Events: interest, Fd: id, Pad: gen}
	if err := unix.EpollCtl(p.fd, op, fd, &event); err != nil {
		return fmt.Errorf("cannot watch a socket: %w", err)
	}
	return nil
}

// receive reads what a socket has into b; 0 is the end of what the peer sends.
func receive(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd),
		uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// send writes as much of b, which is not empty, as the socket takes now.
func send(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd),
		uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	switch errno {
	case 0:
		return int(n), 0
	case unix.EAGAIN:
		return 0, 0
	}
	return 0, errno
}

// accept takes a waiting connection from listener, non-blocking.
func accept(listener int) (int, unix.Errno) {
	fd, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), 0, 0,
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	return int(fd), errno
}

// noDelay sends each write at once. A socket that refuses is dead already, as
// its next read tells.
func noDelay(fd int) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}

var errNotIPv4 = errors.New("not an IPv4 address and port, such as 127.0.0.1:9000")
