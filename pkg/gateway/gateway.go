// Package gateway is the hot path: what happens to a request from the moment
// its bytes are there to the moment its answer has left. journey.go tells it
// from top to bottom.
package gateway

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fasthttp/router"
	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/forward"
	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/listener"
	"github.com/llmproxy/llmproxy/pkg/openai"
	"github.com/llmproxy/llmproxy/pkg/quota"
	"github.com/llmproxy/llmproxy/pkg/route"
	"github.com/llmproxy/llmproxy/pkg/stats"
)

// View is everything a request sees of one configuration. It does not change;
// a reload puts another in its place.
type View struct {
	Table     *route.Table
	Forwarder *forward.Forwarder
	Models    *Models
	// MaxBody is the largest request body in bytes.
	MaxBody int
	// BodyTimeout bounds the reading of a body once its head is there.
	BodyTimeout time.Duration
	// UploadDir is where large forms wait; "" is the system's directory for
	// temporary files.
	UploadDir string
	// PingInterval is how long a client's stream may be silent before it gets an
	// SSE comment; 0 is for ever.
	PingInterval time.Duration
	// Trusted are the peers whose X-Forwarded-For and region header are
	// believed.
	Trusted []netip.Prefix
	// Region is where the gateway stands, unless RegionHeader of a trusted
	// peer names another.
	Region, RegionHeader string
	// Limits hold for each client that is asked for no key; nil: none.
	Limits *limit.Limits
	// Global holds for all requests together.
	Global limit.Rate
	// Location is where the days of a quota begin and end.
	Location *time.Location
	// CORS answers browsers; nil leaves them alone.
	CORS *CORS
	// MetricsPath is where the metrics are on the main port, "" for nowhere;
	// MetricsPublic lets anybody read them there.
	MetricsPath   string
	MetricsPublic bool

	pools  sync.Map // *route.Pool -> *poolInfo
	npools atomic.Int64
}

// Gateway serves requests by its current View.
type Gateway struct {
	view      atomic.Pointer[View]
	exchanges sync.Pool
	recording Recording
	meterings sync.Pool
	keys      atomic.Pointer[auth.Keyring] // nil: nobody is asked for a key
	failures  *auth.Failures
	gate      *admit.Gate
	book      *quota.Book
	operator  atomic.Pointer[operator] // nil: there is no API for one
	born      time.Time
	now       func() time.Time // the wall clock, nil: the system's
	stopping  chan struct{}    // closed by Drain
	stop      sync.Once
	stats     *stats.Set
	nobody    *stats.Series // requests that came to no backend
	access    atomic.Pointer[AccessLog]
	homes     *route.Affinity   // of responses
	forms     map[string]bool   // the paths that take forms
	bodies    map[string]string // the paths that take a body, by POST or this method
	draining  atomic.Bool
	keyless   atomic.Bool // no key that was made at run time is known
	log       *slog.Logger

	server      *fasthttp.Server
	idleTimeout time.Duration
}

// New returns a gateway that serves by view.
func New(view *View, set *stats.Set, log *slog.Logger) *Gateway {
	g := &Gateway{
		stats: set, nobody: set.Series("", ""), log: log, homes: route.NewAffinity(maxHomes),
		forms: map[string]bool{}, bodies: map[string]string{},
		failures: auth.NewFailures(), born: time.Now(), stopping: make(chan struct{}), book: quota.NewBook(nil),
	}
	set.Limits(admit.LimitNames()...)
	g.gate = admit.New(g.born, 0)
	g.exchanges.New = func() any { return newExchange(g) }
	g.meterings.New = func() any { return new(metering) }
	g.SetView(view)
	return g
}

// SetView makes view what the next requests see. Those under way keep theirs.
func (g *Gateway) SetView(v *View) { g.view.Store(v) }

// View returns the view in force.
func (g *Gateway) View() *View { return g.view.Load() }

// SetAccessLog switches the access log on, or off with nil.
func (g *Gateway) SetAccessLog(a *AccessLog) { g.access.Store(a) }

// Drain tells load balancers, by /readyz, and clients, by Connection: close,
// to go elsewhere. Requests are served all the same.
func (g *Gateway) Drain() {
	g.draining.Store(true)
	g.stop.Do(func() { close(g.stopping) })
}

// wall is the time by which keys expire and quotas start anew, where t was just
// read.
func (g *Gateway) wall(t time.Time) time.Time {
	if g.now != nil {
		return g.now()
	}
	return t
}

// Limits are what the server allows a client. They are fixed while it runs.
type Limits struct {
	MaxHeader     int           // bytes of a request head
	HeaderTimeout time.Duration // from a connection's or a request's first byte to the end of its head
	IdleTimeout   time.Duration // between two requests of a connection
}

// writeBuffer is what the server gathers of an answer before it writes: a short
// answer with its head.
const writeBuffer = 2 << 10

// Server returns the gateway's server, to call Serve on with a
// listener.Listener, under TLS or not. It is called once.
func (g *Gateway) Server(l Limits) *fasthttp.Server {
	g.idleTimeout = orForever(l.IdleTimeout)
	g.server = &fasthttp.Server{
		Handler:                            g.handler(),
		ErrorHandler:                       g.malformed,
		HeaderReceived:                     g.headerReceived,
		ExpectHandler:                      g.expect,
		ReadTimeout:                        orForever(l.HeaderTimeout),
		IdleTimeout:                        g.idleTimeout,
		ReadBufferSize:                     l.MaxHeader,
		WriteBufferSize:                    writeBuffer,
		MaxRequestBodySize:                 1 << 30, // headerReceived sets the configured one
		ReduceMemoryUsage:                  true,    // a stream that waits holds no read buffer
		DisablePreParseMultipartForm:       true,
		NoDefaultServerHeader:              true,
		NoDefaultContentType:               true,
		LazyRequestTime:                    true,
		CloseOnShutdown:                    true,
		KeepHijackedConns:                  true, // a stream's connection serves further requests
		SecureErrorLogMessage:              true,
		Concurrency:                        1 << 20, // the listener limits connections
		Logger:                             quiet{},
		SleepWhenConcurrencyLimitsExceeded: 0,
	}
	return g.server
}

// orForever makes 0 mean no limit, where the server takes it for "another
// setting's".
func orForever(d time.Duration) time.Duration {
	const century = 100 * 365 * 24 * time.Hour
	if d <= 0 {
		return century
	}
	return d
}

// quiet drops fasthttp's own log lines: they are about single connections.
type quiet struct{}

func (quiet) Printf(string, ...any) {}

func (g *Gateway) headerReceived(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
	v := g.View()
	c := fasthttp.RequestConfig{MaxRequestBodySize: v.MaxBody}
	if n := h.ContentLength(); n > 0 || n == -1 {
		if n <= v.MaxBody && g.expectsForm(h) {
			h.SetContentLength(0) // receive reads it
			return c
		}
		c.ReadTimeout = orForever(v.BodyTimeout)
		switch {
		case 0 <= n && n <= maxRefusedBody || n > v.MaxBody:
		case isAdmin(h):
			c.MaxRequestBodySize = min(v.MaxBody, maxRefusedBody)
		case g.refusedByHead(h) != nil:
			h.SetContentLength(0) // refuseUnread answers
		}
	}
	return c
}

// maxRefusedBody is how much is read of the body of a request that is refused
// whatever stands in it, so that its connection can be used again.
const maxRefusedBody = 16 << 10

// refusedByHead is the error of a request whose head tells that its body will not
// be read, nil when it may be. The endpoints of the paths with an id take none.
func (g *Gateway) refusedByHead(h *fasthttp.RequestHeader) *openai.Error {
	path := pathOf(h)
	method, ok := g.bodies[string(path)]
	switch {
	case isAdmin(h):
		if n := h.ContentLength(); n > maxRefusedBody {
			return openai.BodyTooLarge(maxRefusedBody)
		}
		return nil
	case !ok:
		return openai.NotFound(string(h.Method()), string(path))
	case !h.IsPost() && string(h.Method()) != method:
		return openai.MethodNotAllowed(string(h.Method()), string(path))
	case g.expectsForm(h):
	case !isIdentity(h.Peek(fasthttp.HeaderContentEncoding)) || !isJSON(h.ContentType()):
		if g.forms[string(path)] {
			return openai.UnsupportedForm()
		}
		return openai.UnsupportedMedia()
	}
	return g.refusedKey(h)
}

// expect answers a client that asks, by Expect: 100-continue, whether to send
// its body.
func (g *Gateway) expect(ctx *fasthttp.RequestCtx) int {
	limit := g.View().MaxBody
	h := &ctx.Request.Header
	err := openai.BodyTooLarge(int64(limit))
	if h.ContentLength() <= limit {
		if err = g.refusedByHead(h); err == nil {
			return fasthttp.StatusContinue
		}
	}
	g.refuseByHead(ctx, err)
	return err.Status
}

// handler is the table of endpoints behind the checks that come before it.
func (g *Gateway) handler() fasthttp.RequestHandler {
	r := router.New()
	r.RedirectTrailingSlash = false
	r.RedirectFixedPath = false
	r.NotFound = func(ctx *fasthttp.RequestCtx) {
		if v := g.View(); v.MetricsPath != "" && string(ctx.Path()) == v.MetricsPath && (ctx.IsGet() || ctx.IsHead()) {
			g.mainMetrics(ctx, v)
			return
		}
		g.refuse(ctx, openai.NotFound(string(ctx.Method()), string(ctx.Request.URI().PathOriginal())))
	}
	r.MethodNotAllowed = func(ctx *fasthttp.RequestCtx) {
		allow := string(ctx.Response.Header.Peek(fasthttp.HeaderAllow))
		g.refuse(ctx, openai.MethodNotAllowed(string(ctx.Method()), string(ctx.Request.URI().PathOriginal())))
		ctx.Response.Header.Set(fasthttp.HeaderAllow, allow)
	}
	r.GlobalOPTIONS = func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(fasthttp.StatusNoContent) }
	for _, e := range endpointTable() {
		if !e.stored {
			g.bodies[e.path] = e.method
		}
		if e.form {
			g.forms[e.path] = true
			r.Handle(e.method, e.path, func(ctx *fasthttp.RequestCtx) { g.receive(ctx, e) })
			continue
		}
		r.Handle(e.method, e.path, func(ctx *fasthttp.RequestCtx) { g.serve(ctx, e, nil) })
	}
	get := func(path string, h fasthttp.RequestHandler) { r.GET(path, h); r.HEAD(path, h) }
	r.ANY(adminPath+"{path:*}", g.mainAdmin)
	get("/v1/usage", g.ownUsage)
	get("/v1/models", g.listModels)
	get("/v1/models/{id:*}", g.oneModel)
	get("/healthz", g.healthz)
	get("/readyz", g.readyz)
	return func(ctx *fasthttp.RequestCtx) {
		defer g.rescue(ctx)
		if g.draining.Load() {
			ctx.SetConnectionClose()
		}
		if why := suspicious(&ctx.Request.Header); why != "" {
			ctx.SetConnectionClose()
			g.refuse(ctx, openai.BadRequest("", why))
			return
		}
		if unread(&ctx.Request.Header) && !g.expectsForm(&ctx.Request.Header) {
			g.refuseUnread(ctx)
			return
		}
		if v := g.View(); v.CORS != nil && !isAdmin(&ctx.Request.Header) && v.CORS.handle(ctx) {
			return
		}
		r.Handler(ctx)
	}
}

// rescue makes a panic cost one request. The exchange's own state is given
// back, and counted, by its deferred finish.
func (g *Gateway) rescue(ctx *fasthttp.RequestCtx) {
	if p := recover(); p != nil {
		g.panicked(p)
		ctx.Response.Reset()
		ctx.SetConnectionClose()
		writeError(ctx, nil, openai.Internal())
	}
}

func (g *Gateway) panicked(p any) {
	g.stats.Panics.Inc()
	g.log.Error("BUG: a request panicked", "panic", p, "stack", stack())
}

// malformed answers what the server could not read as a request. The
// connection ends afterwards; the client may still be sending.
func (g *Gateway) malformed(ctx *fasthttp.RequestCtx, err error) {
	if c := listener.FromConn(ctx.Conn()); c != nil {
		c.Linger()
	}
	refusal := malformedError(err, g.View().MaxBody)
	if n := ctx.Request.Header.ContentLength(); isAdmin(&ctx.Request.Header) && 0 < n && n <= g.View().MaxBody && refusal.Status == fasthttp.StatusRequestEntityTooLarge {
		refusal = openai.BodyTooLarge(maxRefusedBody)
	}
	g.refuse(ctx, refusal)
}

func (g *Gateway) healthz(ctx *fasthttp.RequestCtx) { ctx.SetBodyString("ok\n") }

// readyz tells a load balancer whether to send requests here: not while the
// gateway drains, nor while no backend is healthy, nor before it knows any keys.
func (g *Gateway) readyz(ctx *fasthttp.RequestCtx) {
	if g.draining.Load() {
		ctx.SetStatusCode(fasthttp.StatusServiceUnavailable)
		ctx.SetBodyString("draining\n")
		return
	}
	if g.keyless.Load() {
		ctx.SetStatusCode(fasthttp.StatusServiceUnavailable)
		ctx.SetBodyString("the keys are not known\n")
		return
	}
	for _, b := range g.View().Table.Backends() {
		if b.Healthy() && !b.Drained() {
			ctx.SetBodyString("ok\n")
			return
		}
	}
	ctx.SetStatusCode(fasthttp.StatusServiceUnavailable)
	ctx.SetBodyString("no backend is healthy\n")
}

// mainMetrics serves the metrics on the main port: to peers on this machine
// or a private network that came directly, unless the configuration says to
// all.
func (g *Gateway) mainMetrics(ctx *fasthttp.RequestCtx, v *View) {
	ip := peer(ctx)
	h := &ctx.Request.Header
	direct := len(h.PeekAll(fasthttp.HeaderXForwardedFor)) == 0 && len(h.PeekAll(fasthttp.HeaderForwarded)) == 0
	if !v.MetricsPublic && !(direct && (ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast())) {
		g.refuse(ctx, openai.NotFound("GET", v.MetricsPath))
		return
	}
	g.Metrics(ctx)
}

// Metrics serves the metrics page, also for a listener of its own.
func (g *Gateway) Metrics(ctx *fasthttp.RequestCtx) {
	ctx.SetContentType("text/plain; version=0.0.4; charset=utf-8")
	g.stats.WritePrometheus(ctx)
}

// peer is the address at the other end of the connection.
func peer(ctx *fasthttp.RequestCtx) netip.Addr {
	if a, ok := ctx.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
