package socket

import (
	"syscall"
	"unsafe"
)

// The calls are raw, so that the scheduler hears nothing of them: it has no
// call to move its work elsewhere, as they return at once. A call that it is
// told of would, in a process that was idle, first wake its monitor thread,
// which costs more than the call.

func read(fd uintptr, p []byte) (int, error) { return call(syscall.SYS_READ, fd, p) }

func write(fd uintptr, p []byte) (int, error) { return call(syscall.SYS_WRITE, fd, p) }

func call(trap, fd uintptr, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n, _, errno := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}
