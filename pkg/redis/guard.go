package redis

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"sync"
)

var (
	errForeign = errors.New("what answers does not speak Redis's protocol")
	errOld     = errors.New("a Sentinel without RESP3: Redis 6.2 or newer is needed")
)

// guard sees what a connection carries before rueidis does, which panics, in a goroutine of its own, on a length or a
// reply that it did not think of. What passes is well-formed, asked for, and where rueidis takes more than that for
// granted, of the shape that it does.
type guard struct {
	net.Conn
	mu       sync.Mutex // one goroutine writes and another reads
	out, in  stream
	asked    uint64
	answered uint64
	awaited  []awaited // of the commands without an answer those with a shape, in order
	last     shape     // of the last command
	resp3    bool
	listens  bool
	bad      error // nothing passes any more
}

type awaited struct {
	place  uint64 // among all commands
	shape  shape
	pushes int // still to come
}

// shape is what the answer to a command has to look like.
type shape byte

const (
	anything shape = iota
	subscribe
	unsubscribe
	pong   // of the PING that rueidis sends behind an UNSUBSCRIBE
	role   // one element, for ROLE
	master // two, for SENTINEL GET-MASTER-ADDR-BY-NAME
)

// Read gives an error instead of all that was read when any of it is bad.
func (g *guard) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if bad := g.replies(p[:n]); bad != nil {
		return 0, bad
	}
	return n, err
}

// Write counts before it writes: the answer may be there before it returns.
func (g *guard) Write(p []byte) (int, error) {
	if err := g.commands(p); err != nil {
		return 0, err
	}
	return g.Conn.Write(p)
}

func (g *guard) replies(p []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(p) > 0 && g.bad == nil {
		n, whole, err := g.in.next(p)
		if whole {
			err = g.reply()
		}
		if err != nil {
			g.bad = fmt.Errorf("%w: %w", errForeign, err)
		}
		p = p[n:]
	}
	return g.bad
}

func (g *guard) commands(p []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(p) > 0 && g.bad == nil {
		n, whole, err := g.out.next(p)
		if whole {
			err = g.command()
		}
		g.bad, p = err, p[n:]
	}
	return g.bad
}

// command takes note of the command that out has just seen.
func (g *guard) command() error {
	name, rest, _ := bytes.Cut(g.out.text(), newline)
	rest, _, _ = bytes.Cut(rest, newline)
	a := awaited{place: g.asked}
	switch string(name) {
	case "SUBSCRIBE":
		a.shape, a.pushes = subscribe, g.out.count-1
	case "UNSUBSCRIBE":
		a.shape, a.pushes = unsubscribe, g.out.count-1
	case "PING":
		if g.last == unsubscribe {
			a.shape = pong
		}
	case "ROLE":
		a.shape = role
	case "SENTINEL":
		if !g.resp3 {
			return errOld
		}
		if string(rest) == "GET-MASTER-ADDR-BY-NAME" {
			a.shape = master
		}
	}
	// A connection for subscriptions in RESP2, where a push looks like any array, is the only one that begins otherwise.
	if g.asked == 0 && (string(name) != "HELLO" || string(rest) != "3") {
		return errOld
	}
	g.last = a.shape
	g.asked++
	if a.shape != anything {
		g.awaited = append(g.awaited, a)
	}
	return nil
}

var newline = []byte{'\n'}

// reply holds the message that in has just seen against the command that it answers.
func (g *guard) reply() error {
	if g.in.top == '>' {
		return g.push()
	}
	if g.answered == g.asked {
		return errors.New("a reply that nobody asked for")
	}
	if g.answered == 0 {
		g.resp3 = g.in.top != '-'
	}
	to := anything
	if a := g.awaits(); a != nil {
		to = a.shape
	}
	if !g.in.suits(to) {
		return errors.New("a reply that does not fit its command")
	}
	g.answer()
	return nil
}

// awaits is what is known of the command that is next to be answered.
func (g *guard) awaits() *awaited {
	if len(g.awaited) == 0 || g.awaited[0].place != g.answered {
		return nil
	}
	return &g.awaited[0]
}

func (g *guard) answer() {
	if g.awaits() != nil {
		g.awaited = g.awaited[:copy(g.awaited, g.awaited[1:])]
	}
	g.answered++
}

// push is what Sentinels tell. Nobody else is listened to.
func (g *guard) push() error {
	kind, rest, _ := bytes.Cut(g.in.text(), newline)
	channel, event, _ := bytes.Cut(rest, newline)
	want := anything
	switch string(kind) {
	case "message":
		// rueidis takes the words of an event for granted.
		words := 1 + bytes.Count(event, []byte{' '})
		if g.listens && g.in.count == 3 && (words >= 5 || words == 4 && string(channel) != "+switch-master") {
			return nil
		}
		return errors.New("an event of no known shape")
	case "subscribe":
		want = subscribe
	case "unsubscribe":
		want = unsubscribe
	}
	a := g.awaits()
	if want == anything || g.in.count != 3 || a == nil || a.shape != want {
		return errors.New("a push that nobody asked for")
	}
	g.listens = want == subscribe
	if a.pushes--; a.pushes == 0 {
		g.answer()
	}
	return nil
}

// suits tells whether rueidis survives the message as the answer to a command.
func (s *stream) suits(to shape) bool {
	if s.top == '-' && !s.complete() {
		return false
	}
	list := s.top == '*' || s.top == '~' || s.top == '%'
	switch to {
	case subscribe, unsubscribe:
		return false
	case pong:
		return s.top == '+' && string(s.text()) == "PONG"
	case role:
		return !list || s.count != 0
	case master:
		return !list || s.count < 0 || s.count >= 2
	}
	return true
}

// complete is false for a MOVED or an ASK that names nobody.
func (s *stream) complete() bool {
	text := bytes.TrimPrefix(s.text(), []byte("ERR "))
	if !bytes.HasPrefix(text, []byte("MOVED")) && !bytes.HasPrefix(text, []byte("ASK")) {
		return true
	}
	return bytes.Count(text, []byte{' '}) >= 2
}
