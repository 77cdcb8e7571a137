//go:build !race

package listener

import (
	"net"
	"sync/atomic"
	"testing"
)

// Idle connections hold no buffer: one that is given back serves the next.
func TestIdleHoldsNoBuffer(t *testing.T) {
	const conns = 200
	l := listenTCP(t, Options{})
	var made atomic.Int32
	l.bufs.New = func() any { made.Add(1); return new(readBuffer) }
	var clients []net.Conn
	read := make(chan error, conns)
	for range conns {
		client, server := pair(t, l)
		clients = append(clients, client)
		go func() { _, err := server.Read(make([]byte, 1)); read <- err }()
	}
	for _, client := range clients {
		client.Write([]byte("x"))
		if err := receive(t, "Read", read); err != nil {
			t.Fatal(err)
		}
	}
	if n := made.Load(); n > conns/10 {
		t.Errorf("%d idle connections took %d buffers", conns, n)
	}
}

func TestAllocations(t *testing.T) {
	// The path of a request: the wait for its first byte, the rest, the
	// watch around its handling, the answer.
	client, server := pair(t, listenTCP(t, Options{WriteTimeout: 1 << 40}))
	request, answer := make([]byte, 500), make([]byte, 500)
	first, rest := make([]byte, 1), make([]byte, 4096)
	leave := func(Cause) {}
	check := func(n int, err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name string
		run  func()
	}{
		{"watch", func() { server.Watch(leave); server.Unwatch() }},
		{"request", func() {
			check(client.Write(request))
			check(server.Read(first))
			check(server.Read(rest))
			check(server.Write(answer))
			check(client.Read(rest))
		}},
		{"deadlines", func() { server.SetDeadline(noDeadline) }},
	} {
		if n := testing.AllocsPerRun(1000, test.run); n != 0 {
			t.Errorf("%s: %v allocations", test.name, n)
		}
	}
}
