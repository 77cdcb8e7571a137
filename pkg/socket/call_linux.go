package socket

import (
	"syscall"
	"unsafe"
)

// The calls are raw, so that the scheduler hears nothing of them: it has no
// call to move its work elsewhere, as they return at once. A call that it is
// told of would, in a process that was idle, first wake its monitor thread,
// which costs more than the call.

func read(fd uintptr, p []byte) (int, bool, error) { return call(syscall.SYS_READ, fd, p) }

func write(fd uintptr, p []byte) (int, bool, error) { return call(syscall.SYS_WRITE, fd, p) }

func call(trap, fd uintptr, p []byte) (n int, wait bool, err error) {
	for {
		n, _, errno := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch errno {
		case 0:
			return int(n), false, nil
		case syscall.EAGAIN:
			return 0, true, nil
		case syscall.EINTR:
		default:
			return 0, false, errno
		}
	}
}

func quiet(fd uintptr) bool {
	var b [1]byte
	_, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b)), 1, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
	return errno == syscall.EAGAIN
}
