package admit_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

// common is what several gateways count in together, as one would write it for one
// thread.
type common struct {
	mu      sync.Mutex // protects all, also what stores and leases have
	now     int64      // ns on the tests' clock
	clients map[string]*client
	global  level
	passed  int64 // of the global limit, and not given back
	faults  []string
}

// level is how much of a rate was taken and has not come back.
type level struct {
	rate limit.Rate
	full int64 // when all is back
}

// owed is the time until all is back. At another rate than before it is of as many units.
func (l *level) owed(now int64, r limit.Rate) int64 {
	if !r.Limited() {
		return 0
	}
	owed := max(0, l.full-now)
	if l.rate != r {
		if l.rate.Limited() {
			owed = int64(math.Ceil(float64(owed) * float64(r.Each) / float64(l.rate.Each)))
		}
		l.rate, l.full = r, now+owed
	}
	return owed
}

// wait is the time until n more pass.
func (l *level) wait(now int64, r limit.Rate, n int64) time.Duration {
	return time.Duration(max(0, l.owed(now, r)+(n-r.Burst)*int64(r.Each)))
}

func (l *level) add(now int64, r limit.Rate, n int64) {
	if r.Limited() {
		l.full = now + l.owed(now, r) + n*int64(r.Each)
	}
}

// client is one whose limits are counted.
type client struct {
	second, minute, tokens level
	leases                 map[*lease]bool
	start, end             int64
	used                   map[int]int64 // in the term, by gateway
}

func (c *client) held() (tokens, quota int64) {
	for l := range c.leases {
		if tokens += l.tokens; l.start == c.start {
			quota += l.quota
		}
	}
	return tokens, quota
}

func (c *client) use() (used int64) {
	for _, n := range c.used {
		used += n
	}
	return used
}

// publish counts what a gateway has used in a term, unless there is a later one, or the
// gateway's clock is too far ahead.
func (s *store) publish(c *client, t *quota.Term) {
	node := s.place
	switch ahead := at(time.Duration(s.now) + time.Minute).UnixNano(); {
	case t == nil || t.Start < c.start || c.start > 0 && t.Start > ahead:
	case t.Start > c.start:
		c.start, c.end, c.used = t.Start, t.End, map[int]int64{node: t.Own()}
	default:
		c.end, c.used[node] = t.End, max(c.used[node], t.Own())
	}
}

// mood is how the common store answers a gateway.
type mood int

const (
	up mood = iota
	away
	deaf // it does what it is asked, and is not heard
)

// store is the common one as one gateway sees it. It is an admit.Shared.
type store struct {
	*common
	mood           mood
	partly         bool // the global limit can be asked for, and nothing else
	rates          bool
	place, several int
	gate           *admit.Gate
	tells          bool  // it is told what was let in meanwhile
	full           int64 // when all of the global limit is back, by the last answer
	leases         []*lease
	asked          int // how often it has answered
}

// lease is what a request holds.
type lease struct {
	store         *store
	client        *client
	term          *quota.Term
	start         int64
	rate          limit.Rate
	tokens, quota int64
	ended         bool
}

func (s *store) Rates() bool { return s.rates }

func (s *store) Place() (place, several int) { return s.place, s.several }

func (s *store) client(tag string) *client {
	c := s.clients[tag]
	if c == nil {
		c = &client{leases: map[*lease]bool{}, used: map[int]int64{}}
		s.clients[tag] = c
	}
	return c
}

func (s *store) Admit(q *admit.Ask, r *admit.Answer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.client(q.Tag)
	l := s.lease(c, q)
	var w admit.Answer
	term := q.Term
	if s.mood != away {
		w, term = s.decide(c, q, l)
	}
	if l != nil && (s.mood != up || c.leases[l]) {
		s.leases, r.Lease = append(s.leases, l), l
	}
	if s.mood != up || s.partly {
		return false
	}
	s.asked++
	w.Lease = r.Lease
	*r, q.Term = w, term
	return true
}

// lease is for what q wants to hold; nil: nothing.
func (s *store) lease(c *client, q *admit.Ask) *lease {
	l := &lease{store: s, client: c, term: q.Term, quota: q.Hold}
	slots := int64(0)
	if q.Limits != nil {
		slots = q.Limits.Concurrent
		if l.rate = q.Limits.Tokens; l.rate.Limited() {
			l.tokens = min(q.Tokens, l.rate.Burst)
		}
	}
	if q.Look || slots == 0 && l.tokens == 0 && l.quota == 0 {
		return nil
	}
	return l
}

// decide takes all that q wants, or nothing, and tells which term counts.
func (s *store) decide(c *client, q *admit.Ask, l *lease) (w admit.Answer, term *quota.Term) {
	limits := q.Limits
	if limits == nil {
		limits = new(limit.Limits)
	}
	if term = q.Term; term != nil {
		if s.publish(c, term); c.start > term.Start {
			term = q.Account.Follow(c.start)
		}
	}
	if !q.Look {
		s.take(c, q, limits, l, &w)
	}
	w.Second = time.Duration(c.second.owed(s.now, limits.PerSecond))
	w.Minute = time.Duration(c.minute.owed(s.now, limits.PerMinute))
	w.Tokens = time.Duration(c.tokens.owed(s.now, limits.Tokens))
	w.InFlight = int64(len(c.leases))
	w.Reserved, w.Held = c.held()
	w.Start, w.Used, w.Own = c.start, c.use(), c.used[s.place]
	if l != nil && w.By == admit.None {
		l.term = term
	}
	return w, term
}

func (s *store) take(c *client, q *admit.Ask, limits *limit.Limits, l *lease, w *admit.Answer) {
	refuse := func(by admit.Limit, wait time.Duration) {
		if wait > w.Wait {
			w.By, w.Wait, w.Exhausted = by, wait, false
		}
	}
	held, ofTerm := c.held()
	if limits.Concurrent > 0 && int64(len(c.leases)) >= limits.Concurrent {
		refuse(admit.Concurrent, time.Second)
	}
	if limits.Tokens.Limited() && q.Tokens > 0 {
		refuse(admit.Tokens, c.tokens.wait(s.now, limits.Tokens, held+l.tokens))
	}
	switch used := c.use(); {
	case q.TooMuch || q.Quota > 0 && q.Hold > 0 && used+q.Hold > q.Quota:
		if refuse(admit.Quota, time.Duration(c.end-at(time.Duration(s.now)).UnixNano())); w.By == admit.Quota {
			w.Exhausted = true
		}
	case q.Quota > 0 && q.Hold > 0 && used+ofTerm+q.Hold > q.Quota:
		refuse(admit.Quota, time.Second)
	}
	if limits.PerSecond.Limited() {
		refuse(admit.PerSecond, c.second.wait(s.now, limits.PerSecond, 1))
	}
	if limits.PerMinute.Limited() {
		refuse(admit.PerMinute, c.minute.wait(s.now, limits.PerMinute, 1))
	}
	if w.By != admit.None {
		return
	}
	c.second.add(s.now, limits.PerSecond, 1)
	c.minute.add(s.now, limits.PerMinute, 1)
	if l != nil {
		l.start = c.start
		c.leases[l] = true
	}
}

func (s *store) Global(_ time.Time, r limit.Rate) (wait time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mood != away {
		if wait = s.global.wait(s.now, r, 1); wait == 0 && s.mood == up {
			s.global.add(s.now, r, 1)
			s.passed++
		}
	}
	if s.mood != up {
		return time.Duration(max(0, s.full-s.now)), false
	}
	s.full = s.now + s.global.owed(s.now, r)
	return wait, true
}

func (s *store) GiveBack(time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passed--
	s.global.full -= int64(s.global.rate.Each)
	if s.passed < 0 {
		s.fault("a unit of the global limit is given back that was not taken")
	}
}

func (s *common) fault(what string, of ...any) {
	if len(s.faults) < 3 {
		s.faults = append(s.faults, fmt.Sprintf(what, of...))
	}
}

// Charge tells of what is held at once, or, as End does, when the store is back. What
// was charged meanwhile is lost.
func (l *lease) Charge(tokens, held, quota int64) {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	if l.ended {
		l.store.fault("charged after its end")
	}
	if l.tokens, l.quota = held, quota; !l.rate.Limited() && held != 0 {
		l.store.fault("%d tokens are held where none are counted", held)
	}
	if l.store.mood != away {
		l.client.tokens.add(l.store.now, l.rate, tokens)
		l.tell()
	}
}

func (l *lease) End(tokens int64) {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	if l.ended {
		l.store.fault("ended twice")
	}
	if l.ended = true; l.store.mood != away {
		l.client.tokens.add(l.store.now, l.rate, tokens)
		l.tell()
	}
}

func (l *lease) tell() {
	if l.store.publish(l.client, l.term); l.start == 0 && l.term != nil {
		l.start = l.term.Start
	}
	if l.ended {
		delete(l.client.leases, l)
		return
	}
	l.client.leases[l] = true
}

// become has the store answer otherwise from now on. One that is back is told what it
// has missed.
func (s *store) become(m mood) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if was := s.mood; m == up && was != up && s.tells {
		s.gate.Debts(at(time.Duration(s.now)), s.owe)
	}
	if s.mood = m; m == up {
		for _, l := range s.leases {
			l.tell()
		}
		s.leases = slices.DeleteFunc(s.leases, func(l *lease) bool { return l.ended })
	}
}

// owe counts what a gateway let in alone.
func (s *store) owe(d admit.Debt, told func()) bool {
	told()
	if d.Tag == admit.Everybody {
		s.global.add(s.now, d.Limits.PerSecond, d.Second)
		return true
	}
	c := s.client(d.Tag)
	c.second.add(s.now, d.Limits.PerSecond, d.Second)
	c.minute.add(s.now, d.Limits.PerMinute, d.Minute)
	c.tokens.add(s.now, d.Limits.Tokens, d.Tokens)
	return true
}

// site is some gateways that count together.
type site struct {
	*common
	gates  []*admit.Gate
	stores []*store
}

func newSite(n int, rates bool, onError, quotaOnError admit.Policy) *site {
	s := &site{common: &common{clients: map[string]*client{}}}
	for i := range n {
		s.gates = append(s.gates, newGate())
		s.stores = append(s.stores, &store{common: s.common, rates: rates, place: i, several: n, gate: s.gates[i], tells: true})
		s.gates[i].Share(s.stores[i])
		s.gates[i].OnError(onError, quotaOnError)
	}
	return s
}

// become has the store answer all gateways so.
func (s *site) become(m mood) {
	for _, store := range s.stores {
		store.become(m)
	}
}

// left tells what is still held, at the end of everything, or went wrong before; "" is
// nothing.
func (s *site) left() string {
	for tag, c := range s.clients {
		if tokens, quota := c.held(); tokens != 0 || quota != 0 || len(c.leases) != 0 {
			s.fault("%s still has %d leases, of %d tokens and %d of the quota", tag, len(c.leases), tokens, quota)
		}
	}
	for i, store := range s.stores {
		for _, l := range store.leases {
			if !l.ended {
				s.fault("gateway %d has a lease that nobody ended", i)
			}
		}
	}
	return strings.Join(s.faults, "; ")
}
