package socket

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Watch tells when the other end of a socket closes it or its half of it,
// without reading from the socket. It is one epoll set over any number of
// sockets. The set is itself pollable: its goroutine waits in Go's own poller and occupies no thread.
//
// A socket is put in once and never taken out: the kernel does that when its
// last descriptor is closed. An event carries the socket's id, not the
// descriptor, so one that comes late finds nobody instead of the next
// connection with that descriptor.
type Watch struct {
	gone func(id uint64)
	file *os.File // the epoll set
	raw  syscall.RawConn
}

// NewWatch returns a watch that calls gone, from its own goroutine, once for each
// socket that ended. gone must not block. NewWatch fails when the system has no
// descriptor left, and on systems without epoll.
func NewWatch(gone func(id uint64)) (*Watch, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	// Go's poller takes only a descriptor that does not block.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	w := &Watch{gone: gone, file: os.NewFile(uintptr(fd), "epoll")}
	if w.raw, err = w.file.SyscallConn(); err != nil {
		w.file.Close()
		return nil, err
	}
	go w.run()
	return w, nil
}

// Add starts watching a socket under an id that no other one has had. One that
// has ended already is told too.
func (w *Watch) Add(socket syscall.RawConn, id uint64) error {
	// Edge-triggered: an end that nobody acts on is told once. Hang-up and
	// error are implied.
	event := unix.EpollEvent{
		Events: unix.EPOLLRDHUP | unix.EPOLLET,
		Fd:     int32(id), Pad: int32(id >> 32), // the 64 bits of epoll_data
	}
	var added, held error
	err := w.raw.Control(func(epoll uintptr) {
		held = socket.Control(func(fd uintptr) {
			added = unix.EpollCtl(int(epoll), unix.EPOLL_CTL_ADD, int(fd), &event)
		})
	})
	return errors.Join(err, held, os.NewSyscallError("epoll_ctl", added))
}

// run passes events on until Close.
func (w *Watch) run() {
	events := make([]unix.EpollEvent, 128)
	n := 0
	ready := func(epoll uintptr) bool {
		var err error
		n, err = unix.EpollWait(int(epoll), events, 0)
		return n > 0 || err != nil && err != unix.EINTR
	}
	for w.raw.Read(ready) == nil {
		for _, e := range events[:max(n, 0)] {
			w.gone(uint64(uint32(e.Fd)) | uint64(e.Pad)<<32)
		}
	}
}

// Close ends the watch.
func (w *Watch) Close() { w.file.Close() }
