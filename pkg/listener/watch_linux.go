//go:build linux && !peekwatch

package listener

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// watch is one epoll set over all sockets of a listener. The set is itself
// pollable: its goroutine waits in Go's own poller and occupies no thread.
//
// A socket is put in once and never taken out: the kernel does that when its
// last descriptor is closed. An event carries the connection's id, not the
// descriptor, so one that comes late finds nobody instead of the next
// connection with that descriptor.
type watch struct {
	l     *Listener
	epoll int
	file  *os.File // owns epoll
	raw   syscall.RawConn
}

func newWatch(l *Listener) (*watch, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	// Go's poller takes only a descriptor that does not block.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	w := &watch{l: l, epoll: fd, file: os.NewFile(uintptr(fd), "epoll")}
	if w.raw, err = w.file.SyscallConn(); err != nil {
		w.file.Close()
		return nil, err
	}
	go w.run()
	return w, nil
}

// add starts watching c.
func (w *watch) add(c *Conn) error {
	// Edge-triggered: an end that nobody acts on is told once. Hang-up and
	// error are implied.
	event := unix.EpollEvent{
		Events: unix.EPOLLRDHUP | unix.EPOLLET,
		Fd:     int32(c.id), Pad: int32(c.id >> 32), // the 64 bits of epoll_data
	}
	var failed error
	if err := c.raw.Control(func(fd uintptr) {
		failed = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, int(fd), &event)
	}); err != nil {
		return err
	}
	return os.NewSyscallError("epoll_ctl", failed)
}

// run passes events on until close.
func (w *watch) run() {
	events := make([]unix.EpollEvent, 128)
	n := 0
	ready := func(uintptr) bool {
		var err error
		n, err = unix.EpollWait(w.epoll, events, 0)
		return n > 0 || err != nil && err != unix.EINTR
	}
	for w.raw.Read(ready) == nil {
		for _, e := range events[:max(n, 0)] {
			if c := w.l.find(uint64(uint32(e.Fd)) | uint64(e.Pad)<<32); c != nil {
				c.notify(Left)
			}
		}
	}
}

// close ends run.
func (w *watch) close() { w.file.Close() }
