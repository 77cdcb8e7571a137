package listener

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// However the reads are sized, 1-byte ones among them, all bytes arrive once
// and in order, as on a bare connection.
func TestReadEqualsBareConn(t *testing.T) {
	sent := make([]byte, 300_000)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range sent {
		sent[i] = byte(rnd.Uint32())
	}
	for _, test := range []struct {
		name string
		size func() int
	}{
		{"one byte each", func() int { return 1 }},
		{"one byte, then the request", func() int { return []int{1, 2000}[rnd.IntN(2)] }},
		{"one byte, then a whole buffer", func() int { return []int{1, len(readBuffer{}) - 1}[rnd.IntN(2)] }},
		{"any", func() int { return 1 + rnd.IntN(9000) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, server := pair(t, listenTCP(t, Options{}))
			go func() {
				for rest := sent; len(rest) > 0; {
					n := min(len(rest), 1+int(rest[0])*40)
					client.Write(rest[:n])
					rest = rest[n:]
				}
				client.Close()
			}()
			var got []byte
			for {
				p := make([]byte, test.size())
				n, err := server.Read(p)
				got = append(got, p[:n]...)
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, sent) {
				t.Errorf("read %d bytes that differ from the %d sent", len(got), len(sent))
			}
			if server.first.buf != nil {
				t.Error("a buffer is held back with nothing in it")
			}
		})
	}
}

// The wait for the next request fails the way a bare connection's does.
func TestFirstReadFails(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(client, server net.Conn)
		want error
	}{
		{"client closes", func(c, _ net.Conn) { c.Close() }, io.EOF},
		{"client resets", func(c, _ net.Conn) { c.(*net.TCPConn).SetLinger(0); c.Close() }, syscall.ECONNRESET},
		{"deadline", func(_, s net.Conn) { s.SetReadDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
		{"our own Close", func(_, s net.Conn) { s.Close() }, net.ErrClosed},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, server := pair(t, listenTCP(t, Options{}))
			failed := make(chan error, 1)
			go func() { _, err := server.Read(make([]byte, 1)); failed <- err }()
			test.end(client, server)
			err := receive(t, "Read fails", failed)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			var ne net.Error
			if !errors.Is(err, io.EOF) && !errors.As(err, &ne) {
				t.Errorf("%T is no net.Error", err)
			}
		})
	}
}

// A deadline that passed ends the wait, and clearing it brings the
// connection back.
func TestFirstReadAfterDeadline(t *testing.T) {
	client, server := pair(t, listenTCP(t, Options{}))
	server.SetReadDeadline(time.Unix(1, 0))
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	server.SetReadDeadline(time.Time{})
	client.Write([]byte("x"))
	if n, err := server.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
}

func TestPipeReadDeadline(t *testing.T) {
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
		server.SetReadDeadline(start.Add(time.Minute))
		if _, err := server.Read(make([]byte, 9)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(start); waited != time.Minute {
			t.Errorf("waited %v", waited)
		}
		server.SetDeadline(time.Time{})
		time.AfterFunc(time.Hour, func() { client.Write([]byte("late")) })
		if n, err := server.Read(make([]byte, 9)); n != 4 || err != nil {
			t.Errorf("read %d, %v", n, err)
		}
		server.Close()
		client.Close()
		l.Close()
	})
}
