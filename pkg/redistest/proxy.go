package redistest

import (
	"net"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Proxy stands between clients and a server, and is the network between them. It
// may be used by several goroutines.
type Proxy struct {
	t    testing.TB
	addr string
	work sync.WaitGroup

	mu    sync.Mutex // protects what follows
	to    string
	ln    net.Listener
	cut   chan struct{} // closed with ln
	delay time.Duration
	conns map[net.Conn]struct{} // both sides'
}

// NewProxy passes on, until the test ends, what comes to its address to addr, and
// what is answered back.
func NewProxy(t testing.TB, addr string) *Proxy {
	t.Helper()
	p := &Proxy{
		t: t, to: addr, conns: map[net.Conn]struct{}{},
		addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(freePort(t))),
	}
	p.Mend()
	t.Cleanup(func() {
		p.Cut()
		p.work.Wait()
	})
	return p
}

// Addr is where the proxy listens, the same after Cut and Mend.
func (p *Proxy) Addr() string { return p.addr }

// SetDelay holds back, from now on, the bytes of each direction for so long: an
// answer then comes twice that later. Their order stays, and as many bytes as
// before get through at a time. It is not for making connections.
func (p *Proxy) SetDelay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Move sends the connections that are made from now on to another server, as an
// address that is taken over by a replica does.
func (p *Proxy) Move(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = addr
}

// Cut resets all connections, loses what was under way, and lets new ones be
// refused until Mend.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ln != nil {
		p.ln.Close()
		close(p.cut)
		p.ln = nil
	}
	for c := range p.conns {
		reset(c)
	}
}

// Mend takes connections again, at the same address.
func (p *Proxy) Mend() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ln != nil {
		return
	}
	ln, err := net.Listen("tcp", p.addr)
	if err != nil {
		p.t.Errorf("the proxy of redis cannot listen: %v", err)
		return
	}
	cut := make(chan struct{})
	p.ln, p.cut = ln, cut
	p.work.Go(func() { p.accept(ln, cut) })
}

func (p *Proxy) accept(ln net.Listener, cut <-chan struct{}) {
	for {
		client, err := ln.Accept()
		if err != nil {
			return // cut
		}
		p.work.Go(func() { p.serve(client, cut) })
	}
}

// serve passes on one connection until both of its directions have ended.
func (p *Proxy) serve(client net.Conn, cut <-chan struct{}) {
	p.mu.Lock()
	to := p.to
	p.mu.Unlock()
	server, err := net.DialTimeout("tcp", to, 5*time.Second)
	if err != nil {
		reset(client)
		return
	}
	if !p.hold(cut, client, server) {
		return
	}
	var pumps sync.WaitGroup
	pumps.Go(func() { p.pump(server, client, cut) })
	pumps.Go(func() { p.pump(client, server, cut) })
	pumps.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range []net.Conn{client, server} {
		delete(p.conns, c)
		c.Close()
	}
}

// hold makes the connections known to Cut, unless it has come since they were
// accepted.
func (p *Proxy) hold(cut <-chan struct{}, conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-cut:
		for _, c := range conns {
			reset(c)
		}
		return false
	default:
	}
	for _, c := range conns {
		p.conns[c] = struct{}{}
	}
	return true
}

// parcel is bytes on their way; the last one of a direction has none.
type parcel struct {
	data []byte
	due  time.Time
}

// pump carries one direction. The parcels under way are bounded, by more than
// any test sends within a delay.
func (p *Proxy) pump(to, from net.Conn, cut <-chan struct{}) {
	way := make(chan parcel, 1<<14)
	var carrier sync.WaitGroup
	carrier.Go(func() { carry(to, way, cut) })
	for {
		data := make([]byte, 16<<10)
		n, err := from.Read(data)
		p.mu.Lock()
		due := time.Now().Add(p.delay)
		p.mu.Unlock()
		if n > 0 {
			way <- parcel{data[:n], due}
		}
		if err != nil {
			way <- parcel{nil, due}
			break
		}
	}
	close(way)
	carrier.Wait()
}

// carry delivers parcels when they are due, and the end of the direction.
func carry(to net.Conn, way <-chan parcel, cut <-chan struct{}) {
	for m := range way {
		select {
		case <-time.After(time.Until(m.due)):
		case <-cut:
			continue // nothing more arrives
		}
		if m.data == nil {
			_ = to.(*net.TCPConn).CloseWrite() // the other side may have gone
			continue
		}
		if _, err := to.Write(m.data); err != nil {
			reset(to)
		}
	}
}

// reset closes a connection so that the other side gets an error, not an end.
func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0) // it may be closed already
	c.Close()
}
