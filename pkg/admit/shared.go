package admit

import (
	"encoding/hex"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

// Shared is where several gateways count together, so that a limit holds over all of
// them. Its methods are safe for concurrent use, and none of them waits longer than
// the few milliseconds that it was given.
type Shared interface {
	// Rates tells whether requests, tokens, concurrency and the global limit are
	// counted there; quotas are in any case.
	Rates() bool
	// Admit takes all that a wants, or nothing, and sets a.Term to the term that counts.
	// It is false when nobody could be asked, and sets no more of r than the Lease then:
	// the store may have taken it all the same.
	Admit(a *Ask, r *Answer) bool
	// Global takes one of the requests of all. ok is false when nobody could be asked;
	// wait is then how long it would have taken, by what is known, until all of them are
	// there again.
	Global(now time.Time, r limit.Rate) (wait time.Duration, ok bool)
	// GiveBack returns what a Global has taken.
	GiveBack(now time.Time)
	// Place is which of how many gateways this one is, as far as is known.
	Place() (place, several int)
}

// Ask is what a request wants of what is counted together.
type Ask struct {
	Tag     string         // of the client: hexadecimal digits and letters
	Limits  *limit.Limits  // nil: counted by each gateway for itself
	Tokens  int64          // to hold, of tokens a minute
	Account *quota.Account // of Term
	Term    *quota.Term    // nil: no account
	Quota   int64          // tokens in the term, 0: no limit
	Hold    int64          // tokens, of the quota
	TooMuch bool           // the quota refuses, whatever is left of it
	Look    bool           // take nothing
	// Waited says that the request has waited for Global in vain.
	Waited bool
}

// wants tells whether anything is to be asked at all.
func (a *Ask) wants() bool {
	return a.Term != nil || a.Limits != nil && *a.Limits != (limit.Limits{})
}

// Answer is what came of an Ask.
type Answer struct {
	By        Limit // None: taken
	Wait      time.Duration
	Exhausted bool
	// Lease holds what was taken.
	Lease Lease
	// Times until all is there again.
	Second, Minute, Tokens time.Duration
	// What all gateways hold: tokens, and requests.
	Reserved, InFlight int64
	// Start is the start of the term that counts, in which Used tokens were used, Own of
	// them by this gateway, and Held are held by all gateways.
	Start, Used, Own, Held int64
}

// Lease is what one request holds of what is counted together. It is used by one
// goroutine at a time, which does not wait for what is said to arrive.
type Lease interface {
	// Charge counts tokens that were used, and says how many are held from here on: of
	// those a minute, and of the quota.
	Charge(tokens, held, quota int64)
	// End counts the last tokens and gives back what is held.
	End(tokens int64)
}

// Policy is what a limit does while Shared cannot be asked.
type Policy uint8

// The policies.
const (
	LocalShare Policy = iota // each gateway lets in its share
	Open                     // everything passes
	Closed                   // nothing passes
)

// ParsePolicy reads the name of one.
func ParsePolicy(s string) (p Policy, ok bool) {
	switch s {
	case "local_share":
		return LocalShare, true
	case "open":
		return Open, true
	case "closed":
		return Closed, true
	}
	return 0, false
}

// Share has the gate ask s. It is called before the first request.
func (g *Gate) Share(s Shared) {
	g.shared = s
	for i := range g.overflow {
		g.overflow[i].others = &others{tag: "overflow" + strconv.Itoa(i)}
	}
}

// OnError says what limits, and quotas, do while Shared cannot be asked.
func (g *Gate) OnError(limits, quotas Policy) {
	g.onError.Store(uint32(limits))
	g.quotaOnError.Store(uint32(quotas))
}

func policy(of *atomic.Uint32) Policy { return Policy(of.Load()) }

// tag is by what other gateways know an identity: a key by its id.
func tag(who Identity, known bool) string {
	if known {
		return hex.EncodeToString(who[:8])
	}
	return "client" + hex.EncodeToString(who[:])
}

// enterShared is Enter where gateways count together. What is counted here besides
// follows what was heard of there, to be gone by when nobody can be asked.
func (g *Gate) enterShared(t *Ticket, r *Request) (Refusal, bool) {
	rates, most := g.shared.Rates(), r.Limits.Concurrent
	if rates {
		most = 0
	}
	s, entered := g.enter(r, most)
	a := attempt{state: s, now: max(g.clock(r.Now), g.forgotten.Load()), entered: entered, tokens: g.tokens(s, r)}
	if !entered {
		a.refuse(Concurrent, slotWait)
	}
	limits := *r.Limits // by which it is undone
	var all globally
	if rates {
		by, wait := g.takeShared(&all, r.Now, a.now, r.Global)
		if by != None {
			a.refuse(by, wait)
		}
	} else {
		a.take(r.Limits)
		if a.takeGlobal(&g.global, r.Global); a.by == None {
			all.here = r.Global
		}
	}
	var lease Lease
	if a.by == None {
		lease = g.ask(&a, r, rates, all.failed, &limits)
	}
	if a.by != None {
		a.undo(&limits, r.Term)
		g.giveBack(&all, r.Now, a.now)
		return a.refusal(), false
	}
	*t = Ticket{
		gate: g, state: s, limits: r.Limits, term: r.Term, held: a.held, quotaHeld: a.quotaHeld,
		prompt: max(r.Prompt, 0), lease: lease, alone: !rates,
	}
	return Refusal{}, true
}

// ask takes what gateways count together. limits becomes what the attempt was held
// against.
func (g *Gate) ask(a *attempt, r *Request, rates, waited bool, limits *limit.Limits) Lease {
	q := Ask{Tag: a.state.tag, Tokens: a.tokens, Account: r.Account, Term: r.Term, Quota: r.Quota, TooMuch: r.tooMuch(a.tokens), Waited: waited}
	if rates {
		q.Limits = r.Limits
	}
	if r.Term != nil {
		q.Hold = r.Term.Held(a.tokens, r.Quota)
	}
	if !q.wants() {
		return nil
	}
	if f := a.state.refused.Load(); f != nil && f.limits == r.Limits && a.now < f.until {
		a.refuse(f.by, time.Duration(f.until-a.now))
		return nil
	}
	var w Answer
	if !g.shared.Admit(&q, &w) {
		g.decide(a, r, rates, limits)
		if a.by != None && w.Lease != nil {
			w.Lease.End(0)
			return nil
		}
		return w.Lease
	}
	if r.Term = q.Term; w.By != None {
		a.tooMuch, a.exhausted = q.TooMuch, w.Exhausted
		a.refuse(w.By, w.Wait)
		if w.By == PerSecond || w.By == PerMinute {
			a.state.refused.Store(&refused{r.Limits, w.By, a.now + int64(w.Wait)})
		}
		hear(a.state, a.state.slots.Len()-1, q.Term, a.now, q.Limits, &w)
		return nil
	}
	if rates && r.Limits.Tokens.Limited() {
		a.held = min(a.tokens, r.Limits.Tokens.Burst)
		a.state.tokens.Hold(a.held)
	}
	if r.Term != nil {
		a.quota, a.quotaHeld = true, q.Hold
		r.Term.Hold(q.Hold)
	}
	hear(a.state, a.state.slots.Len(), q.Term, a.now, q.Limits, &w)
	return w.Lease
}

// refused is what was heard of a rate that is used up: nothing of it comes back before
// its time, whoever asks, so that asking again is of no use.
type refused struct {
	limits *limit.Limits
	by     Limit
	until  int64
}

// hear takes over what an answer tells; here are the requests under way at this gateway.
// What was taken alone nobody was told, and it stays owed: a store that comes and goes is
// no burst each time.
func hear(s *state, here int64, t *quota.Term, now int64, l *limit.Limits, w *Answer) {
	if l != nil {
		if s.parted.Load() != nil {
			s.parted.Store(nil)
		}
		alone := now < s.alone.Load()
		s.perSecond.Set(now, l.PerSecond, w.Second, alone)
		s.perMinute.Set(now, l.PerMinute, w.Minute, alone)
		s.tokens.Set(now, l.Tokens, w.Tokens, w.Reserved, alone)
		s.elsewhere.Store(max(0, w.InFlight-here))
	}
	if t != nil && w.Start == t.Start {
		t.Heard(w.Used, w.Own, w.Held)
	}
}

// decide is for when nobody could be asked: each limit does what the operator wants
// of it.
func (g *Gate) decide(a *attempt, r *Request, rates bool, limits *limit.Limits) {
	place, several := g.shared.Place()
	if rates && *r.Limits != (limit.Limits{}) {
		switch policy(&g.onError) {
		case Closed:
			a.refuse(Store, slotWait)
		case Open: // nothing is taken
		default:
			*limits = r.Limits.Share(place, several)
			if limits.Concurrent > 0 && a.state.slots.Len() > limits.Concurrent {
				a.refuse(Concurrent, slotWait)
			}
			a.state.part(a.now, r.Limits, limits)
			a.take(limits)
			a.state.tookAlone(a.now, limits)
		}
	}
	if r.Term == nil {
		return
	}
	a.tooMuch = r.tooMuch(a.tokens)
	switch onError := policy(&g.quotaOnError); {
	case onError == Closed && r.Quota > 0:
		a.refuse(Store, slotWait)
	case onError == Open && !a.tooMuch:
		a.quota, a.quotaHeld = true, r.Term.Held(a.tokens, r.Quota)
		r.Term.Hold(a.quotaHeld)
	default:
		a.tookQuota(r, !a.tooMuch && r.Term.ReserveShare(a.tokens, r.Quota, place, several))
	}
}

// tookAlone notes until when any of what s has taken is owed.
func (s *state) tookAlone(now int64, l *limit.Limits) {
	_, second := s.perSecond.Look(now, l.PerSecond)
	_, minute := s.perMinute.Look(now, l.PerMinute)
	_, tokens := s.tokens.Look(now, l.Tokens)
	s.alone.Store(now + int64(max(second, minute, tokens)))
}

// globally is where one of the requests of all was taken.
type globally struct {
	failed bool       // Shared could not be asked
	there  bool       // by Shared
	here   limit.Rate // by this gateway, in that rate; zero: not
}

// takeShared takes one of the requests of all.
func (g *Gate) takeShared(all *globally, at time.Time, now int64, r limit.Rate) (Limit, time.Duration) {
	if !r.Limited() {
		return None, 0
	}
	wait, ok := g.shared.Global(at, r)
	if ok {
		if g.parted.Load() != nil {
			g.parted.Store(nil)
		}
		if all.there = wait == 0; wait > 0 {
			return Global, wait
		}
		return None, 0
	}
	all.failed = true
	switch policy(&g.onError) {
	case Closed:
		return Store, slotWait
	case Open:
		return None, 0
	}
	part := r.Share(g.shared.Place())
	// What was taken here counts besides, also before the last time that somebody could
	// be asked: they were not told.
	g.global.Set(now, part, wait, true)
	if g.parted.Load() == nil {
		g.since.Store(g.global.Due(now, part))
		g.parted.CompareAndSwap(nil, &limit.Limits{PerSecond: r})
	}
	if wait := g.global.Take(now, part, 1); wait > 0 {
		return Global, wait
	}
	all.here = part
	return None, 0
}

// giveBack undoes that.
func (g *Gate) giveBack(all *globally, at time.Time, now int64) {
	if all.there {
		g.shared.GiveBack(at)
	}
	g.global.Return(now, now, all.here, 1)
}

// Ask brings what Use says of an identity up to date, where gateways count together,
// and returns the term that counts.
func (g *Gate) Ask(r *Request) *quota.Term {
	if g.shared == nil {
		return r.Term
	}
	q := Ask{Tag: tag(r.Who, r.Known), Account: r.Account, Term: r.Term, Quota: r.Quota, Look: true}
	if g.shared.Rates() {
		q.Limits = r.Limits
	}
	var w Answer
	if !q.wants() || !g.shared.Admit(&q, &w) {
		return r.Term
	}
	s := g.find(r.Who, r.Known, r.Now)
	hear(s, s.slots.Len(), q.Term, g.clock(r.Now), q.Limits, &w)
	return q.Term
}
