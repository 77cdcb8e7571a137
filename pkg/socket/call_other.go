//go:build !linux

package socket

import (
	"errors"

	"golang.org/x/sys/unix"
)

func read(fd uintptr, p []byte) (int, bool, error) { return call(unix.Read, fd, p) }

func write(fd uintptr, p []byte) (int, bool, error) { return call(unix.Write, fd, p) }

func call(f func(int, []byte) (int, error), fd uintptr, p []byte) (n int, wait bool, err error) {
	for {
		n, err := f(int(fd), p)
		switch {
		case err == nil:
			return n, false, nil
		case errors.Is(err, unix.EAGAIN):
			return 0, true, nil
		case !errors.Is(err, unix.EINTR):
			return 0, false, err
		}
	}
}

func quiet(fd uintptr) bool {
	var b [1]byte
	_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return errors.Is(err, unix.EAGAIN)
}
