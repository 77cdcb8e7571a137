package admit_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

// schedules is how many random schedules are tried: a million with LLMPROXY_LONG=1.
func schedules() uint64 {
	switch {
	case os.Getenv("LLMPROXY_LONG") != "":
		return 1_000_000
	case testing.Short():
		return 100_000 / raceCost
	}
	return 200_000 / raceCost
}

// schedule is one random course of events at one gate.
type schedule struct {
	*rand.Rand
	gate     *admit.Gate
	model    reference
	limits   [3]limit.Limits
	quotas   [3]int64
	global   limit.Rate
	accounts [3]quota.Account
	now      int64 // ns
	stays    []*stay
	refused  *[admit.NLimits]int
	forgot   *int
}

// rate is small, so that edges meet, and now and then no limit.
func (s *schedule) rate(unit int64) limit.Rate {
	if s.IntN(4) == 0 {
		return limit.Rate{}
	}
	return limit.Rate{Each: time.Duration(unit * (1 + s.Int64N(9))), Burst: 1 + s.Int64N(12)}
}

func (s *schedule) begin() {
	for i := range s.limits {
		s.limits[i] = limit.Limits{PerSecond: s.rate(1), PerMinute: s.rate(3), Tokens: s.rate(1), Concurrent: s.Int64N(4)}
		s.limits[i].Tokens.Burst *= 4 // units of a tenth of a request
		s.quotas[i] = s.Int64N(3) * (1 + s.Int64N(100))
	}
	s.global = s.rate(1)
}

func (s *schedule) request(who int) *admit.Request {
	return &admit.Request{
		Who: admit.Identity{byte(who)}, Known: true, Now: at(time.Duration(s.now)), Wall: at(time.Duration(s.now)),
		Limits: &s.limits[who], Global: s.global, Quota: s.quotas[who],
		Term: s.accounts[who].Term(at(time.Duration(s.now)), quota.Daily, time.UTC),
	}
}

// step does one thing and tells what was wrong with it.
func (s *schedule) step() string {
	if s.IntN(3) == 0 {
		s.now += []int64{1, s.Int64N(12), s.Int64N(80)}[s.IntN(3)]
	}
	who := s.IntN(len(s.limits))
	if len(s.stays) > 0 && s.IntN(2) == 0 {
		who = s.goOn()
	} else if fault := s.ask(who); fault != "" {
		return fault
	}
	if s.IntN(6) == 0 {
		before := s.gate.Len()
		s.gate.Sweep(at(time.Duration(s.now)))
		*s.forgot += before - s.gate.Len()
	}
	return s.model.differs(s.gate, who, s.now, s.request(who))
}

// ask has a request come.
func (s *schedule) ask(who int) string {
	r := s.request(who)
	r.Prompt, r.Output = s.Int64N(8), s.Int64N(20)
	if s.IntN(8) == 0 {
		r.Prompt, r.Output = 0, 0
	}
	want := s.model.decide(who, s.now, r)
	var ticket admit.Ticket
	got, ok := s.gate.Enter(&ticket, r)
	s.refused[got.Limit]++
	if ok != (want.Limit == admit.None) || ticket.Valid() != ok {
		return fmt.Sprintf("let in: %v, by %+v (%s), want %+v (%s)", ok, got, got.Limit, want, want.Limit)
	}
	if !ok {
		if want.Tokens = r.Prompt + r.Output; got != want {
			return fmt.Sprintf("%+v (%s), want %+v (%s)", got, got.Limit, want, want.Limit)
		}
		return ""
	}
	stay := s.model.enter(who, s.now, r)
	stay.ticket = ticket
	s.stays = append(s.stays, stay)
	return ""
}

// goOn has something happen to a request under way.
func (s *schedule) goOn() (who int) {
	i := s.IntN(len(s.stays))
	y, now := s.stays[i], at(time.Duration(s.now))
	used := s.Int64N(40)
	switch s.IntN(4) {
	case 0:
		y.ticket.Charge(now, used)
		s.model.charge(y, s.now, used)
	case 1:
		y.ticket.Settle(now, used)
		s.model.settle(y, s.now, used)
	default:
		y.ticket.Leave(now)
		s.model.leave(y, s.now)
		s.stays = append(s.stays[:i], s.stays[i+1:]...)
	}
	return y.who
}

// One request after the other the gate decides exactly as arithmetic does that keeps
// everything: the same limit, the same wait to the nanosecond, the same numbers to
// show, however often idle keys are forgotten in between.
func TestSchedulesAreDecidedByTheBook(t *testing.T) {
	const steps = 24
	var refused [admit.NLimits]int
	forgot := 0
	source := rand.NewPCG(0, 0)
	for seed := range schedules() {
		source.Seed(seed, 6)
		s := &schedule{Rand: rand.New(source), gate: newGate(), refused: &refused, forgot: &forgot}
		s.begin()
		for i := range steps {
			if fault := s.step(); fault != "" {
				t.Fatalf("seed %d, step %d at %d ns: %s", seed, i, s.now, fault)
			}
		}
		for _, y := range s.stays {
			y.ticket.Leave(at(time.Duration(s.now)))
			s.model.leave(y, s.now)
		}
		for who := range s.limits {
			if a := &s.model.keys[who]; a.held != 0 || a.reserved != 0 || a.slots != 0 {
				t.Fatalf("seed %d: BUG in the test: %+v", seed, a)
			}
			if fault := s.model.differs(s.gate, who, s.now, s.request(who)); fault != "" {
				t.Fatalf("seed %d, at the end: %s", seed, fault)
			}
		}
	}
	for l, n := range refused {
		if n < int(schedules())/100 {
			t.Errorf("only %d times %q", n, admit.Limit(l))
		}
	}
	if forgot < int(schedules())/10 {
		t.Errorf("keys were forgotten %d times", forgot)
	}
	t.Logf("decided %v, forgot %d", refused, forgot)
}
