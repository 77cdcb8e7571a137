package cluster

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// slowly is a rate of which nothing comes back in a test.
var slowly = limit.Rate{Each: time.Hour, Burst: 100_000}

func TestWhatARequestTakesItGivesBack(t *testing.T) {
	p := newPeer(t, "a", at(redistest.Start(t).Addr()), patiently).up()
	for name, c := range map[string]struct {
		change func(*want)
		tokens int64 // held, of those a minute
		quota  int64 // held
		leases int
	}{
		"everything":                    {func(*want) {}, 100, 100, 1},
		"concurrency alone":             {func(o *want) { *o = want{limits: limit.Limits{Concurrent: 1}} }, 0, 0, 1},
		"tokens alone":                  {func(o *want) { *o = want{limits: limit.Limits{Tokens: slowly}, tokens: 7} }, 7, 0, 1},
		"a quota alone":                 {func(o *want) { o.limits = limit.Limits{} }, 0, 100, 1},
		"an account without a quota":    {func(o *want) { o.limits, o.quota = limit.Limits{}, 0 }, 0, 100, 1},
		"nothing to hold":               {func(o *want) { *o = want{limits: limit.Limits{PerSecond: slowly}} }, 0, 0, 0},
		"no account":                    {func(o *want) { o.noAccount, o.hold = true, 0 }, 100, 0, 1},
		"more tokens than the burst":    {func(o *want) { o.limits.Tokens, o.tokens = limit.Rate{Each: time.Nanosecond, Burst: 50}, 1000 }, 50, 100, 1},
		"a hold of more than the quota": {func(o *want) { o.quota, o.hold = 30, 1000 }, 100, 30, 1},
	} {
		t.Run(name, func(t *testing.T) {
			o := all.of(byte(len(name)))
			c.change(&o)
			o.key = byte(len(name))
			for round := range 3 {
				r := p.must(o)
				s := p.standing(o)
				if s.leases != c.leases || s.reserved != c.tokens || s.quotaReserved != c.quota || s.inFlight != int64(c.leases) {
					t.Errorf("round %d holds %+v", round, s)
				}
				if r.lease != nil && round > 0 {
					r.charge(1, c.tokens)
				}
				r.end(0, 0)
				p.holdsNothing(o)
			}
		})
	}
}

func TestWhatIsRefusedTakesNothing(t *testing.T) {
	p := newPeer(t, "a", at(redistest.Start(t).Addr()), patiently).up()
	o := all
	o.limits.Concurrent = 1
	r := p.must(o)
	for _, by := range []admit.Limit{admit.Concurrent, admit.Quota} {
		more := o
		if by == admit.Quota {
			more.limits.Concurrent, more.quota = 2, 150
		}
		if l, w, ok := p.enter(more); l != nil || !ok || w.By != by || w.Wait <= 0 || w.Lease != nil {
			t.Errorf("%+v, %v, want to be refused by %v", w, ok, by)
		}
	}
	p.holds(o, 1, 100)
	r.end(5, 5)
	p.holdsNothing(o)
	p.uses(o, 5)
}

// The gate goes by these while nobody can be asked.
func TestAnAnswerTellsWhatOthersHold(t *testing.T) {
	s := redistest.Start(t)
	a, b := newPeer(t, "a", at(s.Addr()), patiently).up(), newPeer(t, "b", at(s.Addr()), patiently).up()
	a.must(all).end(40, 40)
	a.holdsNothing(all)
	a.must(all)
	_, w, _ := b.enter(all)
	if w.InFlight != 2 || w.Reserved != 200 || w.Held != 200 || w.Used != 40 || w.Own != 0 {
		t.Errorf("%+v", w)
	}
	q := admit.Ask{Tag: all.tag(), Limits: &all.limits, Tokens: 1, Hold: 1, Look: true}
	q.Account, q.Term = b.account(all)
	if !b.Admit(&q, &w) || w.Lease != nil || w.InFlight != 2 || w.Held != 200 {
		t.Errorf("a look: %+v", w)
	}
	b.holds(all, 2, 100)
}

func TestPartsAddUp(t *testing.T) {
	p := newPeer(t, "a", at(redistest.Start(t).Addr()), patiently).up()
	o := all
	o.limits.Tokens = slowly
	var used int64
	for n := range int64(50) {
		r := p.must(o)
		var parts int64
		for part := range n % 7 {
			parts += part
			r.charge(part, max(0, 100-parts))
		}
		r.end(parts+n, n)
		used += parts + n
	}
	p.told()
	p.holdsNothing(o)
	p.uses(o, used)
	if got := p.standing(o).charged.Round(time.Hour); got != time.Duration(used)*time.Hour {
		t.Errorf("%d tokens are charged, want %d", got/time.Hour, used)
	}
}

// Redis may have done what it did not get to say.
func TestAnAnswerThatIsLost(t *testing.T) {
	s := redistest.Start(t)
	direct := newPeer(t, "direct", at(s.Addr()), patiently).up()
	direct.must(all).end(0, 0) // the server knows the scripts
	for name, end := range map[string]func(p *peer, r *request, mend func()){
		"the request ends at once":        func(_ *peer, r *request, mend func()) { r.end(3, 3); mend() },
		"it ends when nobody is asked":    func(p *peer, r *request, mend func()) { p.down(); r.end(3, 3); mend() },
		"it ends when all is well again":  func(p *peer, r *request, mend func()) { mend(); p.up(); r.end(3, 3) },
		"it says more before it ends":     func(_ *peer, r *request, mend func()) { r.charge(1, 99); mend(); r.end(3, 2) },
		"it says more, and is well again": func(p *peer, r *request, mend func()) { r.charge(1, 99); mend(); p.up(); r.end(3, 2) },
	} {
		t.Run(name, func(t *testing.T) {
			o := all.of(byte(len(name)))
			net, way := moved(t, s)
			p := newPeer(t, "a"+name[:1], way, hastily).up()
			net.SetDelay(late)
			r, _, ok := p.enter(o)
			if ok || r.lease == nil {
				t.Fatal("it was answered in time")
			}
			direct.until("it is done all the same", func() bool { return len(direct.members(o)) == 1 })
			end(p, r, func() { net.SetDelay(0) })
			direct.holdsNothing(o)
			p.up().told()
			direct.holdsNothing(o)
			direct.uses(o, 3)
		})
	}
}

// What goes down another connection to Redis may be there before what was sent first.
func TestAnEndDoesNotOvertakeItsRequest(t *testing.T) {
	s := redistest.Start(t)
	direct := newPeer(t, "direct", at(s.Addr()), patiently).up()
	slow, _ := moved(t, s)
	way := at(s.Addr())
	var first atomic.Bool
	way.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if first.CompareAndSwap(false, true) {
			addr = slow.Addr()
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	p := newPeer(t, "a", way, patiently).byHand()
	var under []*request
	for range 300 {
		under = append(under, p.must(all))
	}
	p.settle()
	p.o.Timeout = 20 * time.Millisecond
	slow.SetDelay(30 * time.Millisecond)
	r, _, ok := p.enter(all)
	if ok {
		t.Fatal("it was answered in time")
	}
	r.end(0, 0)
	for _, r := range under {
		r.end(0, 0)
	}
	p.settle()
	direct.holdsNothing(all)
}

// Another gateway has begun a term that this one does not know of, and the answer that
// says so is lost.
func TestAnAnswerThatIsLostOfAnotherTerm(t *testing.T) {
	s := redistest.Start(t)
	net, way := moved(t, s)
	direct, p := newPeer(t, "direct", at(s.Addr()), patiently).up(), newPeer(t, "a", way, hastily).up()
	p.must(all).end(10, 10)
	p.told()
	account, _ := direct.account(all)
	account.Reset(time.Now())
	direct.must(all).end(20, 20)
	direct.holdsNothing(all)
	net.SetDelay(late)
	r, _, ok := p.enter(all)
	if ok {
		t.Fatal("it was answered in time")
	}
	direct.until("it is done all the same", func() bool { return len(direct.members(all)) == 1 })
	net.SetDelay(0)
	r.end(5, 5)
	direct.holdsNothing(all)
	direct.uses(all, 20) // the rest is of the term before
}

func TestARequestCountsInTheTermOfAnother(t *testing.T) {
	s := redistest.Start(t)
	a, b := newPeer(t, "a", at(s.Addr()), patiently).up(), newPeer(t, "b", at(s.Addr()), patiently).up()
	b.must(all).end(50, 50)
	b.holdsNothing(all)
	under := b.must(all) // the term ends below it
	account, _ := a.account(all)
	account.Reset(time.Now())
	a.must(all).end(7, 7)
	a.until("the end arrives", func() bool { return len(a.members(all)) == 1 })
	r := b.must(all)
	if r.term.Start != a.book.Account(all.id()).Last().Start {
		t.Error("it does not follow")
	}
	if got := b.standing(all); got.leases != 2 || got.quotaReserved != 100 || got.used != 7 {
		t.Errorf("%+v", got)
	}
	under.end(1000, 1000)
	r.end(3, 3)
	b.told()
	b.holdsNothing(all)
	b.uses(all, 10)
}

// A clock that is wrong by minutes begins no term for others.
func TestATermThatBeginsTooSoon(t *testing.T) {
	s := redistest.Start(t)
	a, b := newPeer(t, "a", at(s.Addr()), patiently).up(), newPeer(t, "b", at(s.Addr()), patiently).up()
	b.must(all).end(50, 50)
	b.told()
	account, _ := a.account(all)
	account.Reset(time.Now().Add(5 * time.Minute))
	r := a.must(all)
	b.holds(all, 1, 100)
	r.charge(1, 100)
	a.told()
	b.holds(all, 1, 100)
	r.end(4, 3)
	b.holdsNothing(all)
	b.uses(all, 50)
}

// Of a client that asks again when it has its answer, the end of the request before may
// be behind the new one on the way to Redis.
func TestNobodyIsRefusedByTheRequestBefore(t *testing.T) {
	s := redistest.Start(t)
	p := newPeer(t, "a", at(s.Addr()), patiently).up()
	o := all
	o.limits.Concurrent, o.limits.PerSecond, o.limits.PerMinute = 1, limit.Rate{}, limit.Rate{}
	o.limits.Tokens, o.quota = limit.Rate{Each: time.Nanosecond, Burst: 100}, 0
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() { // others, so that the worker is busy
		defer close(ended)
		other := all.of(1)
		other.limits.PerSecond, other.limits.PerMinute, other.quota = limit.Rate{}, limit.Rate{}, 0
		other.limits.Tokens = limit.Rate{}
		for {
			select {
			case <-stop:
				return
			default:
			}
			if r, _, _ := p.enter(other); r != nil {
				r.end(0, 0)
			}
		}
	}()
	refused := 0
	for range 10_000 {
		r, w, ok := p.enter(o)
		if !ok {
			t.Fatal("nobody was asked")
		}
		if r == nil {
			if refused++; refused == 1 {
				t.Logf("refused by %v for %v", w.By, w.Wait)
			}
			continue
		}
		r.end(0, 0)
	}
	close(stop)
	<-ended
	if refused > 0 {
		t.Errorf("%d of 10000 were refused", refused)
	}
}

// Others that come and go all the time, and are counted in the same place as the key,
// hold nobody up.
func TestARefusalDoesNotWaitForOthers(t *testing.T) {
	p := newPeer(t, "a", at(redistest.Start(t).Addr()), patiently).up()
	o := all
	o.limits.Concurrent = 1
	p.must(o)
	stop, ended := make(chan struct{}), make(chan struct{})
	for range 4 {
		go func() {
			defer func() { ended <- struct{}{} }()
			tick := time.NewTicker(50 * time.Microsecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				lease := &lease{cluster: p.Cluster, shard: p.shards[0], tag: o.tag()}
				lease.End(0)
			}
		}()
	}
	begin := time.Now()
	for range 20 {
		if r, w, ok := p.enter(o); r != nil || !ok || w.By != admit.Concurrent {
			t.Fatal("it passed")
		}
	}
	if took := time.Since(begin); took > p.o.Timeout {
		t.Errorf("20 refusals took %v", took)
	}
	close(stop)
	for range 4 {
		<-ended
	}
}
