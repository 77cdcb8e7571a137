package admit_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
)

// spent is the slow way to limit: everything that ever passed, by its time.
type spent struct{ at, n []int64 }

func (s *spent) add(at, n int64) { s.at, s.n = append(s.at, at), append(s.n, n) }

// owed is the time until all of it has come back.
func (s *spent) owed(now int64, r limit.Rate) (owed int64) {
	sum := int64(0)
	for i, at := range slices.Backward(s.at) {
		sum += s.n[i]
		owed = max(owed, sum*int64(r.Each)-(now-at))
	}
	return owed
}

// wait is the time until n more pass while held stay away.
func (s *spent) wait(now int64, r limit.Rate, n, held int64) time.Duration {
	return time.Duration(max(0, s.owed(now, r)+(held+n-r.Burst)*int64(r.Each)))
}

// left is how many pass now.
func (s *spent) left(now int64, r limit.Rate, held int64) int64 {
	return max(0, r.Burst*int64(r.Each)-s.owed(now, r)-held*int64(r.Each)) / int64(r.Each)
}

// worst is by how much the worst window is over r, in nanoseconds; 0 or less is within.
func (s *spent) worst(r limit.Rate) (over int64) {
	order := make([]int, len(s.at))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return int(s.at[i] - s.at[j]) })
	var sorted spent
	over = -1
	for _, i := range order {
		sorted.add(s.at[i], s.n[i])
		over = max(over, sorted.owed(s.at[i], r)-r.Burst*int64(r.Each))
	}
	return over
}

// account is what one key has used, and what is under way for it.
type account struct {
	second, minute, tokens spent
	slots, held            int64 // held: of the tokens
	used, reserved         int64 // of the quota
}

// reference decides by what accounts say, with no cleverness and no forgetting.
type reference struct {
	keys   [3]account
	global spent
}

// decide is what Enter should say, but for the tokens.
func (m *reference) decide(who int, now int64, r *admit.Request) (want admit.Refusal) {
	a, l := &m.keys[who], r.Limits
	tokens := r.Prompt + r.Output
	refuse := func(by admit.Limit, wait time.Duration) {
		if wait > want.Wait {
			want = admit.Refusal{Limit: by, Wait: wait}
		}
	}
	if l.Concurrent > 0 && a.slots >= l.Concurrent {
		refuse(admit.Concurrent, time.Second)
	}
	if l.Tokens.Limited() && tokens > 0 {
		refuse(admit.Tokens, a.tokens.wait(now, l.Tokens, min(tokens, l.Tokens.Burst), a.held))
	}
	n := min(tokens, r.Quota)
	if tooMuch := r.Output > r.Quota; r.Quota > 0 && (tooMuch || n > 0 && a.used+a.reserved+n > r.Quota) {
		if tooMuch || a.used+n > r.Quota {
			refuse(admit.Quota, time.Unix(0, r.Term.End).Sub(r.Wall))
			want.Exhausted = want.Limit == admit.Quota
			want.TooMuch = tooMuch && want.Exhausted
		} else {
			refuse(admit.Quota, time.Second)
		}
	}
	if l.PerSecond.Limited() {
		refuse(admit.PerSecond, a.second.wait(now, l.PerSecond, 1, 0))
	}
	if l.PerMinute.Limited() {
		refuse(admit.PerMinute, a.minute.wait(now, l.PerMinute, 1, 0))
	}
	if r.Global.Limited() {
		refuse(admit.Global, m.global.wait(now, r.Global, 1, 0))
	}
	return want
}

// stay is a request under way, as the reference knows it.
type stay struct {
	who             int
	held, quotaHeld int64
	prompt, charged int64
	settled         bool
	ticket          admit.Ticket
}

// enter notes that a request was let in.
func (m *reference) enter(who int, now int64, r *admit.Request) *stay {
	a, l, s := &m.keys[who], r.Limits, &stay{who: who, prompt: r.Prompt}
	tokens := r.Prompt + r.Output
	a.slots++
	if l.Tokens.Limited() {
		s.held = min(tokens, l.Tokens.Burst)
		a.held += s.held
	}
	if s.quotaHeld = tokens; r.Quota > 0 {
		s.quotaHeld = min(tokens, r.Quota)
	}
	a.reserved += s.quotaHeld
	a.second.add(now, 1)
	a.minute.add(now, 1)
	m.global.add(now, 1)
	return s
}

// charge notes what a request has used so far.
func (m *reference) charge(s *stay, now, used int64) {
	a := &m.keys[s.who]
	if used <= s.charged || s.settled {
		return
	}
	more := max(0, s.prompt+used-s.quotaHeld) // of the quota it holds at least what it used
	a.reserved += more
	s.quotaHeld += more
	part := used - s.charged
	a.tokens.add(now, part)
	a.held -= min(part, s.held)
	s.held -= min(part, s.held)
	s.charged = used
}

// settle notes what it has used in all.
func (m *reference) settle(s *stay, now, used int64) {
	if s.settled {
		return
	}
	a := &m.keys[s.who]
	s.settled = true
	a.tokens.add(now, max(0, used-s.charged))
	a.held -= s.held
	a.reserved -= s.quotaHeld
	a.used += used
}

func (m *reference) leave(s *stay, now int64) {
	m.settle(s, now, 0)
	m.keys[s.who].slots--
}

// differs tells what the gate shows of a key that is not so.
func (m *reference) differs(g *admit.Gate, who int, now int64, r *admit.Request) string {
	a := &m.keys[who]
	if u, h := r.Term.Used(), r.Term.Reserved(); u != a.used || h != a.reserved {
		return fmt.Sprintf("%d used and %d reserved of the quota, want %d and %d", u, h, a.used, a.reserved)
	}
	return m.limitsDiffer(g, who, now, r)
}

// limitsDiffer is differs without the quota.
func (m *reference) limitsDiffer(g *admit.Gate, who int, now int64, r *admit.Request) string {
	a, l := &m.keys[who], r.Limits
	var want []admit.LimitUse
	add := func(name string, r limit.Rate, s *spent, held int64) {
		if r.Limited() {
			full := time.Duration(s.owed(now, r) + held*int64(r.Each))
			want = append(want, admit.LimitUse{Name: name, Limit: r.Burst, Remaining: s.left(now, r, held), ResetSeconds: full.Seconds()})
		}
	}
	add("requests_per_second", l.PerSecond, &a.second, 0)
	add("requests_per_minute", l.PerMinute, &a.minute, 0)
	add("tokens_per_minute", l.Tokens, &a.tokens, a.held)
	if l.Concurrent > 0 {
		want = append(want, admit.LimitUse{Name: "max_concurrent", Limit: l.Concurrent, Remaining: max(0, l.Concurrent-a.slots)})
	}
	got, inFlight := g.Use(r.Who, l, r.Now)
	if !slices.Equal(got, want) || inFlight != a.slots {
		return fmt.Sprintf("%d in flight and %+v, want %d and %+v", inFlight, got, a.slots, want)
	}
	return ""
}
