package gateway

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/forward"
	"github.com/llmproxy/llmproxy/pkg/listener"
	"github.com/llmproxy/llmproxy/pkg/openai"
	"github.com/llmproxy/llmproxy/pkg/route"
	"github.com/llmproxy/llmproxy/pkg/stats"
)

// serve is the first half of the journey, up to the certainty of an answer:
//
//	accept   one View and one pooled Exchange for the whole request
//	identify key, address -> whose limits                   400, 401, 403
//	parse    body -> model, stream                          400, 413, 415
//	allow    key and model                                  403, 404
//	resolve  model, surface -> name upstream, pool          400, 404
//	admit    rates, tokens, quota, concurrency -> Ticket    429
//	meter    asks for the usage, records the beginning      503
//	open     pick, send, retry, fall back, first event      the engine's status, 429, 502, 503, 504
//	relay    hands the Exchange on
//
// The second half runs after serve has returned. A stream takes the connection
// from the server and goes on in stream, on a goroutine that holds nothing of
// the server's. Any other answer is the server's to write: it calls WriteTo and
// then CloseWithError. Whatever happens, finish runs exactly once.
//
// The body of a form, which may be large, is not the server's: receive has
// fetched it before, and u is what it is.
func (g *Gateway) serve(ctx *fasthttp.RequestCtx, e *endpoint, u *upload) {
	x := g.accept(ctx, e)
	defer x.unlessRelayed()
	if x.upload = u; u != nil && !u.began.IsZero() {
		x.start = u.began
	}
	for _, stage := range stages {
		if err := stage(x, ctx); err != nil {
			x.refuse(ctx, err)
			return
		}
	}
	if fail := x.open(ctx); fail != nil {
		x.fail(ctx, fail)
		return
	}
	x.relay(ctx)
}

// stages are what may refuse a request before a backend is asked.
var stages = [...]func(*Exchange, *fasthttp.RequestCtx) *openai.Error{
	(*Exchange).identify, (*Exchange).parse, (*Exchange).allow, (*Exchange).resolve, (*Exchange).admit, (*Exchange).meterUsage,
}

func (g *Gateway) accept(ctx *fasthttp.RequestCtx, e *endpoint) *Exchange {
	x := g.exchanges.Get().(*Exchange)
	x.begin(ctx, g.View(), e)
	return x
}

// parse reads the body once.
func (x *Exchange) parse(ctx *fasthttp.RequestCtx) *openai.Error {
	if x.endpoint.stored {
		return nil
	}
	if u := x.upload; u != nil {
		if u.err == nil {
			x.request.Model, x.request.Stream = u.form.Model, u.form.Stream
		}
		return u.err
	}
	h := &ctx.Request.Header
	if !isIdentity(h.Peek(fasthttp.HeaderContentEncoding)) || !isJSON(h.ContentType()) {
		return openai.UnsupportedMedia()
	}
	err := x.request.Parse(ctx.Request.Body())
	if err == nil {
		return nil
	}
	if bad, ok := errors.AsType[*openai.SyntaxError](err); ok {
		return openai.BadRequest(bad.Param, bad.Message)
	}
	return openai.BadRequest("", err.Error())
}

func isIdentity(contentEncoding []byte) bool {
	return len(contentEncoding) == 0 || bytes.EqualFold(contentEncoding, identity)
}

// isJSON tells whether a body of that type is read. None at all will do; the
// types that a page of another origin can send unasked will not (the Fetch
// standard, "CORS-safelisted request-header").
func isJSON(contentType []byte) bool {
	n := len(contentJSON)
	return len(contentType) == 0 || len(contentType) >= n && bytes.EqualFold(contentType[:n], contentJSON)
}

// resolve finds the pool, and the name that the engine knows the model by.
func (x *Exchange) resolve(ctx *fasthttp.RequestCtx) *openai.Error {
	if x.endpoint.stored {
		return x.resolveStored(ctx)
	}
	asked := x.request.Model
	r, ok := x.view.Table.Resolve(asked)
	if !ok {
		if r.Reason == route.NoModel {
			return openai.NoModel()
		}
		return openai.ModelNotFound(asked)
	}
	c := x.call
	if c.Pool = x.serving(r.Pool, ctx); c.Pool == nil {
		return openai.NotServed(asked, x.endpoint.path)
	}
	if x.record != nil || x.endpoint.creates {
		x.name(strings.Clone(asked))
	}
	c.Path, c.Model = x.endpoint.path, asked
	if r.Model != "" {
		c.Model = r.Model
	}
	switch {
	case x.upload != nil:
		x.upload.give(c, x.parts[:0], r.Model)
	case r.Model != "":
		c.Body = x.request.Splice(x.parts[:0], ctx.Request.Body(), r.Model)
	default:
		c.Body = append(x.parts[:0], ctx.Request.Body())
	}
	if id := x.request.PreviousResponseID; id != "" && x.endpoint.creates {
		return x.find(id)
	}
	return nil
}

// serving is the part of a pool that has the endpoint, or another of its path.
// Where both would do it is the body that tells.
func (x *Exchange) serving(p *route.Pool, ctx *fasthttp.RequestCtx) *route.Pool {
	e := x.endpoint
	s := p.Serving(e.surface)
	if e.other == nil || s != nil && !isSGLang(ctx.Request.Body()) {
		return s
	}
	if other := p.Serving(e.other.surface); other != nil {
		x.endpoint = e.other
		return other
	}
	return s
}

// isSGLang tells whether a body is for SGLang's /generate rather than TGI's,
// which always has inputs.
func isSGLang(body []byte) bool {
	if bytes.Contains(body, []byte(`"inputs":`)) {
		return false
	}
	for _, name := range [...]string{`"text":`, `"input_ids":`, `"input_embeds":`} {
		if bytes.Contains(body, []byte(name)) {
			return true
		}
	}
	return false
}

// name keeps the model's name for after the request.
func (x *Exchange) name(model string) {
	x.asked = model
	if x.record != nil {
		x.record.model = model
	}
}

// open gets an answer from a backend. From here on the engine works for this
// client, so its leaving is watched.
func (x *Exchange) open(ctx *fasthttp.RequestCtx) *forward.Failure {
	c, e := x.call, x.endpoint
	c.Method, c.Shape, c.Native = e.method, e.shape(), e.api == apiTGI
	c.Region = x.region(ctx)
	c.ID, c.Start = x.id[:], x.start
	c.Header = x.upstreamHeader(&ctx.Request.Header)
	if x.conn != nil && x.conn.Watch(x.left) {
		c.Interrupt(forward.ClientLeft)
	}
	x.startPings(ctx)
	fail := x.view.Forwarder.Open(c)
	// Nothing is sent again, and a stream may be long: what points into the
	// body is let go with it.
	c.Body, c.Upload, c.Model, x.request.Model, x.request.PreviousResponseID = nil, nil, "", "", ""
	clear(x.parts[:])
	if fail == nil && x.metering != nil {
		x.watchUsage()
	}
	x.upload.close()
	x.upload = nil
	ctx.Request.ResetBody()
	return fail
}

// leave is called by the watch, from its own goroutine.
func (x *Exchange) leave(cause listener.Cause) {
	if cause == listener.Interrupted {
		x.call.Interrupt(forward.ShuttingDown)
		return
	}
	x.call.Interrupt(forward.ClientLeft)
	_ = x.conn.SetWriteDeadline(past) // ends a write that it takes nothing of
}

var past = time.Unix(1, 0)

// relay sets the answer's head and leaves its body to the second half.
func (x *Exchange) relay(ctx *fasthttp.RequestCtx) {
	c := x.call
	if x.pinged() && !c.SSE() {
		x.failStream(ctx, c.Refusal())
		return
	}
	x.status = c.Status()
	if x.endpoint.api == apiResponses {
		x.settle()
	}
	h := &ctx.Response.Header
	h.SetStatusCode(x.status)
	x.setHeader(h)
	x.setLimits(h)
	if ct := c.ContentType(); len(ct) > 0 {
		h.SetContentTypeBytes(ct)
	}
	c.Fields(h.SetBytesKV)
	if c.SSE() {
		setStreaming(h)
	}
	if x.status == fasthttp.StatusNoContent {
		x.complete = c.Relay(io.Discard) == nil // the server writes no body for it
		return
	}
	x.relayed = true
	if !c.SSE() {
		x.ping.stop()
	}
	if c.Length() < 0 {
		x.takeOver(ctx)
		return
	}
	ctx.Response.SetBodyStream(x, c.Length())
}

// stream is the second half of the journey of a stream.
func (x *Exchange) stream(conn net.Conn) {
	if x.conn != nil && x.call.Interrupted() == forward.ClientLeft {
		_ = x.conn.SetWriteDeadline(past) // the server has cleared leave's
	}
	growToRelay()
	x.client = conn
	g := x.gateway
	defer func() {
		if p := recover(); p != nil { // in finish, of which the server knows nothing here
			g.panicked(p)
			_ = conn.Close()
		}
	}()
	again := x.relayAll() == nil && x.again
	x.finish()
	if again {
		g.serveNext(conn)
	} else {
		_ = conn.Close() // there is nobody to tell
	}
}

// WriteTo is the second half of the journey of any other answer: the server
// calls it on the connection's goroutine, after serve has returned, and writes
// and flushes what each Write brings.
func (x *Exchange) WriteTo(w io.Writer) (int64, error) {
	x.client = w
	err := x.relayAll()
	x.client = nil
	return x.call.Relayed, err
}

// relayAll passes the answer on to its end.
func (x *Exchange) relayAll() (err error) {
	defer func() {
		if p := recover(); p != nil {
			x.gateway.panicked(p)
			x.call.Outcome = stats.Broken
			err = errPanicked
		}
		x.complete = err == nil
	}()
	if x.broke != nil {
		x.ping.stop()
		x.complete = true
		x.conclude()
		return x.call.End(x, x.endpoint.appendErrorEvent(nil, x.broke, 0))
	}
	err = x.call.Relay(x)
	if errors.Is(err, forward.ErrBroken) && x.call.SSE() {
		err = x.endStream(err)
	}
	return err
}

// Write passes one read of the upstream on to the client, the first one behind
// the head of a stream.
func (x *Exchange) Write(p []byte) (int, error) {
	if x.ping != nil {
		x.ping.mu.Lock()
		defer x.ping.wrote(x.call)
	}
	if x.head != nil {
		return len(p), x.writeHead(p)
	}
	return x.client.Write(p)
}

var errPanicked = errors.New("panic while an answer was relayed")

// endStream tells the client of a stream that broke, by an error event and
// without [DONE], which would make it look whole.
func (x *Exchange) endStream(broken error) error {
	c := x.call
	x.ping.stop()
	var b []byte
	if c.Filter != nil && (c.Events.Done || c.Events.Failed) {
		b = append(b, c.Filter.Flush()...) // the end itself may be held back
	}
	if !c.Events.Done && !c.Events.Failed { // else the client has the end, or knows
		if !c.Events.AtBoundary() {
			b = append(b, "\n\n"...)
		}
		b = x.endpoint.appendErrorEvent(b, brokenError(broken), c.Events.Count)
	}
	x.conclude()
	return c.End(x, b)
}

// CloseWithError ends the journey; the server calls it when the body is
// written, could not be, or never will be.
func (x *Exchange) CloseWithError(cause error) (err error) {
	if cause != nil {
		x.complete = false
	}
	defer func() {
		if p := recover(); p != nil { // which the server would keep to itself
			x.gateway.panicked(p)
			err = errPanicked
		}
	}()
	x.finish()
	return nil
}

// unlessRelayed finishes a journey that ended in serve, also by a panic.
func (x *Exchange) unlessRelayed() {
	if !x.relayed {
		x.finish()
	}
}

// finish gives everything back and counts what happened.
func (x *Exchange) finish() {
	if x.finished {
		return
	}
	x.finished = true
	left := false
	defer func() {
		if !left { // a panic
			defer x.ticket.Leave(time.Now())
			x.conclude()
		}
	}()
	x.ping.stop()
	if x.conn != nil {
		x.conn.Unwatch() // after this nobody interrupts the call
	}
	x.call.Close()
	x.upload.close()
	x.settleUsage()
	now := time.Now()
	x.ticket.Leave(now)
	left = true
	x.account(now)
	x.gateway.recycle(x)
}
