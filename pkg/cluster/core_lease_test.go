package cluster

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

func TestThePostKeepsOrderAndLosesNothing(t *testing.T) {
	p := post{bell: make(chan struct{}, 1)}
	const senders, each = 8, 20_000
	var putting sync.WaitGroup
	var leases [senders]lease
	for i := range leases {
		putting.Go(func() {
			for n := range int64(each) {
				p.put(&event{lease: &leases[i], charge: n})
			}
		})
	}
	next := map[*lease]int64{}
	for got := 0; got < senders*each; {
		select {
		case <-p.bell:
		case <-time.After(promptly):
			t.Fatalf("the bell did not ring for the last %d events", senders*each-got)
		}
		for e := p.take(); e != nil; e = e.next {
			if e.charge != next[e.lease] {
				t.Fatalf("event %d came when %d was next", e.charge, next[e.lease])
			}
			next[e.lease]++
			got++
		}
	}
	putting.Wait()
	if p.take() != nil {
		t.Error("there is more than was put")
	}
}

// score is when a lease ends, in ms of Redis's clock.
func score(t *testing.T, s *redistest.Server, o want, member string) int64 {
	t.Helper()
	ms, err := strconv.ParseInt(s.Must("ZSCORE", "p:{"+o.tag()+"}:c", member), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return ms
}

func TestALongRequestKeepsItsLease(t *testing.T) {
	s := redistest.Start(t)
	p := newPeer(t, "a", at(s.Addr()), patiently).byHand()
	r := p.must(all)
	name := p.members(all)[0]
	soon := time.Now().Add(time.Second).UnixMilli()
	s.Must("ZADD", "p:{"+all.tag()+"}:c", strconv.FormatInt(soon, 10), name)
	p.renew(time.Now().Add(renewAfter - time.Second))
	if got := score(t, s, all, name); got != soon {
		t.Error("it was renewed before it is time")
	}
	p.renew(time.Now().Add(renewAfter))
	if left := time.Until(time.UnixMilli(score(t, s, all, name))); left < leaseTime-promptly || left > leaseTime+time.Second {
		t.Errorf("it ends in %v, want %v", left, leaseTime)
	}
	p.holds(all, 1, 100)
	r.charge(10, 90)
	p.settle()
	if got := p.standing(all); got.leases != 1 || got.reserved != 90 {
		t.Errorf("%+v", got)
	}
	p.renew(time.Now().Add(renewAfter))
	if got := p.standing(all); got.leases != 1 || got.reserved != 90 {
		t.Errorf("%+v", got)
	}
	r.end(10, 0)
	p.settle()
	p.renew(time.Now().Add(renewAfter))
	p.holds(all, 0, 0)
}

// What Redis holds for a gateway that was killed ends by itself, and what it holds for
// others does not.
func TestALeaseOfAGatewayThatWasKilled(t *testing.T) {
	s := redistest.Start(t)
	a, b := newPeer(t, "a", at(s.Addr()), patiently).byHand(), newPeer(t, "b", at(s.Addr()), patiently).byHand()
	a.must(all) // and no more is heard of it
	b.must(all)
	key := "p:{" + all.tag() + "}:c"
	now := time.Now().UnixMilli()
	for _, m := range b.members(all) {
		s.Must("ZADD", key, strconv.FormatInt(now-1, 10), m)
		if strings.HasPrefix(m, "b.") {
			s.Must("ZADD", key, strconv.FormatInt(now+100, 10), m)
		}
	}
	b.renew(time.Now().Add(renewAfter))
	b.holds(all, 1, 100)
}

// A request ends at the moment in which its lease is renewed, or Redis told anew.
func TestNoLeaseOutlivesItsEnd(t *testing.T) {
	s := redistest.Start(t)
	p := newPeer(t, "a", at(s.Addr()), patiently).byHand()
	o := all
	o.limits.Tokens, o.quota = slowly, 0
	var used atomic.Int64
	var clients sync.WaitGroup
	for seed := range uint64(8) {
		clients.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 1))
			for range 150 {
				r, _, ok := p.enter(o)
				if r == nil || !ok {
					t.Error("it was not let in")
					return
				}
				parts := int64(0)
				for range rnd.IntN(3) {
					parts++
					r.charge(1, 100-parts)
				}
				r.end(parts+1, 1)
				used.Add(parts + 1)
			}
		})
	}
	done := make(chan struct{})
	go func() { clients.Wait(); close(done) }()
	for n := 0; ; n++ {
		p.settle()
		switch n % 3 {
		case 0:
			p.renew(time.Now().Add(renewAfter))
		case 1:
			p.resync(resync{p.shards[0], true})
		}
		select {
		case <-done:
			p.settle()
			p.holds(o, 0, 0)
			p.uses(o, used.Load())
			if got := p.standing(o).charged.Round(time.Hour); got != time.Duration(used.Load())*time.Hour {
				t.Errorf("%d tokens are charged, want %d", got/time.Hour, used.Load())
			}
			return
		default:
		}
	}
}

// A worker that has much to do does not keep those waiting who have an answer.
func TestEndsAreToldWhileAllIsTold(t *testing.T) {
	s := redistest.Start(t)
	p := newPeer(t, "a", at(s.Addr()), patiently, func(o *Options) { o.Parts = 1 }).up()
	for n := range 20_000 {
		id := [8]byte{1, byte(n >> 8), byte(n)}
		p.book.Account(id).Late(1, 5)
		p.book.Account(id).Term(time.Now(), 0, time.UTC).Settle(0, 5)
	}
	o := all
	o.limits = limit.Limits{Concurrent: 100_000}
	for range 3000 {
		p.must(o)
	}
	p.byHand().o.Timeout = 20 * time.Millisecond
	stop, ended := make(chan struct{}), make(chan struct{})
	longest := time.Duration(0)
	go func() {
		defer close(ended)
		for {
			begin := time.Now()
			e := p.endsOf(o.of(9).tag())
			l := &lease{cluster: p.Cluster, shard: p.shards[0], tag: o.of(9).tag()}
			l.End(0)
			upTo, some := e.untold()
			for some && !p.await(e, upTo) {
				select {
				case <-stop:
					return
				default:
				}
			}
			longest = max(longest, time.Since(begin))
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	begin := time.Now()
	p.renew(time.Now().Add(renewAfter))
	renewed := time.Since(begin)
	p.resync(resync{p.shards[0], true})
	told := time.Since(begin) - renewed
	close(stop)
	p.settle()
	<-ended
	t.Logf("3000 leases are renewed in %v, 20000 accounts told in %v; an end waits %v at most", renewed, told, longest)
	if longest > (renewed+told)/2 {
		t.Errorf("an end waited %v", longest)
	}
}
