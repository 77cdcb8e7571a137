// Package admit decides whether a request may go on: it takes all that the
// request is limited by, or nothing. What was taken is a Ticket, which is given
// back however the request ends.
//
// Nothing here waits, locks or allocates for a client that is known.
package admit

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

// Limit is what a request was refused by.
type Limit uint8

// The limits, in the order in which they are taken.
const (
	None Limit = iota
	Concurrent
	Tokens
	Quota
	PerSecond
	PerMinute
	Global
	NLimits
	// Store is no limit: what is counted together cannot be asked for, and the operator
	// wants nothing let in then.
	Store = NLimits
)

var limitNames = [NLimits + 1]string{
	"", "max_concurrent", "tokens_per_minute", "total_quota", "requests_per_second", "requests_per_minute", "global", "redis",
}

// String is the limit's name in the configuration.
func (l Limit) String() string { return limitNames[l] }

// Identity is whose limits they are: the beginning of a hash that clients cannot
// choose.
type Identity [16]byte

// LimitNames are the names of all limits, in their order.
func LimitNames() []string { return limitNames[:] }

// Request is what a request wants to take.
type Request struct {
	Who Identity
	// Known says that Who is a key's, of which there are only so many; others are
	// kept in a table of a fixed size.
	Known  bool
	Now    time.Time
	Limits *limit.Limits
	Global limit.Rate
	Wall   time.Time // by which terms begin and end
	// Account is the one that the request counts in, nil for none. Term is its term; Enter
	// puts another in its place when other gateways have begun a new one.
	Account *quota.Account
	Term    *quota.Term
	Quota   int64 // tokens in the term, 0: no limit
	// Prompt is how many tokens the prompt has, about; Output how many an answer may
	// have by the request's own word, -1 when it does not say, and is then taken to be
	// AtLeast so many; Answers how many there will be, 0 is 1.
	Prompt, Output, AtLeast, Answers int64
}

// Refusal is why a request cannot go on, and when it could.
type Refusal struct {
	Limit Limit
	// Wait is the time until the request would pass if no other came; for Concurrent,
	// and for a Quota that requests under way hold, a guess.
	Wait time.Duration
	// Exhausted says of Quota that what was used leaves no room: waiting for
	// requests under way does not help. Wait is until the term ends.
	Exhausted bool
	// TooMuch says of Quota that the request asks for more than the whole of it, so
	// that it never passes.
	TooMuch bool
	// Tokens is what the request would have reserved.
	Tokens int64
}

// state is what is known of one identity.
type state struct {
	*others               // nil: this gateway counts alone
	slots     limit.Slots // also tells whether the state was forgotten
	perSecond limit.Bucket
	perMinute limit.Bucket
	tokens    limit.Tokens
	answers   average // output tokens
}

// others is what a gateway that counts with others knows besides.
type others struct {
	tag       string       // by which other gateways know it
	elsewhere atomic.Int64 // requests under way at other gateways, when last heard of
	alone     atomic.Int64 // when all is back that was taken without the others
	// parted has the limits by which it counts alone, since when the times in since are
	// kept: of requests a second, a minute, and tokens; nil: it does not.
	parted  atomic.Pointer[limit.Limits]
	since   [3]atomic.Int64
	refused atomic.Pointer[refused] // nil: nothing of the kind was heard
}

func (s *state) idle(now int64) bool {
	return s.slots.Len() == 0 && s.perSecond.Idle(now) && s.perMinute.Idle(now) && s.tokens.Idle(now)
}

// Gate is where requests enter. Its methods are safe for concurrent use.
type Gate struct {
	epoch  time.Time
	_      [64]byte // every request writes the next: what it only reads stands elsewhere
	global limit.Bucket
	_      [64]byte
	states *xsync.Map[Identity, *state]

	size     int              // of the table for those that are not known
	overflow [overflows]state // shared by those for whom it has no room
	swept    atomic.Int64     // when the table was last swept because it was full
	// forgotten is the latest time at which a state was found idle: one that read the
	// clock before, and was held up, finds its identity new and counts from here on.
	forgotten atomic.Int64

	answers average // of all
	models  *xsync.Map[string, *Model]

	shared                Shared        // nil: this gateway counts alone
	onError, quotaOnError atomic.Uint32 // Policies
	// As in state, for the global limit.
	parted atomic.Pointer[limit.Limits]
	since  atomic.Int64
}

const (
	// DefaultSize bounds the clients without a key that are told apart, about 200
	// bytes each. Beyond it strangers share a few states.
	DefaultSize = 1 << 17
	overflows   = 64
	// sweepEvery is how often a full table is looked through for idle states.
	sweepEvery = int64(time.Second)
	// maxModels bounds the models whose prompts are learnt about.
	maxModels = 4096
)

// New returns a gate whose clock begins at now. size is DefaultSize when 0.
func New(now time.Time, size int) *Gate {
	if size == 0 {
		size = DefaultSize
	}
	return &Gate{
		epoch: now, size: size,
		states: xsync.NewMap[Identity, *state](),
		models: xsync.NewMap[string, *Model](),
	}
}

// clock is t on the gate's clock, which begins at 1 and follows the monotonic
// reading of t.
func (g *Gate) clock(t time.Time) int64 { return max(1, int64(t.Sub(g.epoch))+1) }

// Enter takes everything that r wants, or nothing, and then says why. t must be
// zero; it holds what was taken until Leave.
func (g *Gate) Enter(t *Ticket, r *Request) (Refusal, bool) {
	if g.shared != nil {
		return g.enterShared(t, r)
	}
	s, entered := g.enter(r, r.Limits.Concurrent)
	now := max(g.clock(r.Now), g.forgotten.Load()) // behind the lookup: see forgotten
	a := attempt{state: s, now: now, entered: entered}
	if !entered {
		a.refuse(Concurrent, slotWait)
	}
	a.tokens = g.tokens(s, r)
	a.take(r.Limits)
	if r.Term != nil {
		a.takeQuota(r)
	}
	a.takeGlobal(&g.global, r.Global)
	if a.by != None {
		a.undo(r.Limits, r.Term)
		return a.refusal(), false
	}
	*t = Ticket{gate: g, state: s, limits: r.Limits, term: r.Term, held: a.held, quotaHeld: a.quotaHeld, prompt: max(r.Prompt, 0)}
	return Refusal{}, true
}

// tokens is how many the request will use, by what is known.
func (g *Gate) tokens(s *state, r *Request) int64 {
	answer := max(g.output(s, r.Output), min(r.AtLeast, maxEstimate))
	return min(max(r.Prompt, 0)+answer*max(1, min(r.Answers, maxAnswers)), maxEstimate)
}

// slotWait is what a client is told to wait for a slot: nobody knows when a
// request ends.
const slotWait = time.Second

// enter finds the state of r's identity and takes a slot of it, of which there are
// most; 0 is no limit.
func (g *Gate) enter(r *Request, most int64) (*state, bool) {
	for {
		s := g.find(r.Who, r.Known, r.Now)
		ok, retired := s.slots.Enter(most)
		if !retired {
			return s, ok
		}
		runtime.Gosched() // it is being forgotten at this moment
	}
}

// find returns the state of an identity, a new one when there is none.
func (g *Gate) find(who Identity, known bool, at time.Time) *state {
	if s, ok := g.states.Load(who); ok {
		return s
	}
	if !known && g.states.Size() >= g.size && !g.sweepFull(g.clock(at)) {
		return &g.overflow[who[0]%overflows]
	}
	fresh := new(state)
	if g.shared != nil {
		fresh.others = &others{tag: tag(who, known)}
	}
	s, _ := g.states.LoadOrStore(who, fresh)
	return s
}

// attempt is one try to take everything.
type attempt struct {
	state *state
	now   int64
	// What was taken.
	entered, second, minute, quota bool
	tokens, held, quotaHeld        int64
	// The limit that is reached for the longest time.
	by        Limit
	wait      time.Duration
	exhausted bool
	tooMuch   bool
}

func (a *attempt) refusal() Refusal {
	return Refusal{Limit: a.by, Wait: a.wait, Exhausted: a.exhausted && a.by == Quota, TooMuch: a.tooMuch && a.by == Quota, Tokens: a.tokens}
}

func (a *attempt) refuse(by Limit, wait time.Duration) {
	if a.by == None || wait > a.wait {
		a.by, a.wait = by, wait
	}
}

// take tries every limit of the key, also behind one that is reached: the client
// is told of the one that holds it longest.
func (a *attempt) take(l *limit.Limits) {
	s := a.state
	if l.Tokens.Limited() {
		held, wait := s.tokens.Reserve(a.now, l.Tokens, a.tokens)
		if a.held = held; wait > 0 {
			a.refuse(Tokens, wait)
		}
	}
	if l.PerSecond.Limited() {
		wait := s.perSecond.Take(a.now, l.PerSecond, 1)
		if a.second = wait == 0; !a.second {
			a.refuse(PerSecond, wait)
		}
	}
	if l.PerMinute.Limited() {
		wait := s.perMinute.Take(a.now, l.PerMinute, 1)
		if a.minute = wait == 0; !a.minute {
			a.refuse(PerMinute, wait)
		}
	}
}

// takeGlobal comes last, and takes nothing for a request that is refused anyway: it
// is everybody's.
func (a *attempt) takeGlobal(b *limit.Bucket, r limit.Rate) {
	if !r.Limited() {
		return
	}
	var wait time.Duration
	if a.by == None {
		wait = b.Take(a.now, r, 1)
	} else {
		_, full := b.Look(a.now, r)
		wait = full - time.Duration(r.Burst-1)*r.Each
	}
	if wait > 0 {
		a.refuse(Global, wait)
	}
}

// tooMuch tells whether a request that would use so many tokens asks for more than
// the whole quota. A term holds at most all of it for a request that seems to need
// more: that is a guess. What the request itself asks for is none.
func (r *Request) tooMuch(tokens int64) bool {
	return r.Quota > 0 && r.Output >= 0 && tokens-r.Prompt > r.Quota
}

func (a *attempt) takeQuota(r *Request) {
	a.tooMuch = r.tooMuch(a.tokens)
	a.tookQuota(r, !a.tooMuch && r.Term.Reserve(a.tokens, r.Quota))
}

// tookQuota notes whether the quota was taken, or why not.
func (a *attempt) tookQuota(r *Request, took bool) {
	if a.quota = took; took {
		a.quotaHeld = r.Term.Held(a.tokens, r.Quota)
		return
	}
	wait := slotWait
	if a.tooMuch || r.Term.Used()+min(a.tokens, r.Quota) > r.Quota {
		a.exhausted = true
		wait = time.Unix(0, r.Term.End).Sub(r.Wall)
	}
	a.refuse(Quota, wait)
}

// undo gives back what was taken.
func (a *attempt) undo(l *limit.Limits, term *quota.Term) {
	s := a.state
	if a.minute {
		s.perMinute.Return(a.now, a.now, l.PerMinute, 1)
	}
	if a.second {
		s.perSecond.Return(a.now, a.now, l.PerSecond, 1)
	}
	if a.quota {
		term.Settle(a.quotaHeld, 0)
	}
	if a.held > 0 {
		s.tokens.Charge(a.now, l.Tokens, 0, a.held)
	}
	if a.entered {
		s.slots.Leave()
	}
}

// Pass takes what a request without limits of its own needs of the global one. ok is
// false when there is nothing to take.
func (g *Gate) Pass(at time.Time, global limit.Rate) (why Refusal, ok bool) {
	if !global.Limited() {
		return Refusal{}, true
	}
	by, wait := Global, time.Duration(0)
	if g.shared != nil && g.shared.Rates() {
		by, wait = g.takeShared(new(globally), at, g.clock(at), global)
	} else if wait = g.global.Take(g.clock(at), global, 1); wait == 0 {
		by = None
	}
	return Refusal{Limit: by, Wait: wait}, by == None
}

// Sweep forgets the identities that are idle: a new state would be no different.
// It is called now and then.
func (g *Gate) Sweep(at time.Time) { g.sweep(g.clock(at)) }

func (g *Gate) sweep(now int64) {
	g.states.Range(func(who Identity, s *state) bool {
		if !s.idle(now) || !s.slots.Retire() {
			return true
		}
		for last := g.forgotten.Load(); last < now && !g.forgotten.CompareAndSwap(last, now); last = g.forgotten.Load() {
		}
		if !s.idle(now) { // somebody was here in between
			s.slots.Revive()
			return true
		}
		g.states.Compute(who, func(old *state, loaded bool) (*state, xsync.ComputeOp) {
			if loaded && old == s {
				return nil, xsync.DeleteOp
			}
			return old, xsync.CancelOp
		})
		return true
	})
}

// sweepFull makes room in a full table, not more often than is worth it.
func (g *Gate) sweepFull(now int64) bool {
	last := g.swept.Load()
	if now-last < sweepEvery || !g.swept.CompareAndSwap(last, now) {
		return false
	}
	g.sweep(now)
	return g.states.Size() < g.size
}

// Len is the number of identities that are told apart at the moment.
func (g *Gate) Len() int { return g.states.Size() }
