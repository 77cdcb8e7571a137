package admit_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

// tour is a schedule that goes from gateway to gateway.
type tour struct {
	*schedule
	site     *site
	accounts [][3]quota.Account // of each gateway
	at       int                // the gateway
}

func newTour(rnd *rand.Rand, s *site) *tour {
	t := &tour{
		schedule: &schedule{Rand: rnd, refused: new([admit.NLimits]int), forgot: new(int)},
		site:     s, accounts: make([][3]quota.Account, len(s.gates)),
	}
	t.begin()
	return t
}

// move lets time pass, and goes to some gateway.
func (t *tour) move() {
	if t.IntN(3) == 0 {
		t.now += []int64{1, t.Int64N(12), t.Int64N(80)}[t.IntN(3)]
	}
	t.at = t.IntN(len(t.site.gates))
	t.gate, t.site.now = t.site.gates[t.at], t.now
}

// request is one that always holds something of its quota, so that there is a lease.
func (t *tour) request(who int) *admit.Request {
	r := t.schedule.request(who)
	r.Account = &t.accounts[t.at][who]
	r.Term = r.Account.Term(r.Wall, quota.Daily, time.UTC)
	r.Prompt, r.Output = 1+t.Int64N(7), t.Int64N(20)
	return r
}

// want is what Enter should say: the global limit is asked first, and when that
// refuses, nothing else is.
func (t *tour) want(who int, r *admit.Request) (want admit.Refusal) {
	want = t.model.decide(who, t.now, r)
	if r.Global.Limited() {
		if wait := t.model.global.wait(t.now, r.Global, 1, 0); wait > 0 {
			want = admit.Refusal{Limit: admit.Global, Wait: wait}
		}
	}
	if want.Limit != admit.None {
		want.Tokens = r.Prompt + r.Output
	}
	return want
}

// ask has a request come, which the reference decides too.
func (t *tour) ask(who int) string {
	r := t.request(who)
	want := t.want(who, r)
	var ticket admit.Ticket
	got, ok := t.gate.Enter(&ticket, r)
	t.refused[got.Limit]++
	if got.Wait <= want.Wait && want.Limit != admit.None && (got.Limit == admit.PerSecond || got.Limit == admit.PerMinute) {
		got = want // it was heard of before, and what holds the request longer now was not asked for
	}
	if got != want || ok != (want.Limit == admit.None) || ticket.Valid() != ok {
		return fmt.Sprintf("let in: %v, by %+v (%s), want %+v (%s)", ok, got, got.Limit, want, want.Limit)
	}
	if ok {
		stay := t.model.enter(who, t.now, r)
		stay.ticket = ticket
		t.stays = append(t.stays, stay)
	}
	return ""
}

// finish has a request under way use some, or end as the gateway ends it: other
// gateways have its slot from Settle on.
func (t *tour) finish() (who int) {
	i, now, used := t.IntN(len(t.stays)), at(time.Duration(t.now)), t.Int64N(40)
	y := t.stays[i]
	if t.IntN(3) == 0 {
		y.ticket.Charge(now, used)
		t.model.charge(y, t.now, used)
		return y.who
	}
	y.ticket.Settle(now, used)
	t.model.settle(y, t.now, used)
	y.ticket.Leave(now)
	t.model.leave(y, t.now)
	t.stays = append(t.stays[:i], t.stays[i+1:]...)
	return y.who
}

// step does one thing and tells what was wrong with it.
func (t *tour) step() (who int, fault string) {
	t.move()
	who = t.IntN(len(t.limits))
	if len(t.stays) > 0 && t.IntN(2) == 0 {
		who = t.finish()
	} else if fault = t.ask(who); fault != "" {
		return who, fault
	}
	if t.IntN(6) == 0 {
		t.gate.Sweep(at(time.Duration(t.now)))
	}
	return who, ""
}

// end ends all requests.
func (t *tour) end() {
	for _, y := range t.stays {
		y.ticket.Leave(at(time.Duration(t.now)))
		t.model.leave(y, t.now)
	}
	t.stays = nil
}

// sums are what all gateways have used and reserved of a quota, by themselves.
func (t *tour) sums(who int) (used, reserved int64) {
	for i := range t.accounts {
		if term := t.accounts[i][who].Last(); term != nil {
			used, reserved = used+term.Own(), reserved+term.Reserved()
		}
	}
	return used, reserved
}

// shown tells what a gateway shows of a client that is not so.
func (t *tour) shown(who int) string {
	r := t.request(who)
	r.Term = t.gate.Ask(r)
	a := &t.model.keys[who]
	if used, reserved := t.sums(who); r.Term.Used() != a.used || used != a.used || reserved != a.reserved {
		return fmt.Sprintf("%d used, by each %d, and %d reserved of the quota, want %d and %d", r.Term.Used(), used, reserved, a.used, a.reserved)
	}
	return t.model.limitsDiffer(t.gate, who, t.now, r)
}

// tours runs f with many seeds.
func tours(t *testing.T, f func(rnd *rand.Rand) (fault string)) {
	t.Helper()
	source := rand.NewPCG(0, 0)
	for seed := range schedules() / 40 {
		source.Seed(seed, 7)
		if fault := f(rand.New(source)); fault != "" {
			t.Fatalf("seed %d: %s", seed, fault)
		}
	}
}

// Three gateways with a store decide as arithmetic does that sees all of them: the same
// limit, the same wait to the nanosecond, the same numbers to show on each.
func TestSeveralGatesDecideAsOne(t *testing.T) {
	var refused [admit.NLimits]int
	tours(t, func(rnd *rand.Rand) string {
		s := newTour(rnd, newSite(3, true, admit.LocalShare, admit.LocalShare))
		s.refused = &refused
		for i := range 40 {
			who, fault := s.step()
			if fault == "" {
				fault = s.shown(who)
			}
			if fault != "" {
				return fmt.Sprintf("step %d at %d ns: %s", i, s.now, fault)
			}
		}
		s.end()
		for who := range s.limits {
			if fault := s.shown(who); fault != "" {
				return "at the end: " + fault
			}
		}
		return s.site.left()
	})
	for l, n := range refused {
		if n < int(schedules())/400 {
			t.Errorf("only %d times %q", n, admit.Limit(l))
		}
	}
}

// The only gateway of a store that is away, or takes and is not heard, decides as one
// that never had a store.
func TestTheOnlyOneLosesNothingByAnAbsentStore(t *testing.T) {
	for _, m := range []mood{away, deaf} {
		tours(t, func(rnd *rand.Rand) string {
			s := newTour(rnd, newSite(1, true, admit.LocalShare, admit.LocalShare))
			s.site.become(m)
			for i := range 40 {
				if who, fault := s.step(); fault != "" {
					return fmt.Sprintf("step %d at %d ns: %s", i, s.now, fault)
				} else if fault := s.shown(who); fault != "" {
					return fmt.Sprintf("step %d at %d ns: %s", i, s.now, fault)
				}
			}
			s.end()
			s.site.become(up)
			return s.site.left()
		})
	}
}

// weather is a tour on which anything happens: the store goes, in all its ways, and is
// back, limits are others, quotas are reset.
func (t *tour) weather() {
	switch t.IntN(12) {
	case 0:
		t.site.stores[t.at].tells = t.IntN(2) == 0
		t.site.stores[t.at].become(mood(t.IntN(3)))
	case 1:
		t.site.become(mood(t.IntN(3)))
	case 2:
		t.site.stores[t.at].partly = t.IntN(2) == 0
	case 3: // a reload: whoever is under way keeps what it was let in by
		limits, quotas := t.limits, t.quotas
		t.begin()
		for i := range limits {
			if t.IntN(2) == 0 {
				t.limits[i], t.quotas[i] = limits[i], quotas[i]
			}
		}
	case 4:
		account := &t.accounts[t.at][t.IntN(3)]
		account.Reset(at(time.Duration(t.now)))
	}
}

// one has a request come, go on, or end, and tells nothing.
func (t *tour) one() {
	if len(t.stays) > 0 && t.IntN(2) == 0 {
		t.goOn()
		return
	}
	r := t.request(t.IntN(3))
	l := *r.Limits
	r.Limits = &l // the tour's may be others by the time it ends
	var ticket admit.Ticket
	if _, ok := t.gate.Enter(&ticket, r); ok {
		t.stays = append(t.stays, &stay{ticket: ticket})
	}
}

// Whatever happens, in which order requests end, and what the store is like when they
// do: everything is given back, once, and what was used is counted once. What the
// policies are makes no difference.
func TestWhateverHappensAllIsGivenBackOnce(t *testing.T) {
	policies := []admit.Policy{admit.LocalShare, admit.Open, admit.Closed}
	tours(t, func(rnd *rand.Rand) string {
		s := newTour(rnd, newSite(1+rnd.IntN(3), rnd.IntN(4) > 0, policies[rnd.IntN(3)], policies[rnd.IntN(3)]))
		for range 60 {
			s.move()
			s.weather()
			s.one()
		}
		s.end()
		s.site.become(up)
		for i := range s.site.gates {
			s.site.stores[i].partly = false
			for who := range s.limits {
				s.at, s.gate = i, s.site.gates[i]
				if fault := s.empty(who); fault != "" {
					return fmt.Sprintf("gateway %d: %s", i, fault)
				}
			}
		}
		for who := range s.limits {
			if fault := s.quotaIsTheSum(who); fault != "" {
				return fault
			}
		}
		return s.site.left()
	})
}

// empty tells what a gateway has kept of a client whose requests have all ended.
func (t *tour) empty(who int) string {
	l := limit.Limits{Tokens: limit.Rate{Each: 1, Burst: 1 << 40}, Concurrent: 1 << 40} // all there is shows
	r := t.request(who)
	r.Limits = &l
	r.Term = t.gate.Ask(r)
	if use, inFlight := t.gate.Use(r.Who, &l, at(time.Hour)); inFlight != 0 || use[0].Remaining != 1<<40 {
		return fmt.Sprintf("client %d: %d in flight, %+v", who, inFlight, use)
	}
	if t.gate.Sweep(at(time.Hour)); t.gate.Len() != 0 {
		return fmt.Sprintf("%d clients are not forgotten", t.gate.Len())
	}
	if n := r.Term.Reserved(); n != 0 {
		return fmt.Sprintf("client %d: %d reserved", who, n)
	}
	return ""
}

// quotaIsTheSum tells by what the store is wrong about the term that counts: it is what
// the gateways have used in it.
func (t *tour) quotaIsTheSum(who int) string {
	t.now++
	t.site.now = t.now
	var want, got int64
	start := int64(0)
	for range 2 { // the first round finds out the term
		want = 0
		for i := range t.site.gates {
			t.at, t.gate = i, t.site.gates[i]
			r := t.request(who)
			term := t.gate.Ask(r)
			want, got, start = want+term.Own(), term.Used(), max(start, term.Start)
			if term.Start != start {
				return fmt.Sprintf("client %d: gateway %d has another term", who, i)
			}
		}
	}
	if got != want {
		return fmt.Sprintf("client %d: %d used, want %d", who, got, want)
	}
	return ""
}
