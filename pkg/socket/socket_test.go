package socket

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// pair returns the two ends of a TCP connection.
func pair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	d, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

func raw(t *testing.T, c *net.TCPConn) syscall.RawConn {
	t.Helper()
	r, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReadTellsNothingYetFromTheEnd(t *testing.T) {
	a, b := pair(t)
	buf := make([]byte, 8)
	asked := make(chan struct{}, 100)
	read := func() (n int, err error) {
		waitErr := raw(t, a).Read(func(fd uintptr) bool {
			var wait bool
			n, wait, err = Read(fd, buf)
			asked <- struct{}{}
			return !wait
		})
		return n, errors.Join(err, waitErr)
	}
	go func() {
		<-asked // and there was nothing yet
		_, _ = b.Write([]byte("hello"))
	}()
	if n, err := read(); n != 5 || err != nil {
		t.Fatalf("got %d, %v", n, err)
	}
	quiet := func() (q bool) {
		if err := raw(t, a).Control(func(fd uintptr) { q = Quiet(fd) }); err != nil {
			t.Fatal(err)
		}
		return q
	}
	if !quiet() {
		t.Error("a socket with nothing to read is not quiet")
	}
	b.CloseWrite()
	if n, err := read(); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("got %d, %v after the end, want io.EOF", n, err)
	}
	if quiet() {
		t.Error("a socket that has ended is quiet")
	}
}

func TestWatchTellsEachEndOnce(t *testing.T) {
	gone := make(chan uint64, 10)
	w, err := NewWatch(func(id uint64) { gone <- id })
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("no watch here")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	tell := func(name string, want uint64) {
		t.Helper()
		select {
		case id := <-gone:
			if id != want {
				t.Errorf("%s: %d ended, want %d", name, id, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: not told", name)
		}
	}
	const large = 1<<40 + 7 // the id is 64 bits wide
	a, b := pair(t)
	if err := w.Add(raw(t, a), large); err != nil {
		t.Fatal(err)
	}
	_, _ = b.Write([]byte("unread bytes in front of the end"))
	b.CloseWrite()
	tell("half-closed behind unread bytes", large)

	c, d := pair(t)
	d.Close()
	if err := w.Add(raw(t, c), 2); err != nil {
		t.Fatal(err)
	}
	tell("ended before it was watched", 2)
	if len(gone) != 0 {
		t.Errorf("told again: %d", <-gone)
	}
}
