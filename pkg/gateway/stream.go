package gateway

import (
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/listener"
)

// takeOver takes the connection of a stream from the server, which would hold
// the request, its buffers and a deep stack for as long as the stream lasts,
// and would write each chunk in three pieces.
func (x *Exchange) takeOver(ctx *fasthttp.RequestCtx) {
	h := &ctx.Response.Header
	x.call.Chunked = ctx.Request.Header.IsHTTP11()
	x.again = x.conn != nil && x.call.Chunked && !h.ConnectionClose() && !ctx.Request.Header.ConnectionClose()
	if !x.again {
		h.SetConnectionClose()
	}
	if !x.began {
		x.head = heads.Get().(*[]byte)
		*x.head = appendStreamHead((*x.head)[:0], h, x.call.Chunked)
	}
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(x.taken)
}

// heads holds the buffers of stream heads.
var heads = sync.Pool{New: func() any { b := make([]byte, 0, 1<<10); return &b }}

// appendStreamHead writes the head of an answer whose length is not known: in
// chunks, or for an HTTP/1.0 client up to the end of the connection.
func appendStreamHead(b []byte, h *fasthttp.ResponseHeader, chunked bool) []byte {
	if chunked {
		h.SetContentLength(-1)
		return h.AppendBytes(b)
	}
	b = append(b, "HTTP/1.0 "...)
	b = append(b, h.String()[len("HTTP/1.1 "):]...)
	return b
}

// writeHead writes the head of a stream with its first bytes.
func (x *Exchange) writeHead(p []byte) error {
	b := append(*x.head, p...)
	_, err := x.client.Write(b)
	if cap(b) <= maxHeaderKept {
		*x.head = b
		heads.Put(x.head)
	}
	x.head = nil
	return err
}

// release finds the connection under the server's wrapper, together with what
// the server has read of the next request already.
func release(c net.Conn) net.Conn {
	bare := c.(interface{ UnsafeConn() net.Conn }).UnsafeConn()
	if r, ok := bare.(*rewound); ok {
		bare = r.Conn // its rest is read below
	}
	// With its time over, a read returns what is buffered, and then fails.
	if bare.SetReadDeadline(past) != nil {
		return bare // closed: the first write says so
	}
	buf := heads.Get().(*[]byte)
	defer heads.Put(buf)
	var rest []byte
	for {
		n, err := c.Read((*buf)[:cap(*buf)])
		rest = append(rest, (*buf)[:n]...)
		if err != nil || n == 0 {
			break
		}
	}
	_ = bare.SetReadDeadline(time.Time{}) // as above
	if len(rest) > 0 {
		return &rewound{Conn: bare, rest: rest}
	}
	return bare
}

// rewound is a connection that goes back to the server, with what was read too
// early.
type rewound struct {
	net.Conn
	rest   []byte
	upload *upload // the body of the request that rest begins with
}

func (r *rewound) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return r.Conn.Read(p)
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// NetConn lets listener.FromConn see what is below.
func (r *rewound) NetConn() net.Conn { return r.Conn }

// serveNext waits for a connection's next request and gives it back to the
// server. The server is not asked to wait: to it the connection is new, and the
// time that a new one has for its first request is another than between two.
//
// Its name is new too: the server may not have finished with the old one, by
// which it knows what to close when it shuts down.
func (g *Gateway) serveNext(conn net.Conn) {
	r, ok := conn.(*rewound)
	if !ok {
		if listener.FromConn(conn).Await(g.idleTimeout) != nil {
			_ = conn.Close() // there is nobody to tell
			return
		}
		r = &rewound{Conn: conn}
	}
	growToServe()
	_ = g.server.ServeConn(r) // its own error handler has told the client
}

// A young goroutine has 2 KiB of stack. It grows by copying, once or twice on the
// way down, and each time every frame there is is looked up. These two make the
// room while there are few frames: for relaying, and for serving a request.

//go:noinline
func growToRelay() {
	var room [2 << 10]byte
	runtime.KeepAlive(&room)
}

//go:noinline
func growToServe() {
	var room [6 << 10]byte
	runtime.KeepAlive(&room)
}
