package listener

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// onThisMachine stands for the client of a unix socket, which has no address.
var onThisMachine net.Addr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}

// RemoteAddr is the client's address. The client of a unix socket is on this
// machine, so it is told as 127.0.0.1, port 0: it may read what loopback may, and
// its X-Forwarded-For is believed where that of 127.0.0.1 is.
func (c *Conn) RemoteAddr() net.Addr {
	if _, ok := c.Conn.(*net.UnixConn); ok {
		return onThisMachine
	}
	return c.Conn.RemoteAddr()
}

// listenUnix listens on a unix socket file that nobody else listens on. The file
// has its mode before anybody can connect: until listen(2), which package net
// would call together with bind(2), the kernel refuses.
func listenUnix(path string, mode fs.FileMode) (net.Listener, error) {
	file, err := bindUnix(path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if err := removeAbandoned(path); err != nil {
			return nil, err
		}
		file, err = bindUnix(path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot listen on unix:%s: %w", path, err)
	}
	defer file.Close() // the listener has a descriptor of its own
	if mode != 0 {
		err = os.Chmod(path, mode)
	}
	if err == nil {
		err = os.NewSyscallError("listen", unix.Listen(int(file.Fd()), unix.SOMAXCONN))
	}
	var ln net.Listener
	if err == nil {
		ln, err = net.FileListener(file)
	}
	if err != nil {
		_ = os.Remove(path) // the error that comes first says more
		return nil, fmt.Errorf("cannot listen on unix:%s: %w", path, err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(true)
	return ln, nil
}

// bindUnix makes a socket and its file.
func bindUnix(path string) (*os.File, error) {
	syscall.ForkLock.RLock() // no child may inherit it
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

var errNoSocket = errors.New("there is a file that is no socket")

// removeAbandoned removes the file of a socket that nobody listens on any more,
// and fails when it is anything else: to connect to a plain file is refused too.
func removeAbandoned(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("cannot listen on unix:%s: %w", path, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("cannot listen on unix:%s: %w", path, errNoSocket)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		c.Close()
		return fmt.Errorf("cannot listen on unix:%s: another process listens there: %w", path, syscall.EADDRINUSE)
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("cannot listen on unix:%s: cannot tell whether another process listens there: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("cannot replace the abandoned socket %s: %w", path, err)
	}
	return nil
}
