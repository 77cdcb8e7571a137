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

// outage is a client that asks some gateways, which have a store, and then none, and
// then one again.
type outage struct {
	*rand.Rand
	*site
	limits   limit.Limits
	global   limit.Rate
	quota    int64
	accounts []quota.Account
	flying   []flight
	// All that ever passed.
	requests, tokens, all spent
}

// flight is a request under way.
type flight struct {
	ticket admit.Ticket
	gate   int
	held   int64
}

func newOutage(rnd *rand.Rand) *outage {
	n := 2 + rnd.IntN(4)
	return &outage{Rand: rnd, site: newSite(n, true, admit.LocalShare, admit.LocalShare), accounts: make([]quota.Account, n)}
}

func (o *outage) rate() limit.Rate {
	return limit.Rate{Each: time.Duration(1 + o.Int64N(9)), Burst: 1 + o.Int64N(40)}
}

func (o *outage) request(gate int, tokens int64) *admit.Request {
	now := at(time.Duration(o.now))
	r := asking(1, time.Duration(o.now), &o.limits, tokens)
	r.Global, r.Quota, r.Account = o.global, o.quota, &o.accounts[gate]
	r.Term = r.Account.Term(now, quota.Daily, time.UTC)
	return r
}

// some lets steps pass in which requests come, and use at most what they hold, if they
// do not go on.
func (o *outage) some(steps int, goOn bool) {
	for range steps {
		o.one(o.IntN(len(o.gates)), goOn)
	}
}

func (o *outage) one(gate int, goOn bool) {
	if o.IntN(3) == 0 {
		o.now += o.Int64N(12)
	}
	if len(o.flying) > 0 && o.IntN(2) == 0 {
		o.finish(o.IntN(len(o.flying)))
		return
	}
	f := flight{gate: gate, held: 1 + o.Int64N(6)}
	if _, ok := o.gates[gate].Enter(&f.ticket, o.request(gate, f.held)); !ok {
		return
	}
	o.requests.add(o.now, 1)
	o.all.add(o.now, 1)
	if o.flying = append(o.flying, f); !goOn {
		o.finish(len(o.flying) - 1)
	}
}

func (o *outage) finish(i int) {
	f, now, used := &o.flying[i], at(time.Duration(o.now)), int64(0)
	switch n := int64(len(o.gates)); {
	case o.limits.Tokens.Limited(): // no more than a share holds
		used = o.Int64N(min(f.held, max(1, o.limits.Tokens.Burst/n)) + 1)
	case o.quota > 0:
		used = o.Int64N(min(f.held, o.quota) + 1)
	}
	o.tokens.add(o.now, used)
	f.ticket.Settle(now, used)
	f.ticket.Leave(now)
	o.flying = append(o.flying[:i], o.flying[i+1:]...)
}

// heard has all gateways know what the store does.
func (o *outage) heard() {
	for i, g := range o.gates {
		g.Ask(o.request(i, 0))
		if o.global.Limited() {
			o.stores[i].full = max(o.now, o.common.global.full)
		}
	}
}

// over is by how much the worst window is over r, beyond so many times the burst, in
// nanoseconds. Where there are more gateways than units each of them has one.
func (o *outage) over(s *spent, r limit.Rate, bursts int64) int64 {
	n := int64(len(o.gates))
	if n > r.Burst {
		bursts++
	}
	return s.worst(r) - bursts*max(r.Burst, n)*int64(r.Each)
}

// check tells which rate was exceeded.
func (o *outage) check(bursts int64) string {
	for name, w := range map[string]struct {
		spent *spent
		rate  limit.Rate
	}{
		"requests": {&o.requests, o.limits.PerSecond}, "tokens": {&o.tokens, o.limits.Tokens}, "global": {&o.all, o.global},
	} {
		if !w.rate.Limited() {
			continue
		}
		if over := o.over(w.spent, w.rate, bursts); over > 0 {
			return fmt.Sprintf("%d gateways, %s at %+v: %d ns over, beyond %d bursts", len(o.gates), name, w.rate, over, bursts)
		}
	}
	return ""
}

// rates gives the client one of the limits that are rates.
func (o *outage) oneRate() {
	switch o.IntN(3) {
	case 0:
		o.limits.PerSecond = o.rate()
	case 1:
		o.limits.Tokens = o.rate()
	default:
		o.global = o.rate()
	}
}

// When the store goes while all know how things stand, all gateways together let pass
// what was left, as if it were still there: no window sees more than the rate. When it
// is back it is told of that; one that is not lets pass one burst more.
func TestSharesAreOfWhatWasLeft(t *testing.T) {
	tours(t, func(rnd *rand.Rand) string {
		o := newOutage(rnd)
		o.oneRate()
		o.some(30, false)
		o.heard()
		o.become(away)
		o.some(40, false)
		if fault := o.check(0); fault != "" {
			return "while it was away: " + fault
		}
		untold := int64(o.IntN(2))
		for _, store := range o.stores {
			store.tells = untold == 0
		}
		o.become(up)
		o.some(40, false)
		if fault := o.check(untold); fault != "" {
			return "when it was back: " + fault
		}
		return o.left()
	})
}

// What a gateway has not heard of it does not know: when some, or all, begin from
// nothing there is a burst more in all, a share of it at each.
func TestSharesOfWhatNobodyToldAreABurst(t *testing.T) {
	missed := 0
	tours(t, func(rnd *rand.Rand) string {
		o := newOutage(rnd)
		o.oneRate()
		o.some(30, false)
		o.become(away)
		o.some(40, false)
		if o.check(0) != "" {
			missed++
		}
		if fault := o.check(1); fault != "" {
			return fault
		}
		o.become(up)
		o.some(40, false)
		if fault := o.check(1); fault != "" {
			return "when it was back: " + fault
		}
		return o.left()
	})
	if missed == 0 {
		t.Error("it was always as if they knew")
	}
}

// Each time that a store had answered, and then did not, the gateways had forgotten
// what they had let pass the last time that it did not.
func TestAStoreThatComesAndGoesIsOneBurst(t *testing.T) {
	tours(t, func(rnd *rand.Rand) string {
		o := newOutage(rnd)
		o.oneRate()
		for range 60 {
			gate := o.IntN(len(o.gates))
			if o.IntN(2) == 0 {
				o.stores[gate].tells = o.IntN(2) == 0
				o.stores[gate].become(mood(o.IntN(3)))
			}
			requests, tokens, all := o.requests, o.tokens, o.all
			if o.one(gate, false); o.stores[gate].mood == up {
				o.requests, o.tokens, o.all = requests, tokens, all
			}
		}
		return o.check(0) + o.left()
	})
}

// Of requests at once nobody knows which of those at other gateways have ended. Each
// gateway keeps those that it has, and lets in others up to its share.
func TestSharesOfConcurrency(t *testing.T) {
	tours(t, func(rnd *rand.Rand) string {
		o := newOutage(rnd)
		n := int64(len(o.gates))
		o.limits.Concurrent = 1 + o.Int64N(12)
		o.some(30, true)
		if int64(len(o.flying)) > o.limits.Concurrent {
			return fmt.Sprintf("%d at once, want %d at most", len(o.flying), o.limits.Concurrent)
		}
		most := make([]int64, n)
		for _, f := range o.flying {
			most[f.gate]++
		}
		for i := range most {
			share := o.limits.Concurrent / n
			if int64(i) < o.limits.Concurrent%n {
				share++
			}
			most[i] = max(most[i], share, 1)
		}
		o.become(away)
		for range 30 {
			o.some(1, true)
			now := make([]int64, n)
			for _, f := range o.flying {
				if now[f.gate]++; now[f.gate] > most[f.gate] {
					return fmt.Sprintf("gateway %d of %d has %d at once, want %d at most of %d", f.gate, n, now[f.gate], most[f.gate], o.limits.Concurrent)
				}
			}
		}
		for len(o.flying) > 0 {
			o.finish(0)
		}
		o.become(up)
		return o.left()
	})
}

// taken is what all gateways have used and reserved of the quota.
func (o *outage) taken() (sum int64) {
	for i := range o.accounts {
		if t := o.accounts[i].Last(); t != nil {
			sum += t.Own() + t.Reserved()
		}
	}
	return sum
}

// Two requests that held nine tenths of a quota at one gateway were not known to the
// others, of which each let in its part of all that was not used. Requests that go on
// when the store goes count too.
func TestSharesOfAQuotaAreNoMoreThanIt(t *testing.T) {
	filled := 0
	tours(t, func(rnd *rand.Rand) string {
		o := newOutage(rnd)
		o.quota = 1 + o.Int64N(120)
		o.some(30, true)
		o.heard()
		if got := o.taken(); got > o.quota {
			return fmt.Sprintf("%d are taken of %d", got, o.quota)
		}
		o.become(away)
		for range 60 {
			o.some(1, true)
			if got := o.taken(); got > o.quota {
				return fmt.Sprintf("%d gateways have %d of %d", len(o.gates), got, o.quota)
			}
		}
		if o.taken() > o.quota*3/4 {
			filled++
		}
		for len(o.flying) > 0 {
			o.finish(0)
		}
		o.become(up)
		o.heard()
		if used := o.accounts[0].Last().Used(); used != o.taken() {
			return fmt.Sprintf("when it was back: %d used, want %d", used, o.taken())
		}
		return o.left()
	})
	if filled < int(schedules())/400 {
		t.Errorf("most of the quota was taken in %d outages only", filled)
	}
}

// A gateway that has heard nothing takes a share of the whole quota, not more.
func TestAShareOfAQuotaThatNobodyToldOf(t *testing.T) {
	tours(t, func(rnd *rand.Rand) string {
		o := newOutage(rnd)
		n := int64(len(o.gates))
		o.quota = 1 + o.Int64N(120)
		o.become(away)
		o.some(60, true)
		for i := range o.accounts {
			t := o.accounts[i].Last()
			if most := (o.quota + n - 1) / n; t != nil && t.Own()+t.Reserved() > most {
				return fmt.Sprintf("gateway %d of %d has %d of %d", i, n, t.Own()+t.Reserved(), o.quota)
			}
		}
		if o.taken() > o.quota {
			return fmt.Sprintf("%d are taken of %d", o.taken(), o.quota)
		}
		return ""
	})
}
