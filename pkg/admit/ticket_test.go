package admit_test

import (
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

// visit is one request of a key that may use 600 tokens a minute and 1000 a day.
type visit struct {
	*admit.Ticket
	t    *testing.T
	gate *admit.Gate
	r    *admit.Request
}

func newVisit(t *testing.T, tokens int64) *visit {
	g := newGate()
	r := asking(1, 0, &limit.Limits{Tokens: limit.PerMinute(600), Concurrent: 4}, tokens)
	r.Quota, r.Term = 1000, new(quota.Account).Term(birth, quota.Daily, time.UTC)
	return &visit{enter(t, g, r), t, g, r}
}

// expect compares what is left of the minute, and used and reserved of the day.
func (v *visit) expect(when string, left, used, reserved, inFlight int64) {
	v.t.Helper()
	_, tokens, _, _ := v.gate.Standings(v.r.Who, v.r.Limits, v.r.Now)
	_, n := v.gate.Use(v.r.Who, v.r.Limits, v.r.Now)
	if tokens.Left != left || v.r.Term.Used() != used || v.r.Term.Reserved() != reserved || n != inFlight {
		v.t.Errorf("%s: %d left, %d used, %d reserved, %d in flight, want %d, %d, %d, %d",
			when, tokens.Left, v.r.Term.Used(), v.r.Term.Reserved(), n, left, used, reserved, inFlight)
	}
}

// An end is told more than once: by the answer, by the client's leaving, by a panic.
func TestATicketEndsOnce(t *testing.T) {
	v := newVisit(t, 100)
	v.expect("entered", 500, 0, 100, 1)
	v.Settle(birth, 70)
	v.expect("settled", 530, 70, 0, 1)
	v.Settle(birth, 500)
	v.Charge(birth, 500)
	v.expect("settled and charged again", 530, 70, 0, 1)
	v.Leave(birth)
	v.expect("left", 530, 70, 0, 0)
	v.Leave(birth)
	v.Settle(birth, 500)
	v.Charge(birth, 500)
	v.Answered(500)
	v.expect("left again", 530, 70, 0, 0)
	if v.Valid() != true {
		t.Error("it was never given")
	}
}

func TestWhoLeavesWithoutAWordUsedNothing(t *testing.T) {
	v := newVisit(t, 100)
	v.Leave(birth)
	v.expect("left", 600, 0, 0, 0)
}

// What a stream that was charged has used stays charged when it ends without usage:
// of the day nothing was used. While it runs the day holds its prompt and what it has
// used at least.
func TestWhatWasChargedStays(t *testing.T) {
	v := newVisit(t, 100)
	v.Charge(birth, 64)
	v.expect("64 on", 500, 0, 164, 1)
	v.Charge(birth, 60)
	v.expect("back", 500, 0, 164, 1)
	v.Charge(birth, 100)
	v.expect("all that was reserved", 500, 0, 200, 1)
	v.Charge(birth, 130)
	v.expect("more than that", 470, 0, 230, 1)
	v.Settle(birth, 150)
	v.expect("settled", 450, 150, 0, 1)
	v = newVisit(t, 100)
	v.Charge(birth, 64)
	v.Leave(birth)
	v.expect("left", 536, 0, 0, 0)
}

// What is charged comes back with time, while the rest is still reserved.
func TestChargesAreForgivenWhileTheStreamRuns(t *testing.T) {
	v := newVisit(t, 600)
	v.Charge(birth, 400)
	v.r.Now = at(40 * time.Second)
	v.expect("40 s later", 400, 0, 1000, 1)
	v.Settle(v.r.Now, 500)
	v.expect("settled", 500, 500, 0, 1)
}

// A stream that was let in is not cut: what it uses beyond its reservation the next
// requests wait for.
func TestDebtDelaysTheNext(t *testing.T) {
	v := newVisit(t, 100)
	v.Settle(birth, 1500)
	v.Leave(birth)
	v.expect("left", 0, 1500, 0, 0)
	next := *v.r
	next.Term, next.Quota = nil, 0
	if got := refuse(t, v.gate, &next); got.Limit != admit.Tokens || got.Wait != 100*time.Second {
		t.Errorf("the next is refused by %s for %v", got.Limit, got.Wait)
	}
	next.Now = at(100 * time.Second)
	enter(t, v.gate, &next)
}

// A request that wants more than the whole limit would never be let in.
func TestMoreThanTheLimitPassesAlone(t *testing.T) {
	v := newVisit(t, 5000)
	v.expect("entered", 0, 0, 1000, 1)
	if got := refuse(t, v.gate, asking(1, 0, v.r.Limits, 1)); got.Limit != admit.Tokens {
		t.Errorf("another is refused by %s", got.Limit)
	}
	v.Settle(birth, 10)
	v.expect("settled", 590, 10, 0, 1)
}

// Ticket values lie in pooled exchanges of which many never come to the gate.
func TestTheZeroTicketHoldsNothing(t *testing.T) {
	var ticket admit.Ticket
	ticket.Charge(birth, 5)
	ticket.Answered(5)
	ticket.Settle(birth, 5)
	ticket.Leave(birth)
	if ticket.Valid() {
		t.Error("it is valid")
	}
}

// Five requests of 175 tokens at once on a limit of 100 a minute: a gateway that
// looks first and counts later let all of them in.
func TestFiveAtOnceOnALimitOfOne(t *testing.T) {
	g := newGate()
	l := &limit.Limits{Tokens: limit.PerMinute(100)}
	in := make(chan bool)
	for range 5 {
		go func() {
			var ticket admit.Ticket
			_, ok := g.Enter(&ticket, asking(1, 0, l, 175))
			in <- ok
		}()
	}
	admitted := 0
	for range 5 {
		if <-in {
			admitted++
		}
	}
	if admitted != 1 {
		t.Errorf("%d of five were let in", admitted)
	}
}
