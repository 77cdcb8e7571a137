package listener

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/valyala/fasthttp/fasthttputil"
)

func nothing(Cause) {}

// ways a client goes; each gets the TCP connection, below TLS if there is any.
var ways = []struct {
	name string
	end  func(*net.TCPConn)
}{
	{"FIN", func(c *net.TCPConn) { c.Close() }},
	{"RST", func(c *net.TCPConn) { c.SetLinger(0); c.Close() }},
	{"half-close", func(c *net.TCPConn) { c.CloseWrite() }},
}

// served is one connection as a server has it under way.
type served struct {
	tcp    *net.TCPConn // the client's end, below TLS
	client net.Conn     // the client's end
	server net.Conn     // the server's end, *tls.Conn with TLS
	conn   *Conn
}

// serve connects a client whose first request the server has read.
func serve(t *testing.T, l *Listener, cert *tls.Certificate) served {
	t.Helper()
	client, conn := pair(t, l)
	s := served{tcp: client.(*net.TCPConn), client: client, server: conn, conn: conn}
	if cert != nil {
		s.client = tls.Client(client, &tls.Config{InsecureSkipVerify: true})
		s.server = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*cert}})
	}
	sent := make(chan error, 1)
	go func() { _, err := s.client.Write([]byte("request")); sent <- err }()
	buf := make([]byte, 100)
	if n, err := s.server.Read(buf); err != nil || string(buf[:n]) != "request" {
		t.Fatalf("read %q, %v", buf[:n], err)
	}
	if err := receive(t, "the request is written", sent); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestClientGoes(t *testing.T) {
	cert := certificate(t)
	for _, transport := range []struct {
		name string
		cert *tls.Certificate
	}{{"plain", nil}, {"TLS", &cert}} {
		for _, way := range ways {
			t.Run(transport.name+"/"+way.name, func(t *testing.T) {
				t.Run("while watched", func(t *testing.T) {
					s := serve(t, listenTCP(t, Options{}), transport.cert)
					left := make(chan Cause, 2)
					if s.conn.Watch(func(c Cause) { left <- c }) {
						t.Fatal("gone before it went")
					}
					way.end(s.tcp)
					if c := receive(t, "leave", left); c != Left {
						t.Errorf("cause %v", c)
					}
					s.conn.Unwatch()
					if len(left) != 0 {
						t.Error("leave called twice")
					}
					if FromConn(s.server) != s.conn {
						t.Error("FromConn does not find the connection under TLS")
					}
				})
				t.Run("before the watch", func(t *testing.T) {
					s := serve(t, listenTCP(t, Options{}), transport.cert)
					way.end(s.tcp)
					left := make(chan Cause, 1)
					if !s.conn.Watch(func(c Cause) { left <- c }) {
						receive(t, "leave", left) // the event had not come yet
					}
					s.conn.Unwatch()
					if !s.conn.Watch(nothing) {
						t.Error("Watch forgot that the client is gone")
					}
				})
				t.Run("behind pipelined bytes", func(t *testing.T) {
					if !seesBehindBytes {
						t.Skip("this watch sees no end behind unread bytes")
					}
					s := serve(t, listenTCP(t, Options{}), transport.cert)
					if _, err := s.client.Write([]byte("the next request")); err != nil {
						t.Fatal(err)
					}
					left := make(chan Cause, 1)
					gone := s.conn.Watch(func(c Cause) { left <- c })
					way.end(s.tcp)
					if !gone {
						receive(t, "leave", left)
					}
					s.conn.Unwatch()
				})
			})
		}
	}
}

func TestUnixClientGoes(t *testing.T) {
	client, server := pair(t, listen(t, "unix", t.TempDir()+"/s", Options{}))
	left := make(chan Cause, 1)
	if server.Watch(func(c Cause) { left <- c }) {
		t.Fatal("gone before it went")
	}
	client.Close()
	receive(t, "leave", left)
	server.Unwatch()
}

// A keep-alive connection that goes on with requests is watched anew for each.
func TestWatchIsPerRequest(t *testing.T) {
	s := serve(t, listenTCP(t, Options{}), nil)
	var stale, fresh atomic.Int32
	s.conn.Watch(func(Cause) { stale.Add(1) })
	s.conn.Unwatch()
	went := make(chan struct{})
	s.conn.Watch(func(Cause) { fresh.Add(1); close(went) })
	s.tcp.Close()
	receive(t, "leave", went)
	s.conn.Unwatch()
	if stale.Load() != 0 || fresh.Load() != 1 {
		t.Errorf("the finished request heard %d times, the one under way %d times", stale.Load(), fresh.Load())
	}
}

func TestInterrupt(t *testing.T) {
	l := listenTCP(t, Options{})
	_, watched := pair(t, l)
	_, idle := pair(t, l)
	causes := make(chan Cause, 3)
	tell := func(c Cause) { causes <- c }
	watched.Watch(tell)
	l.Interrupt()
	if c := receive(t, "leave of the watched", causes); c != Interrupted {
		t.Errorf("cause %v", c)
	}
	watched.Unwatch()
	if len(causes) != 0 {
		t.Error("leave called twice, or for a connection not watched")
	}
	// The request that came just too late must not outlive the deadline.
	if idle.Watch(tell) {
		t.Error("an interrupted connection is not gone: the client can be told")
	}
	if c := receive(t, "leave of the latecomer", causes); c != Interrupted {
		t.Errorf("cause %v", c)
	}
	idle.Unwatch()
}

// A panic in one request's callback costs that request only.
func TestLeavePanics(t *testing.T) {
	logged := make(chan string, 1)
	l := listenTCP(t, Options{Logf: func(format string, args ...any) { logged <- fmt.Sprintf(format, args...) }})
	bad, badServer := pair(t, l)
	good, goodServer := pair(t, l)
	badServer.Watch(func(Cause) { panic("in leave") })
	bad.Close()
	if line := receive(t, "a report", logged); !strings.Contains(line, "in leave") {
		t.Errorf("logged %q", line)
	}
	badServer.Unwatch()
	left := make(chan Cause, 1)
	goodServer.Watch(func(c Cause) { left <- c })
	good.Close()
	receive(t, "leave of the other", left)
	goodServer.Unwatch()
}

// After Unwatch the caller recycles what leave touches: the race detector
// sees any call that comes later.
func TestUnwatchStorm(t *testing.T) {
	const conns, rounds, workers = 200, 50, 4
	l := listenTCP(t, Options{})
	var wg sync.WaitGroup
	var accepting sync.Mutex
	for range workers {
		wg.Go(func() {
			for range conns / workers {
				accepting.Lock()
				client, server := pair(t, l)
				accepting.Unlock()
				closing := make(chan struct{})
				go func() { <-closing; client.Close() }()
				for i := range rounds {
					touched := 0
					server.Watch(func(Cause) { touched++ })
					if i == rounds/2 {
						close(closing)
					}
					server.Unwatch()
					if touched > 1 {
						t.Errorf("leave called %d times", touched)
					}
				}
				server.Close()
			}
		})
	}
	wg.Wait()
	if open := l.Stats().Open; open != 0 {
		t.Errorf("%d connections left open", open)
	}
}

// Descriptors are reused at once: an event for the old connection must not
// end the request of the new one.
func TestDescriptorReuse(t *testing.T) {
	l := listenTCP(t, Options{})
	var wrong atomic.Int32
	for range 500 {
		oldClient, old := pair(t, l)
		old.Watch(nothing)
		go oldClient.Close() // its event races with what follows
		old.Unwatch()
		old.Close()
		client, server := pair(t, l)
		left := make(chan struct{})
		var closing atomic.Bool
		if server.Watch(func(Cause) {
			if !closing.Load() {
				wrong.Add(1)
			}
			close(left)
		}) {
			t.Fatal("the new connection counts as gone")
		}
		go client.Write([]byte("x"))
		if _, err := server.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		closing.Store(true)
		client.Close()
		receive(t, "leave of the new connection", left)
		server.Unwatch()
		server.Close()
	}
	if n := wrong.Load(); n != 0 {
		t.Errorf("%d requests were ended by the end of another connection", n)
	}
}

func TestPipeClientGoes(t *testing.T) {
	for _, test := range []struct {
		name    string
		unread  int
		watched bool
	}{
		{"while watched", 0, true},
		{"before the watch", 0, false},
		{"behind pipelined bytes", 10_000, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			ln := fasthttputil.NewInmemoryListener()
			l, err := New(ln, Options{})
			if err != nil {
				t.Fatal(err)
			}
			dialled := make(chan net.Conn, 1)
			go func() { c, _ := ln.Dial(); dialled <- c }()
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			client, server := receive(t, "dial", dialled), c.(*Conn)
			if _, err := client.Write(make([]byte, test.unread)); err != nil {
				t.Fatal(err)
			}
			left := make(chan Cause, 1)
			if test.watched && server.Watch(func(c Cause) { left <- c }) {
				t.Fatal("gone before it went")
			}
			client.Close()
			if test.watched {
				receive(t, "leave", left)
				server.Unwatch()
			}
			eventually(t, "Watch says gone", func() bool {
				gone := server.Watch(nothing)
				server.Unwatch()
				return gone
			})
			if got, err := io.ReadAll(server); len(got) != test.unread || err != nil {
				t.Errorf("read %d bytes, %v; want %d", len(got), err, test.unread)
			}
			server.Close()
			l.Close()
			checkNoGoroutine(t)
		})
	}
}

// Nobody reads what a full pump has read ahead, and it must still end.
func TestPipeCloseWhileFull(t *testing.T) {
	client, conn := net.Pipe()
	defer client.Close()
	l, err := New(oneConn{conn}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write(make([]byte, pumpSize)); err != nil {
		t.Fatal(err)
	}
	server.Close()
	l.Close()
	checkNoGoroutine(t)
}

// oneConn is a net.Listener with one connection to accept.
type oneConn struct{ net.Conn }

func (l oneConn) Accept() (net.Conn, error) { return l.Conn, nil }
func (l oneConn) Addr() net.Addr            { return l.LocalAddr() }
