// Package socket is the system calls that the hot path makes on sockets itself,
// in the callbacks of a syscall.RawConn.
package socket

import "io"

// Read is one read(2) from a socket that does not block. No bytes come with an
// error: io.EOF at the end, syscall.EAGAIN when there is nothing yet.
func Read(fd uintptr, p []byte) (int, error) {
	n, err := read(fd, p)
	if n == 0 && err == nil && len(p) > 0 {
		return 0, io.EOF
	}
	return n, err
}

// Write is one write(2) to a socket that does not block. It may take less than
// p; syscall.EAGAIN says that it takes nothing yet.
func Write(fd uintptr, p []byte) (int, error) { return write(fd, p) }
