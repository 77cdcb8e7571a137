package quota_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/quota"
)

// What others have used counts in Used and in nothing else: this gateway publishes its
// own, and what it holds.
func TestHeard(t *testing.T) {
	term := today()
	term.Settle(0, 30)
	for _, c := range []struct {
		name                string
		used, own, reserved int64
		want                int64
	}{
		{"others", 100, 30, 0, 100},
		{"others again", 120, 30, 0, 120},
		{"what this one has published is behind", 120, 20, 0, 130},
		{"others have lost theirs", 30, 30, 0, 30},
		{"less than this one alone, by a store that is behind", 10, 30, 0, 30},
		{"what is reserved is not used", 100, 30, 50, 100},
	} {
		term.Heard(c.used, c.own, c.reserved)
		if term.Used() != c.want || term.Own() != 30 || term.Reserved() != 0 {
			t.Errorf("%s: used %d, by this one %d, reserved %d, want %d, 30 and 0", c.name, term.Used(), term.Own(), term.Reserved(), c.want)
		}
	}
	if !term.Reserve(70, 100) {
		t.Error("what others use keeps out whoever asks this gateway alone")
	}
}

func TestReserveShare(t *testing.T) {
	for _, c := range []struct {
		name                string
		used, reserved      int64 // of this gateway
		all, own, held      int64 // what it hears; all < 0: nothing
		limit, n            int64
		place, several, fit int // how often n fits
	}{
		{name: "a third of the whole", all: -1, limit: 90, n: 10, several: 3, fit: 3},
		{name: "a third of what is left", all: 60, limit: 90, n: 5, several: 3, fit: 2},
		{name: "the rest is the first one's", all: -1, limit: 11, n: 1, place: 1, several: 3, fit: 4},
		{name: "and not the last one's", all: -1, limit: 11, n: 1, place: 2, several: 3, fit: 3},
		{name: "what was used since counts", used: 20, all: 0, own: 0, limit: 90, n: 5, several: 3, fit: 2},
		{name: "what was used before is no part of it", used: 20, all: 20, own: 20, limit: 80, n: 5, several: 3, fit: 4},
		{name: "what others hold is not left", all: 0, held: 60, limit: 90, n: 5, several: 3, fit: 2},
		{name: "what this one holds is not left, and is its own", reserved: 60, all: 0, held: 60, limit: 90, n: 5, several: 3, fit: 2},
		{name: "nothing is left", all: 90, limit: 90, n: 1, several: 3, fit: 0},
		{name: "more was used than there was", all: 95, limit: 90, n: 1, several: 3, fit: 0},
		{name: "nothing fits into nothing", all: 95, limit: 90, n: 0, several: 3, fit: 20},
		{name: "no limit", all: 1000, limit: 0, n: 100, several: 3, fit: 20},
		{name: "the only one", all: 10, limit: 90, n: 40, several: 1, fit: 2},
		{name: "nobody has been seen", all: -1, limit: 90, n: 30, several: 0, fit: 3},
		{name: "more than a share at once never fits", all: -1, limit: 90, n: 31, several: 3, fit: 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			term := today()
			term.Settle(0, c.used)
			term.Hold(c.reserved)
			if c.all >= 0 {
				term.Heard(c.all, c.own, c.held)
			}
			fit := 0
			for fit < 20 && term.ReserveShare(c.n, c.limit, c.place, c.several) {
				fit++
			}
			if want := c.reserved + int64(fit)*c.n; fit != c.fit || term.Reserved() != want {
				t.Errorf("%d times, and %d reserved, want %d and %d", fit, term.Reserved(), c.fit, want)
			}
		})
	}
}

// What this gateway held when it last heard, and did not use, it may hold again; but not
// when more was taken than there is.
func TestReserveShareOfWhatComesBack(t *testing.T) {
	for _, c := range []struct{ limit, fit int64 }{{100, 70}, {70, 60}, {60, 56}} {
		term := today()
		term.Hold(60)
		term.Heard(10, 0, 60)
		term.Settle(60, 0)
		for term.Reserved() < c.limit && term.ReserveShare(1, c.limit, 2, 3) {
		}
		if term.Reserved() != c.fit {
			t.Errorf("%d of %d fit again, want %d", term.Reserved(), c.limit, c.fit)
		}
	}
}

// shares are some gateways that have an account together.
type shares struct {
	*rand.Rand
	limit int64
	terms []*quota.Term
	open  []underway
}

func (s *shares) taken() (sum int64) {
	for _, t := range s.terms {
		sum += t.Own() + t.Reserved()
	}
	return sum
}

// step begins or ends a request, which uses at most what it holds.
func (s *shares) step(reserve func(i int, n int64) bool) {
	if len(s.open) > 0 && s.IntN(3) == 0 {
		i := s.IntN(len(s.open))
		s.open[i].term.Settle(s.open[i].held, s.Int64N(s.open[i].held+1))
		s.open = append(s.open[:i], s.open[i+1:]...)
		return
	}
	i, n := s.IntN(len(s.terms)), 1+s.Int64N(9)
	if held := s.terms[i].Held(n, s.limit); reserve(i, n) {
		s.open = append(s.open, underway{s.terms[i], held})
	}
}

// Gateways that have all heard the same take what was left together, and not a token
// more, whoever of them held what, and however often they hear it again.
func TestSharesNeverTakeMoreThanIsLeft(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 1))
	full := 0
	for n := range 20_000 {
		s := shares{Rand: rnd, limit: 1 + rnd.Int64N(200), terms: make([]*quota.Term, 1+rnd.IntN(5))}
		for i := range s.terms {
			s.terms[i] = today()
		}
		for range 20 {
			s.step(func(i int, n int64) bool {
				held := s.terms[i].Held(n, s.limit)
				fits := s.taken()+held <= s.limit
				if fits {
					s.terms[i].Hold(held)
				}
				return fits
			})
		}
		used, reserved := int64(0), int64(0)
		for _, t := range s.terms {
			used, reserved = used+t.Own(), reserved+t.Reserved()
		}
		for _, t := range s.terms {
			t.Heard(used, t.Own(), reserved)
		}
		most := s.taken()
		for range 40 {
			s.step(func(i int, n int64) bool { return s.terms[i].ReserveShare(n, s.limit, i, len(s.terms)) })
			if most = max(most, s.taken()); most > s.limit {
				t.Fatalf("schedule %d: %d gateways have taken %d of %d", n, len(s.terms), s.taken(), s.limit)
			}
		}
		if most == s.limit {
			full++
		}
	}
	if full < 1000 {
		t.Errorf("all that was left was taken %d times only", full)
	}
}

// The term that another gateway has begun, by a reset, or because its clock is ahead.
func TestFollow(t *testing.T) {
	var a quota.Account
	if a.Last() != nil {
		t.Error("a new account has a term")
	}
	first := a.Term(noon, quota.Daily, time.UTC)
	first.Settle(0, 7)
	held := first.Reserve(10, 100)
	for _, start := range []int64{0, first.Start - 1, first.Start} {
		if a.Follow(start) != first || a.Last() != first {
			t.Errorf("the term went back from %d to %d", first.Start, start)
		}
	}
	next := a.Follow(first.Start + 5)
	if next == first || next.Start != first.Start+5 || next.End != first.End || next != a.Last() || a.Term(noon, quota.Daily, time.UTC) != next {
		t.Fatalf("from %d to %d, want from %d to %d", next.Start, next.End, first.Start+5, first.End)
	}
	if a.Follow(next.Start) != next {
		t.Error("it began twice")
	}
	first.Settle(10, 8)
	if !held || first.Own() != 15 || next.Used() != 0 || next.Reserved() != 0 {
		t.Errorf("%d used in the first, and %d in the next", first.Own(), next.Used())
	}
	next.Heard(500, 0, 0)
	if first.Used() != 15 {
		t.Errorf("what others use in the next term counts in the first: %d", first.Used())
	}
}

// The other's clock is ahead by a second at midnight: both gateways have one term, and
// it ends a day later.
func TestFollowOverMidnight(t *testing.T) {
	var a quota.Account
	midnight := noon.Add(12 * time.Hour)
	early := midnight.Add(-time.Second)
	before := a.Term(early, quota.Daily, time.UTC)
	before.Settle(0, 5)
	next := a.Follow(midnight.UnixNano())
	next.Settle(0, 3)
	if got := a.Term(early, quota.Daily, time.UTC); got != next {
		t.Errorf("a second early the term began %d", got.Start)
	}
	day := a.Term(midnight, quota.Daily, time.UTC)
	if day.Start != midnight.UnixNano() || day.End != midnight.Add(aDay).UnixNano() || day.Used() != 3 {
		t.Errorf("from %d to %d, used %d", day.Start, day.End, day.Used())
	}
	if got := a.Term(early, quota.Daily, time.UTC); got.Used() != 3 {
		t.Errorf("the clock was set back by a second, and %d are used", got.Used())
	}
}

// A gateway that starts hears of a term before it has looked at its clock.
func TestFollowFromNothing(t *testing.T) {
	for _, c := range []struct {
		name  string
		start time.Time
		want  time.Time
		used  int64
	}{
		{"a reset of today", noon.Add(-time.Hour), noon.Add(-time.Hour), 4},
		{"today", noon.Add(-12 * time.Hour), noon.Add(-12 * time.Hour), 4},
		{"yesterday", noon.Add(-36 * time.Hour), noon.Add(-12 * time.Hour), 0},
	} {
		var a quota.Account
		a.Follow(c.start.UnixNano()).Settle(0, 4)
		got := a.Term(noon, quota.Daily, time.UTC)
		if got.Start != c.want.UnixNano() || got.End != noon.Add(12*time.Hour).UnixNano() || got.Used() != c.used {
			t.Errorf("%s: from %v to %v, used %d", c.name, time.Unix(0, got.Start).UTC(), time.Unix(0, got.End).UTC(), got.Used())
		}
	}
}

// What others have used stays known when only the end of the term changes.
func TestHeardOutlivesAnotherPeriod(t *testing.T) {
	var a quota.Account
	month := a.Term(noon, quota.Monthly, time.UTC)
	month.Heard(70, 0, 20)
	if got := a.Term(noon, quota.Never, time.UTC); got.Used() != 70 || got.Start != month.Start || got.End == month.End {
		t.Errorf("%d used from %d to %d", got.Used(), got.Start, got.End)
	}
}

func TestEach(t *testing.T) {
	book := quota.NewBook(nil)
	for i := range byte(10) {
		a := book.Account([8]byte{i})
		if i != 3 { // which nobody has asked for its term
			a.Term(noon, quota.Daily, time.UTC).Settle(0, int64(i))
		}
	}
	sum, n := int64(0), 0
	book.Each(func(id [8]byte, term *quota.Term) bool {
		if term.Own() != int64(id[0]) {
			t.Errorf("account %d has used %d", id[0], term.Own())
		}
		sum, n = sum+term.Own(), n+1
		return true
	})
	if n != 9 || sum != 42 {
		t.Errorf("%d accounts have used %d, want 9 and 42", n, sum)
	}
	n = 0
	book.Each(func([8]byte, *quota.Term) bool { n++; return n < 4 })
	if n != 4 {
		t.Errorf("after false %d more came", n-4)
	}
}
