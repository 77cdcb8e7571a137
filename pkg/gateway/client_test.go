package gateway

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
)

// from is a request that came from peer with these X-Forwarded-For lines.
func from(peer net.Addr, lines ...string) *fasthttp.RequestCtx {
	var ctx fasthttp.RequestCtx
	ctx.Init(&fasthttp.Request{}, peer, nil)
	for _, l := range lines {
		ctx.Request.Header.Add(fasthttp.HeaderXForwardedFor, l)
	}
	return &ctx
}

func TestClientIP(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, w := range []struct {
		name, peer string
		trusted    []netip.Prefix
		lines      []string
		want       string
	}{
		{"nobody is trusted", "10.0.0.1", nil, []string{"9.9.9.9"}, "10.0.0.1"},
		{"a stranger claims an address", "8.8.8.8", proxies, []string{"9.9.9.9"}, "8.8.8.8"},
		{"a proxy says nothing", "10.0.0.1", proxies, nil, "10.0.0.1"},
		{"a proxy names its client", "10.0.0.1", proxies, []string{"9.9.9.9"}, "9.9.9.9"},
		{"the client had claimed another", "10.0.0.1", proxies, []string{"1.1.1.1, 9.9.9.9"}, "9.9.9.9"},
		{"the client had claimed a proxy", "10.0.0.1", proxies, []string{"10.0.0.7, 9.9.9.9"}, "9.9.9.9"},
		{"two proxies", "10.0.0.1", proxies, []string{"1.1.1.1, 9.9.9.9, 10.0.0.2"}, "9.9.9.9"},
		{"two proxies, two lines", "10.0.0.1", proxies, []string{"1.1.1.1, 9.9.9.9", "10.0.0.2"}, "9.9.9.9"},
		{"a line of the client's before", "10.0.0.1", proxies, []string{"1.1.1.1", "9.9.9.9"}, "9.9.9.9"},
		{"proxies all the way", "10.0.0.1", proxies, []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"a port", "10.0.0.1", proxies, []string{"9.9.9.9:1234"}, "9.9.9.9"},
		{"IPv6", "fd00::1", proxies, []string{"2001:db8::1"}, "2001:db8::1"},
		{"IPv6 in brackets", "fd00::1", proxies, []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"IPv6 with a port", "fd00::1", proxies, []string{"[2001:db8::1]:443"}, "2001:db8::1"},
		{"IPv4 inside IPv6 names one client", "::ffff:10.0.0.1", proxies, []string{"::ffff:9.9.9.9"}, "9.9.9.9"},
		{"a zone names one client", "10.0.0.1", proxies, []string{"fe80::1%eth0"}, "fe80::1"},
		{"blanks", "10.0.0.1", proxies, []string{" \t9.9.9.9 \t"}, "9.9.9.9"},
		{"an empty line", "10.0.0.1", proxies, []string{""}, "10.0.0.1"},
		{"an empty entry at the end", "10.0.0.1", proxies, []string{"9.9.9.9,"}, "10.0.0.1"},
		{"nonsense", "10.0.0.1", proxies, []string{"unknown"}, "10.0.0.1"},
		{"nonsense further left", "10.0.0.1", proxies, []string{"'; DROP TABLE, 9.9.9.9"}, "9.9.9.9"},
		{"nonsense behind a proxy", "10.0.0.1", proxies, []string{"_hidden, 10.0.0.2"}, "10.0.0.2"},
	} {
		t.Run(w.name, func(t *testing.T) {
			peer := &net.TCPAddr{IP: net.ParseIP(w.peer), Port: 5}
			if got := clientIP(from(peer, w.lines...), w.trusted); got != netip.MustParseAddr(w.want) {
				t.Errorf("%v, want %v", got, w.want)
			}
		})
	}
	t.Run("a unix socket has no address", func(t *testing.T) {
		if got := clientIP(from(&net.UnixAddr{Name: "@"}, "9.9.9.9"), proxies); got.IsValid() {
			t.Errorf("%v", got)
		}
	})
}

// FuzzForwardedFor: whatever a client puts in front of what a trusted proxy
// appends, the proxy's word stands.
func FuzzForwardedFor(f *testing.F) {
	f.Add("1.1.1.1", "2.2.2.2:80")
	f.Add(",,[::1], ", "10.0.0.9")
	f.Add("fe80::1%eth0", "\x00")
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	peer := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}
	f.Fuzz(func(t *testing.T, first, second string) {
		if strings.ContainsAny(first+second, "\r\n") {
			return // no header value holds them
		}
		want := netip.MustParseAddr("9.9.9.9")
		for _, lines := range [][]string{{first, second + ",9.9.9.9"}, {first + "," + second, "9.9.9.9"}, {first + ", " + second + " , 9.9.9.9, 10.0.0.2"}} {
			if got := clientIP(from(peer, lines...), proxies); got != want {
				t.Fatalf("%q made it %v", lines, got)
			}
		}
		got := clientIP(from(peer, first, second), proxies)
		if !got.IsValid() || got.Is4In6() || got.Zone() != "" {
			t.Fatalf("%q, %q: %v", first, second, got)
		}
	})
}
