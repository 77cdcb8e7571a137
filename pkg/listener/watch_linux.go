//go:build linux && !peekwatch

package listener

import "github.com/llmproxy/llmproxy/pkg/socket"

// watch is one socket.Watch over all sockets of a listener.
type watch struct{ *socket.Watch }

func newWatch(l *Listener) (*watch, error) {
	w, err := socket.NewWatch(func(id uint64) {
		if c := l.find(id); c != nil {
			c.notify(Left)
		}
	})
	if err != nil {
		return nil, err
	}
	return &watch{w}, nil
}

func (w *watch) add(c *Conn) error { return w.Add(c.raw, c.id) }

func (w *watch) close() { w.Close() }
