// Package socket is the system calls that the hot path makes on sockets itself,
// in the callbacks of a syscall.RawConn, and a watch of their ends.
package socket

import "io"

// Read is one read(2) from a socket that does not block. wait says that there
// is nothing yet; the end is io.EOF.
func Read(fd uintptr, p []byte) (n int, wait bool, err error) {
	n, wait, err = read(fd, p)
	if n == 0 && !wait && err == nil {
		err = io.EOF
	}
	return n, wait, err
}

// Write is one write(2) to a socket that does not block. It may take less than
// p; wait says that it takes nothing yet.
func Write(fd uintptr, p []byte) (n int, wait bool, err error) { return write(fd, p) }

// Quiet tells whether a socket that does not block has neither bytes nor an end
// to read.
func Quiet(fd uintptr) bool { return quiet(fd) }
