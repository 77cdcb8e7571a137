// Package admin is the operator's API, everything under /admin/: keys are made,
// changed and revoked there, backends drained, the configuration shown and read
// anew.
//
// Who sends the admin token may do all of it, and nobody else learns anything: one
// 401 answers every request without it, whatever its path. A change is kept in the
// store and in force before its answer goes out, and leaves one line in the log, without
// its values.
package admin

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/keystore"
	"github.com/llmproxy/llmproxy/pkg/openai"
	"github.com/llmproxy/llmproxy/pkg/route"
)

// MaxBody is the largest body, in bytes, that the API reads.
const MaxBody = 16 << 10

// ErrShuttingDown is what Options.Reload returns when it is too late for it.
var ErrShuttingDown = errors.New("the gateway is shutting down")

// Options are what the API works on; all of them must be set. The functions are
// called from many goroutines at once.
type Options struct {
	// Token is what a request must carry; not empty.
	Token string
	// Store has the keys made at run time.
	Store keystore.Store
	// Keyring returns the keys in force, the configuration's and the store's.
	Keyring func() *auth.Keyring
	// Changed puts the store's keys in force. It is called after each change of
	// the store and before the answer, so that a revocation holds for the next
	// request: whichever of several calls ends last, what each was called for must
	// be in force then.
	Changed func() error
	// Use is what a key of a ring has used by now. The ring need not be the one in
	// force any more.
	Use func(r *auth.Keyring, k *auth.Key) admit.Use
	// Reset begins a new quota period for a key, and keeps that on disk. With an
	// error begun tells whether the period has begun all the same and only may not
	// outlive the process.
	Reset func(id auth.ID) (begun bool, err error)
	// Backends returns those of the routing table in force.
	Backends func() []*route.Backend
	// Latency is the time to a stream's first event that a backend is reckoned
	// with; false: it is not known.
	Latency func(b *route.Backend) (d time.Duration, known bool)
	// Cluster returns what is known of the gateways that share limits and keys, and of
	// the Redis that they do it through.
	Cluster func() Cluster
	// Config returns the configuration in force as JSON, without its secrets.
	Config func() ([]byte, error)
	// Reload reads the configuration anew. Its error is shown to the operator.
	Reload func() error
	// Client is the address that a request comes from; invalid when it has none.
	Client func(ctx *fasthttp.RequestCtx) netip.Addr
	// Failed counts a request without the token and says how long its answer is to
	// wait. It outlives this API, which every reload makes anew.
	Failed func(ip netip.Addr) time.Duration
	// Log gets a line for each change, and for each that failed.
	Log *slog.Logger
}

// API serves the operator's requests. It is safe for concurrent use.
type API struct {
	o     Options
	token [sha256.Size]byte
	after func(time.Duration) <-chan time.Time
}

// New returns the API. It panics without a token: nothing may stand in for it.
func New(o Options) *API {
	if o.Token == "" {
		panic("BUG: an admin API without a token")
	}
	return &API{o: o, token: sha256.Sum256([]byte(o.Token)), after: time.After}
}

// Serve answers a request for a path under /admin/, as the client sent it. It does
// not read a body of more than MaxBody bytes; the server should not either.
func (a *API) Serve(ctx *fasthttp.RequestCtx) {
	ctx.Response.Header.Set(fasthttp.HeaderCacheControl, "no-store")
	if !a.authorized(&ctx.Request.Header) {
		a.slow(ctx)
		ctx.Response.Header.Set(fasthttp.HeaderWWWAuthenticate, `Bearer realm="llmproxy admin"`)
		fail(ctx, unauthorized())
		return
	}
	c := &call{ctx: ctx}
	if err := a.serve(c); err != nil {
		fail(ctx, err)
	}
}

// authorized compares digests, so that neither the content nor the length of the
// token shows in the time it takes.
func (a *API) authorized(h *fasthttp.RequestHeader) bool {
	lines := h.PeekAll(fasthttp.HeaderAuthorization)
	if len(lines) != 1 {
		return false
	}
	scheme, token, _ := bytes.Cut(lines[0], []byte(" "))
	digest := sha256.Sum256(bytes.Trim(token, " "))
	return subtle.ConstantTimeCompare(digest[:], a.token[:]) == 1 && bytes.EqualFold(scheme, []byte("Bearer"))
}

// slow makes who guesses tokens wait, until the server shuts down at the latest.
func (a *API) slow(ctx *fasthttp.RequestCtx) {
	wait := a.o.Failed(a.o.Client(ctx))
	if wait <= 0 {
		return
	}
	select {
	case <-a.after(wait):
	case <-ctx.Done():
	}
}

func unauthorized() *openai.Error {
	return refusal(http.StatusUnauthorized, "", "invalid_admin_token",
		"Send the admin token in the header: Authorization: Bearer <token>.")
}

// refusal is an error of the operator's request.
func refusal(status int, param, code, msg string) *openai.Error {
	return &openai.Error{Status: status, Type: "invalid_request_error", Param: param, Code: code, Message: msg}
}

func fail(ctx *fasthttp.RequestCtx, err *openai.Error) {
	ctx.SetStatusCode(err.Status)
	ctx.SetContentType("application/json")
	if err.RetryAfter > 0 {
		ctx.Response.Header.Set(fasthttp.HeaderRetryAfter, strconv.Itoa(int(max(1, err.RetryAfter.Seconds()))))
	}
	ctx.SetBody(append(err.Append(nil), '\n'))
}
