//go:build linux

package main

import (
	"bytes"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// phase is where a connection to the engine stands.
type phase uint8

const (
	closed phase = iota
	readingHead
	readingBody
	answering // also while it waits to
)

// scanned is how much of either end of a body is searched for "stream": true.
const scanned = 4 << 10

// burst is how many events a stream with no interval sends in its turn: enough
// to fill the socket of a reader that is behind.
const burst = 64

// conn is one connection to the engine and the request it carries.
type conn struct {
	fd    int
	phase phase
	in    []byte // read but not understood: half a head, or an early next request
	out   []byte // what the socket did not take yet
	timer timer  // of the next event, or of the answer's start

	// Of the request.
	body     framing
	bodyRead int64
	bodySize int64 // -1 is unknown
	flag     flagScan
	chat     bool
	http10   bool
	last     bool   // the connection ends with the answer
	side     []byte // the answer to what is no chat

	// Of the answer.
	stream bool
	manner behaviour
	sent   int // events with content
	done   bool
}

func (c *conn) open(fd int) {
	*c = conn{fd: fd, phase: readingHead, in: c.in[:0], out: c.out[:0], timer: timer{id: fd}}
}

// read takes in what has come. While an answer is under way it is kept.
func (e *engine) read(c *conn, b []byte) {
	if len(c.in) > 0 {
		c.in = append(c.in, b...)
		b = c.in
	}
	for len(b) > 0 && (c.phase == readingHead || c.phase == readingBody) {
		var err error
		kept := len(b)
		if c.phase == readingHead {
			b, err = e.readHead(c, b)
		} else {
			b, err = e.readBody(c, b)
		}
		if err != nil {
			e.write(c, e.invalid)
			e.drop(c)
			return
		}
		if c.phase == readingBody && c.body.ended {
			e.answer(c)
		} else if len(b) == kept {
			break // the rest of the head is to come
		}
	}
	c.in = append(c.in[:0], b...)
}

func (e *engine) readHead(c *conn, b []byte) ([]byte, error) {
	h, n, err := parseHead(b)
	if err != nil || n == 0 {
		return b, err
	}
	method, rest, _ := bytes.Cut(h.start, []byte(" "))
	path, version, _ := bytes.Cut(rest, []byte(" "))
	c.http10 = string(version) == "HTTP/1.0"
	c.last = h.close || c.http10 && !h.keepAlive
	c.chat, c.side = string(method) == "POST", nil
	if !c.chat || bytes.HasPrefix(path, []byte("/control")) || string(path) == "/usage" {
		c.chat, c.side = false, e.side(string(method), string(path))
	}
	c.body, c.bodySize, c.bodyRead = h.framing(byLength), h.length, 0
	if h.chunked {
		c.bodySize = -1
	}
	c.flag = flagScan{name: needle{text: streamName}}
	c.phase = readingBody
	if h.expect && !c.http10 && !c.body.ended {
		e.write(c, e.goOn)
	}
	return b[n:], nil
}

// side answers what is no chat: what is asked about the engine, control, and what
// a gateway reports to a billing system, which this one is too.
func (e *engine) side(method, target string) []byte {
	path, query, _ := strings.Cut(target, "?")
	switch {
	case path == "/usage":
		return e.noContent
	case path != "/control":
		return described(path)
	case method != "POST":
		return e.counts.reply()
	}
	manner, err := parseBehaviour(query)
	if err != nil {
		return e.invalid
	}
	e.manner = manner
	return e.noContent
}

func (e *engine) readBody(c *conn, b []byte) ([]byte, error) {
	data, rest, err := c.body.next(b)
	if err != nil || !c.chat || len(data) == 0 {
		return rest, err
	}
	n := int64(len(data))
	e.counts.BodyBytes += n
	if c.bodySize < 0 { // where its last bytes begin is not known
		c.flag.read(data)
	} else {
		early := min(n, max(0, scanned-c.bodyRead))
		c.flag.read(data[:early])
		late := max(early, c.bodySize-scanned-c.bodyRead)
		if late < n {
			c.flag.read(data[late:])
		}
	}
	c.bodyRead += n
	return rest, nil
}

// answer begins to answer the request that was read, or sets the time for it.
func (e *engine) answer(c *conn) {
	c.phase, c.done, c.sent, c.stream = answering, false, 0, false
	if !c.chat {
		e.write(c, c.side)
		e.finish(c)
		return
	}
	e.counts.Requests++
	c.manner = e.manner
	if c.stream = c.flag.set; c.stream {
		e.counts.StreamsOpen++
		c.last = c.last || c.http10
	}
	due := e.now + c.manner.delay
	if c.stream && c.manner.sync && c.manner.interval > 0 {
		due = (due/c.manner.interval + 1) * c.manner.interval
	}
	if due > e.now {
		e.timers.set(&c.timer, due)
		return
	}
	c.timer.due = due
	e.advance(c)
}

// advance sends what is due: the whole answer, or a stream's next event.
func (e *engine) advance(c *conn) {
	switch {
	case !c.stream && c.http10 && !c.last:
		e.write(c, e.whole10)
		e.finish(c)
	case !c.stream:
		e.write(c, e.whole)
		e.finish(c)
	case c.sent < c.manner.events:
		e.event(c)
		for n := 1; n < burst && c.hurries(); n++ {
			e.event(c)
		}
		if len(c.out) == 0 {
			e.schedule(c)
		}
	default:
		for _, p := range e.tail {
			e.piece(c, p)
		}
		if !c.http10 {
			e.write(c, e.end)
		}
		e.finish(c)
	}
}

// hurries tells whether the next event is due at once.
func (c *conn) hurries() bool {
	return c.manner.interval == 0 && len(c.out) == 0 && c.sent < c.manner.events && c.sent != c.manner.stall
}

func (e *engine) event(c *conn) {
	what := &e.other
	if c.sent == 0 {
		what = &e.first
		if c.http10 {
			e.write(c, e.head10)
		} else {
			e.write(c, e.head)
		}
	}
	e.piece(c, what.at(time.Now().UnixNano()))
	c.sent++
	e.counts.Events++
}

// schedule sets the time of a stream's next event, late ones at once. One with
// no interval still lets all others have their turn.
func (e *engine) schedule(c *conn) {
	if c.sent == c.manner.stall {
		return
	}
	due := c.timer.due + c.manner.interval
	if c.manner.interval == 0 {
		due = e.now + 1
	}
	e.timers.set(&c.timer, due)
}

func (e *engine) piece(c *conn, p piece) {
	if c.http10 {
		e.write(c, p.plain)
		return
	}
	e.write(c, p.framed)
}

// write sends b, and keeps what the socket does not take. A dead connection is
// told by the poller, so its errors are not looked at here.
func (e *engine) write(c *conn, b []byte) {
	if len(c.out) == 0 {
		n, errno := send(c.fd, b)
		if errno != 0 || n == len(b) {
			return
		}
		b = b[n:]
		e.watch(unix.EPOLL_CTL_MOD, c.fd, unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLOUT)
	}
	c.out = append(c.out, b...)
}

// flush goes on where the socket had no room.
func (e *engine) flush(c *conn) {
	if len(c.out) == 0 {
		return
	}
	n, errno := send(c.fd, c.out)
	if errno != 0 {
		e.drop(c)
		return
	}
	c.out = append(c.out[:0], c.out[n:]...)
	if len(c.out) > 0 {
		return
	}
	e.watch(unix.EPOLL_CTL_MOD, c.fd, unix.EPOLLIN|unix.EPOLLRDHUP)
	switch {
	case c.done:
		e.finish(c)
	case c.phase == answering && c.stream:
		e.schedule(c)
	}
}

// finish ends the answer once its last byte is sent.
func (e *engine) finish(c *conn) {
	if c.done = true; len(c.out) > 0 {
		return
	}
	c.phase = readingHead
	if c.stream {
		e.counts.StreamsOpen--
	}
	if c.last {
		e.drop(c)
	}
}

// resume reads the request that came while another was being answered.
func (e *engine) resume(c *conn) {
	if c.phase == readingHead && len(c.in) > 0 {
		e.read(c, nil)
	}
}
