package gateway

import (
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/forward"
	"github.com/llmproxy/llmproxy/pkg/openai"
)

// pinger keeps the connection of a stream that is silent from looking dead to
// what stands between: it writes an SSE comment now and then, also before the
// engine has answered. With the first of those the status is 200 for good.
type pinger struct {
	conn    net.Conn
	every   time.Duration
	head    []byte // of the answer, to go out with the first comment
	comment []byte // in a chunk, where the client reads chunks
	timer   *time.Timer

	mu      sync.Mutex // one writer of conn at a time; guards what follows
	last    time.Time  // when something was written
	began   bool       // head is out
	midway  bool       // an event has begun and not ended
	stopped bool
}

const pingComment = ": keep-alive\n\n"

// startPings begins to ping the client, if that is wanted.
func (x *Exchange) startPings(ctx *fasthttp.RequestCtx) {
	if x.view.PingInterval <= 0 || !x.wantsStream() {
		return
	}
	p := &pinger{conn: ctx.Conn(), every: x.view.PingInterval, comment: []byte(pingComment), last: time.Now()}
	chunked := ctx.Request.Header.IsHTTP11()
	if chunked {
		p.comment = []byte(strconv.FormatInt(int64(len(pingComment)), 16) + "\r\n" + pingComment + "\r\n")
	}
	var h fasthttp.ResponseHeader
	ctx.Response.Header.CopyTo(&h)
	h.SetStatusCode(fasthttp.StatusOK)
	h.SetContentType("text/event-stream; charset=utf-8")
	x.setHeader(&h)
	x.setLimits(&h)
	setStreaming(&h)
	if ctx.Request.Header.ConnectionClose() {
		h.SetConnectionClose()
	}
	p.head = append(appendStreamHead(nil, &h, chunked), p.comment...)
	x.ping = p
	p.mu.Lock() // the timer must be known to the tick
	p.timer = time.AfterFunc(p.every, p.tick)
	p.mu.Unlock()
}

// wantsStream tells whether the client is prepared for a stream.
func (x *Exchange) wantsStream() bool {
	if x.endpoint.api == apiTGI {
		return x.endpoint.path == "/generate_stream" // TGI goes by the path
	}
	return x.request.Stream
}

// tick writes a comment when the stream has been silent for long enough.
func (p *pinger) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	wait := p.every - time.Since(p.last)
	if wait <= 0 {
		wait = p.every
		if !p.midway && !p.write() {
			return // the watch of the connection hears of it too
		}
	}
	p.timer.Reset(wait)
}

func (p *pinger) write() bool {
	b := p.comment
	if !p.began {
		b, p.began, p.head = p.head, true, nil
	}
	_, err := p.conn.Write(b)
	p.last = time.Now()
	return err == nil
}

// relaying tells the pinger that an answer is there, and reports whether the
// head of one is out already.
func (p *pinger) relaying() (began bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	began, p.began = p.began, true
	p.midway = true // until the first write
	p.last = time.Now()
	return began
}

// wrote ends a write of the exchange's own, which began with p.mu locked.
func (p *pinger) wrote(c *forward.Call) {
	p.last = time.Now()
	p.midway = !c.Events.AtBoundary()
	p.stopped = p.stopped || c.Ended() // what is written next is the last chunk, or another answer
	p.mu.Unlock()
}

func (p *pinger) stop() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	p.timer.Stop()
}

// pinged tells whether the client has been promised a stream. After it there
// are no more comments before the answer.
func (x *Exchange) pinged() bool {
	x.began = x.ping != nil && x.ping.relaying()
	return x.began
}

// failStream answers with an error a client that was promised a stream.
func (x *Exchange) failStream(ctx *fasthttp.RequestCtx, err *openai.Error) {
	x.status, x.broke, x.relayed = fasthttp.StatusOK, err, true
	x.takeOver(ctx)
}

func setStreaming(h *fasthttp.ResponseHeader) {
	h.SetCanonical(cacheControl, noCache)
	h.SetCanonical(xAccelBuffering, no)
}
