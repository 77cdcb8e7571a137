package listener

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp/fasthttputil"
)

// idlers are the kinds of connection that wait for a request.
var idlers = []struct {
	name    string
	connect func(*testing.T) (l *Listener, client net.Conn, server *Conn)
}{
	{"TCP", func(t *testing.T) (*Listener, net.Conn, *Conn) {
		l := listenTCP(t, Options{})
		client, server := pair(t, l)
		return l, client, server
	}},
	{"unix", func(t *testing.T) (*Listener, net.Conn, *Conn) {
		l := listen(t, "unix", filepath.Join(t.TempDir(), "s"), Options{})
		client, server := pair(t, l)
		return l, client, server
	}},
	{"in memory", func(t *testing.T) (*Listener, net.Conn, *Conn) {
		ln := fasthttputil.NewInmemoryListener()
		l, err := New(ln, Options{})
		if err != nil {
			t.Fatal(err)
		}
		dialled := make(chan net.Conn, 1)
		go func() { c, _ := ln.Dial(); dialled <- c }()
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		client := receive(t, "dial", dialled)
		t.Cleanup(func() { client.Close(); server.Close(); l.Close() })
		return l, client, server.(*Conn)
	}},
}

// awaiting is an Await under way: it ends with what comes from the channel.
func awaiting(t *testing.T, c *Conn, d time.Duration) <-chan error {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- c.Await(d) }()
	eventually(t, "the connection waits", func() bool { return c.idle.Load() || len(ended) > 0 })
	return ended
}

// sound fails the test unless what one end writes arrives at the other.
func sound(t *testing.T, client net.Conn, server *Conn) {
	t.Helper()
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		from, to := way[0], way[1]
		sent := make(chan error, 1)
		go func() { _, err := io.WriteString(from, "request"); sent <- err }()
		to.SetReadDeadline(time.Now().Add(patience))
		got := make([]byte, 7)
		if _, err := io.ReadFull(to, got); err != nil || string(got) != "request" {
			t.Fatalf("read %q, %v", got, err)
		}
		if err := receive(t, "the write ends", sent); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAwait: when Await returns, with what, and that it takes nothing away.
func TestAwait(t *testing.T) {
	for _, kind := range idlers {
		for _, w := range []struct {
			name   string
			time   time.Duration
			before bool // it happens before Await is called
			happen func(l *Listener, client net.Conn, server *Conn)
			want   error
			unread string // what the server can still read
		}{
			{"takes the first byte of the request", time.Hour, false, func(_ *Listener, c net.Conn, _ *Conn) { io.WriteString(c, "request") }, nil, "request"},
			{"does not see what came before", time.Hour, true, func(_ *Listener, c net.Conn, _ *Conn) { io.WriteString(c, "request") }, nil, "request"},
			{"loses a request behind which the client left", time.Hour, true, func(_ *Listener, c net.Conn, _ *Conn) { io.WriteString(c, "request"); c.Close() }, nil, "request"},
			{"waits though it holds a byte back", time.Hour, true, func(_ *Listener, c net.Conn, s *Conn) {
				io.WriteString(c, "a request")
				s.Read(make([]byte, 1))
				s.Read(make([]byte, 1))
			}, nil, "request"},
			{"does not see the client leave", time.Hour, false, func(_ *Listener, c net.Conn, _ *Conn) { c.Close() }, io.EOF, ""},
			{"does not see that the client has left", time.Hour, true, func(_ *Listener, c net.Conn, _ *Conn) { c.Close() }, io.EOF, ""},
			{"does not end at its time", 30 * time.Millisecond, false, func(*Listener, net.Conn, *Conn) {}, os.ErrDeadlineExceeded, ""},
			{"outlasts CloseIdle", time.Hour, false, func(l *Listener, _ net.Conn, _ *Conn) { l.CloseIdle() }, net.ErrClosed, ""},
			{"begins after CloseIdle", time.Hour, true, func(l *Listener, _ net.Conn, _ *Conn) { l.CloseIdle() }, net.ErrClosed, ""},
		} {
			t.Run(kind.name+"/"+w.name, func(t *testing.T) {
				l, client, server := kind.connect(t)
				if w.before {
					w.happen(l, client, server)
				}
				ended := awaiting(t, server, w.time)
				if !w.before {
					w.happen(l, client, server)
				}
				if err := receive(t, "Await returns", ended); !errors.Is(err, w.want) {
					t.Fatalf("got %v, want %v", err, w.want)
				}
				if server.idle.Load() {
					t.Error("it still counts as idle")
				}
				got := make([]byte, len(w.unread))
				if _, err := io.ReadFull(server, got); err != nil || string(got) != w.unread {
					t.Errorf("read %q, %v, want %q", got, err, w.unread)
				}
			})
		}
	}
}

// TestAwaitEndsWithClose: with which error depends on the kind; a pipe in memory
// calls our own Close the end of its bytes.
func TestAwaitEndsWithClose(t *testing.T) {
	for _, kind := range idlers {
		t.Run(kind.name, func(t *testing.T) {
			_, _, server := kind.connect(t)
			ended := awaiting(t, server, time.Hour)
			server.Close()
			if err := receive(t, "Await returns", ended); err == nil {
				t.Error("Await found something to read")
			}
		})
	}
}

// TestAwaitAgain: a wait whose time was over does not spoil the next one.
func TestAwaitAgain(t *testing.T) {
	for _, kind := range idlers {
		t.Run(kind.name, func(t *testing.T) {
			_, client, server := kind.connect(t)
			if err := server.Await(time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			ended := awaiting(t, server, time.Hour)
			if _, err := client.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if err := receive(t, "Await returns", ended); err != nil {
				t.Fatal(err)
			}
			if n, err := server.Read(make([]byte, 9)); n != 1 || err != nil {
				t.Fatalf("read %d, %v", n, err)
			}
			sound(t, client, server)
		})
	}
}

// Await ends neither before its time nor after it.
func TestAwaitTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, conn := net.Pipe()
		l, err := New(oneConn{conn}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := server.(*Conn).Await(time.Minute); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(start); waited != time.Minute {
			t.Errorf("waited %v", waited)
		}
		server.Close()
		client.Close()
		l.Close()
	})
}

// TestCloseIdle: the connections that wait are closed, and no others.
func TestCloseIdle(t *testing.T) {
	for _, kind := range idlers {
		t.Run(kind.name+"/one that waits stays open", func(t *testing.T) {
			l, client, server := kind.connect(t)
			ended := awaiting(t, server, time.Hour)
			l.CloseIdle()
			if !refused(client) {
				t.Error("the client was not told")
			}
			receive(t, "Await returns", ended)
			if n := l.Stats().Open; n != 0 {
				t.Errorf("%d still counted as open", n)
			}
		})
		t.Run(kind.name+"/one with a request under way is closed", func(t *testing.T) {
			l, client, server := kind.connect(t)
			l.CloseIdle()
			sound(t, client, server)
		})
		t.Run(kind.name+"/one whose request has come is closed", func(t *testing.T) {
			l, client, server := kind.connect(t)
			ended := awaiting(t, server, time.Hour)
			go io.WriteString(client, "request")
			if err := receive(t, "Await returns", ended); err != nil {
				t.Fatal(err)
			}
			l.CloseIdle()
			got := make([]byte, 7)
			if _, err := io.ReadFull(server, got); err != nil {
				t.Fatalf("read %q, %v", got, err)
			}
			sound(t, client, server)
		})
	}
}

// TestCloseIdleAgainstRequests: a request that comes while idle connections are
// closed is answered, or its connection was closed before any of it was read.
func TestCloseIdleAgainstRequests(t *testing.T) {
	for _, kind := range idlers {
		t.Run(kind.name, func(t *testing.T) {
			answered := 0
			const rounds = 60
			for i := range rounds {
				l, client, server := kind.connect(t)
				ended := awaiting(t, server, time.Hour)
				var race sync.WaitGroup
				start := make(chan struct{})
				race.Go(func() { <-start; l.CloseIdle() })
				race.Go(func() {
					<-start
					if i%3 == 0 { // else the close always comes first for some kinds
						io.WriteString(client, "re")
						io.WriteString(client, "quest")
					} else {
						io.WriteString(client, "request")
					}
				})
				close(start)
				err := receive(t, "Await returns", ended)
				if err == nil {
					got := make([]byte, 7)
					if _, err := io.ReadFull(server, got); err != nil || string(got) != "request" {
						t.Fatalf("half served: read %q, %v", got, err)
					}
					race.Wait()
					sound(t, client, server)
					answered++
				} else if !errors.Is(err, net.ErrClosed) || !refused(client) {
					t.Fatalf("Await failed with %v and the connection is open", err)
				}
				race.Wait()
				server.Close()
				client.Close()
				l.Close()
			}
			checkNoGoroutine(t)
			t.Logf("%d of %d were answered", answered, rounds)
		})
	}
}
