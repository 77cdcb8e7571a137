package cluster

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
)

// fill takes n leases of 100 tokens each, of both sums.
func (s *stage) fill(tag string, l *limit.Limits, n int) {
	s.t.Helper()
	for i := range n {
		got := s.admit(ask{
			tag: tag, limits: l, requests: 1, tokens: 100, lease: "n." + strconv.Itoa(i), ttl: 30 * time.Second,
			quota: s.daily("n", 50, 1e9, 100),
		})
		if got.by != admit.None {
			s.t.Fatalf("refused by %v", got.by)
		}
	}
}

// Whichever key is lost, the sums that it had a part in are made anew: none stays
// too high for ever, and what others hold is not given away when one ends.
func TestALostKeyLeavesNoWrongSum(t *testing.T) {
	s := newStage(t)
	l := limit.Limits{Tokens: limit.Rate{Each: time.Second, Burst: 10_000}}
	for _, c := range []struct {
		key                      string
		reserved, quota, running int64
		used                     int64
	}{
		{"b", 300, 300, 3, 50},
		{"c", 0, 0, 0, 50},
		{"q", 300, 300, 3, 50},
	} {
		tag := s.tag()
		s.fill(tag, &l, 3)
		s.server.Must("DEL", "p:{"+tag+"}:"+c.key)
		look := func(what string, want answer) {
			t.Helper()
			got := s.admit(ask{tag: tag, limits: &l, quota: s.daily("n", 50, 1e6, 0)})
			if got.reserved != want.reserved || got.quotaReserved != want.quotaReserved || got.inFlight != want.inFlight || got.used != c.used {
				t.Errorf("%s lost, %s: reserved %d and %d of %d used, %d running, want %d and %d of %d, %d", c.key, what,
					got.reserved, got.quotaReserved, got.used, got.inFlight, want.reserved, want.quotaReserved, c.used, want.inFlight)
			}
		}
		look("at once", answer{reserved: c.reserved, quotaReserved: c.quota, inFlight: c.running})
		start := s.at(-time.Hour)
		for i := range 2 { // those that run are told of again, whether they are there or not
			m := member("n."+strconv.Itoa(i), 100, 100, start)
			s.settle(settlement{tag: tag, lease: m, keep: m, ttl: 30 * time.Second})
		}
		s.settle(settlement{tag: tag, lease: member("n.2", 100, 100, start)})
		look("when the others have renewed", answer{reserved: 200, quotaReserved: 200, inFlight: 2})
	}
}

// The first call after a loss finds leases and no sum of them, be it one that ends a lease.
func TestTheEndOfALeaseIsTheFirstCallAfterALoss(t *testing.T) {
	s := newStage(t)
	l := limit.Limits{Tokens: limit.Rate{Each: time.Second, Burst: 10_000}}
	for _, key := range []string{"b", "q"} {
		tag := s.tag()
		s.fill(tag, &l, 3)
		s.server.Must("DEL", "p:{"+tag+"}:"+key)
		s.settle(settlement{tag: tag, lease: member("n.2", 100, 100, s.at(-time.Hour))})
		got := s.admit(ask{tag: tag, limits: &l, quota: s.daily("n", 50, 1e6, 0)})
		if got.reserved != 200 || got.quotaReserved != 200 || got.inFlight != 2 {
			t.Errorf("%s lost: reserved %d and %d, %d running, want 200, 200, 2", key, got.reserved, got.quotaReserved, got.inFlight)
		}
	}
}

// A sum that somebody wrote by hand, or a fault left, does not stay.
func TestWithoutLeasesNothingIsHeld(t *testing.T) {
	s := newStage(t)
	tag := s.tag()
	s.fill(tag, &tens, 1)
	s.settle(settlement{tag: tag, lease: member("n.0", 100, 100, s.at(-time.Hour))})
	s.server.Must("HSET", "p:{"+tag+"}:q", "held", "999")
	if got := s.admit(ask{tag: tag, limits: &tens, quota: s.daily("n", 50, 1e6, 0)}); got.quotaReserved != 0 {
		t.Errorf("%d reserved", got.quotaReserved)
	}
}

// As many leases as before, and yet others: no sum is less than nothing, which nobody could read.
func TestLeasesOfAnotherKindDoNotMakeASumNegative(t *testing.T) {
	s := newStage(t)
	tag := s.tag()
	s.fill(tag, &tens, 2)
	start := s.at(-time.Hour)
	s.server.Must("ZREM", "p:{"+tag+"}:c", member("n.0", 100, 100, start))
	s.server.Must("ZADD", "p:{"+tag+"}:c", "1", member("n.0", 500, 500, start))
	if got := s.admit(ask{tag: tag, limits: &tens, quota: s.daily("n", 50, 1e6, 0)}); got.inFlight != 1 || got.reserved != 0 || got.quotaReserved != 0 {
		t.Errorf("%+v", got)
	}
}

func TestALeaseEndsByItself(t *testing.T) {
	s := newStage(t)
	l := limit.Limits{Concurrent: 2, Tokens: limit.Rate{Each: time.Second, Burst: 200}}
	tag, renewed := s.tag(), member("n.0", 100, 100, s.at(-time.Hour))
	s.now = s.now / 1e3 * 1e3 // leases end with a ms
	s.fill(tag, &l, 2)
	s.pass(29999 * time.Millisecond)
	if got := s.look(tag, &l); got.inFlight != 2 || got.reserved != 200 {
		t.Errorf("a ms early: %d running, %d reserved, want 2 and 200", got.inFlight, got.reserved)
	}
	s.settle(settlement{tag: tag, lease: renewed, keep: renewed, ttl: 30 * time.Second})
	s.pass(time.Millisecond)
	if got := s.look(tag, &l); got.inFlight != 1 || got.reserved != 100 {
		t.Errorf("one was renewed: %d running, %d reserved, want 1 and 100", got.inFlight, got.reserved)
	}
	s.pass(30 * time.Second)
	got := s.admit(ask{tag: tag, limits: &l, requests: 1, tokens: 200, quota: s.daily("n", 50, 1e6, 0)})
	if got.by != admit.None || got.inFlight != 0 || got.reserved != 0 || got.quotaReserved != 0 {
		t.Errorf("all gone: %+v", got)
	}
}

// A gateway with thousands of requests is killed: nobody's call takes long for it.
func TestThousandsOfLeasesThatEndedAreDroppedInSteps(t *testing.T) {
	const thousands, step = 10_000, 64
	s := newStage(t)
	tag := s.tag()
	l := limit.Limits{Concurrent: thousands, Tokens: limit.Rate{Each: time.Millisecond, Burst: 100 * thousands}}
	one := ask{tag: tag, limits: &l, requests: 1, tokens: 1, lease: "m.1", ttl: time.Minute, quota: s.daily("m", 0, 1e9, 1)}
	s.fill(tag, &l, thousands)
	s.pass(time.Minute)
	for n := 1; ; n++ {
		got := s.admit(one)
		gone := min(int64(n*step), thousands)
		if got.by == admit.Concurrent || got.inFlight > 1 {
			t.Fatalf("call %d is refused by %q, %d running: leases that ended still count", n, got.by, got.inFlight)
		}
		if want := 100 * (thousands - gone); got.reserved-got.inFlight != want || got.quotaReserved-got.inFlight != want {
			t.Fatalf("call %d: reserved %d and %d, want %d", n, got.reserved, got.quotaReserved, want)
		}
		if got.by == admit.None {
			one.requests, one.lease = 0, "" // it has what it wanted
		}
		if gone == thousands {
			break
		}
	}
	if n := s.server.Must("ZCARD", "p:{"+tag+"}:c"); n != "1" {
		t.Errorf("%s leases are left, want the new one", n)
	}
}

func TestEveryKeyGoesWhenItIsAsGoodAsNew(t *testing.T) {
	s := newStage(t)
	near := func(name string, got, want time.Duration) {
		t.Helper()
		if off := want - got; off < 0 || off > 5*time.Second {
			t.Errorf("%s goes in %v, want %v", name, got, want)
		}
	}
	tag := s.tag()
	b, c, q := "p:{"+tag+"}:b", "p:{"+tag+"}:c", "p:{"+tag+"}:q"
	hour := limit.Limits{PerMinute: limit.Rate{Each: time.Hour, Burst: 9}, Tokens: limit.Rate{Each: time.Minute, Burst: 99}}
	s.admit(ask{tag: tag, limits: &limit.Limits{Concurrent: 9}, requests: 1, lease: "n.1", ttl: 30 * time.Second})
	near("a lease", s.left(c), 150*time.Second)
	near("what a lease holds", s.left(b), 150*time.Second)
	s.admit(ask{tag: tag, limits: &hour, requests: 1})
	near("a level", s.left(b), time.Hour+2*time.Minute)
	s.settle(settlement{tag: tag, tokens: limit.Rate{Each: time.Second, Burst: 1}, charge: 7})
	near("a level whose rate the last caller did not know", s.left(b), time.Hour+2*time.Minute)
	s.settle(settlement{tag: tag, tokens: hour.Tokens, charge: 593})
	near("a debt", s.left(b), 10*time.Hour+2*time.Minute)
	s.settle(settlement{tag: tag, tokens: hour.Tokens, charge: 1e12})
	near("a debt of years", s.left(b), 32*24*time.Hour+2*time.Minute)

	for _, e := range []struct {
		name string
		end  int64
		want time.Duration
	}{
		{"a term", s.at(time.Hour), 49 * time.Hour},
		{"a term without an end", never, -1},
		{"a term that gets one", s.at(2 * time.Hour), 50 * time.Hour},
		{"a term that ended long ago, by a clock that is behind", s.at(-1000 * time.Hour), 48 * time.Hour},
	} {
		s.settle(settlement{tag: tag, quota: quotaAsk{node: "n", start: s.at(-time.Hour), end: e.end, used: 1}})
		if e.want < 0 && s.left(q) != e.want {
			t.Errorf("%s goes in %v", e.name, s.left(q))
		} else if e.want > 0 {
			near(e.name, s.left(q), e.want)
		}
	}
}

// The bounds are what was measured with Redis 7.0, and a little.
func TestMemoryOfATag(t *testing.T) {
	s := newStage(t)
	for _, c := range []struct {
		leases, nodes int
		most          int64
	}{{0, 1, 600}, {1, 3, 1000}, {100, 3, 9_000}, {1000, 3, 170_000}} {
		tag := fmt.Sprintf("%016x", c.leases)
		l := limit.Limits{PerSecond: tens.PerSecond, Tokens: limit.PerMinute(1e9)}
		l.PerSecond.Burst = 1e6
		for i := range c.nodes {
			s.settle(settlement{tag: tag, tokens: l.Tokens, charge: 1, quota: s.daily("gateway-"+strconv.Itoa(i), 1e9, 0, 0)})
		}
		for i := range c.leases {
			s.admit(ask{
				tag: tag, limits: &l, requests: 1, tokens: 1234, lease: "gateway-1." + strconv.FormatInt(int64(i+1e6), 36),
				ttl: 30 * time.Second, quota: s.daily("gateway-1", 1e9, 1e12, 1234),
			})
		}
		sum := int64(0)
		for _, kind := range []string{"b", "c", "q"} {
			n, err := strconv.ParseInt(s.server.Must("MEMORY", "USAGE", "p:{"+tag+"}:"+kind, "SAMPLES", "0"), 10, 64)
			if err == nil {
				sum += n
			} else if c.leases > 0 {
				t.Fatal(err)
			}
		}
		t.Logf("%d leases of %d nodes: %d bytes", c.leases, c.nodes, sum)
		if sum > c.most {
			t.Errorf("%d leases of %d nodes: %d bytes, want at most %d", c.leases, c.nodes, sum, c.most)
		}
	}
}
