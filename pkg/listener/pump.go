package listener

import (
	"net"
	"os"
	"sync"
	"time"
)

// pumpSize is how far a pump reads ahead: the end of a connection is seen
// behind as many unread bytes.
const pumpSize = 64 << 10

// pump reads a connection that is no socket ahead of its owner. A pipe in
// memory has nothing to watch but its data, so somebody must always read it.
type pump struct {
	conn net.Conn
	cond sync.Cond // signals a change of what L protects

	mu       sync.Mutex // is cond.L and protects the rest
	ahead    []byte
	err      error // why run ended
	deadline time.Time
	alarm    *time.Timer // wakes Read at the deadline
}

func newPump(conn net.Conn) *pump {
	p := &pump{conn: conn}
	p.cond.L = &p.mu
	return p
}

// run reads until the connection ends and then calls gone.
func (p *pump) run(gone func()) {
	buf := make([]byte, 4096)
	for {
		n, err := p.conn.Read(buf)
		p.mu.Lock()
		p.ahead = append(p.ahead, buf[:n]...)
		if p.err == nil {
			p.err = err
		}
		p.cond.Broadcast()
		for p.err == nil && len(p.ahead) >= pumpSize {
			p.cond.Wait()
		}
		ended := p.err != nil
		p.mu.Unlock()
		if ended {
			gone()
			return
		}
	}
}

// Read hands out what run has read.
func (p *pump) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.wait(); err != nil {
		return 0, err
	}
	n := copy(b, p.ahead)
	p.ahead = append(p.ahead[:0], p.ahead[n:]...)
	p.cond.Broadcast()
	return n, nil
}

// await waits until Read has something to hand out.
func (p *pump) await() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wait()
}

// wait waits for bytes ahead. p.mu is held.
func (p *pump) wait() error {
	for len(p.ahead) == 0 && p.err == nil {
		if !p.deadline.IsZero() && !time.Now().Before(p.deadline) {
			return os.ErrDeadlineExceeded
		}
		p.cond.Wait()
	}
	if len(p.ahead) == 0 {
		return p.err
	}
	return nil
}

func (p *pump) setDeadline(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deadline = t
	if p.alarm != nil {
		p.alarm.Stop()
		p.alarm = nil
	}
	if !t.IsZero() {
		p.alarm = time.AfterFunc(time.Until(t), p.wake)
	}
	p.cond.Broadcast()
}

func (p *pump) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cond.Broadcast()
}

// stop ends run once the connection is closed, also when nobody reads what it
// has read.
func (p *pump) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = net.ErrClosed
	}
	if p.alarm != nil {
		p.alarm.Stop()
	}
	p.cond.Broadcast()
}
