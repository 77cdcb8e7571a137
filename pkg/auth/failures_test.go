package auth_test

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

var source = netip.MustParseAddr("203.0.113.9")

const second = int64(time.Second)

func TestFailuresAreSlowed(t *testing.T) {
	f := auth.NewFailures()
	now := int64(0) // the clock may begin there
	for i := range 20 {
		if wait := f.Add(now, source); wait != 0 {
			t.Fatalf("failure %d waits %v", i, wait)
		}
	}
	for i := range 100 { // who waits fails once a second, no more and no less
		if wait := f.Add(now, source); wait != time.Second {
			t.Fatalf("failure %d after the burst waits %v", i, wait)
		}
		now += second
	}
	for range 1000 { // who does not wait owes no more than MaxWait
		if wait := f.Add(now, source); wait <= 0 || wait > auth.MaxWait {
			t.Fatalf("waits %v", wait)
		}
	}
	now += 22 * second
	for i := range 20 {
		if wait := f.Add(now, source); wait != 0 {
			t.Fatalf("22 s later failure %d waits %v", i, wait)
		}
	}
	if wait := f.Add(now, source); wait != time.Second {
		t.Fatalf("and the one after them %v", wait)
	}
}

// exhausted is a table in which from has used up its burst.
func exhausted(from string) *auth.Failures {
	f := auth.NewFailures()
	for range 20 {
		f.Add(0, netip.MustParseAddr(from))
	}
	return f
}

func TestFailuresBySource(t *testing.T) {
	for _, c := range []struct {
		guards, a, b string
		same         bool
	}{
		{"IPv4 in IPv6", "203.0.113.9", "::ffff:203.0.113.9", true},
		{"IPv4 neighbours", "203.0.113.9", "203.0.113.10", false},
		{"one IPv6 network", "2001:db8::1", "2001:db8::ffff:1", true},
		{"a zone", "fe80::1", "fe80::1%eth0", true},
		{"two IPv6 networks", "2001:db8::1", "2001:db8:0:1::1", false},
		{"IPv4 and the IPv6 of zeros", "203.0.113.9", "::1", false},
	} {
		// Two sources share a word in one table of 8192, not in three.
		slowed := 0
		for range 3 {
			if exhausted(c.a).Add(0, netip.MustParseAddr(c.b)) > 0 {
				slowed++
			}
		}
		if c.same && slowed != 3 || !c.same && slowed == 3 {
			t.Errorf("%s: slowed in %d tables of 3", c.guards, slowed)
		}
	}
}

func TestFailuresWithoutAddress(t *testing.T) {
	f := auth.NewFailures()
	for range 20 {
		f.Add(0, netip.Addr{})
	}
	if f.Add(0, netip.Addr{}) != time.Second {
		t.Fatal("who has no address is not slowed")
	}
}

// An attacker with a network of addresses must not slow the rest of the world.
func TestFailuresOfOneDoNotSlowOthers(t *testing.T) {
	f := exhausted("2001:db8::1")
	var ip [16]byte
	slowed := 0
	for i := range 1000 {
		ip[0], ip[6], ip[7] = 0x20, byte(i>>8), byte(i)
		if f.Add(0, netip.AddrFrom16(ip)) > 0 {
			slowed++
		}
	}
	if slowed > 10 { // 0.12 are to be expected
		t.Fatalf("%d of 1000 others are slowed", slowed)
	}
}

func TestFailuresAtOnce(t *testing.T) {
	f := auth.NewFailures()
	var free atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if f.Add(5*second, source) == 0 {
					free.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if free.Load() != 20 {
		t.Fatalf("%d were not slowed", free.Load())
	}
}
