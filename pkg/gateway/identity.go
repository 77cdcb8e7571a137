package gateway

import (
	"bytes"
	"crypto/sha256"
	"net/netip"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/openai"
	"github.com/llmproxy/llmproxy/pkg/quota"
	"github.com/llmproxy/llmproxy/pkg/stats"
)

// caller is who asks.
type caller struct {
	ring   *auth.Keyring // nil: nobody is asked for a key
	key    *auth.Key     // nil without one
	id     auth.ID       // of the key, or of the token that nobody asked for
	token  bool          // there was one
	who    admit.Identity
	limits *limit.Limits // nil: none hold
}

// SetKeys makes ring the keys that the next requests are held against; nil asks
// for none.
func (g *Gateway) SetKeys(ring *auth.Keyring) { g.keys.Store(ring) }

// SetKeyless says that the keys which were made at run time are not known, so that
// another gateway serves better.
func (g *Gateway) SetKeyless(keyless bool) { g.keyless.Store(keyless) }

// SetBook makes book where the use of each key is counted. It is called before the
// server runs.
func (g *Gateway) SetBook(book *quota.Book) { g.book = book }

// Share has limits and quotas hold over several gateways. It is called before the
// server runs.
func (g *Gateway) Share(s admit.Shared) { g.gate.Share(s) }

// OnError says what limits, and quotas, do while the gateways cannot hear of each
// other.
func (g *Gateway) OnError(limits, quotas admit.Policy) { g.gate.OnError(limits, quotas) }

// Debts calls f with what was let in alone, until f is false.
func (g *Gateway) Debts(f func(d admit.Debt, told func()) bool) { g.gate.Debts(time.Now(), f) }

// Book is where the use of each key is counted.
func (g *Gateway) Book() *quota.Book { return g.book }

// SetClock makes now the time by which keys expire and quotas start anew, in place
// of the system's. It is called before the server runs.
func (g *Gateway) SetClock(now func() time.Time) { g.now = now }

// Tidy forgets clients that have been idle for long enough to be as good as new.
func (g *Gateway) Tidy() { g.gate.Sweep(time.Now()) }

// Clients is the number of those that are not.
func (g *Gateway) Clients() int { return g.gate.Len() }

// Keys returns the keys in force.
func (g *Gateway) Keys() *auth.Keyring { return g.keys.Load() }

// identify finds out who asks, and whether they may from where they are.
func (x *Exchange) identify(ctx *fasthttp.RequestCtx) *openai.Error {
	ring := x.gateway.keys.Load()
	if ring == nil {
		x.anonymous(ctx)
		return nil
	}
	token, ambiguous := credential(&ctx.Request.Header)
	if ambiguous {
		x.gateway.stats.AuthFailed(stats.AmbiguousKey)
		return errAmbiguous()
	}
	key, verdict := ring.Find(token, x.gateway.wall(x.arrived))
	if verdict != auth.Known {
		x.gateway.stats.AuthFailed(failureOf(verdict, token))
		if verdict != auth.Unjudged {
			x.gateway.slow(ctx, x.arrived)
		}
		return refusedKey(verdict, token)
	}
	x.caller = caller{ring: ring, key: key, id: key.ID(), token: true, limits: ring.Limits(key)}
	copy(x.caller.who[:], key.Hash[:])
	if ring.HasAddresses(key) && !ring.Allows(key, clientIP(ctx, x.view.Trusted)) {
		x.gateway.stats.AuthFailed(stats.AddressNotAllowed)
		x.caller.limits = nil // how they stand is told to those who may use the key
		return openai.AddressNotAllowed()
	}
	return nil
}

func errAmbiguous() *openai.Error {
	return openai.BadRequest("", "Two different API keys were sent, in two headers. Send one.")
}

// anonymous identifies a client that is asked for no key, by what it sent and
// where it is, if anybody wants to know.
func (x *Exchange) anonymous(ctx *fasthttp.RequestCtx) {
	if x.view.Limits == nil && !x.gateway.recording.All && x.record == nil {
		return
	}
	i := &x.caller
	token, _ := credential(&ctx.Request.Header)
	if i.token = len(token) > 0; i.token {
		sum := auth.Hash(token)
		copy(i.id[:], sum[:])
	}
	if i.limits = x.view.Limits; i.limits == nil {
		return
	}
	ip := site(anonymousIP(ctx, x.view.Trusted)).As16()
	var b [len(i.id) + len(ip)]byte
	copy(b[copy(b[:], i.id[:]):], ip[:])
	sum := sha256.Sum256(b[:])
	copy(i.who[:], sum[:])
}

// anonymousIP is the address by which clients without a key are told apart. Where
// nobody said which proxies there are, a peer on this machine or a private network
// is taken for one. At worst a client there has as many limits as it makes up
// addresses, which it has by making up tokens anyway.
func anonymousIP(ctx *fasthttp.RequestCtx, prefixes []netip.Prefix) netip.Addr {
	ip := clientIP(ctx, prefixes)
	if len(prefixes) > 0 || !isLocal(ip) {
		return ip
	}
	lines := ctx.Request.Header.PeekAll(fasthttp.HeaderXForwardedFor)
	if len(lines) == 0 {
		return ip
	}
	last := lines[len(lines)-1]
	if forwarded, ok := parseForwarded(string(last[bytes.LastIndexByte(last, ',')+1:])); ok {
		return forwarded
	}
	return ip
}

// site is the address by which a client counts: of IPv6 the /64, of which everybody
// who has one has all addresses.
func site(ip netip.Addr) netip.Addr {
	if ip.Is6() && !ip.Is4In6() {
		if p, err := ip.WithZone("").Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return ip
}

// isLocal tells whether an address is one that the internet does not route; that
// of a unix socket is none at all.
func isLocal(ip netip.Addr) bool {
	return !ip.IsValid() || ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast()
}

// credential is the key that a request carries, empty when there is none. It is
// ambiguous when two headers carry two.
func credential(h *fasthttp.RequestHeader) (token []byte, ambiguous bool) {
	if value := h.Peek(fasthttp.HeaderAuthorization); len(value) > len(bearer) && bytes.EqualFold(value[:len(bearer)], bearer) {
		token = bytes.Trim(value[len(bearer):], " \t")
	}
	for _, name := range [...]string{"X-Api-Key", "Api-Key"} {
		for _, value := range h.PeekAll(name) {
			if value = bytes.Trim(value, " \t"); len(value) == 0 {
				continue
			}
			ambiguous = ambiguous || len(token) > 0 && !bytes.Equal(token, value)
			token = value
		}
	}
	return token, ambiguous
}

var bearer = []byte("Bearer ")

// failureOf is what is counted of a key that was refused.
func failureOf(v auth.Verdict, token []byte) stats.AuthFailure {
	switch v {
	case auth.Mistyped:
		return stats.MistypedKey
	case auth.Disabled:
		return stats.DisabledKey
	case auth.Expired:
		return stats.ExpiredKey
	case auth.Unjudged:
		return stats.UnjudgedKey
	}
	if len(token) == 0 {
		return stats.NoKey
	}
	return stats.UnknownKey
}

// refusedKey is the same for every key that does not open: whether it once did is
// nobody's business.
func refusedKey(v auth.Verdict, token []byte) *openai.Error {
	switch {
	case len(token) == 0:
		return openai.NoKey()
	case v == auth.Unjudged:
		return openai.KeysUnavailable()
	}
	return openai.WrongKey()
}

// refusedKey tells by the head of a request that its body need not be read.
func (g *Gateway) refusedKey(h *fasthttp.RequestHeader) *openai.Error {
	ring := g.keys.Load()
	if ring == nil {
		return nil
	}
	token, ambiguous := credential(h)
	if ambiguous {
		return errAmbiguous()
	}
	if _, verdict := ring.Find(token, g.wall(time.Now())); verdict != auth.Known {
		return refusedKey(verdict, token)
	}
	return nil
}

// refuseByHead answers a request that is refused before its body is read. A key that
// it tried counts as everywhere.
func (g *Gateway) refuseByHead(ctx *fasthttp.RequestCtx, err *openai.Error) {
	if ring := g.keys.Load(); ring != nil && (err.Status == fasthttp.StatusUnauthorized || err.Status == fasthttp.StatusServiceUnavailable) {
		token, _ := credential(&ctx.Request.Header)
		now := time.Now()
		if _, verdict := ring.Find(token, g.wall(now)); verdict != auth.Known {
			g.stats.AuthFailed(failureOf(verdict, token))
			if verdict != auth.Unjudged {
				g.slow(ctx, now)
			}
		}
	}
	g.refuse(ctx, err)
}

// slow holds up who tries one key after the other.
func (g *Gateway) slow(ctx *fasthttp.RequestCtx, now time.Time) {
	if wait := g.failures.Add(int64(now.Sub(g.born)), g.Client(ctx)); wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-g.stopping:
		}
	}
}

// allow tells whether the key may use the model that is asked for.
func (x *Exchange) allow(*fasthttp.RequestCtx) *openai.Error {
	ring, key := x.caller.ring, x.caller.key
	if key == nil || x.endpoint.stored || !ring.HasModels(key) {
		return nil
	}
	asked := x.request.Model
	if asked == "" {
		return openai.ModelRequired()
	}
	if !ring.MayUse(key, asked) {
		x.gateway.stats.AuthFailed(stats.ModelNotAllowed)
		return openai.ModelNotFound(asked)
	}
	return nil
}
