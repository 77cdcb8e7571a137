package quota_test

import (
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/quota"
)

// plain is an account as one would write it for one thread and a right clock: what
// each term has used and reserved, by its start.
type plain struct {
	used, reserved map[int64]int64
	current        int64
	latest         time.Time // that the clock has shown
}

type underway struct {
	term *quota.Term
	held int64
}

// TestAgainstAPlainAccount runs random schedules of requests that begin and end,
// resets, and a clock that jumps forward over days and back within one: a million
// with LLMPROXY_LONG=1.
func TestAgainstAPlainAccount(t *testing.T) {
	schedules := 50_000
	if os.Getenv("LLMPROXY_LONG") == "1" {
		schedules = 1_000_000
	}
	rnd := rand.New(rand.NewPCG(6, 1))
	for n := range schedules {
		s := schedule{t: t, rnd: rnd, limit: rnd.Int64N(4) * 50, now: noon.Add(time.Duration(rnd.Int64N(int64(40 * aDay))))}
		s.plain = plain{used: map[int64]int64{}, reserved: map[int64]int64{}}
		for range 12 {
			s.step()
		}
		s.finish()
		if t.Failed() {
			t.Fatalf("in schedule %d", n)
		}
	}
}

type schedule struct {
	t     *testing.T
	rnd   *rand.Rand
	limit int64
	now   time.Time
	plain plain
	real  quota.Account
	open  []underway
	terms []*quota.Term
}

func (s *schedule) step() {
	switch s.rnd.IntN(10) {
	case 0, 1:
		s.now = s.now.Add(time.Duration(s.rnd.Int64N(int64(12 * time.Hour))))
	case 2:
		s.now = s.now.Add(time.Duration(s.rnd.Int64N(int64(3 * aDay))))
	case 3: // back, but not by more than a day from the latest
		s.now = s.now.Add(-time.Duration(s.rnd.Int64N(int64(aDay - s.plain.latest.Sub(s.now)%aDay))))
	case 4:
		s.reset()
	case 5, 6, 7:
		s.begin()
	default:
		s.end()
	}
}

// term asks for the account's term: by a right clock it is the day of the latest
// time that it has shown, or what began by a reset since.
func (s *schedule) term() *quota.Term {
	if s.now.After(s.plain.latest) {
		s.plain.latest = s.now
	}
	start, _ := quota.Daily.Bounds(s.plain.latest, time.UTC)
	s.plain.current = max(s.plain.current, start.UnixNano())
	term := s.real.Term(s.now, quota.Daily, time.UTC)
	if term.Start != s.plain.current {
		s.t.Errorf("at %v, after %v: the term began %v, want %v", s.now, s.plain.latest, term.Start, s.plain.current)
	}
	s.check(term)
	s.terms = append(s.terms, term)
	return term
}

func (s *schedule) check(term *quota.Term) {
	if u, r := s.plain.used[term.Start], s.plain.reserved[term.Start]; term.Used() != u || term.Reserved() != r {
		s.t.Errorf("used %d, reserved %d, want %d and %d", term.Used(), term.Reserved(), u, r)
	}
}

func (s *schedule) reset() {
	s.term()
	s.plain.current = max(s.plain.current+1, s.now.UnixNano())
	if term := s.real.Reset(s.now); term.Start != s.plain.current {
		s.t.Errorf("reset at %v: the term began %v, want %v", s.now, term.Start, s.plain.current)
	}
}

func (s *schedule) begin() {
	term, n := s.term(), s.rnd.Int64N(80)
	held := n
	if s.limit > 0 {
		held = min(n, s.limit)
	}
	fits := s.limit == 0 || held == 0 || s.plain.used[term.Start]+s.plain.reserved[term.Start]+held <= s.limit
	if term.Reserve(n, s.limit) != fits {
		s.t.Errorf("%d of %d are reserved: %v", n, s.limit, !fits)
	}
	if fits {
		s.plain.reserved[term.Start] += held
		s.open = append(s.open, underway{term, held})
	}
	s.check(term)
}

func (s *schedule) end() {
	if len(s.open) == 0 {
		return
	}
	i := s.rnd.IntN(len(s.open))
	u := s.open[i]
	s.open[i] = s.open[len(s.open)-1]
	s.open = s.open[:len(s.open)-1]
	used := s.rnd.Int64N(100)
	u.term.Settle(u.held, used)
	s.plain.reserved[u.term.Start] -= u.held
	s.plain.used[u.term.Start] += used
	s.check(u.term)
}

func (s *schedule) finish() {
	for len(s.open) > 0 {
		s.end()
	}
	for _, term := range s.terms {
		s.check(term)
		if term.Reserved() != 0 {
			s.t.Errorf("%d stay reserved", term.Reserved())
		}
	}
}

// TestAnyClock has a clock that nobody can rely on, and periods and zones that
// change. Of each term there must be one use, no earlier term may come back, and
// the next one may be no more than the rest of this period and another one away.
func TestAnyClock(t *testing.T) {
	zones := []*time.Location{time.UTC, zone(t, "Asia/Shanghai"), zone(t, "America/St_Johns")}
	rnd := rand.New(rand.NewPCG(6, 4))
	for n := range 3000 {
		var a quota.Account
		now, p, loc := noon, quota.Daily, zones[0]
		used, last := map[int64]int64{}, int64(0)
		for range 30 {
			switch rnd.IntN(8) {
			case 0:
				now = noon.Add(time.Duration(rnd.Int64N(int64(4000*aDay))) - 2000*aDay)
			case 1:
				p, loc = periods[rnd.IntN(3)], zones[rnd.IntN(3)]
			case 2:
				a.Reset(now)
			default:
				now = now.Add(time.Duration(rnd.Int64N(int64(4*aDay))) - aDay)
			}
			term := a.Term(now, p, loc)
			_, end := p.Bounds(now, loc)
			_, next := p.Bounds(end, loc)
			if term.Start < last || now.UnixNano() >= term.End || term.End > next.UnixNano() || term.Used() != used[term.Start] {
				t.Fatalf("schedule %d: %v, %v: from %d after %d, to %d, used %d, want %d",
					n, p, now, term.Start, last, term.End, term.Used(), used[term.Start])
			}
			term.Settle(0, 1)
			used[term.Start]++
			last = term.Start
		}
	}
}
