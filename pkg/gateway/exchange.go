package gateway

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/forward"
	"github.com/llmproxy/llmproxy/pkg/listener"
	"github.com/llmproxy/llmproxy/pkg/openai"
	"github.com/llmproxy/llmproxy/pkg/quota"
	"github.com/llmproxy/llmproxy/pkg/stats"
)

// Exchange is one request and its answer. It is pooled; it belongs to the
// goroutine of its connection, but for the call's Interrupt.
type Exchange struct {
	gateway     *Gateway
	view        *View
	endpoint    *endpoint
	conn        *listener.Conn // nil when the server does not listen on ours
	left        func(listener.Cause)
	taken       fasthttp.HijackHandler
	learning    func(p []byte)
	reporting   func(final bool)
	start       time.Time // when it began to arrive
	arrived     time.Time // when it was there: the time of all decisions
	id          [32]byte
	request     openai.Request
	call        *forward.Call
	parts       [4][]byte
	header      []byte
	access      *AccessLog // nil when it is off
	record      *record    // what it wants of the request
	upload      *upload    // the body of a form; nil: the server has it
	asked       string     // the model that the client named, where it is wanted later
	stored      string     // the response that the path names
	created     openai.ResponseID
	ping        *pinger // nil: none are wanted
	caller      caller
	ticket      admit.Ticket // what admission took
	term        *quota.Term  // of the key's account, nil without a key
	model       *admit.Model // what is learnt of prompts, nil where there is none
	promptBytes int
	answers     int64     // that were expected, 0: not known
	metering    *metering // nil: usage is neither recorded nor limited

	client   io.Writer     // while the answer is relayed
	head     *[]byte       // of a stream, until its first bytes go out
	again    bool          // the stream's connection serves another request
	broke    *openai.Error // in place of an answer, after the first ping
	began    bool          // the head of the answer is out
	status   int
	relayed  bool // the second half has the exchange and will finish it
	complete bool // the answer went out whole
	finished bool
}

func newExchange(g *Gateway) *Exchange {
	x := &Exchange{gateway: g, call: forward.NewCall()}
	x.left = x.leave // bound once: a method value allocates
	x.learning, x.reporting = x.learn, x.report
	x.taken = func(c net.Conn) { go x.stream(release(c)) }
	return x
}

func (x *Exchange) begin(ctx *fasthttp.RequestCtx, v *View, e *endpoint) {
	x.view, x.endpoint = v, e
	x.conn = listener.FromConn(ctx.Conn())
	x.arrived = time.Now()
	x.start = x.arrived
	newID(&x.id)
	if x.access = x.gateway.access.Load(); x.access != nil {
		x.record = x.access.record(ctx, v)
	}
}

// newID makes a request's id: random, so that it is nobody's to guess, and
// long enough to be unique.
func newID(id *[32]byte) {
	var b [16]byte
	for i := 0; i < len(b); i += 8 {
		r := rand.Uint64()
		for j := range 8 {
			b[i+j] = byte(r >> (8 * j))
		}
	}
	hex.Encode(id[:], b[:])
}

// maxHeaderKept is how large a header buffer is kept for the next request.
const maxHeaderKept = 4 << 10

func (g *Gateway) recycle(x *Exchange) {
	x.call.Reset()
	header := x.header[:0]
	if cap(header) > maxHeaderKept {
		header = nil
	}
	x.request.Reset()
	request := x.request
	*x = Exchange{gateway: g, call: x.call, left: x.left, taken: x.taken, learning: x.learning, reporting: x.reporting, header: header, request: request}
	g.exchanges.Put(x)
}

// Header names in canonical form, and values, as SetCanonical wants them.
var (
	cacheControl    = []byte("Cache-Control")
	noCache         = []byte("no-cache")
	xAccelBuffering = []byte("X-Accel-Buffering")
	no              = []byte("no")
	xRequestID      = []byte("X-Request-Id")
	requestID       = []byte("Request-Id") // by which Anthropic's SDK knows it
	contentJSON     = []byte("application/json")
	identity        = []byte("identity")
)

func (x *Exchange) setHeader(h *fasthttp.ResponseHeader) {
	h.SetCanonical(xRequestID, x.id[:])
	if x.endpoint != nil && x.endpoint.api == apiAnthropic {
		h.SetCanonical(requestID, x.id[:])
	}
}

// passedHeaders are the request headers that an engine may see. The client's
// own credentials, identity and hop-by-hop headers are not among them.
var (
	passedHeaders    = [...]string{"Accept", "Traceparent", "Tracestate"}
	anthropicHeaders = [...]string{"Anthropic-Version", "Anthropic-Beta"}
)

// upstreamHeader renders what is passed on. A value cannot hold a line end:
// suspicious refused those.
func (x *Exchange) upstreamHeader(h *fasthttp.RequestHeader) []byte {
	b := x.header[:0]
	for _, name := range passedHeaders {
		b = appendField(b, name, h.Peek(name))
	}
	if x.endpoint.api == apiAnthropic {
		for _, name := range anthropicHeaders {
			b = appendField(b, name, h.Peek(name))
		}
	}
	x.header = b
	return b
}

func appendField(b []byte, name string, value []byte) []byte {
	if len(value) == 0 {
		return b
	}
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}

// region is where the request should be served: where a trusted proxy says
// that its client is, else where the gateway stands.
func (x *Exchange) region(ctx *fasthttp.RequestCtx) string {
	v := x.view
	if v.RegionHeader != "" && len(v.Trusted) > 0 {
		if r := ctx.Request.Header.Peek(v.RegionHeader); len(r) > 0 && trusted(v.Trusted, peer(ctx)) {
			return string(r)
		}
	}
	return v.Region
}

// refuse answers with an error of the gateway's own.
func (x *Exchange) refuse(ctx *fasthttp.RequestCtx, err *openai.Error) {
	x.status, x.complete = err.Status, true
	x.setHeader(&ctx.Response.Header)
	x.setLimits(&ctx.Response.Header)
	writeError(ctx, x.endpoint, err)
	if x.upload != nil && x.upload.err != nil {
		ctx.SetConnectionClose() // the rest of the body is still to come
	}
}

// fail answers a request for which no backend had an answer.
func (x *Exchange) fail(ctx *fasthttp.RequestCtx, fail *forward.Failure) {
	if x.pinged() {
		x.failStream(ctx, fail.Err)
		return
	}
	if x.call.Interrupted() == forward.ClientLeft {
		// Only one that had half-closed its connection before may read this.
		x.refuse(ctx, openai.BadRequest("", "the connection was closed from your side before there was an answer"))
		ctx.SetConnectionClose()
		x.complete = false
		return
	}
	if x.call.Pin != nil && fail.Gone {
		// Its process has ended, and what it kept with it.
		x.refuse(ctx, openai.ResponseNotFound(x.stored))
		return
	}
	x.refuse(ctx, fail.Err)
	if fail.Body != nil {
		ctx.Response.SetBodyRaw(fail.Body)
		if len(fail.ContentType) > 0 {
			ctx.Response.Header.SetContentTypeBytes(fail.ContentType)
		}
	}
}

// refuse answers a request that comes to no backend.
func (g *Gateway) refuse(ctx *fasthttp.RequestCtx, err *openai.Error) {
	var e *endpoint
	if bytes.HasPrefix(ctx.Path(), []byte("/v1/messages")) {
		e = &endpoint{api: apiAnthropic}
	}
	x := g.accept(ctx, e)
	x.refuse(ctx, err)
	x.finish()
}

func writeError(ctx *fasthttp.RequestCtx, e *endpoint, err *openai.Error) {
	ctx.SetStatusCode(err.Status)
	h := &ctx.Response.Header
	h.SetContentTypeBytes(contentJSON)
	if err.RetryAfter > 0 {
		seconds := max(1, int((err.RetryAfter+time.Second-1)/time.Second))
		h.Set(fasthttp.HeaderRetryAfter, strconv.Itoa(seconds))
		h.Set("Retry-After-Ms", strconv.FormatInt(int64((err.RetryAfter+time.Millisecond-1)/time.Millisecond), 10)) // not too early
	}
	if err.Final {
		h.Set("X-Should-Retry", "false")
	}
	if err.Status == fasthttp.StatusUnauthorized {
		h.Set(fasthttp.HeaderWWWAuthenticate, "Bearer")
	}
	ctx.Response.SetBodyRaw(e.appendError(nil, err))
}

// brokenError is what the client of a broken stream is told.
func brokenError(broken error) *openai.Error {
	switch {
	case errors.Is(broken, forward.ErrShuttingDown):
		return openai.ShuttingDown()
	case errors.Is(broken, forward.ErrTimeout):
		return openai.GatewayTimeout()
	}
	return openai.BadGateway()
}

// Read is not used: the server prefers WriteTo, which writes what one read of
// the upstream brought without a copy in between.
func (x *Exchange) Read([]byte) (int, error) {
	panic("BUG: the server read a body it should be written")
}

// SupportsBodyWriteTo makes fasthttp use WriteTo.
func (x *Exchange) SupportsBodyWriteTo() bool { return true }

// account counts the finished request. Everything is given back by now, so a
// panic costs no more than the count.
func (x *Exchange) account(now time.Time) {
	c, g := x.call, x.gateway
	defer func() {
		if p := recover(); p != nil {
			g.panicked(p)
		}
	}()
	if x.status == 0 { // a panic, which rescue answers
		x.status, x.complete = fasthttp.StatusInternalServerError, true
	}
	if x.gone() {
		x.status = 499
		phase := stats.Waiting
		if x.relayed {
			phase = stats.Streaming
		}
		g.stats.ClientAborts[phase].Inc()
	}
	series := g.nobody
	if c.Pool != nil {
		table := x.view.about(c.Pool).table(g.stats)
		series = table.Series(-1, "")
		if b := c.Backend; b != nil {
			series = table.Series(b.Index, b.Name)
			series.Duration.Update(now.Sub(x.start).Seconds())
		}
	}
	series.Request(x.status)
	if !c.FirstToken.IsZero() {
		series.TTFT.Update(c.FirstToken.Sub(x.start).Seconds())
		if n := c.Events.Count; n > 1 {
			series.TokenTime.Update(c.LastByte.Sub(c.FirstToken).Seconds() / float64(n-1))
		}
	}
	if x.record != nil {
		x.access.write(x, now)
	}
}

// gone tells whether the client left before it had its answer. One that
// leaves after [DONE] has it all.
func (x *Exchange) gone() bool {
	if x.complete || x.call.Events.Done {
		return false
	}
	return x.call.Outcome != stats.Broken && x.call.Interrupted() != forward.ShuttingDown
}

func stack() string { return string(debug.Stack()) }
