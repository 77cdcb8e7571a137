package gateway

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// CORS lets pages of other origins call the gateway (the Fetch standard,
// section 3.2).
type CORS struct {
	Origins     []string // "*" is any; with Credentials each origin is named back
	Headers     []string // request headers that a page may set
	Credentials bool
	MaxAge      time.Duration // how long a browser may remember a preflight
}

// exposed are the answer's headers that a page may read.
const exposed = "X-Request-Id, Retry-After, Retry-After-Ms, X-Should-Retry, " +
	"X-RateLimit-Limit-Requests, X-RateLimit-Remaining-Requests, X-RateLimit-Reset-Requests, " +
	"X-RateLimit-Limit-Tokens, X-RateLimit-Remaining-Tokens, X-RateLimit-Reset-Tokens"

// handle sets the headers of a cross-origin request and answers a preflight;
// it returns true when the request is thereby answered.
func (c *CORS) handle(ctx *fasthttp.RequestCtx) bool {
	origin := string(ctx.Request.Header.Peek(fasthttp.HeaderOrigin))
	if origin == "" {
		return false
	}
	h := &ctx.Response.Header
	h.Add(fasthttp.HeaderVary, fasthttp.HeaderOrigin)
	preflight := ctx.IsOptions() && len(ctx.Request.Header.Peek(fasthttp.HeaderAccessControlRequestMethod)) > 0
	any := slices.Contains(c.Origins, "*")
	if !any && !slices.Contains(c.Origins, origin) {
		if preflight {
			ctx.SetStatusCode(fasthttp.StatusForbidden)
		}
		return preflight
	}
	if any && !c.Credentials {
		origin = "*"
	}
	h.Set(fasthttp.HeaderAccessControlAllowOrigin, origin)
	if c.Credentials {
		h.Set(fasthttp.HeaderAccessControlAllowCredentials, "true")
	}
	if !preflight {
		h.Set(fasthttp.HeaderAccessControlExposeHeaders, exposed)
		return false
	}
	h.Set(fasthttp.HeaderAccessControlAllowMethods, "GET, POST, PUT, DELETE, OPTIONS")
	h.Set(fasthttp.HeaderAccessControlAllowHeaders, strings.Join(c.Headers, ", "))
	h.Set(fasthttp.HeaderAccessControlMaxAge, strconv.Itoa(int(c.MaxAge.Seconds())))
	ctx.SetStatusCode(fasthttp.StatusNoContent)
	return true
}
