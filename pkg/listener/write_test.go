package listener

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// countingConn counts the changes of its write deadline.
type countingConn struct {
	net.Conn
	changes int
}

func (c *countingConn) SetWriteDeadline(t time.Time) error {
	c.changes++
	return c.Conn.SetWriteDeadline(t)
}

// writeTo runs test in a bubble with a Conn over a pipe without a buffer: a
// byte is written when the client has taken it.
func writeTo(t *testing.T, test func(t *testing.T, client net.Conn, server *Conn, below *countingConn)) {
	synctest.Test(t, func(t *testing.T) {
		client, conn := net.Pipe()
		below := &countingConn{Conn: conn}
		l, err := New(oneConn{below}, Options{WriteTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		test(t, client, c.(*Conn), below)
		c.Close()
		client.Close()
		l.Close()
	})
}

func TestWriteTimeoutStalledClient(t *testing.T) {
	for _, test := range []struct {
		name  string
		taken int64 // bytes the client takes before it stalls
	}{{"takes nothing", 0}, {"takes some, then stalls", 10}} {
		t.Run(test.name, func(t *testing.T) {
			writeTo(t, func(t *testing.T, client net.Conn, server *Conn, _ *countingConn) {
				go io.CopyN(io.Discard, client, test.taken)
				start := time.Now()
				n, err := server.Write(make([]byte, 1000))
				if n != int(test.taken) || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("wrote %d, %v", n, err)
				}
				if d := time.Since(start); d < time.Minute || d > 5*time.Minute/2 {
					t.Errorf("dropped after %v", d)
				}
			})
		})
	}
}

// One big Write to a slow client lasts longer than the timeout.
func TestWriteTimeoutSlowClient(t *testing.T) {
	writeTo(t, func(t *testing.T, client net.Conn, server *Conn, _ *countingConn) {
		answer := bytes.Repeat([]byte("slow"), 10)
		got := make(chan []byte)
		go func() {
			var all []byte
			for b := make([]byte, 1); len(all) < len(answer); all = append(all, b...) {
				time.Sleep(59 * time.Second) // of the bubble's clock
				if _, err := client.Read(b); err != nil {
					break
				}
			}
			got <- all
		}()
		if n, err := server.Write(answer); n != len(answer) || err != nil {
			t.Errorf("wrote %d of %d, %v", n, len(answer), err)
		}
		if all := <-got; !bytes.Equal(all, answer) {
			t.Errorf("the client got %q", all)
		}
	})
}

// A stream with long gaps between its chunks: the deadline of the last chunk
// has passed when the next one comes.
func TestWriteTimeoutAfterSilence(t *testing.T) {
	writeTo(t, func(t *testing.T, client net.Conn, server *Conn, _ *countingConn) {
		go io.Copy(io.Discard, client)
		for range 3 {
			if _, err := server.Write([]byte("chunk")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
		}
	})
}

func TestWriteTimeoutRefreshIsCoarse(t *testing.T) {
	writeTo(t, func(t *testing.T, client net.Conn, server *Conn, below *countingConn) {
		go io.Copy(io.Discard, client)
		for range 600 { // a minute of tokens
			if _, err := server.Write([]byte("token")); err != nil {
				t.Fatal(err)
			}
			server.SetWriteDeadline(time.Time{}) // as fasthttp does between requests
			time.Sleep(100 * time.Millisecond)
		}
		if below.changes > 5 {
			t.Errorf("the deadline changed %d times in a minute of 600 writes", below.changes)
		}
	})
}

func TestWriteDeadlineByHand(t *testing.T) {
	for _, test := range []struct {
		name   string
		before func(*Conn)
		after  func(*Conn)
		want   time.Duration // at least
	}{
		{"is not overwritten by the next write", func(c *Conn) {}, func(c *Conn) {}, 0},
		{"cleared, the rolling one is back", func(c *Conn) {}, func(c *Conn) { c.SetWriteDeadline(time.Time{}) }, time.Minute},
		{"SetDeadline clears it too", func(c *Conn) {}, func(c *Conn) { c.SetDeadline(time.Time{}) }, time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			writeTo(t, func(t *testing.T, client net.Conn, server *Conn, _ *countingConn) {
				server.SetWriteDeadline(time.Now().Add(-time.Second))
				test.after(server)
				start := time.Now()
				if _, err := server.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("got %v", err)
				}
				if d := time.Since(start); d < test.want || test.want == 0 && d != 0 {
					t.Errorf("failed after %v", d)
				}
			})
		})
	}
}

// A deadline in the past, set by another goroutine, ends the write under way
// at once, however much progress it has made.
func TestWriteDeadlineByHandEndsWrite(t *testing.T) {
	writeTo(t, func(t *testing.T, client net.Conn, server *Conn, _ *countingConn) {
		start := time.Now()
		time.AfterFunc(time.Second, func() { server.SetWriteDeadline(time.Unix(1, 0)) })
		go io.CopyN(io.Discard, client, 10)
		if n, err := server.Write(make([]byte, 1000)); n != 10 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("wrote %d, %v", n, err)
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("ended after %v", d)
		}
	})
}

// The same over a socket, where the kernel takes bytes for the client.
func TestWriteTimeoutSocket(t *testing.T) {
	_, server := pair(t, listenTCP(t, Options{WriteTimeout: 50 * time.Millisecond}))
	failed := make(chan error, 1)
	go func() {
		for {
			if _, err := server.Write(make([]byte, 1<<20)); err != nil {
				failed <- err
				return
			}
		}
	}()
	if err := receive(t, "Write fails", failed); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// An error answer reaches a client that is still sending: closing with bytes
// unread would reset the connection and drop what of the answer is still on
// its way, here much of it.
func TestLinger(t *testing.T) {
	answer := "HTTP/1.1 413 Request Entity Too Large\r\n\r\n" + strings.Repeat(".", 300_000)
	for _, test := range []struct {
		name string
		body int64
	}{
		{"body smaller than what is read away", lingerBytes / 2},
		{"body without end", 1 << 40},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := listenTCP(t, Options{})
			client, server := pair(t, l)
			client.(*net.TCPConn).SetReadBuffer(64 << 10)
			server.Conn.(*net.TCPConn).SetWriteBuffer(1 << 20)
			sent := make(chan int64, 1)
			go func() {
				n, _ := io.CopyN(client, zeros{}, test.body)
				sent <- n
			}()
			if _, err := io.ReadFull(server, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(server, answer); err != nil {
				t.Fatal(err)
			}
			closed := make(chan error, 1)
			go func() { server.Linger(); closed <- server.Close() }()
			got, err := io.ReadAll(client)
			if string(got) != answer || err != nil {
				t.Errorf("the client got %d of %d bytes, %v", len(got), len(answer), err)
			}
			client.Close()
			receive(t, "the client stops sending", sent)
			if err := receive(t, "Close", closed); err != nil {
				t.Error(err)
			}
			if open := l.Stats().Open; open != 0 {
				t.Errorf("%d connections open after Close", open)
			}
		})
	}
}

// A client that neither stops nor goes is waited for, but not for ever.
func TestLingerIsBounded(t *testing.T) {
	_, server := pair(t, listenTCP(t, Options{}))
	start := time.Now()
	closed := make(chan struct{})
	go func() { server.Linger(); server.Close(); close(closed) }()
	receive(t, "Close", closed)
	if d := time.Since(start); d < lingerTime {
		t.Errorf("the client had only %v", d)
	}
}

// zeros is an endless request body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
