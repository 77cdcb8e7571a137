package admit_test

import (
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

// A key's own limit was named, with a short wait, while the one for all held longer:
// the client came back to be refused again.
func TestTheWaitIsOfTheGlobalLimitToo(t *testing.T) {
	g := newGate()
	s := reached(1<<admit.PerSecond | 1<<admit.Global)
	enter(t, g, s.request(0))
	if got := refuse(t, g, s.request(0)); got.Limit != admit.Global || got.Wait != time.Hour {
		t.Errorf("refused by %s for %v", got.Limit, got.Wait)
	}
}

// A quota that is used up was told of beside another limit that holds longer.
func TestOnlyAQuotaIsExhausted(t *testing.T) {
	g := newGate()
	now := 12*time.Hour - time.Second // the day ends in a second
	s := reached(1<<admit.Quota | 1<<admit.PerMinute)
	r := s.request(now)
	r.Term = new(quota.Account).Term(r.Wall, quota.Daily, time.UTC)
	enter(t, g, r).Settle(r.Now, 40)
	if got := refuse(t, g, r); got.Limit != admit.PerMinute || got.Exhausted {
		t.Errorf("%s: %+v", got.Limit, got)
	}
}

// A stranger for whom the table had no room was refused, and told that all of its
// limit was left.
func TestStandingsOfTheOverflow(t *testing.T) {
	g := admit.New(birth, 1)
	enter(t, g, stranger(1, 0))
	r := stranger(2, 0)
	enter(t, g, r)
	refuse(t, g, r)
	if requests, _, _, _ := g.Standings(r.Who, r.Limits, r.Now); requests.Left != 0 {
		t.Errorf("%+v", requests)
	}
}

// A request that was held up between the clock and the gate found its key forgotten,
// and its burst new.
func TestForgettingIsNoSecondBurst(t *testing.T) {
	g := newGate()
	l := &limit.Limits{PerMinute: limit.PerMinute(1)}
	enter(t, g, asking(1, 0, l, 0)).Leave(at(0))
	g.Sweep(at(time.Minute))
	if g.Len() != 0 {
		t.Fatal("not forgotten")
	}
	late := enter(t, g, asking(1, time.Second, l, 0)) // read its clock 59 s ago
	late.Leave(at(time.Minute))
	if refusal := refuse(t, g, asking(1, time.Minute+time.Second, l, 0)); refusal.Wait < 58*time.Second {
		t.Errorf("the third in 61 s waits %v", refusal.Wait)
	}
}
