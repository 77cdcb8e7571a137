package cluster

import (
	"math"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
)

// every limit of these lets ten pass: requests, or 100 tokens each, or slots.
var tens = limit.Limits{
	PerSecond:  limit.Rate{Each: 4 * time.Second, Burst: 10},
	PerMinute:  limit.Rate{Each: 6 * time.Second, Burst: 10},
	Tokens:     limit.Rate{Each: 10 * time.Millisecond, Burst: 1000},
	Concurrent: 10,
}

func TestEachLimitRefusesTheEleventh(t *testing.T) {
	s := newStage(t)
	for _, c := range []struct {
		name      string
		limits    limit.Limits
		quota     int64
		by        admit.Limit
		wait      time.Duration
		exhausted bool
	}{
		{"nothing limits", limit.Limits{}, 0, admit.None, 0, false},
		{"slots", limit.Limits{Concurrent: 10}, 0, admit.Concurrent, time.Second, false},
		{"tokens, by what is held", limit.Limits{Tokens: tens.Tokens}, 0, admit.Tokens, time.Second, false},
		{"quota, by what is held", limit.Limits{}, 1000, admit.Quota, time.Second, false},
		{"a second", limit.Limits{PerSecond: tens.PerSecond}, 0, admit.PerSecond, 4 * time.Second, false},
		{"a minute", limit.Limits{PerMinute: tens.PerMinute}, 0, admit.PerMinute, 6 * time.Second, false},
		{"all, told is the longest", tens, 1000, admit.PerMinute, 6 * time.Second, false},
		{"of equals the first", limit.Limits{Concurrent: 10, Tokens: tens.Tokens}, 1000, admit.Concurrent, time.Second, false},
	} {
		tag := s.tag()
		one := func(n byte) ask {
			return ask{
				tag: tag, limits: &c.limits, requests: 1, tokens: 100, lease: "n." + string('a'+n),
				ttl: 30 * time.Second, quota: s.daily("n", 0, c.quota, 100),
			}
		}
		for n := range byte(10) {
			if got := s.admit(one(n)); got.by != admit.None {
				t.Fatalf("%s: request %d is refused by %v", c.name, n, got.by)
			}
		}
		before := s.look(tag, &c.limits)
		got := s.admit(one(10))
		if got.by != c.by || got.wait != c.wait || got.exhausted != c.exhausted {
			t.Errorf("%s: refused by %q for %v, exhausted %v, want %q, %v, %v",
				c.name, got.by, got.wait, got.exhausted, c.by, c.wait, c.exhausted)
		}
		if after := s.look(tag, &c.limits); c.by != admit.None && after != before {
			t.Errorf("%s: refused, and it took something: %+v, before %+v", c.name, after, before)
		}
	}
}

// Each refuses alone while all others have room: none of the others may keep anything.
func TestWhatOneRefusesTheOthersDoNotTake(t *testing.T) {
	s := newStage(t)
	ample := limit.Rate{Each: time.Millisecond, Burst: 1e6}
	for _, c := range []struct {
		name   string
		limits limit.Limits
		quota  int64
		by     admit.Limit
	}{
		{"slots", limit.Limits{PerSecond: ample, PerMinute: ample, Tokens: ample, Concurrent: 1}, 1e6, admit.Concurrent},
		{"tokens", limit.Limits{PerSecond: ample, PerMinute: ample, Tokens: limit.Rate{Each: 1e9, Burst: 7}, Concurrent: 9}, 1e6, admit.Tokens},
		{"quota", limit.Limits{PerSecond: ample, PerMinute: ample, Tokens: ample, Concurrent: 9}, 7, admit.Quota},
		{"a second", limit.Limits{PerSecond: limit.Rate{Each: 1e9, Burst: 1}, PerMinute: ample, Tokens: ample, Concurrent: 9}, 1e6, admit.PerSecond},
		{"a minute", limit.Limits{PerSecond: ample, PerMinute: limit.Rate{Each: 1e9, Burst: 1}, Tokens: ample, Concurrent: 9}, 1e6, admit.PerMinute},
	} {
		tag := s.tag()
		a := ask{tag: tag, limits: &c.limits, requests: 1, tokens: 7, lease: "n.1", ttl: 30 * time.Second, quota: s.daily("n", 0, c.quota, 7)}
		if got := s.admit(a); got.by != admit.None || got.inFlight != 1 || got.reserved != 7 || got.quotaReserved != 7 {
			t.Fatalf("%s: %+v", c.name, got)
		}
		before := s.look(tag, &c.limits)
		a.lease = "n.2"
		if got := s.admit(a); got.by != c.by || got.wait == 0 {
			t.Errorf("%s: refused by %q for %v, want %q", c.name, got.by, got.wait, c.by)
		}
		if after := s.look(tag, &c.limits); after != before {
			t.Errorf("%s: it took something: %+v, before %+v", c.name, after, before)
		}
	}
}

func TestTheWaitIsTrue(t *testing.T) {
	s := newStage(t)
	for _, r := range []limit.Rate{
		limit.PerSecond(3, 0), limit.PerSecond(1000, 1), limit.PerMinute(7), limit.PerMinute(1e6), {Each: 1, Burst: 5},
	} {
		l := limit.Limits{PerSecond: r, Tokens: r}
		one := ask{tag: s.tag(), limits: &l, requests: 1, tokens: r.Burst}
		s.settle(settlement{tag: one.tag, tokens: r, charge: r.Burst / 2})
		got := s.admit(one)
		for got.by == admit.None {
			got = s.admit(one)
		}
		s.now += got.wait.Microseconds() - 1
		if early := s.admit(one); early.by != got.by {
			t.Errorf("%v: a µs early it is refused by %q, want %q", r, early.by, got.by)
		}
		s.now++
		if late := s.admit(one); late.by == got.by {
			t.Errorf("%v: at the time that was said it is refused for %v more", r, late.wait)
		}
	}
}

func TestEdgesOfTokens(t *testing.T) {
	s := newStage(t)
	l := limit.Limits{Tokens: limit.Rate{Each: 10 * time.Millisecond, Burst: 1000}}
	debt := s.tag()
	s.settle(settlement{tag: debt, tokens: l.Tokens, charge: 1500})
	for _, c := range []struct {
		name   string
		tag    string
		tokens int64
		by     admit.Limit
		wait   time.Duration
		held   int64
	}{
		{"more than a burst takes a full bucket", s.tag(), 1 << 40, admit.None, 0, 1000},
		{"a debt is waited for", debt, 100, admit.Tokens, 6 * time.Second, 0},
		{"who needs none passes in debt", debt, 0, admit.None, 0, 0},
		{"less than none is none", debt, -5, admit.None, 0, 0},
	} {
		got := s.admit(ask{tag: c.tag, limits: &l, requests: 1, tokens: c.tokens, lease: "n.1", ttl: time.Minute})
		if got.by != c.by || got.wait != c.wait || got.reserved != c.held {
			t.Errorf("%s: by %q, wait %v, reserved %d, want %q, %v, %d", c.name, got.by, got.wait, got.reserved, c.by, c.wait, c.held)
		}
	}
	if got := s.look(debt, &l); got.tokens != 15*time.Second {
		t.Errorf("full in %v, want 15s: the debt too", got.tokens)
	}
}

func TestEdgesOfTheQuota(t *testing.T) {
	s := newStage(t)
	for _, c := range []struct {
		name      string
		used      int64
		quota     int64
		hold      int64
		tooMuch   bool
		end       time.Duration // from now, else 23 hours
		by        admit.Limit
		wait      time.Duration
		exhausted bool
	}{
		{name: "exactly what is left", used: 60, quota: 100, hold: 40},
		{name: "one more", used: 61, quota: 100, hold: 40, by: admit.Quota, wait: 23 * time.Hour, exhausted: true},
		{name: "more than all of it, unused", quota: 100, hold: 400},
		{name: "more than all of it, used", used: 1, quota: 100, hold: 400, by: admit.Quota, wait: 23 * time.Hour, exhausted: true},
		{name: "who needs nothing gets it", used: 200, quota: 100},
		{name: "no limit", used: 1e15, hold: 1e12},
		{name: "too much of nothing", quota: 100, hold: 1, tooMuch: true, by: admit.Quota, wait: 23 * time.Hour, exhausted: true},
		{name: "waits for ever", used: 100, quota: 100, hold: 1, end: never, by: admit.Quota, wait: longest * time.Microsecond, exhausted: true},
		{name: "over by this clock", used: 100, quota: 100, hold: 1, end: -time.Minute, by: admit.Quota, wait: time.Second, exhausted: true},
	} {
		s.now = s.now / 1e6 * 1e6 // so that the end is a whole number of seconds away
		q := s.daily("n", c.used, c.quota, c.hold)
		q.tooMuch = c.tooMuch
		switch c.end {
		case 0:
		case never:
			q.end = never
		default:
			q.end = s.at(c.end)
		}
		got := s.admit(ask{tag: s.tag(), requests: 1, lease: "n.1", ttl: time.Minute, quota: q})
		if got.by != c.by || got.wait != c.wait || got.exhausted != c.exhausted {
			t.Errorf("%s: by %q, wait %v, exhausted %v, want %q, %v, %v", c.name, got.by, got.wait, got.exhausted, c.by, c.wait, c.exhausted)
		}
		if got.start != q.start || got.used != c.used || got.own != c.used {
			t.Errorf("%s: the term is %d with %d used, want %d and %d", c.name, got.start, got.used, q.start, c.used)
		}
	}
}

// A limit of one in centuries is a mistake of its owner, and no reason to answer
// with a number that is none.
func TestExtremesDoNotOverflow(t *testing.T) {
	s := newStage(t)
	l := limit.Limits{
		PerSecond: limit.Rate{Each: 1 << 60, Burst: 1}, PerMinute: limit.Rate{Each: 1 << 62, Burst: math.MaxInt64}, Tokens: limit.Rate{Each: math.MaxInt64, Burst: -1},
		Concurrent: math.MaxInt64,
	}
	a := ask{tag: s.tag(), limits: &l, requests: 1, tokens: math.MaxInt64, quota: s.daily("n", math.MaxInt64, math.MaxInt64, math.MaxInt64)}
	s.settle(settlement{tag: a.tag, tokens: l.Tokens, charge: math.MaxInt64})
	for range 2 {
		if got := s.admit(a); got.by != admit.Tokens || got.wait != longest*time.Microsecond || got.reserved != 0 {
			t.Errorf("%+v, want that it waits %v", got, longest*time.Microsecond)
		}
	}
	a.tokens, a.quota = 0, quotaAsk{}
	if got := s.admit(a); got.by != admit.None || got.second < 100*24*time.Hour || got.minute < 100*24*time.Hour {
		t.Errorf("%+v, want that it passes, and that it does not come back", got)
	}
}

// What another limit refuses for longer says nothing of the quota.
func TestExhaustedIsSaidOfTheQuotaOnly(t *testing.T) {
	s := newStage(t)
	l := limit.Limits{PerMinute: limit.Rate{Each: 100 * time.Hour, Burst: 1}}
	a := ask{tag: s.tag(), limits: &l, requests: 1, quota: s.daily("n", 100, 100, 1)}
	s.admit(ask{tag: a.tag, limits: &l, requests: 1})
	if got := s.admit(a); got.by != admit.PerMinute || got.exhausted {
		t.Errorf("refused by %q, exhausted %v", got.by, got.exhausted)
	}
}

// A command lies in the buffer of a stopped server, while its client goes on without it.
func TestWhatComesTooLateTakesNothing(t *testing.T) {
	s := newStage(t)
	a := ask{
		tag: s.tag(), limits: &tens, requests: 1, tokens: 5, lease: "n.1", ttl: time.Minute,
		notAfter: s.now, quota: s.daily("n", 3, 100, 5),
	}
	s.now++
	if got := s.admit(a); got != (answer{now: s.now, late: true}) {
		t.Errorf("late: %+v", got)
	}
	if n := s.server.Must("DBSIZE"); n != "0" {
		t.Errorf("%s keys were written", n)
	}
	s.now--
	if got := s.admit(a); got.late || got.inFlight != 1 {
		t.Errorf("in time: %+v", got)
	}
}

func TestTheClockGoesBackAndNothingComesBackForIt(t *testing.T) {
	s := newStage(t)
	l := limit.Limits{PerSecond: tens.PerSecond, Tokens: tens.Tokens}
	a := ask{tag: s.tag(), limits: &l, requests: 1, tokens: 1}
	for range 10 {
		s.admit(a)
	}
	s.settle(settlement{tag: a.tag, tokens: l.Tokens, charge: 1000})
	s.pass(-time.Hour)
	if got := s.admit(a); got.by != admit.PerSecond || got.wait != 4*time.Second || got.tokens != 10*time.Second {
		t.Errorf("refused by %q for %v, tokens full in %v, want a second's, 4s and 10s", got.by, got.wait, got.tokens)
	}
	s.pass(4 * time.Second)
	if got := s.admit(a); got.by != admit.None {
		t.Errorf("4s later it is refused by %q for %v: the clock that was wrong still counts", got.by, got.wait)
	}
}
