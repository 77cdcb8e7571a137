package forward

import (
	"sync"

	"github.com/llmproxy/llmproxy/pkg/socket"
)

// Hangups watches the connections of all upstreams. It is what makes it safe to
// take a short read for all that there is: an engine that dies right behind its
// last bytes may tell so together with them, and never again.
type Hangups struct {
	watch *socket.Watch // nil where the system has none: every read is tried twice

	mu     sync.Mutex
	conns  map[uint64]*conn
	lastID uint64
}

// NewHangups starts watching. It needs no more than the system has: without a
// watch, upstreams work the same and cost a system call more for each read.
func NewHangups() *Hangups {
	h := &Hangups{conns: map[uint64]*conn{}}
	h.watch, _ = socket.NewWatch(h.gone) // an error is the lack of it
	return h
}

// Close ends the watching. The upstreams must have been closed.
func (h *Hangups) Close() {
	if h.watch != nil {
		h.watch.Close()
	}
}

// add watches k, unless the system refuses.
func (h *Hangups) add(k *conn) {
	if h.watch == nil || k.sys == nil {
		return
	}
	h.mu.Lock()
	h.lastID++
	k.id = h.lastID
	h.conns[k.id] = k
	h.mu.Unlock()
	if h.watch.Add(k.sys, k.id) != nil {
		h.remove(k)
		return
	}
	k.hangups = h
}

func (h *Hangups) remove(k *conn) {
	h.mu.Lock()
	delete(h.conns, k.id)
	h.mu.Unlock()
}

func (h *Hangups) gone(id uint64) {
	h.mu.Lock()
	k := h.conns[id]
	h.mu.Unlock()
	if k != nil {
		k.hungUp()
	}
}

// hungUp notes that the engine ended the connection, and wakes who waits for
// it to become readable: perhaps it was, and will not be once more.
func (k *conn) hungUp() {
	k.endMu.Lock()
	defer k.endMu.Unlock()
	k.ended.Store(true)
	k.woken = true
	_ = k.raw.SetReadDeadline(past) // fails on a closed connection only
}

// wokenByEnd tells whether a read deadline that passed was hungUp's, once.
func (k *conn) wokenByEnd() bool {
	k.endMu.Lock()
	defer k.endMu.Unlock()
	woken := k.woken
	k.woken = false
	return woken
}
