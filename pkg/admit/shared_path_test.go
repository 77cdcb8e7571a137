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

// kept is all that a store has of one client, and of all.
type kept struct {
	full          [4]int64
	leases        int
	tokens, quota int64
	used, passed  int64
}

func (s *site) kept(tag string) (k kept) {
	c := s.stores[0].client(tag)
	k = kept{full: [4]int64{c.second.full, c.minute.full, c.tokens.full, s.common.global.full}, leases: len(c.leases), used: c.use(), passed: s.passed}
	k.tokens, k.quota = c.held()
	return k
}

// tagOfOne is that of the key which these tests ask for.
const tagOfOne = "0100000000000000"

// ready is a request of s at a gateway that has heard of all others.
func (s reached) ready(g *admit.Gate, account *quota.Account) *admit.Request {
	r := s.request(0)
	r.Account, r.Term = account, account.Term(r.Wall, quota.Daily, time.UTC)
	g.Ask(r)
	return r
}

// told is what the client is told of the limits that are reached, when the global one
// is asked before the others.
func (s reached) told(used bool) (by admit.Limit, wait time.Duration) {
	if s.has(admit.Global) {
		return admit.Global, time.Hour
	}
	return s.longest(used)
}

// Every set of limits that are reached at once by a request at another gateway: whoever
// is refused has paid nothing, there or here. The only gateway of a store that cannot be
// asked for it, or takes it and is not heard, refuses alike.
func TestRefusalCostsNothingTogether(t *testing.T) {
	for name, c := range map[string]struct {
		gates  int
		mood   mood
		partly bool
	}{
		"up": {gates: 2}, "away": {gates: 1, mood: away}, "deaf": {gates: 1, mood: deaf}, "partly": {gates: 1, partly: true},
	} {
		for s := reached(2); s < 1<<admit.NLimits; s += 2 {
			for _, used := range []bool{false, true} {
				if s == 1<<admit.Concurrent && used {
					continue // whoever has used what it used has left
				}
				t.Run(fmt.Sprintf("%s/%07b/used=%v", name, uint(s), used), func(t *testing.T) {
					together := newSite(c.gates, true, admit.LocalShare, admit.LocalShare)
					first, g := together.gates[0], together.gates[c.gates-1]
					accounts := make([]quota.Account, 2)
					ticket := enter(t, first, s.ready(first, &accounts[0]))
					s := s
					if used {
						ticket.Settle(at(0), 40)
						ticket.Leave(at(0))
						s &^= 1 << admit.Concurrent
					}
					r := s.ready(g, &accounts[c.gates-1])
					together.become(c.mood)
					together.stores[0].partly = c.partly
					s.refuseTen(t, together, g, r, used)
				})
			}
		}
	}
}

func (s reached) refuseTen(t *testing.T, together *site, g *admit.Gate, r *admit.Request, used bool) {
	before, there := see(g, r), together.kept(tagOfOne)
	for range 10 {
		got := refuse(t, g, r)
		by, wait := s.told(used)
		want := admit.Refusal{Limit: by, Wait: wait, Exhausted: by == admit.Quota && used, Tokens: 40}
		if got != want {
			t.Fatalf("%+v (%s), want %+v (%s)", got, got.Limit, want, want.Limit)
		}
	}
	if after := see(g, r); !reflect.DeepEqual(after, before) {
		t.Errorf("ten refusals made\n%+v of\n%+v", after, before)
	}
	if got := together.kept(tagOfOne); got != there {
		t.Errorf("ten refusals made\n%+v of\n%+v", got, there)
	}
	if left := passes(g, r); left != r.Global.Burst-1 {
		t.Errorf("%d more pass the global limit, want %d", left, r.Global.Burst-1)
	}
	if len(together.faults) > 0 {
		t.Error(together.faults)
	}
}

// What a gateway counts alone, while quotas are counted together, costs nothing either
// when the quota refuses: nor a unit of what is for all.
func TestRefusedByTheQuotaAloneCostsNothing(t *testing.T) {
	for _, m := range []mood{up, away, deaf} {
		for _, used := range []bool{false, true} {
			together := newSite(1, false, admit.LocalShare, admit.LocalShare)
			g, account := together.gates[0], new(quota.Account)
			s := reached(1 << admit.Quota)
			ticket := enter(t, g, s.ready(g, account))
			if used {
				ticket.Settle(at(0), 40)
			}
			r := s.ready(g, account)
			together.become(m)
			s.refuseTen(t, together, g, r, used)
		}
	}
}

// Limits that each gateway counts for itself are reached without a word to the store,
// and at each gateway for itself.
func TestQuotasAloneAreCountedTogether(t *testing.T) {
	together := newSite(2, false, admit.LocalShare, admit.LocalShare)
	accounts := make([]quota.Account, 2)
	s := reached(1<<admit.PerMinute | 1<<admit.Global)
	for i, g := range together.gates {
		enter(t, g, s.ready(g, &accounts[i]))
		asked := together.stores[i].asked
		if got := refuse(t, g, s.request(0)); got.Limit != admit.Global || got.Wait != time.Hour {
			t.Errorf("gateway %d: %s for %v", i, got.Limit, got.Wait)
		}
		if together.stores[i].asked != asked {
			t.Errorf("gateway %d asked for a request that is refused anyway", i)
		}
	}
	s = 1 << admit.Quota
	r := s.ready(together.gates[0], &accounts[0])
	if got := refuse(t, together.gates[0], r); got.Limit != admit.Quota || together.kept(tagOfOne).quota != 80 {
		t.Errorf("%s, while %d are held at both", got.Limit, together.kept(tagOfOne).quota)
	}
}

// What each policy does with what is limited. A key that is not limited passes: its
// account is counted, and nobody need be asked for that.
func TestPolicies(t *testing.T) {
	ten := limit.Limits{PerMinute: limit.PerMinute(10), Concurrent: 10}
	const passes = admit.None
	for _, c := range []struct {
		name                 string
		onError, quotaPolicy admit.Policy
		limits               limit.Limits
		quota, output        int64
		want                 admit.Limit
		in                   int // of twenty
	}{
		{"a share of a limit", admit.LocalShare, admit.LocalShare, ten, 0, 5, admit.PerMinute, 5},
		{"an open limit", admit.Open, admit.LocalShare, ten, 0, 5, passes, 20},
		{"a closed limit", admit.Closed, admit.LocalShare, ten, 0, 5, admit.Store, 0},
		{"closed, and no limit", admit.Closed, admit.LocalShare, limit.Limits{}, 0, 5, passes, 20},
		{"closed, and a quota that has room", admit.Closed, admit.LocalShare, limit.Limits{}, 1000, 5, passes, 20},
		{"a share of a quota", admit.Open, admit.LocalShare, ten, 100, 5, admit.Quota, 10},
		{"an open quota", admit.LocalShare, admit.Open, limit.Limits{}, 100, 5, passes, 20},
		{"an open quota that is less than what is asked for", admit.Open, admit.Open, ten, 100, 101, admit.Quota, 0},
		{"a closed quota", admit.LocalShare, admit.Closed, ten, 100, 5, admit.Store, 0},
		{"closed, and no quota", admit.LocalShare, admit.Closed, limit.Limits{}, 0, 5, passes, 20},
		{"closed, and no quota, but a limit", admit.LocalShare, admit.Closed, ten, 0, 5, admit.PerMinute, 5},
	} {
		together := newSite(2, true, c.onError, c.quotaPolicy)
		together.become(away)
		g, account := together.gates[0], new(quota.Account)
		in, by := 0, admit.Limit(0)
		for range 20 {
			r := asking(1, 0, &c.limits, 0)
			r.Output, r.Quota, r.Account = c.output, c.quota, account
			r.Term = account.Term(r.Wall, quota.Daily, time.UTC)
			var ticket admit.Ticket
			refusal, ok := g.Enter(&ticket, r)
			ticket.Settle(r.Now, c.output)
			ticket.Leave(r.Now)
			if ok {
				in++
				continue
			}
			if by = refusal.Limit; by == admit.Store && refusal.Wait != time.Second || refusal.TooMuch != (c.output > 100) {
				t.Errorf("%s: %+v", c.name, refusal)
			}
		}
		if in != c.in || by != c.want {
			t.Errorf("%s: %d let in, then %q, want %d and %q", c.name, in, by, c.in, c.want)
		}
	}
}

// The global limit is for requests without limits of their own too.
func TestPoliciesOfTheGlobalLimit(t *testing.T) {
	for _, c := range []struct {
		onError admit.Policy
		in      int
		by      admit.Limit
	}{{admit.LocalShare, 3, admit.Global}, {admit.Open, 20, admit.None}, {admit.Closed, 0, admit.Store}} {
		for _, global := range []limit.Rate{{}, {Each: time.Hour, Burst: 6}} {
			together := newSite(2, true, c.onError, admit.LocalShare)
			together.become(away)
			in, by := 0, admit.None
			for range 20 {
				if why, ok := together.gates[1].Pass(at(0), global); ok {
					in++
				} else {
					by = why.Limit
				}
			}
			if !global.Limited() {
				if in != 20 {
					t.Errorf("policy %d, no limit: %d pass", c.onError, in)
				}
			} else if in != c.in || by != c.by {
				t.Errorf("policy %d: %d pass, then %s, want %d and %s", c.onError, in, by, c.in, c.by)
			}
		}
	}
}

func TestPoliciesHaveTheirNames(t *testing.T) {
	for name, want := range map[string]admit.Policy{"local_share": admit.LocalShare, "open": admit.Open, "closed": admit.Closed} {
		if p, ok := admit.ParsePolicy(name); !ok || p != want {
			t.Errorf("%q is %d, %v", name, p, ok)
		}
	}
	if _, ok := admit.ParsePolicy("Open"); ok {
		t.Error("there is another policy")
	}
}

// A store that takes what it is asked for, and is not heard, has it until the request
// ends, whatever the gateway has decided meanwhile: it is given back once.
func TestWhatADeafStoreTookIsGivenBack(t *testing.T) {
	for _, p := range []admit.Policy{admit.LocalShare, admit.Open, admit.Closed} {
		together := newSite(2, true, p, p)
		g, account := together.gates[0], new(quota.Account)
		s := reached(0)
		r := s.ready(g, account)
		r.Now = at(1) // a bucket that gets another rate is late by a nanosecond
		together.become(deaf)
		var tickets [3]admit.Ticket
		in := 0
		for i := range tickets {
			if _, ok := g.Enter(&tickets[i], r); ok {
				in++
			}
		}
		want := map[admit.Policy]int{admit.LocalShare: 2, admit.Open: 3, admit.Closed: 0}[p]
		if k := together.kept(tagOfOne); in != want || k.leases != in {
			t.Errorf("policy %d: %d let in, want %d, and the store has %d leases", p, in, want, k.leases)
		}
		for i := range tickets {
			tickets[i].Charge(at(0), 10)
			tickets[i].Settle(at(0), 30)
			tickets[i].Leave(at(0))
			tickets[i].Leave(at(0))
		}
		if k := together.kept(tagOfOne); k.leases != 0 || k.used != int64(30*in) {
			t.Errorf("policy %d: %d leases, and %d used, want none and %d", p, k.leases, k.used, 30*in)
		}
		if fault := together.left(); fault != "" {
			t.Error(fault)
		}
	}
}

// A reset at one gateway begins the term at all of them. What is under way settles in
// the term it began in, and is counted in none twice.
func TestATermThatAnotherHasBegun(t *testing.T) {
	together := newSite(2, true, admit.LocalShare, admit.LocalShare)
	accounts := make([]quota.Account, 2)
	s := reached(1 << admit.Quota) // 40 of 50
	old := s.ready(together.gates[1], &accounts[1])
	ticket := enter(t, together.gates[1], old)
	first := accounts[1].Last()

	reset := accounts[0].Reset(birth)
	together.stores[0].publish(together.stores[0].client(tagOfOne), reset)
	r := s.request(0)
	r.Account, r.Term = &accounts[1], first
	next := enter(t, together.gates[1], r)
	if r.Term == first || r.Term.Start != reset.Start || r.Term != accounts[1].Last() || r.Term.End != first.End {
		t.Fatalf("the request counts in the term of %d, want %d", r.Term.Start, reset.Start)
	}
	ticket.Settle(birth, 45)
	next.Settle(birth, 33)
	for i, g := range together.gates {
		r := s.request(0)
		r.Account, r.Term = &accounts[i], accounts[i].Term(birth, quota.Daily, time.UTC)
		if got := g.Ask(r); got.Used() != 33 || got.Own() != int64(33*i) || got.Reserved() != 0 {
			t.Errorf("gateway %d: %d used, %d of them here, %d reserved", i, got.Used(), got.Own(), got.Reserved())
		}
	}
	if first.Own() != 45 || first.Reserved() != 0 {
		t.Errorf("the term before: %d used, %d reserved", first.Own(), first.Reserved())
	}
	if fault := together.left(); fault != "" {
		t.Error(fault)
	}
}

// A gateway whose clock is far ahead has begun a term that nobody else is in. What is
// used in theirs counted in its own.
func TestATermThatNobodyElseIsIn(t *testing.T) {
	together := newSite(2, true, admit.LocalShare, admit.LocalShare)
	accounts := make([]quota.Account, 2)
	s := reached(1 << admit.Quota)
	enter(t, together.gates[0], s.ready(together.gates[0], &accounts[0])).Settle(birth, 40)
	ahead := accounts[1].Reset(at(2 * time.Minute))
	r := s.request(0)
	r.Account, r.Term = &accounts[1], ahead
	if got := together.gates[1].Ask(r); got != ahead || got.Used() != 0 {
		t.Errorf("%d used in the term of %d, want none in that of %d", got.Used(), got.Start, ahead.Start)
	}
	if got := refuse(t, together.gates[1], r); got.Limit != admit.Quota || r.Term != ahead {
		t.Errorf("refused by %s, in the term of %d", got.Limit, r.Term.Start)
	}
}

// The headers of an answer told of what this gateway holds twice, and of what others
// hold not at all, or once more than there is when the request was refused.
func TestStandingsAreOfAllGateways(t *testing.T) {
	together := newSite(2, true, admit.LocalShare, admit.LocalShare)
	l := &limit.Limits{PerMinute: limit.PerMinute(12), Tokens: limit.PerMinute(600), Concurrent: 9}
	for i, want := range []struct{ requests, tokens, inFlight int64 }{{11, 500, 1}, {10, 400, 2}, {9, 300, 3}} {
		g := together.gates[i%2]
		enter(t, g, asking(1, 0, l, 100))
		requests, tokens, _, _ := g.Standings(admit.Identity{1}, l, birth)
		if requests.Left != want.requests || tokens.Left != want.tokens {
			t.Errorf("request %d: %+v and %+v, want %+v", i, requests, tokens, want)
		}
		if used := time.Duration(600-want.tokens) * 100 * time.Millisecond; tokens.Full != used {
			t.Errorf("request %d: tokens are back in %v, want %v", i, tokens.Full, used)
		}
		if _, n := g.Use(admit.Identity{1}, l, birth); n != want.inFlight {
			t.Errorf("request %d: %d in flight, want %d", i, n, want.inFlight)
		}
	}
	g := together.gates[1]
	refuse(t, g, asking(1, 0, l, 301))
	_, tokens, _, _ := g.Standings(admit.Identity{1}, l, birth)
	if _, n := g.Use(admit.Identity{1}, l, birth); n != 3 || tokens.Left != 300 {
		t.Errorf("refused: %d in flight, %d left", n, tokens.Left)
	}
}

// Strangers are counted together too, and not as a key whose id begins alike.
func TestStrangersAreCountedTogether(t *testing.T) {
	together := newSite(3, true, admit.LocalShare, admit.LocalShare)
	enter(t, together.gates[0], stranger(7, 0))
	if got := refuse(t, together.gates[1], stranger(7, 0)); got.Limit != admit.PerMinute {
		t.Errorf("the same at another gateway is refused by %q", got.Limit)
	}
	key := stranger(7, 0)
	key.Known = true
	enter(t, together.gates[2], key)
	enter(t, together.gates[2], stranger(8, 0))
}

// Strangers for whom the table has no room share their limits at all gateways.
func TestTheOverflowIsCountedTogether(t *testing.T) {
	together := newSite(2, true, admit.LocalShare, admit.LocalShare)
	for i := range together.gates {
		together.gates[i] = admit.New(birth, 1)
		together.gates[i].Share(together.stores[i])
		together.gates[i].OnError(admit.LocalShare, admit.LocalShare)
		enter(t, together.gates[i], stranger(i, 0))
	}
	first := stranger(2, 0)
	enter(t, together.gates[0], first).Leave(birth)
	other := stranger(3, 0)
	other.Who[0] = first.Who[0]
	if got := refuse(t, together.gates[1], other); got.Limit != admit.PerMinute {
		t.Errorf("another at another gateway is refused by %q", got.Limit)
	}
}

// Nobody is asked about a client that has no limits at all.
func TestNoLimitsAskNobody(t *testing.T) {
	together := newSite(1, true, admit.Closed, admit.Closed)
	enter(t, together.gates[0], asking(1, 0, &limit.Limits{}, 40)).Leave(birth)
	together.become(away)
	enter(t, together.gates[0], asking(1, 0, &limit.Limits{}, 40)).Leave(birth)
	if together.stores[0].asked != 0 || len(together.clients) != 0 {
		t.Errorf("asked %d times", together.stores[0].asked)
	}
}
