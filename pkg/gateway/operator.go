package gateway

import (
	"bytes"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/openai"
	"github.com/llmproxy/llmproxy/pkg/stats"
)

// adminPath is where the operator's API is.
const adminPath = "/admin/"

// operator is the operator's API.
type operator struct {
	serve fasthttp.RequestHandler
	main  bool // on the main port
}

// SetAdmin makes h the operator's API, also on the main port or not there; nil
// takes it away.
func (g *Gateway) SetAdmin(h fasthttp.RequestHandler, main bool) {
	if h == nil {
		g.operator.Store(nil)
		return
	}
	g.operator.Store(&operator{h, main})
}

func isAdmin(h *fasthttp.RequestHeader) bool {
	return bytes.HasPrefix(pathOf(h), []byte(adminPath))
}

// ServeAdmin serves the operator's API on a listener of its own.
func (g *Gateway) ServeAdmin(ctx *fasthttp.RequestCtx) {
	defer g.rescue(ctx)
	if why := suspicious(&ctx.Request.Header); why != "" {
		ctx.SetConnectionClose()
		g.refuse(ctx, openai.BadRequest("", why))
		return
	}
	g.admin(ctx, g.operator.Load())
}

// mainAdmin serves it on the main port, if it is to be there.
func (g *Gateway) mainAdmin(ctx *fasthttp.RequestCtx) {
	o := g.operator.Load()
	if o != nil && !o.main {
		o = nil
	}
	g.admin(ctx, o)
}

func (g *Gateway) admin(ctx *fasthttp.RequestCtx, o *operator) {
	if o == nil {
		g.refuse(ctx, openai.NotFound(string(ctx.Method()), string(ctx.Request.URI().PathOriginal())))
		return
	}
	x := g.accept(ctx, nil)
	defer x.finish()
	x.setHeader(&ctx.Response.Header)
	o.serve(ctx)
	x.status, x.complete = ctx.Response.StatusCode(), true
	if x.status == fasthttp.StatusUnauthorized {
		g.stats.AuthFailed(stats.AdminToken)
	}
}
