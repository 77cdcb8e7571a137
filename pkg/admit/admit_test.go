package admit_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

// birth is when the gates of these tests begin.
var birth = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func at(now time.Duration) time.Time { return birth.Add(now) }

func newGate() *admit.Gate { return admit.New(birth, 0) }

// asking is a request of a key that wants tokens of its prompt alone.
func asking(who byte, now time.Duration, l *limit.Limits, tokens int64) *admit.Request {
	return &admit.Request{Who: admit.Identity{who}, Known: true, Now: at(now), Wall: at(now), Limits: l, Prompt: tokens}
}

// enter lets r in.
func enter(t testing.TB, g *admit.Gate, r *admit.Request) *admit.Ticket {
	t.Helper()
	var ticket admit.Ticket
	if refusal, ok := g.Enter(&ticket, r); !ok {
		t.Fatalf("refused: %s for %v", refusal.Limit, refusal.Wait)
	}
	return &ticket
}

// refuse has r refused.
func refuse(t testing.TB, g *admit.Gate, r *admit.Request) admit.Refusal {
	t.Helper()
	var ticket admit.Ticket
	refusal, ok := g.Enter(&ticket, r)
	if ok {
		t.Fatal("let in")
	}
	if ticket.Valid() {
		t.Error("who was refused has a ticket")
	}
	return refusal
}

// sight is all that can be seen of what a key has used.
type sight struct {
	Use              []admit.LimitUse
	InFlight         int64
	Requests, Tokens admit.Standing
	Has              [2]bool
	Used, Reserved   int64
}

func see(g *admit.Gate, r *admit.Request) (s sight) {
	s.Use, s.InFlight = g.Use(r.Who, r.Limits, r.Now)
	s.Requests, s.Tokens, s.Has[0], s.Has[1] = g.Standings(r.Who, r.Limits, r.Now)
	if r.Term != nil {
		s.Used, s.Reserved = r.Term.Used(), r.Term.Reserved()
	}
	return s
}

// passes is how many more requests the global limit takes at that moment.
func passes(g *admit.Gate, r *admit.Request) (n int64) {
	for globally(g, r) {
		n++
	}
	return n
}

// reached is a request of 40 tokens, after another of them that is still under way,
// by a key of whose limits some, by their bits, have no room for it.
type reached uint

func (s reached) has(l admit.Limit) bool { return s&(1<<l) != 0 }

// of is tight where the limit is reached, else roomy.
func (s reached) of(l admit.Limit, tight, roomy int64) int64 {
	if s.has(l) {
		return tight
	}
	return roomy
}

func (s reached) request(now time.Duration) *admit.Request {
	l := &limit.Limits{
		PerSecond:  limit.Rate{Each: 500 * time.Millisecond, Burst: s.of(admit.PerSecond, 1, 3)},
		PerMinute:  limit.Rate{Each: 30 * time.Second, Burst: s.of(admit.PerMinute, 1, 3)},
		Tokens:     limit.Rate{Each: 100 * time.Millisecond, Burst: s.of(admit.Tokens, 50, 200)},
		Concurrent: s.of(admit.Concurrent, 1, 3),
	}
	r := asking(1, now, l, 40)
	r.Quota = s.of(admit.Quota, 50, 200)
	r.Global = limit.Rate{Each: time.Hour, Burst: s.of(admit.Global, 1, 3)}
	return r
}

// longest is what holds the second request for the longest time.
func (s reached) longest(used bool) (by admit.Limit, wait time.Duration) {
	for l, d := range map[admit.Limit]time.Duration{
		admit.Concurrent: time.Second,
		admit.Tokens:     3 * time.Second, // for 30 of 40 tokens
		admit.PerSecond:  500 * time.Millisecond,
		admit.PerMinute:  30 * time.Second,
	} {
		if s.has(l) && d > wait {
			by, wait = l, d
		}
	}
	switch {
	case s.has(admit.Quota) && used:
		return admit.Quota, 12 * time.Hour // the day ends
	case s.has(admit.Global):
		return admit.Global, time.Hour
	case s.has(admit.Quota) && (by == admit.None || by == admit.PerSecond):
		return admit.Quota, time.Second
	}
	return by, wait
}

// Every set of limits that are reached at once: whoever is refused, by whatever, has
// paid nothing. One gateway still takes a request off the minute when the limit of
// parallel ones refuses it.
func TestRefusalCostsNothing(t *testing.T) {
	for s := reached(2); s < 1<<admit.NLimits; s += 2 {
		for _, used := range []bool{false, true} { // else the first request still holds its tokens
			t.Run(fmt.Sprintf("%07b/used=%v", uint(s), used), func(t *testing.T) {
				g, now := newGate(), time.Duration(0)
				r := s.request(now)
				r.Term = new(quota.Account).Term(r.Wall, quota.Daily, time.UTC)
				first := enter(t, g, r)
				if used {
					first.Settle(at(now), 40)
				}
				before := see(g, r)
				for range 10 {
					got := refuse(t, g, r)
					by, wait := s.longest(used)
					want := admit.Refusal{Limit: by, Wait: wait, Exhausted: by == admit.Quota && used, Tokens: 40}
					if got != want {
						t.Fatalf("%+v (%s), want %+v (%s)", got, got.Limit, want, by)
					}
				}
				if after := see(g, r); !reflect.DeepEqual(after, before) {
					t.Errorf("ten refusals made\n%+v of\n%+v", after, before)
				}
				if left := passes(g, r); left != r.Global.Burst-1 {
					t.Errorf("%d more pass the global limit, want %d", left, r.Global.Burst-1)
				}
			})
		}
	}
}

// A client that waits as long as it was told gets in, and one that comes a nanosecond
// sooner does not.
func TestTheWaitIsTrue(t *testing.T) {
	for _, l := range []admit.Limit{admit.Tokens, admit.Quota, admit.PerSecond, admit.PerMinute, admit.Global} {
		t.Run(l.String(), func(t *testing.T) {
			g, account := newGate(), new(quota.Account)
			s := reached(1 << l)
			request := func(now time.Duration) *admit.Request {
				r := s.request(now)
				r.Term = account.Term(r.Wall, quota.Daily, time.UTC)
				return r
			}
			first := enter(t, g, request(0))
			first.Settle(at(0), 40)
			first.Leave(at(0))
			const later = 137 * time.Millisecond
			wait := refuse(t, g, request(later)).Wait
			if early := refuse(t, g, request(later+wait-1)); early.Limit != l || early.Wait != 1 {
				t.Errorf("a nanosecond early: %s for %v", early.Limit, early.Wait)
			}
			enter(t, g, request(later+wait))
		})
	}
}

// The names are written in configurations, metrics and errors.
func TestLimitsHaveTheirNames(t *testing.T) {
	for l, want := range map[admit.Limit]string{
		admit.Concurrent: "max_concurrent", admit.Tokens: "tokens_per_minute", admit.Quota: "total_quota",
		admit.PerSecond: "requests_per_second", admit.PerMinute: "requests_per_minute", admit.Global: "global",
	} {
		if l.String() != want || admit.LimitNames()[l] != want {
			t.Errorf("%d is %q and %q, want %q", l, l, admit.LimitNames()[l], want)
		}
	}
}

// Requests without limits of their own count against the global one like all others.
func TestPassAndEnterShareTheGlobalLimit(t *testing.T) {
	g := newGate()
	r := asking(1, 0, &limit.Limits{}, 0)
	r.Global = limit.PerSecond(1, 2)
	enter(t, g, r)
	if wait, _ := g.Pass(r.Now, r.Global); wait.Wait != 0 {
		t.Errorf("the second waits %v", wait)
	}
	if wait, _ := g.Pass(r.Now, r.Global); wait.Wait != time.Second {
		t.Errorf("the third waits %v", wait)
	}
	if refusal := refuse(t, g, r); refusal.Limit != admit.Global || refusal.Wait != time.Second {
		t.Errorf("the fourth is refused by %s for %v", refusal.Limit, refusal.Wait)
	}
	if wait, ok := g.Pass(r.Now, limit.Rate{}); !ok {
		t.Errorf("without a limit one waits %v", wait)
	}
}

// What the headers say of requests is of the limit with less left.
func TestStandingsAreOfTheScarcerLimit(t *testing.T) {
	g := newGate()
	l := &limit.Limits{PerSecond: limit.PerSecond(10, 0), PerMinute: limit.PerMinute(12), Tokens: limit.PerMinute(600)}
	for i, want := range []admit.Standing{
		{Limit: 10, Left: 9, Full: 100 * time.Millisecond},
		{Limit: 10, Left: 8, Full: 200 * time.Millisecond},
	} {
		r := asking(1, 0, l, 100)
		enter(t, g, r).Settle(r.Now, 60)
		requests, tokens, hasRequests, hasTokens := g.Standings(r.Who, l, r.Now)
		if !hasRequests || !hasTokens || requests != want {
			t.Errorf("request %d: %+v, want %+v", i, requests, want)
		}
		used := int64(60 * (i + 1))
		if want := (admit.Standing{Limit: 600, Left: 600 - used, Full: time.Duration(used) * 100 * time.Millisecond}); tokens != want {
			t.Errorf("tokens %d: %+v, want %+v", i, tokens, want)
		}
	}
	for i := range 9 { // one each second: the minute is what gets scarce
		enter(t, g, asking(1, time.Duration(i+1)*time.Second, l, 0))
	}
	requests, _, _, _ := g.Standings(admit.Identity{1}, l, at(9*time.Second))
	if want := (admit.Standing{Limit: 12, Left: 2, Full: 46 * time.Second}); requests != want {
		t.Errorf("%+v, want %+v", requests, want)
	}
	if _, _, hasRequests, hasTokens := g.Standings(admit.Identity{1}, &limit.Limits{Concurrent: 1}, at(0)); hasRequests || hasTokens {
		t.Error("what is not limited has a standing")
	}
}

func globally(g *admit.Gate, r *admit.Request) bool {
	_, ok := g.Pass(r.Now, r.Global)
	return ok
}
