package quota_test

import (
	"maps"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/quota"
)

var alice, bob = [8]byte{0xa1}, [8]byte{0xb0, 1, 2, 3, 4, 5, 6, 7}

type event struct {
	number        uint64
	id            [8]byte
	start, tokens int64
}

func TestTotals(t *testing.T) {
	for _, c := range []struct {
		name        string
		events      []event
		start, used int64
		last        uint64
	}{
		{"they add up", []event{{1, alice, 100, 5}, {2, alice, 100, 6}, {3, bob, 100, 7}}, 100, 11, 3},
		{"read twice", []event{{1, alice, 100, 5}, {2, alice, 100, 6}, {1, alice, 100, 5}, {2, alice, 100, 6}}, 100, 11, 2},
		{"a new term begins at nothing", []event{{1, alice, 100, 5}, {2, alice, 200, 6}}, 200, 6, 2},
		{"a request of the term before ends later", []event{{1, alice, 100, 5}, {2, alice, 200, 6}, {3, alice, 100, 7}, {4, alice, 200, 1}}, 200, 7, 4},
		{"without a term", []event{{1, alice, 100, 5}, {2, alice, 0, 6}, {3, alice, -1, 6}}, 100, 5, 3},
		{"numbers are missing", []event{{5, alice, 100, 5}, {9, alice, 100, 6}, {7, alice, 100, 7}}, 100, 11, 9},
		{"absurd numbers", []event{{1, alice, 100, math.MaxInt64}, {2, alice, 100, math.MaxInt64}, {3, alice, 100, -5}}, 100, math.MaxInt64, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			var sum quota.Totals
			for _, e := range c.events {
				sum.Add(e.number, e.id, e.start, e.tokens)
			}
			checkTotal(t, &sum, alice, c.start, c.used)
			if sum.Event != c.last {
				t.Errorf("the last event is %d, want %d", sum.Event, c.last)
			}
			saved(t, &sum)
		})
	}
}

// A key whose requests count in no term is not one that has used something.
func TestTotalsWithoutATerm(t *testing.T) {
	var sum quota.Totals
	sum.Add(1, alice, 0, 5)
	if sum.Len() != 0 || sum.Event != 1 {
		t.Errorf("%d keys, event %d", sum.Len(), sum.Event)
	}
}

func checkTotal(t *testing.T, sum *quota.Totals, id [8]byte, start, used int64) {
	t.Helper()
	if s, u, ok := sum.Get(id); !ok || s != start || u != used {
		t.Errorf("%x used %d since %d, %v; want %d since %d", id, u, s, ok, used, start)
	}
}

// saved returns the totals as the next process finds them.
func saved(t *testing.T, sum *quota.Totals) *quota.Totals {
	t.Helper()
	path := filepath.Join(t.TempDir(), "totals")
	if err := sum.Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := quota.LoadTotals(path)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestTotalsAfterAReset(t *testing.T) {
	var sum quota.Totals
	sum.Add(1, alice, 100, 5)
	sum.Reset(alice, 150)
	checkTotal(t, &sum, alice, 150, 0)
	sum.Add(2, alice, 100, 5) // was under way
	sum.Add(3, alice, 150, 2)
	sum.Reset(alice, 150) // told once more
	sum.Reset(alice, 120)
	sum.Reset(bob, 100)
	for _, s := range []*quota.Totals{&sum, saved(t, &sum)} {
		checkTotal(t, s, alice, 150, 2)
		checkTotal(t, s, bob, 100, 0)
		if _, _, ok := s.Get([8]byte{1}); ok || s.Len() != 2 || s.Event != 3 {
			t.Errorf("%d keys, event %d", s.Len(), s.Event)
		}
	}
}

// TestReplay ends the process after every event, and reads the journal again from
// anywhere before that.
func TestReplay(t *testing.T) {
	rnd := rand.New(rand.NewPCG(6, 2))
	journal := make([]event, 40)
	for i := range journal {
		journal[i] = event{uint64(i + 1), [8]byte{byte(rnd.IntN(4))}, 100 + int64(i/8+rnd.IntN(3)), rnd.Int64N(50)}
	}
	all := new(quota.Totals)
	add := func(sum *quota.Totals, events []event) {
		for _, e := range events {
			sum.Add(e.number, e.id, e.start, e.tokens)
		}
	}
	add(all, journal)
	for end := range journal {
		sum := new(quota.Totals)
		add(sum, journal[:end])
		sum = saved(t, sum)
		add(sum, journal[rnd.IntN(end+1):])
		for id := range byte(4) {
			start, used, _ := all.Get([8]byte{id})
			checkTotal(t, sum, [8]byte{id}, start, used)
		}
	}
}

// TestBookAfterARestart: what was used is used, whatever the clock shows by then.
func TestBookAfterARestart(t *testing.T) {
	for _, c := range []struct {
		name  string
		after time.Duration
		used  int64
	}{
		{"at once", 0, 80},
		{"the next day", aDay, 0},
		{"the clock was set back over midnight", -13 * time.Hour, 80},
		{"the clock was a year ahead", -365 * aDay, 80},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := quota.NewBook(nil).Account(alice).Term(noon, quota.Daily, time.UTC)
			sum := new(quota.Totals)
			sum.Add(1, alice, before.Start, 80)
			for range 3 { // and again
				book := quota.NewBook(saved(t, sum))
				a, ok := book.Look(alice)
				if !ok || book.Account(alice) != a {
					t.Fatal("the account is not there")
				}
				now := noon.Add(c.after)
				term := a.Term(now, quota.Daily, time.UTC)
				checkUse(t, term, c.used, 0)
				if same := term.Start == before.Start; same != (c.used > 0) || now.UnixNano() >= term.End {
					t.Errorf("from %d to %d, before it was %d to %d", term.Start, term.End, before.Start, before.End)
				}
				if term.Reserve(21, 100) == (c.used > 0) {
					t.Error("the limit does not hold")
				}
			}
		})
	}
}

func TestResetAfterARestart(t *testing.T) {
	sum := new(quota.Totals)
	before := quota.NewBook(nil).Account(alice).Term(noon, quota.Daily, time.UTC)
	sum.Add(1, alice, before.Start, 80)
	a := quota.NewBook(sum).Account(alice)
	reset := a.Reset(noon)
	sum.Reset(alice, reset.Start)
	if term := a.Term(noon, quota.Daily, time.UTC); term.Start <= before.Start || term.End != before.End || term.Used() != 0 {
		t.Errorf("%+v after %+v", term, before)
	}
	checkTotal(t, sum, alice, reset.Start, 0)
}

func TestBookMakesOneAccount(t *testing.T) {
	book := quota.NewBook(nil)
	if _, ok := book.Look(alice); ok {
		t.Fatal("an account that nobody made")
	}
	found := make(chan *quota.Account)
	for range 8 {
		go func() { found <- book.Account(alice) }()
	}
	first := <-found
	for range 7 {
		if <-found != first {
			t.Fatal("two accounts of one key")
		}
	}
}

// TestForget removes a key, and has it come back after some days. Its quota is for
// ever, so that the start of its term says nothing.
func TestForget(t *testing.T) {
	for _, c := range []struct {
		name string
		days []bool // whether the key is there
		kept bool
	}{
		{"it is there", slices.Repeat([]bool{true}, 100), true},
		{"gone for 32 days", slices.Repeat([]bool{false}, 33), true},
		{"gone for 33 days", slices.Repeat([]bool{false}, 34), false},
		{"gone twice for a month", slices.Concat(slices.Repeat([]bool{false}, 30), []bool{true}, slices.Repeat([]bool{false}, 30)), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			sum := new(quota.Totals)
			sum.Add(1, alice, 1, 80)
			sum.Add(2, bob, 1, 1)
			book := quota.NewBook(sum)
			book.Account(bob).Term(noon, quota.Never, time.UTC).Reserve(5, 0)
			for i, there := range c.days {
				keep := func(id [8]byte) bool { return id == alice && there }
				book.Forget(keep, noon.Add(time.Duration(i)*aDay))
				sum.Forget(keep, noon.Add(time.Duration(i)*aDay))
				sum = saved(t, sum)
			}
			_, inBook := book.Look(alice)
			if _, _, inTotals := sum.Get(alice); inBook != c.kept || inTotals != c.kept {
				t.Errorf("in the book: %v, in the totals: %v, want %v", inBook, inTotals, c.kept)
			}
			if _, ok := book.Look(bob); !ok {
				t.Error("an account with a reservation was dropped")
			}
		})
	}
}

func TestForgetWithAClockSetBack(t *testing.T) {
	sum := new(quota.Totals)
	sum.Add(1, alice, 1, 80)
	nobody := func([8]byte) bool { return false }
	for _, days := range []int{365, 0, 31} { // only the last two say how long it is gone
		sum.Forget(nobody, noon.Add(time.Duration(days)*aDay))
	}
	if sum.Len() != 1 {
		t.Error("dropped after 31 days")
	}
	sum.Forget(nobody, noon.Add(33*aDay))
	if sum.Len() != 0 {
		t.Error("kept for 33 days")
	}
}

// keys makes the totals of n keys.
func keys(n int) *quota.Totals {
	rnd, sum := rand.New(rand.NewPCG(6, 3)), new(quota.Totals)
	start, _ := quota.Daily.Bounds(noon, time.UTC)
	for i := range n {
		var id [8]byte
		for j := range id {
			id[j] = byte(rnd.Uint32())
		}
		sum.Add(uint64(i+1), id, start.UnixNano(), rnd.Int64N(1e6))
	}
	return sum
}

func TestManyKeysAreSaved(t *testing.T) {
	sum := keys(1000)
	got := saved(t, sum)
	if got.Event != sum.Event || !maps.Equal(contents(got), contents(sum)) || got.Len() != 1000 {
		t.Errorf("%d keys and event %d, want %d and %d", got.Len(), got.Event, sum.Len(), sum.Event)
	}
}

// contents is what a book that begins with the totals shows.
func contents(sum *quota.Totals) map[[8]byte][2]int64 {
	m := map[[8]byte][2]int64{}
	rnd := rand.New(rand.NewPCG(6, 3))
	for range sum.Len() {
		var id [8]byte
		for j := range id {
			id[j] = byte(rnd.Uint32())
		}
		rnd.Int64N(1e6)
		start, used, _ := sum.Get(id)
		m[id] = [2]int64{start, used}
	}
	return m
}
