package gateway

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/stats"
)

// unsure is a gateway which knows one key, and that there are others.
func unsure(t *testing.T, keys ...*auth.Key) *Gateway {
	t.Helper()
	ring, err := auth.NewKeyring(keys, auth.Defaults{Incomplete: true})
	if err != nil {
		t.Fatal(err)
	}
	g := New(&View{MaxBody: 1 << 20}, stats.New("test", "go"), slog.New(slog.DiscardHandler))
	g.SetKeys(ring)
	return g
}

var somebody = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 5}

// ask sends a request with a token, "" for none.
func ask(g *Gateway, handler fasthttp.RequestHandler, method, path, token string) *fasthttp.RequestCtx {
	var r fasthttp.Request
	r.Header.SetMethod(method)
	r.SetRequestURI(path)
	r.SetHost("gateway")
	if token != "" {
		r.Header.Set(fasthttp.HeaderAuthorization, "Bearer "+token)
	}
	if method == fasthttp.MethodPost {
		r.Header.SetContentType("application/json")
		r.SetBodyString(`{"model": "m", "messages": []}`)
	}
	var ctx fasthttp.RequestCtx
	ctx.Init(&r, somebody, nil)
	handler(&ctx)
	return &ctx
}

// A key that may be a good one was refused with 401, and clients threw it away.
func TestKeysThatCannotBeJudged(t *testing.T) {
	disabled := &auth.Key{Name: "disabled", Hash: auth.Hash("sk-disabled"), Disabled: true}
	g := unsure(t, &auth.Key{Name: "known", Hash: auth.Hash("sk-known")}, disabled)
	handler := g.handler()
	for _, c := range []struct {
		name, method, path, token string
		status                    int
		code                      string
	}{
		{"a key that is there", "GET", "/v1/usage", "sk-known", 200, ""},
		{"one that may be a key", "GET", "/v1/usage", "sk-other", 503, "keys_unavailable"},
		{"for models", "GET", "/v1/models", "sk-other", 503, "keys_unavailable"},
		{"for an answer", "POST", "/v1/chat/completions", "sk-other", 503, "keys_unavailable"},
		{"none", "POST", "/v1/chat/completions", "", 401, "invalid_api_key"},
		{"one that was taken back", "POST", "/v1/chat/completions", "sk-disabled", 401, "invalid_api_key"},
	} {
		ctx := ask(g, handler, c.method, c.path, c.token)
		var answer struct {
			Error struct{ Code, Message string }
		}
		if err := json.Unmarshal(ctx.Response.Body(), &answer); err != nil {
			t.Fatalf("%s: %v in %s", c.name, err, ctx.Response.Body())
		}
		if ctx.Response.StatusCode() != c.status || answer.Error.Code != c.code {
			t.Errorf("%s: %d %+v, want %d %s", c.name, ctx.Response.StatusCode(), answer.Error, c.status, c.code)
		}
		retry := string(ctx.Response.Header.Peek(fasthttp.HeaderRetryAfter))
		if (c.status == 503) != (retry != "") {
			t.Errorf("%s: Retry-After is %q", c.name, retry)
		}
		if strings.Contains(string(ctx.Response.Body()), "sk-other") {
			t.Errorf("%s: the key is in %s", c.name, ctx.Response.Body())
		}
	}
}

// A client that asks before it sends its body is told the same, and no body is read of
// one whose head tells that it will be refused.
func TestKeysThatCannotBeJudgedByTheHead(t *testing.T) {
	g := unsure(t)
	g.handler()
	var h fasthttp.RequestHeader
	h.SetMethod(fasthttp.MethodPost)
	h.SetRequestURI("/v1/chat/completions")
	h.SetContentType("application/json")
	h.SetContentLength(100 << 10)
	h.Set(fasthttp.HeaderAuthorization, "Bearer sk-other")
	if err := g.refusedByHead(&h); err == nil || err.Status != 503 || err.Code != "keys_unavailable" || err.RetryAfter != time.Second {
		t.Errorf("%+v", err)
	}
}

// Whoever has a good key, and asks until it can be judged, is not slowed down as who
// tries one key after the other; the operator sees it.
func TestKeysThatCannotBeJudgedAreNoFailures(t *testing.T) {
	g := unsure(t)
	handler := g.handler()
	const many = 40 // twice as many as are not slowed
	for range many {
		ask(g, handler, "GET", "/v1/usage", "sk-other")
	}
	for range 20 {
		if wait := g.failures.Add(int64(time.Since(g.born)), netip.MustParseAddr("192.0.2.7")); wait > 0 {
			t.Fatalf("the client waits %v", wait)
		}
	}
	metrics := string(ask(g, g.Metrics, "GET", "/metrics", "").Response.Body())
	if line := `llmproxy_auth_failures_total{reason="unjudged_key"} 40`; !strings.Contains(metrics, line+"\n") {
		t.Errorf("no %s", line)
	}
}
