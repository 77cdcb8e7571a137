package cluster

import (
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
)

func TestWhatANodeHasUsedCountsOnce(t *testing.T) {
	s := newStage(t)
	tag, start := s.tag(), s.at(-time.Hour)
	for _, c := range []struct {
		name      string
		node      string
		used      int64
		sum, mine int64
	}{
		{"the first", "a", 100, 100, 100},
		{"published twice", "a", 100, 100, 100},
		{"another node with the same number", "b", 100, 200, 100},
		{"more", "a", 150, 250, 150},
		{"an old message", "a", 120, 250, 150},
		{"a node that lost its books", "b", 0, 250, 100},
	} {
		q := quotaAsk{node: c.node, start: start, end: never, used: c.used}
		got := s.settle(settlement{tag: tag, quota: q})
		if got.used != c.sum || got.own != c.mine || got.start != start {
			t.Errorf("%s: %d used, %d of it by %s, want %d and %d", c.name, got.used, got.own, c.node, c.sum, c.mine)
		}
		if asked := s.admit(ask{tag: tag, quota: q}); asked.used != c.sum || asked.own != c.mine {
			t.Errorf("%s: asked, %d used, %d of it by %s, want %d and %d", c.name, asked.used, asked.own, c.node, c.sum, c.mine)
		}
	}
}

func TestWhichTermCounts(t *testing.T) {
	type said struct {
		start time.Duration // of now
		used  int64
	}
	const none = -1000 * time.Hour
	for _, c := range []struct {
		name    string
		there   said // by another node
		asked   said
		settled said // what counts after a settlement
		admits  said // what counts after an ask instead
	}{
		{"the first", said{start: none}, said{-time.Hour, 7}, said{-time.Hour, 7}, said{-time.Hour, 7}},
		{"the same", said{-time.Hour, 5}, said{-time.Hour, 7}, said{-time.Hour, 12}, said{-time.Hour, 12}},
		{"a later one", said{-time.Hour, 5}, said{-time.Minute, 7}, said{-time.Minute, 7}, said{-time.Minute, 7}},
		{"one that is over", said{-time.Minute, 5}, said{-time.Hour, 7}, said{-time.Minute, 5}, said{-time.Minute, 5}},
		{"a minute ahead", said{-time.Hour, 5}, said{time.Minute, 7}, said{time.Minute, 7}, said{time.Minute, 7}},
		{"more ahead", said{-time.Hour, 5}, said{61 * time.Second, 7}, said{-time.Hour, 5}, said{-time.Hour, 5}},
		{"more ahead, and none there", said{start: none}, said{61 * time.Second, 7}, said{start: none}, said{0, 7}},
	} {
		s := newStage(t)
		s.now = s.now / 1e6 * 1e6
		for _, admits := range []bool{false, true} {
			tag := s.tag()
			if c.there.start != none {
				s.settle(settlement{tag: tag, quota: quotaAsk{node: "other", start: s.at(c.there.start), end: never, used: c.there.used}})
			}
			q := quotaAsk{node: "n", start: s.at(c.asked.start), end: never, used: c.asked.used, hold: 1}
			want, start, used := c.settled, int64(0), int64(0)
			if admits {
				want = c.admits
				got := s.admit(ask{tag: tag, requests: 1, lease: "n.1", ttl: time.Minute, quota: q})
				if start, used = got.start, got.used; got.quotaReserved != 1 {
					t.Errorf("%s: %d reserved, want 1, whichever term it is", c.name, got.quotaReserved)
				}
			} else {
				got := s.settle(settlement{tag: tag, quota: q})
				start, used = got.start, got.used
			}
			if want.start == none && start != 0 || want.start != none && start != s.at(want.start) || used != want.used {
				t.Errorf("%s, asked %v: the term is %v from now with %d used, want %v with %d",
					c.name, admits, time.Duration(start-s.now*1000), used, want.start, want.used)
			}
		}
	}
}

// Starts differ by less than a double tells apart.
func TestTermsANanosecondApartAreTwo(t *testing.T) {
	s := newStage(t)
	tag, start := s.tag(), s.at(-time.Hour)
	for _, n := range []int64{0, 1, 0, 2, 1} {
		s.settle(settlement{tag: tag, quota: quotaAsk{node: "n", start: start + n, end: never, used: 10 + n}})
	}
	if got := s.admit(ask{tag: tag, quota: quotaAsk{node: "n", start: start + 1, end: never, used: 99}}); got.start != start+2 || got.used != 12 {
		t.Errorf("the term is %d behind the first with %d used, want 2 with 12", got.start-start, got.used)
	}
}

// Requests that began before a reset end after it: they hold nothing of the new term.
func TestALeaseHoldsOfItsOwnTermOnly(t *testing.T) {
	s := newStage(t)
	tag := s.tag()
	old := ask{tag: tag, requests: 1, lease: "n.1", ttl: time.Minute, quota: s.daily("n", 10, 100, 60)}
	s.admit(old)
	reset := old
	reset.lease, reset.quota.start, reset.quota.used = "n.2", old.quota.start+5, 0
	if got := s.admit(reset); got.by != admit.None || got.quotaReserved != 60 || got.used != 0 || got.inFlight != 2 {
		t.Errorf("after the reset: %+v", got)
	}
	s.settle(settlement{tag: tag, lease: member("n.1", 0, 60, old.quota.start), quota: old.quota})
	if got := s.admit(ask{tag: tag, quota: reset.quota}); got.quotaReserved != 60 || got.inFlight != 1 || got.used != 0 {
		t.Errorf("after the end of the old one: %+v", got)
	}
	old.lease = "n.3" // its gateway has not heard of the reset
	if got := s.admit(old); got.by != admit.Quota || got.exhausted || got.start != reset.quota.start {
		t.Errorf("asked for the old one: %+v, want that it waits for the new one's", got)
	}
}

// Two gateways whose configurations differ in the period change only the end.
func TestTheEndIsThatOfTheLatest(t *testing.T) {
	s := newStage(t)
	a := ask{tag: s.tag(), requests: 1, quota: s.daily("n", 100, 100, 1)}
	s.admit(a)
	a.quota.end += int64(time.Hour)
	want := time.Duration(a.quota.end - s.now*1000)
	if got := s.admit(a); got.wait != want || got.used != 100 {
		t.Errorf("waits %v with %d used, want %v and 100", got.wait, got.used, want)
	}
}
