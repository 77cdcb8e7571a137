package admit

import (
	"time"

	"github.com/llmproxy/llmproxy/pkg/limit"
)

// part notes what is owed at the moment when s begins to count alone, by its share.
func (s *state) part(now int64, l, share *limit.Limits) {
	if s.parted.Load() != nil {
		return
	}
	s.since[0].Store(s.perSecond.Due(now, share.PerSecond))
	s.since[1].Store(s.perMinute.Due(now, share.PerMinute))
	s.since[2].Store(s.tokens.Due(now, share.Tokens))
	s.parted.CompareAndSwap(nil, l)
}

// Debt is what this gateway has let in of somebody's rates while nobody could be asked,
// but for what has come back meanwhile.
type Debt struct {
	Tag                    string
	Limits                 *limit.Limits
	Second, Minute, Tokens int64 // requests, of each of both rates, and tokens
}

// Everybody is the Tag of the global limit.
const Everybody = "global"

// Debts calls f with what was not told yet, until f is false. What is told counts as
// such once told is called, which f may leave to a later time; else it comes again.
func (g *Gate) Debts(at time.Time, f func(d Debt, told func()) bool) {
	now, more := g.clock(at), true
	if l := g.parted.Load(); l != nil {
		units, until := g.global.Debt(now, g.since.Load())
		more = units == 0 || f(Debt{Tag: Everybody, Limits: l, Second: units}, func() { g.since.Store(until) })
	}
	if !more {
		return
	}
	g.states.Range(func(_ Identity, s *state) bool {
		more = s.debt(now, f)
		return more
	})
	for i := range g.overflow {
		if more {
			more = g.overflow[i].debt(now, f)
		}
	}
}

func (s *state) debt(now int64, f func(d Debt, told func()) bool) bool {
	d := Debt{Tag: s.tag, Limits: s.parted.Load()}
	if d.Limits == nil {
		return true
	}
	var until [len(s.since)]int64
	d.Second, until[0] = s.perSecond.Debt(now, s.since[0].Load())
	d.Minute, until[1] = s.perMinute.Debt(now, s.since[1].Load())
	d.Tokens, until[2] = s.tokens.Debt(now, s.since[2].Load())
	if d.Second == 0 && d.Minute == 0 && d.Tokens == 0 {
		return true
	}
	return f(d, func() {
		for i := range until {
			s.since[i].Store(until[i])
		}
	})
}
