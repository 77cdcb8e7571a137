package mockvllm

import (
	"net"
	"sync"
	"time"
)

// gate is a listener that can be closed for a while and opened again on the
// same address, so that dialling it is refused in between.
type gate struct {
	mu     sync.Mutex
	ln     net.Listener
	closed bool // for good
	shut   bool // for a while
	deaf   bool // for a while, a listener that cannot be opened again

	reopen chan net.Listener
}

// close closes the listener for good.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	_ = g.ln.Close()
}

// refuse closes the listener and opens it again after d.
func (g *gate) refuse(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.shut {
		return
	}
	if _, ok := g.ln.(*net.TCPListener); !ok {
		g.deaf = true
		time.AfterFunc(d, g.hear)
		return
	}
	g.shut = true
	_ = g.ln.Close()
	time.AfterFunc(d, g.open)
}

func (g *gate) hear() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.deaf = false
}

// refusing tells whether connections that still get through must be closed.
func (g *gate) refusing() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.deaf
}

// open listens again; while another process has the port it tries again.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	addr := g.ln.Addr()
	ln, err := net.Listen(addr.Network(), addr.String())
	if err != nil {
		time.AfterFunc(10*time.Millisecond, g.open)
		return
	}
	g.ln, g.shut = ln, false
	g.reopen <- ln
}

// next returns the listener to go on with after one was closed, or nil when it
// was closed for good.
func (g *gate) next(done <-chan struct{}) net.Listener {
	g.mu.Lock()
	shut := g.shut || len(g.reopen) > 0
	g.mu.Unlock()
	if !shut {
		return nil
	}
	select {
	case ln := <-g.reopen:
		return ln
	case <-done:
		return nil
	}
}
