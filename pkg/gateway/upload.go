package gateway

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/forward"
	"github.com/llmproxy/llmproxy/pkg/listener"
	"github.com/llmproxy/llmproxy/pkg/openai"
)

// upload is the body of a form. The server would hold all of a body in memory;
// a form's is read by us, off the connection and, if it is large, into a file.
// Then the connection goes back to the server with the head of the request once
// more, and the journey begins.
type upload struct {
	form  *openai.Form
	size  int64
	data  []byte    // the body,
	file  *os.File  // unless it is here
	began time.Time // to arrive; zero when it did not
	err   *openai.Error
}

// smallUpload is the largest body, in bytes, that is held in memory.
const smallUpload = 1 << 20

// expectsForm tells whether the request is for an endpoint that takes forms, and
// has one: its body is left on the connection.
func (g *Gateway) expectsForm(h *fasthttp.RequestHeader) bool {
	ct := h.ContentType()
	if len(ct) == 0 || ct[0]|0x20 != 'm' || !h.IsPost() {
		return false
	}
	return g.forms[string(pathOf(h))]
}

// receive answers a request for an endpoint that takes forms: at the first
// sight of it the body is fetched, at the second it is served.
func (g *Gateway) receive(ctx *fasthttp.RequestCtx, e *endpoint) {
	if u := arrived(ctx.Conn()); u != nil {
		g.serve(ctx, e, u)
		return
	}
	if !g.expectsForm(&ctx.Request.Header) {
		g.serve(ctx, e, &upload{err: openai.UnsupportedForm()})
		return
	}
	if err := g.refusedKey(&ctx.Request.Header); err != nil {
		if c := listener.FromConn(ctx.Conn()); c != nil {
			c.Linger()
		}
		g.serve(ctx, e, &upload{err: err}) // whose error closes the connection: the body is still to come
		return
	}
	a := &arrival{upload: upload{began: time.Now()}, gateway: g, limit: int64(g.View().MaxBody), dir: g.View().UploadDir}
	a.head, a.length = replay(ctx)
	timeout := orForever(g.View().BodyTimeout)
	form, err := openai.NewForm(string(ctx.Request.Header.ContentType()))
	if ce := ctx.Request.Header.Peek(fasthttp.HeaderContentEncoding); err != nil || !isIdentity(ce) {
		g.serve(ctx, e, &upload{err: openai.UnsupportedForm()})
		ctx.SetConnectionClose() // the body is still to come
		return
	}
	a.form = form
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(func(c net.Conn) { go a.fetch(release(c), timeout) })
}

// arrived takes the upload that came over c before.
func arrived(c net.Conn) *upload {
	for {
		if r, ok := c.(*rewound); ok {
			u := r.upload
			r.upload = nil
			return u
		}
		below, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = below.NetConn()
	}
}

// replay renders the head of a request as it came, and tells the length of its
// body, -1 for chunks. The client's wish to be asked for the body is granted by
// now.
func replay(ctx *fasthttp.RequestCtx) (head []byte, length int64) {
	h := &ctx.Request.Header
	head = fmt.Appendf(nil, "%s %s HTTP/1.1\r\n", h.Method(), h.RequestURI())
	if !h.IsHTTP11() {
		head = bytes.Replace(head, []byte("HTTP/1.1"), []byte("HTTP/1.0"), 1)
	}
	for line := range bytes.Lines(h.RawHeaders()) {
		line = bytes.TrimRight(line, "\r\n")
		switch {
		case len(line) == 0 || named(line, "expect") == 1:
			continue
		case named(line, "transfer-encoding") == 1:
			length = -1
		case named(line, "content-length") == 1:
			for _, c := range bytes.Trim(line[len("content-length:"):], " \t") {
				length = length*10 + int64(c-'0') // the server has read it before
			}
		}
		head = append(append(head, line...), "\r\n"...)
	}
	return append(head, "\r\n"...), length
}

// arrival is an upload on its way in.
type arrival struct {
	upload
	gateway *Gateway
	head    []byte
	length  int64 // -1: in chunks
	limit   int64 // of the body, in bytes
	dir     string
}

// fetch reads the body off the connection and gives that back to the server.
func (a *arrival) fetch(conn net.Conn, timeout time.Duration) {
	next, err := a.receive(conn, timeout)
	if err != nil && !a.refuse(err, conn) {
		a.close()
		_ = conn.Close() // the client has gone: there is nobody to tell
		return
	}
	server := a.gateway.server
	growToServe()
	_ = server.ServeConn(next) // its own error handler has told the client
	next.upload.close()        // when it came to no journey
}

// receive reads the body, and tells what the server is to read in its place.
func (a *arrival) receive(conn net.Conn, timeout time.Duration) (next *rewound, err error) {
	r := buffers.Get().(*bufio.Reader)
	r.Reset(conn)
	defer func() {
		if p := recover(); p != nil {
			a.gateway.panicked(p)
			err = net.ErrClosed
		}
		r.Reset(nil)
		buffers.Put(r)
	}()
	if err = conn.SetReadDeadline(time.Now().Add(timeout)); err == nil {
		err = a.interruptible(conn, func() error { return a.read(r) })
	}
	rest, _ := r.Peek(r.Buffered())
	next = &rewound{Conn: conn, rest: append(a.head, rest...), upload: &a.upload}
	if below, ok := conn.(*rewound); ok {
		next.Conn, next.rest = below.Conn, append(next.rest, below.rest...)
	}
	_ = conn.SetReadDeadline(time.Time{}) // a closed connection shows at the next read
	return next, err
}

// interruptible calls read, which a shutdown ends.
func (a *arrival) interruptible(conn net.Conn, read func() error) error {
	c := listener.FromConn(conn)
	if c == nil {
		return read()
	}
	var stopped atomic.Bool
	c.Watch(func(cause listener.Cause) {
		if cause == listener.Interrupted { // who leaves is noticed by the read
			stopped.Store(true)
			_ = conn.SetReadDeadline(past)
		}
	})
	err := read()
	c.Unwatch()
	if err != nil && stopped.Load() {
		return forward.ErrShuttingDown
	}
	return err
}

// uploadBuffer is how much is read at once.
const uploadBuffer = 64 << 10

var buffers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, uploadBuffer) }}

// read reads the body.
func (a *arrival) read(r *bufio.Reader) error {
	switch {
	case a.length < 0:
		if _, err := io.Copy(a, httputil.NewChunkedReader(r)); err != nil {
			return err
		}
		if err := readTrailer(r); err != nil {
			return err
		}
	case a.length <= smallUpload:
		a.data = make([]byte, 0, a.length)
		fallthrough
	default:
		if _, err := io.CopyN(a, r, a.length); err != nil {
			return err
		}
	}
	return a.form.Close()
}

// readTrailer reads what follows the last chunk.
func readTrailer(r *bufio.Reader) error {
	for total := 0; total < 4<<10; {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if total += len(line); len(bytes.TrimRight(line, "\r\n")) == 0 {
			return nil
		}
	}
	return errors.New("the trailer is too long")
}

var errTooLarge = errors.New("larger than the limit")

// Write takes the next bytes of the body.
func (a *arrival) Write(p []byte) (int, error) {
	if a.size += int64(len(p)); a.size > a.limit {
		return 0, errTooLarge
	}
	if _, err := a.form.Write(p); err != nil {
		return 0, err
	}
	if a.file == nil && len(a.data)+len(p) > smallUpload {
		if err := a.spill(); err != nil {
			return 0, err
		}
	}
	if a.file == nil {
		a.data = append(a.data, p...)
		return len(p), nil
	}
	return a.file.Write(p)
}

// spill moves the body into a file that has no name, so that it is gone with
// the process.
func (a *arrival) spill() error {
	f, err := os.CreateTemp(a.dir, "llmproxy-upload-*")
	if err != nil {
		return err
	}
	a.file = f
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	_, err = f.Write(a.data)
	a.data = nil
	return err
}

// refuse makes err the answer. It returns false when there is nobody to answer.
func (a *arrival) refuse(err error, conn net.Conn) bool {
	var ne net.Error
	var bad *openai.SyntaxError
	var file *os.PathError // is a net.Error too when it says ENOSPC
	switch {
	case errors.As(err, &file):
		a.gateway.log.Error("cannot keep an upload; see server.upload_dir", "error", err)
		a.err = openai.Unavailable("", time.Second)
	case errors.Is(err, forward.ErrShuttingDown):
		a.err = openai.ShuttingDown()
	case errors.Is(err, errTooLarge):
		a.err = openai.BodyTooLarge(a.limit)
	case errors.As(err, &bad):
		a.err = openai.BadRequest(bad.Param, bad.Message)
	case errors.As(err, &ne) && ne.Timeout():
		a.err = openai.RequestTimeout()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.As(err, &ne):
		return false
	default:
		a.err = openai.BadRequest("", "the request body is not a form in chunks or of the length that its head says")
	}
	if c := listener.FromConn(conn); c != nil {
		c.Linger()
	}
	return true
}

// close gives back what the body takes. The upload is whose it is at the moment:
// the arrival's, the waiting connection's, the exchange's.
func (u *upload) close() {
	if u == nil {
		return
	}
	if u.file != nil {
		u.file.Close()
	}
	u.file, u.data = nil, nil
}

// give makes the upload the call's body, with model as its model unless that is
// "".
func (u *upload) give(c *forward.Call, parts [][]byte, model string) {
	f := u.form
	c.BodyType = []byte("multipart/form-data; boundary=\"" + f.Boundary() + "\"")
	var insert []byte
	from, to := f.ModelFrom, f.ModelTo
	if model != "" {
		insert = []byte(model)
	} else {
		from, to = 0, 0
	}
	if u.file != nil {
		c.Upload = &forward.Upload{File: u.file, Size: u.size, Insert: insert, Cut: from, Resume: to}
		return
	}
	c.Body = append(parts, u.data[:from], insert, u.data[to:])
}
