package app_test

import (
	"fmt"
	"strings"
	"testing"
)

// addressAttacks are what clients say of where they are. The key of the test may be
// used from 203.0.113.0/24, 2001:db8:1::/48 and 127.0.0.9; 127.0.0.1 and the networks
// 10.0.0.0/8 and fd00::/8 are trusted proxies where there are any.
var addressAttacks = []struct {
	name  string
	from  string
	lines []string
	alone int // the status where no proxy is trusted
	proxy int // and where those are
}{
	{"from where it may", "127.0.0.9", nil, 200, 200},
	{"from elsewhere", "127.0.0.8", nil, 403, 403},
	{"a claim", "127.0.0.8", []string{"X-Forwarded-For: 203.0.113.5"}, 403, 403},
	{"a claim against itself", "127.0.0.9", []string{"X-Forwarded-For: 198.51.100.1"}, 200, 200},
	{"other headers", "127.0.0.8", []string{"X-Real-Ip: 203.0.113.5", "Forwarded: for=203.0.113.5", "True-Client-Ip: 203.0.113.5", "Cf-Connecting-Ip: 203.0.113.5", "X-Client-Ip: 203.0.113.5", "X-Forwarded: 203.0.113.5", "X-Cluster-Client-Ip: 203.0.113.5"}, 403, 403},

	{"the proxy tells", "127.0.0.1", []string{"X-Forwarded-For: 203.0.113.5"}, 403, 200},
	{"the proxy says nothing", "127.0.0.1", nil, 403, 403},
	{"other headers by the proxy", "127.0.0.1", []string{"X-Real-Ip: 203.0.113.5", "Forwarded: for=203.0.113.5", "X_Forwarded_For: 203.0.113.5"}, 403, 403},
	{"a claim on the left", "127.0.0.1", []string{"X-Forwarded-For: 203.0.113.5, 198.51.100.1"}, 403, 403},
	{"a claim on a line before", "127.0.0.1", []string{"X-Forwarded-For: 203.0.113.5", "X-Forwarded-For: 198.51.100.1"}, 403, 403},
	{"a claim on a line before in another case", "127.0.0.1", []string{"x-forwarded-for: 203.0.113.5", "X-FORWARDED-FOR: 198.51.100.1"}, 403, 403},
	{"a claim to be a proxy", "127.0.0.1", []string{"X-Forwarded-For: 203.0.113.5, 10.1.1.1, 198.51.100.1"}, 403, 403},
	{"over two proxies", "127.0.0.1", []string{"X-Forwarded-For: 203.0.113.5, 10.1.1.1"}, 403, 200},
	{"over two proxies, two lines", "127.0.0.1", []string{"X-Forwarded-For: 203.0.113.5", "X-Forwarded-For: 10.1.1.1, 127.0.0.1"}, 403, 200},
	{"over two proxies, from elsewhere", "127.0.0.1", []string{"X-Forwarded-For: 203.0.113.5, 198.51.100.1, 10.1.1.1"}, 403, 403},
	{"proxies only", "127.0.0.1", []string{"X-Forwarded-For: 10.1.1.2, 10.1.1.1"}, 403, 403},

	{"an address of IPv6", "127.0.0.1", []string{"X-Forwarded-For: 2001:db8:1::7"}, 403, 200},
	{"another of IPv6", "127.0.0.1", []string{"X-Forwarded-For: 2001:db8:2::7"}, 403, 403},
	{"IPv6 in brackets with a port", "127.0.0.1", []string{"X-Forwarded-For: [2001:db8:1::7]:443"}, 403, 200},
	{"IPv6 over a proxy of IPv6", "127.0.0.1", []string{"X-Forwarded-For: 2001:db8:1::7, fd00::1"}, 403, 200},
	{"IPv6 in its long form", "127.0.0.1", []string{"X-Forwarded-For: 2001:0DB8:0001:0000:0000:0000:0000:0007"}, 403, 200},
	{"a zone", "127.0.0.1", []string{"X-Forwarded-For: 2001:db8:1::7%eth0"}, 403, 200},
	{"IPv4 in IPv6", "127.0.0.1", []string{"X-Forwarded-For: ::ffff:203.0.113.5"}, 403, 200},
	{"IPv4 in IPv6 in hex", "127.0.0.1", []string{"X-Forwarded-For: ::ffff:cb00:7105"}, 403, 200},
	{"IPv4 in IPv6, from elsewhere", "127.0.0.1", []string{"X-Forwarded-For: ::ffff:198.51.100.1"}, 403, 403},
	{"IPv4-compatible IPv6", "127.0.0.1", []string{"X-Forwarded-For: ::203.0.113.5"}, 403, 403},
	{"NAT64", "127.0.0.1", []string{"X-Forwarded-For: 64:ff9b::203.0.113.5"}, 403, 403},
	{"a port", "127.0.0.1", []string{"X-Forwarded-For: 203.0.113.5:1234"}, 403, 200},
	{"white space", "127.0.0.1", []string{"X-Forwarded-For:\t 198.51.100.1 ,\t203.0.113.5 "}, 403, 200},

	{"no address", "127.0.0.1", []string{"X-Forwarded-For: 203.0.113.5, unknown"}, 403, 403},
	{"a name", "127.0.0.1", []string{"X-Forwarded-For: localhost"}, 403, 403},
	{"octal", "127.0.0.1", []string{"X-Forwarded-For: 0313.0.0161.5"}, 403, 403},
	{"leading zeros", "127.0.0.1", []string{"X-Forwarded-For: 203.000.113.005"}, 403, 403},
	{"hex", "127.0.0.1", []string{"X-Forwarded-For: 0xcb.0.0x71.5"}, 403, 403},
	{"an integer", "127.0.0.1", []string{"X-Forwarded-For: 3405803781"}, 403, 403},
	{"three parts", "127.0.0.1", []string{"X-Forwarded-For: 203.0.29005"}, 403, 403},
	{"a prefix", "127.0.0.1", []string{"X-Forwarded-For: 203.0.113.0/24"}, 403, 403},
	{"quotes", "127.0.0.1", []string{`X-Forwarded-For: "203.0.113.5"`}, 403, 403},
	{"semicolons", "127.0.0.1", []string{"X-Forwarded-For: 203.0.113.5; 203.0.113.5"}, 403, 403},
	{"a comma behind", "127.0.0.1", []string{"X-Forwarded-For: 203.0.113.5,"}, 403, 403},
	{"an empty line behind", "127.0.0.1", []string{"X-Forwarded-For: 203.0.113.5", "X-Forwarded-For:"}, 403, 403},
	{"many", "127.0.0.1", []string{"X-Forwarded-For: " + strings.Repeat("203.0.113.5, ", 500) + "198.51.100.1"}, 403, 403},
}

// TestAttackAddresses: a key with allowed_ips is believed nothing but the connection,
// and what a trusted proxy says of the other end of its own.
func TestAttackAddresses(t *testing.T) {
	leavesNothing(t)
	const bound = "sk-bound-2Wq7Ee4Rt9Yu1Io6"
	keys := fmt.Sprintf("  - {key: %s, allowed_ips: [203.0.113.0/24, \"2001:db8:1::/48\", 127.0.0.9]}\n", bound)
	alone := startAttacked(t, keys)
	proxied := startAttacked(t, keys+"trusted_proxies: [127.0.0.1, 10.0.0.0/8, \"fd00::/8\"]\n")
	for _, w := range addressAttacks {
		t.Run(w.name, func(t *testing.T) {
			for s, status := range map[*attackSite]int{alone: w.alone, proxied: w.proxy} {
				before := len(s.engine.Ledger())
				c := dialFrom(t, s.Addr, w.from)
				c.send(post(chatPath, wholeChat, append(w.lines, attackBearer+bound)...))
				resp, body := c.answer("POST")
				c.Close()
				asked := len(s.engine.Ledger()) - before
				if resp.StatusCode != status || status == 403 && !hasCode(body, "ip_not_authorized") || asked != map[bool]int{true: 1}[status == 200] {
					t.Errorf("%d %s, want %d (with trusted proxies: %t); the engine was asked %d times", resp.StatusCode, body, status, s == proxied, asked)
				}
				if status == 403 && resp.Header.Get("X-Ratelimit-Limit-Requests") != "" {
					t.Errorf("how the key's limits stand is told: %v", resp.Header)
				}
			}
		})
	}
	quiet(t, alone.Gateway)
	quiet(t, proxied.Gateway)
}

// TestAttackAddressesOfEveryRoute: no route forgets where the client is.
func TestAttackAddressesOfEveryRoute(t *testing.T) {
	leavesNothing(t)
	const bound = "sk-bound-2Wq7Ee4Rt9Yu1Io6"
	s := startAttacked(t, fmt.Sprintf("  - {key: %s, allowed_ips: [203.0.113.0/24]}\n", bound))
	claim := attackBearer + bound + "\r\nX-Forwarded-For: 203.0.113.5\r\n"
	raws := map[string]string{}
	for _, row := range apiRows(t) {
		head, body := row.request(t, "", apiAsk{model: "mock-model", id: "resp_1"})
		raws[row.name()] = head + claim + "Content-Length: " + itoa(len(body)) + "\r\n\r\n" + body
	}
	for _, path := range []string{"/v1/models", "/v1/models/mock-model", "/v1/usage"} {
		raws[path] = "GET " + path + " HTTP/1.1\r\nHost: gateway\r\n" + claim + "\r\n"
	}
	for name, raw := range raws {
		if resp, body, asked := s.try(t, raw); resp.StatusCode != 403 || asked != 0 {
			t.Errorf("%s: %d %s, the engine was asked %d times", name, resp.StatusCode, body, asked)
		}
	}
	quiet(t, s.Gateway)
}
