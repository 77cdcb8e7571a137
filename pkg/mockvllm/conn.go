package mockvllm

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// maxBody bounds a request body.
const maxBody = 256 << 20

// conn serves HTTP/1.1 on one connection. It is not net/http's server because
// the oracle must send what uvicorn sends: lower-case header names, one chunk
// per event, and every kind of broken answer; and it must see the client go in
// every phase, a half-close included, as asyncio does.
type conn struct {
	e    *Engine
	id   uint64
	nc   net.Conn
	br   *bufio.Reader
	busy atomic.Bool

	// doomed closes the connection when the next request arrives: the race
	// between a keep-alive timeout and a request, made certain.
	doomed bool
}

func newConn(e *Engine, nc net.Conn, id uint64) *conn {
	return &conn{e: e, id: id, nc: nc, br: bufio.NewReader(nc)}
}

// serve answers requests until the connection ends.
func (c *conn) serve() {
	defer func() { _ = c.nc.Close() }()
	for {
		req, err := http.ReadRequest(c.br)
		if err != nil {
			if !isGone(err) {
				c.badRequest()
			}
			return
		}
		if c.doomed {
			return
		}
		c.busy.Store(true)
		keep := c.one(req)
		c.busy.Store(false)
		if !keep {
			return
		}
	}
}

// one answers one request and waits for the next to begin; false when the
// connection has ended or must end.
func (c *conn) one(req *http.Request) bool {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	x := &call{e: c.e, conn: c, req: req, ctx: ctx, wire: wire{nc: c.nc, stack: c.e.dialect.stack, http10: !req.ProtoAtLeast(1, 1), noBody: req.Method == http.MethodHead}}
	x.wire.closing = req.Close || c.e.draining.Load()
	x.begin()
	if err := x.readBody(); err != nil {
		x.gone("body")
		return false
	}
	// From here on the connection is read only to see it end. A byte of a
	// pipelined request hides the end, as it does in uvicorn.
	next := make(chan bool, 1) // whether there is one
	go func() {
		_, err := c.br.Peek(1)
		if err != nil {
			cancel()
		}
		next <- err == nil
	}()
	x.serve()
	if x.wire.closing || c.e.draining.Load() {
		_ = c.nc.Close()
		<-next
		return false
	}
	c.busy.Store(false)
	idle := time.AfterFunc(c.e.opt.KeepAlive, func() { _ = c.nc.Close() })
	more := <-next
	// A timer that has fired closes the connection, now or in a moment: what
	// has just arrived is not answered then, as in uvicorn.
	return idle.Stop() && more
}

// badRequest answers what is not HTTP; only uvicorn says something.
func (c *conn) badRequest() {
	w := wire{nc: c.nc, stack: c.e.dialect.stack, closing: true}
	if w.stack != stackUvicorn {
		_ = w.send(&head{status: 400}, nil)
		return
	}
	_ = w.send(&head{status: 400, contentType: "text/plain; charset=utf-8"}, []byte("Invalid HTTP request received."))
}

// isGone tells a connection that ended from one that sent nonsense.
func isGone(err error) bool {
	var ne net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, io.ErrClosedPipe) || errors.As(err, &ne)
}

// reset closes a connection with an RST where the network has one.
func reset(nc net.Conn) {
	if t, ok := nc.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = nc.Close()
}
