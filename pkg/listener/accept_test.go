package listener

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// dial connects to addr and returns nil when that was refused in the act.
func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	switch {
	case errors.Is(err, syscall.ECONNRESET):
		return nil
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// refused tells whether the server closed or reset c; false = it still waits
// after patience.
func refused(c net.Conn) bool {
	if c == nil {
		return true
	}
	c.SetReadDeadline(time.Now().Add(patience))
	_, err := c.Read(make([]byte, 1))
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// acceptAll accepts until l is closed.
func acceptAll(l *Listener) <-chan *Conn {
	conns := make(chan *Conn, 1000)
	go func() {
		defer close(conns)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c.(*Conn)
		}
	}()
	return conns
}

func TestCaps(t *testing.T) {
	for _, test := range []struct {
		name    string
		o       Options
		refused func(Stats) int64
	}{
		{"in all", Options{MaxConns: 2}, func(s Stats) int64 { return s.RefusedMaxConns }},
		{"of one address", Options{MaxConnsPerIP: 2}, func(s Stats) int64 { return s.RefusedPerIP }},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := listenTCP(t, test.o)
			_, first := pair(t, l)
			pair(t, l)
			conns := acceptAll(l)
			if !refused(dial(t, l.Addr().String())) {
				t.Fatal("a connection over the cap is kept waiting")
			}
			if s := l.Stats(); test.refused(s) != 1 || s.Accepted != 2 || s.Open != 2 {
				t.Errorf("stats %+v", s)
			}
			first.Close()
			dial(t, l.Addr().String())
			c := receive(t, "a connection into the place that came free", conns)
			c.Close()
		})
	}
}

func TestPerIPCapCountsAddresses(t *testing.T) {
	addr := func(s string) net.Addr {
		a, err := net.ResolveTCPAddr("tcp", s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	mapped := &net.TCPAddr{IP: net.ParseIP("192.0.2.1").To16(), Port: 7}
	for _, test := range []struct {
		name string
		a, b net.Addr
		same bool
	}{
		{"ports do not matter", addr("192.0.2.1:1"), addr("192.0.2.1:2"), true},
		{"IPv4-mapped is IPv4", addr("192.0.2.1:1"), mapped, true},
		{"another address", addr("192.0.2.1:1"), addr("192.0.2.2:1"), false},
		{"a unix socket has none", &net.UnixAddr{Name: "@"}, &net.UnixAddr{Name: "@"}, false},
	} {
		l, err := New(&scripted{}, Options{MaxConnsPerIP: 1})
		if err != nil {
			t.Fatal(err)
		}
		if l.enter(remote{addr: test.a}) == nil {
			t.Fatalf("%s: the first is refused", test.name)
		}
		if got := l.enter(remote{addr: test.b}) == nil; got != test.same {
			t.Errorf("%s: second refused = %v", test.name, got)
		}
	}
}

// remote is a connection of which only the address matters.
type remote struct {
	net.Conn
	addr net.Addr
}

func (r remote) RemoteAddr() net.Addr { return r.addr }
func (r remote) Close() error         { return nil }

// scripted is a net.Listener whose Accept fails with errs, one after the
// other, then gives a connection, then waits for Close.
type scripted struct {
	errs   []error
	tries  atomic.Int32
	conn   net.Conn
	closed chan struct{}
}

func (s *scripted) Accept() (net.Conn, error) {
	s.tries.Add(1)
	if len(s.errs) > 0 {
		err := s.errs[0]
		s.errs = s.errs[1:]
		return nil, err
	}
	if c := s.conn; c != nil {
		s.conn = nil
		return c, nil
	}
	<-s.closed
	return nil, net.ErrClosed
}

func (s *scripted) Close() error   { close(s.closed); return nil }
func (s *scripted) Addr() net.Addr { return &net.UnixAddr{} }

func failure(errno syscall.Errno) error {
	return &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", errno)}
}

func TestAcceptOutlivesFaults(t *testing.T) {
	for _, errno := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ECONNABORTED, syscall.EPROTO, syscall.EPERM, syscall.ENETDOWN,
	} {
		t.Run(errno.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := net.Pipe()
				ln := &scripted{conn: server, closed: make(chan struct{})}
				for range 100 {
					ln.errs = append(ln.errs, failure(errno))
				}
				var lines []string
				l, err := New(ln, Options{Logf: func(format string, args ...any) {
					lines = append(lines, fmt.Sprintf(format, args...))
				}})
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				c, err := l.Accept()
				if err != nil {
					t.Fatalf("Accept gave up: %v", err)
				}
				// 100 tries in a row without waiting would be a spin; recovery
				// must not take longer than the last wait.
				if d := time.Since(start); d < 5*time.Second || d > 10*time.Second {
					t.Errorf("100 faults took %v", d)
				}
				if n := l.Stats().AcceptFaults; n != 100 {
					t.Errorf("counted %d faults", n)
				}
				if len(lines) != 1 || !strings.Contains(lines[0], errno.Error()) {
					t.Errorf("logged %q", lines)
				}
				c.Close()
				client.Close()
				l.Close()
			})
		})
	}
}

func TestAcceptEnds(t *testing.T) {
	t.Run("a listening socket that is broken", func(t *testing.T) {
		l, err := New(&scripted{errs: []error{failure(syscall.EINVAL)}}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Accept(); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("Close while it waits for descriptors", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ln := &scripted{closed: make(chan struct{})}
			for range 1000 {
				ln.errs = append(ln.errs, failure(syscall.EMFILE))
			}
			l, err := New(ln, Options{})
			if err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(time.Second, func() { l.Close() })
			if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v", err)
			}
		})
	})
}

func TestThrottleSaysWhatItHid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		logf := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
		var th throttle
		for range 5 {
			th.logf(logf, "fault")
		}
		time.Sleep(10 * time.Second) // of the bubble's clock
		th.logf(logf, "fault")
		want := []string{"fault (0 more since the last report)", "fault (4 more since the last report)"}
		if len(lines) != 2 || lines[0] != want[0] || lines[1] != want[1] {
			t.Errorf("logged %q, want %q", lines, want)
		}
	})
}

// A storm of connections that come and go leaves nothing counted.
func TestAcceptStorm(t *testing.T) {
	l := listenTCP(t, Options{MaxConns: 50, MaxConnsPerIP: 50})
	conns := acceptAll(l)
	var servers, clients sync.WaitGroup
	for range 4 {
		servers.Go(func() {
			for c := range conns {
				io.Copy(c, c)
				c.Close()
			}
		})
		clients.Go(func() {
			for range 200 {
				c, err := net.Dial("tcp", l.Addr().String())
				if errors.Is(err, syscall.ECONNRESET) {
					continue // refused in the act
				}
				if err != nil {
					t.Error(err)
					return
				}
				c.Write([]byte("x"))
				c.(*net.TCPConn).SetLinger(0)
				c.Close()
			}
		})
	}
	clients.Wait()
	eventually(t, "all that came is accepted or refused, and closed", func() bool {
		s := l.Stats()
		return s.Accepted+s.RefusedMaxConns+s.RefusedPerIP == 800 && s.Open == 0
	})
	l.Close()
	servers.Wait()
	if len(l.perIP) != 0 {
		t.Errorf("still counted: %v", l.perIP)
	}
	checkNoGoroutine(t)
}
