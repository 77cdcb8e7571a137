package gateway

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/valyala/fasthttp"
)

// trusted tells whether a peer may speak for somebody else.
func trusted(prefixes []netip.Prefix, ip netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// clientIP is the address of the client: the peer's, or, while that is a
// trusted proxy, the one that it says it forwards for. X-Forwarded-For is read
// from the right: what stands further left than the first untrusted address is
// the client's own claim.
func clientIP(ctx *fasthttp.RequestCtx, prefixes []netip.Prefix) netip.Addr {
	ip := peer(ctx)
	if len(prefixes) == 0 || !trusted(prefixes, ip) {
		return ip
	}
	lines := ctx.Request.Header.PeekAll(fasthttp.HeaderXForwardedFor)
	for _, line := range slices.Backward(lines) {
		rest, more := string(line), true
		for more {
			var last string
			if cut := strings.LastIndexByte(rest, ','); cut >= 0 {
				rest, last = rest[:cut], rest[cut+1:]
			} else {
				last, more = rest, false
			}
			next, ok := parseForwarded(last)
			if !ok {
				return ip // the proxy in between is at fault; it is all we know
			}
			ip = next
			if !trusted(prefixes, ip) {
				return ip
			}
		}
	}
	return ip
}

// Client is the address that a request comes from; invalid over a unix socket.
func (g *Gateway) Client(ctx *fasthttp.RequestCtx) netip.Addr { return clientIP(ctx, g.View().Trusted) }

// parseForwarded reads one entry of X-Forwarded-For: an address, perhaps with
// a port, an IPv6 one perhaps in brackets.
func parseForwarded(s string) (netip.Addr, bool) {
	s = strings.TrimSpace(s)
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap().WithZone(""), true
	}
	if a, err := netip.ParseAddrPort(s); err == nil {
		return a.Addr().Unmap().WithZone(""), true
	}
	if len(s) > 2 && s[0] == '[' && s[len(s)-1] == ']' {
		if a, err := netip.ParseAddr(s[1 : len(s)-1]); err == nil {
			return a.Unmap().WithZone(""), true
		}
	}
	return netip.Addr{}, false
}
