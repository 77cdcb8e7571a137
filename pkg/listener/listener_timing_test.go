package listener

import (
	"io"
	"net"
	"testing"
	"time"
)

var noDeadline time.Time

func BenchmarkWatch(b *testing.B) {
	_, server := pair(b, listenTCP(b, Options{}))
	leave := func(Cause) {}
	b.ReportAllocs()
	for b.Loop() {
		server.Watch(leave)
		server.Unwatch()
	}
}

// barePair is the twin of pair without this package.
func barePair(b *testing.B) (client, server net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	if client, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		b.Fatal(err)
	}
	if server, err = ln.Accept(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// BenchmarkRequest reads requests as fasthttp does: with reduced memory a
// byte and then the rest, else all at once.
func BenchmarkRequest(b *testing.B) {
	byteFirst := func(c net.Conn, p []byte) error {
		if _, err := c.Read(p[:1]); err != nil {
			return err
		}
		_, err := c.Read(p[1:])
		return err
	}
	whole := func(c net.Conn, p []byte) error { _, err := c.Read(p); return err }
	ours := func(b *testing.B) (net.Conn, net.Conn) { return pair(b, listenTCP(b, Options{})) }
	for _, bench := range []struct {
		name    string
		connect func(*testing.B) (client, server net.Conn)
		read    func(net.Conn, []byte) error
	}{
		{"byte first", ours, byteFirst},
		{"byte first, bare", barePair, byteFirst},
		{"whole", ours, whole},
		{"whole, bare", barePair, whole},
	} {
		b.Run(bench.name, func(b *testing.B) {
			client, server := bench.connect(b)
			request, buf := make([]byte, 1000), make([]byte, 4096)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.Write(request); err != nil {
					b.Fatal(err)
				}
				if err := bench.read(server, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkWrite writes tokens of a stream.
func BenchmarkWrite(b *testing.B) {
	for _, bench := range []struct {
		name    string
		connect func(*testing.B) (client, server net.Conn)
	}{
		{"rolling timeout", func(b *testing.B) (net.Conn, net.Conn) {
			return pair(b, listenTCP(b, Options{WriteTimeout: time.Minute}))
		}},
		{"bare", barePair},
	} {
		b.Run(bench.name, func(b *testing.B) {
			client, server := bench.connect(b)
			go io.Copy(io.Discard, client)
			token := make([]byte, 186)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := server.Write(token); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkAccept is what a new connection costs in all.
func BenchmarkAccept(b *testing.B) {
	connect := func(b *testing.B, ln net.Listener) {
		for b.Loop() {
			client, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			server, err := ln.Accept()
			if err != nil {
				b.Fatal(err)
			}
			client.(*net.TCPConn).SetLinger(0) // keeps no port busy
			client.Close()
			server.Close()
		}
	}
	b.Run("ours", func(b *testing.B) { connect(b, listenTCP(b, Options{MaxConnsPerIP: 10})) })
	b.Run("bare", func(b *testing.B) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer ln.Close()
		connect(b, ln)
	})
}
