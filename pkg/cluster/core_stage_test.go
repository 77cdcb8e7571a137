package cluster

import (
	"encoding/hex"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/quota"
	"github.com/llmproxy/llmproxy/pkg/redis"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// peer is a gateway as Redis sees it: a Cluster, and the accounts that its journal keeps.
type peer struct {
	*Cluster
	t    testing.TB
	book *quota.Book
}

// at is a way to Redis.
func at(addrs ...string) redis.Options { return redis.Options{Addrs: addrs} }

// newPeer is a gateway that has not asked Redis yet, until the test ends.
func newPeer(t testing.TB, node string, way redis.Options, change ...func(*Options)) *peer {
	t.Helper()
	client, err := redis.Open(way)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	p := &peer{t: t, book: quota.NewBook(nil)}
	o := Options{
		Redis: client, Prefix: "p:", Timeout: 20 * time.Millisecond, Self: Gateway{Node: node}, Rates: true,
		Digest: func() string { return "" }, Observe: func(time.Duration) {}, Log: slog.New(slog.DiscardHandler),
		Accounts: func(f func([8]byte, *quota.Term) bool) { p.book.Each(f) },
		Debts:    func(func(admit.Debt, func()) bool) {},
	}
	if way.Mode == redis.Cluster {
		o.Parts = 16
	}
	for _, f := range change {
		f(&o)
	}
	p.Cluster = New(o)
	p.Start()
	t.Cleanup(p.Close)
	return p
}

// patiently is for tests of what is said, not of when.
func patiently(o *Options) { o.Timeout = 5 * time.Second }

// hastily is for tests of answers that are too late: with a delay of late each way they
// are, while what was asked still takes effect.
func hastily(o *Options) { o.Timeout = 100 * time.Millisecond }

const late = 60 * time.Millisecond

// up waits until Redis has been told everything.
func (p *peer) up() *peer {
	p.t.Helper()
	p.until("Redis is asked", func() bool { return p.Status().State == "up" })
	return p
}

// down waits until nobody is asked any more.
func (p *peer) down() {
	p.t.Helper()
	p.until("Redis is not asked", func() bool { return p.Status().State == "away" })
}

func (p *peer) until(what string, cond func() bool) {
	p.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(promptly); !cond(); <-tick.C {
		if time.Now().After(end) {
			p.t.Fatalf("%s: never happened: %s; %+v", p.o.Self.Node, what, p.Status())
		}
	}
}

// told waits until Redis has been told all that was in the post.
func (p *peer) told() {
	p.t.Helper()
	last := want{key: 255}
	_, t := p.account(last)
	t.Settle(0, 1)
	p.Publish(last.id(), t)
	p.until("the post is empty", func() bool { return p.standing(last).ofNode == t.Own() })
}

// byHand has the test do what the worker and the watch do: they have ended.
func (p *peer) byHand() *peer {
	p.up().stop()
	p.done.Wait()
	return p
}

// want is what a request of a key may have.
type want struct {
	key         byte
	limits      limit.Limits
	tokens      int64
	quota, hold int64
	noAccount   bool
}

// all is limited in every way, by more than any test takes.
var all = want{
	limits: limit.Limits{
		PerSecond: limit.PerSecond(1000, 100_000), PerMinute: limit.PerMinute(1_000_000), Tokens: limit.PerMinute(1_000_000), Concurrent: 100_000,
	},
	tokens: 100, quota: 1_000_000, hold: 100,
}

func (o want) id() [8]byte { return [8]byte{o.key} }
func (o want) tag() string { id := o.id(); return hex.EncodeToString(id[:]) }

// of is the same of another key.
func (o want) of(key byte) want { o.key = key; return o }

// request is one under way, as the gate has it.
type request struct {
	lease admit.Lease
	term  *quota.Term
	held  int64
}

func (p *peer) account(o want) (*quota.Account, *quota.Term) {
	a := p.book.Account(o.id())
	return a, a.Term(time.Now(), quota.Daily, time.UTC)
}

// enter asks for one. ok is false when nobody could be asked; the request goes on then.
func (p *peer) enter(o want) (r *request, w admit.Answer, ok bool) {
	q := admit.Ask{Tag: o.tag(), Limits: &o.limits, Tokens: o.tokens, Quota: o.quota, Hold: o.hold}
	if !o.noAccount {
		q.Account, q.Term = p.account(o)
	}
	ok = p.Admit(&q, &w)
	if ok && w.By != admit.None {
		return nil, w, ok
	}
	r = &request{lease: w.Lease, term: q.Term, held: o.hold}
	if r.term != nil {
		r.term.Hold(o.hold)
	}
	return r, w, ok
}

// must enters a request that Redis lets in.
func (p *peer) must(o want) *request {
	p.t.Helper()
	r, w, ok := p.enter(o)
	if !ok || r == nil {
		p.t.Fatalf("%s: refused by %v for %v, asked %v", p.o.Self.Node, w.By, w.Wait, ok)
	}
	return r
}

// charge says that of what was used so far n tokens are new, and that held are held of
// both kinds from here on.
func (r *request) charge(n, held int64) { r.lease.Charge(n, held, r.held) }

// end says what was used in all, and which part of it was not charged yet.
func (r *request) end(used, last int64) {
	if r.term != nil {
		r.term.Settle(r.held, used)
	}
	if r.lease != nil {
		r.lease.End(last)
	}
}

// standing is what Redis knows of a key. Whether its sums are right is the scripts'
// matter; leases are counted here.
type standing struct {
	leases                      int
	reserved, inFlight          int64
	used, quotaReserved, ofNode int64
	charged                     time.Duration // until the tokens are all there again
	start                       int64
}

// standing asks past the breaker.
func (p *peer) standing(o want) standing {
	p.t.Helper()
	a := ask{tag: o.tag(), limits: &o.limits}
	if !o.noAccount {
		_, t := p.account(o)
		a.quota = quotaAsk{node: p.o.Self.Node, start: t.Start, end: t.End}
	}
	var w answer
	p.until("Redis tells of "+o.tag(), func() bool {
		m, err := p.o.Redis.Run(a.call(p.o.Prefix), promptly)
		return err == nil && w.read(m) == nil
	})
	return standing{
		leases: len(p.members(o)), reserved: w.reserved, inFlight: w.inFlight, used: w.used, quotaReserved: w.quotaReserved,
		ofNode: w.own, charged: w.tokens, start: w.start,
	}
}

// members are the leases that Redis has of a key.
func (p *peer) members(o want) (all []string) {
	p.t.Helper()
	p.until("Redis tells of the leases of "+o.tag(), func() bool {
		m, err := p.o.Redis.Do(promptly, "ZRANGE", p.o.Prefix+"{"+o.tag()+"}:c", "0", "-1")
		if err == nil {
			all, err = m.AsStrSlice()
		}
		return err == nil
	})
	return all
}

// holdsNothing waits until nothing of a key is held in Redis.
func (p *peer) holdsNothing(o want) {
	p.t.Helper()
	var s standing
	p.until("nothing is held of "+o.tag(), func() bool {
		s = p.standing(o)
		return s.leases == 0 && s.reserved == 0 && s.inFlight == 0 && s.quotaReserved == 0
	})
}

// holds fails the test unless so many requests hold that many tokens each.
func (p *peer) holds(o want, requests, each int64) {
	p.t.Helper()
	s := p.standing(o)
	want := standing{leases: int(requests), inFlight: requests, reserved: requests * each, quotaReserved: requests * each}
	got := standing{leases: s.leases, inFlight: s.inFlight, reserved: s.reserved, quotaReserved: s.quotaReserved}
	if got != want {
		p.t.Errorf("%s holds %+v, want %+v: %q", o.tag(), got, want, p.members(o))
	}
}

// uses fails the test unless Redis has it that so much of the quota was used.
func (p *peer) uses(o want, used int64) {
	p.t.Helper()
	if s := p.standing(o); s.used != used {
		p.t.Errorf("%s has used %d, want %d: %+v", o.tag(), s.used, used, s)
	}
}

// moved is a client's way to a server that can be cut, delayed, and sent elsewhere.
func moved(t testing.TB, s *redistest.Server) (*redistest.Proxy, redis.Options) {
	p := redistest.NewProxy(t, s.Addr())
	return p, at(p.Addr())
}

// count is that of a command at a server.
func calls(s *redistest.Server, command string) string {
	_, of, _ := strings.Cut(s.Must("INFO", "commandstats"), "cmdstat_"+command+":calls=")
	n, _, _ := strings.Cut(of, ",")
	return n
}
