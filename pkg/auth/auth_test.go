package auth_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

func TestHashOfTextAndBytesIsOne(t *testing.T) {
	const want = "2c26b46b68ffc68f"
	k := auth.Key{Hash: auth.Hash("foo")}
	if k.ID().String() != want || auth.Hash([]byte("foo")) != k.Hash {
		t.Fatalf("the id of foo is %s, want %s", k.ID(), want)
	}
}

func TestParseID(t *testing.T) {
	for _, c := range []struct{ guards, text, want string }{
		{"round trip", "00ff2c26b46b68aa", "00ff2c26b46b68aa"},
		{"capital letters", "00FF2C26B46B68AA", "00ff2c26b46b68aa"},
		{"empty", "", ""},
		{"odd length", "00ff2c26b46b68a", ""},
		{"a whole hash", strings.Repeat("ab", 32), ""},
		{"no hexadecimal digit", "00ff2c26b46b68ag", ""},
		{"a space", " 0ff2c26b46b68aa", ""},
	} {
		id, err := auth.ParseID(c.text)
		if c.want == "" {
			if err == nil || id != (auth.ID{}) {
				t.Errorf("%s: read as %s, %v", c.guards, id, err)
			}
		} else if err != nil || id.String() != c.want {
			t.Errorf("%s: read as %s, %v", c.guards, id, err)
		}
	}
}

func TestParseIDDoesNotRepeatAKey(t *testing.T) {
	const canary = "sk-llmproxy-canary-1"
	for _, s := range []string{canary, canary[4:]} { // of any length, and of an ID's
		if _, err := auth.ParseID(s); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%d characters: %v", len(s), err)
		}
	}
}

func TestInstant(t *testing.T) {
	zone := time.FixedZone("", 8*3600)
	for _, c := range []struct {
		guards string
		t      time.Time
		want   auth.Instant
	}{
		{"none", time.Time{}, 0},
		{"part of a second", time.Unix(100, 999_999_999), 100},
		{"another zone", time.Unix(100, 0).In(zone), 100},
		{"the start of 1970 became never", time.Unix(0, 0), -1},
		{"within the first second of 1970", time.Unix(0, 7), -1},
		{"before 1970", time.Unix(-5, 0), -5},
	} {
		got := auth.At(c.t)
		if got != c.want {
			t.Errorf("%s: %d, want %d", c.guards, got, c.want)
		}
		if back := got.Time(); auth.At(back) != got || back.Location() != time.UTC {
			t.Errorf("%s: back as %v", c.guards, back)
		}
		if got.Time().IsZero() != c.t.IsZero() {
			t.Errorf("%s: %v", c.guards, got.Time())
		}
	}
}

func TestAllows(t *testing.T) {
	list := func(s string) (l []netip.Prefix) {
		for p := range strings.FieldsSeq(s) {
			l = append(l, netip.MustParsePrefix(p))
		}
		return l
	}
	const office = "10.0.1.0/24 192.168.7.9/32 2001:db8:1::/48 fe80::/10 2001:db8:2::7/128"
	for _, c := range []struct {
		guards, list, ip string
		want             bool
	}{
		{"inside", office, "10.0.1.255", true},
		{"just outside", office, "10.0.2.0", false},
		{"just before", office, "10.0.0.255", false},
		{"single address", office, "192.168.7.9", true},
		{"beside a single address", office, "192.168.7.8", false},
		{"IPv6", office, "2001:db8:1:ffff::1", true},
		{"IPv6 outside", office, "2001:db8:3::1", false},
		{"single IPv6 address", office, "2001:db8:2::7", true},
		{"beside a single IPv6 address", office, "2001:db8:2::8", false},
		{"IPv4 seen by an IPv6 socket", office, "::ffff:10.0.1.5", true},
		{"IPv4 outside seen by an IPv6 socket", office, "::ffff:10.0.2.5", false},
		{"IPv4 in the deprecated IPv6 form", office, "::10.0.1.5", false},
		{"a zone", office, "fe80::1%eth0", true},
		{"a zone does not help", office, "2001:db8:3::1%eth0", false},
		{"a list in the IPv6 form of IPv4", "::ffff:10.0.1.0/120", "10.0.1.5", true},
		{"the same, outside", "::ffff:10.0.1.0/120", "10.0.2.5", false},
		{"all of IPv6 is not IPv4", "::/0", "10.0.1.5", false},
		{"all of IPv4 is not IPv6", "0.0.0.0/0", "2001:db8::1", false},
		{"all of IPv4", "0.0.0.0/0", "::ffff:203.0.113.9", true},
		{"no address", "0.0.0.0/0 ::/0", "", false},
	} {
		own, other := key("own"), key("other")
		own.Addresses = list(c.list)
		byDefault := ring(t, auth.Defaults{Addresses: own.Addresses}, other)
		var ip netip.Addr
		if c.ip != "" {
			ip = netip.MustParseAddr(c.ip)
		}
		r := ring(t, auth.Defaults{}, own)
		if got := r.Allows(own, ip); got != c.want || byDefault.Allows(other, ip) != got {
			t.Errorf("%s: %s from %s: %t", c.guards, c.ip, c.list, got)
		}
	}
}

func TestAllowsAnyAddressWithoutAList(t *testing.T) {
	free, listless := key("free"), key("listless")
	free.Addresses = []netip.Prefix{} // whatever the default
	confining := ring(t, auth.Defaults{Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}, free)
	r := ring(t, auth.Defaults{}, listless)
	for _, ip := range []netip.Addr{{}, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fe80::1%a")} {
		if !r.Allows(listless, ip) || !confining.Allows(free, ip) {
			t.Errorf("%v is refused", ip)
		}
	}
}
