package admit_test

import (
	"slices"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
)

// debts are what a gateway would tell, the first so many.
func debts(g *admit.Gate, most int) (all []admit.Debt) {
	g.Debts(at(2*time.Microsecond), func(d admit.Debt, told func()) bool {
		all = append(all, d)
		told()
		return len(all) < most
	})
	for i := range all {
		all[i].Limits = nil
	}
	slices.SortFunc(all, func(a, b admit.Debt) int { return int(a.Second - b.Second) })
	return all
}

// Exactly what was let in while nobody could be asked is told, once, and nothing of what
// was counted together before or after.
func TestDebtsAreToldOnce(t *testing.T) {
	together := newSite(2, true, admit.LocalShare, admit.LocalShare)
	g := together.gates[0]
	l := &limit.Limits{
		PerSecond: limit.Rate{Each: time.Second, Burst: 10}, PerMinute: limit.Rate{Each: 3 * time.Second, Burst: 20},
		Tokens: limit.Rate{Each: time.Second / 10, Burst: 600},
	}
	now := time.Duration(0)
	some := func(n int, tokens int64) {
		for range n {
			r := asking(1, now, l, 50)
			r.Global = limit.Rate{Each: 5 * time.Second, Burst: 30}
			ticket := enter(t, g, r)
			ticket.Settle(r.Now, tokens)
			ticket.Leave(r.Now)
		}
	}
	expect := func(when string, most int, want ...admit.Debt) {
		t.Helper()
		if got := debts(g, most); !slices.Equal(got, want) {
			t.Errorf("%s: %+v, want %+v", when, got, want)
		}
	}
	some(4, 40)
	expect("together", 9)
	together.become(away)
	now = time.Microsecond // a bucket that gets another rate is late by a nanosecond
	some(2, 21)
	if _, ok := g.Pass(at(now), limit.Rate{Each: 5 * time.Second, Burst: 30}); !ok {
		t.Fatal("refused")
	}
	expect("alone", 9, admit.Debt{Tag: tagOfOne, Second: 2, Minute: 2, Tokens: 42}, admit.Debt{Tag: admit.Everybody, Second: 3})
	expect("again", 9)
	some(1, 5)
	expect("one more, and told of the first only", 1, admit.Debt{Tag: admit.Everybody, Second: 1})
	expect("and of the rest", 1, admit.Debt{Tag: tagOfOne, Second: 1, Minute: 1, Tokens: 5})
	together.become(up)
	some(1, 5)
	expect("together again", 9)
}

// What strangers have let in whom the table has no room for is told too.
func TestDebtsOfTheOverflow(t *testing.T) {
	together := newSite(1, true, admit.LocalShare, admit.LocalShare)
	g := admit.New(birth, 1)
	g.Share(together.stores[0])
	g.OnError(admit.LocalShare, admit.LocalShare)
	together.become(away)
	for i := range 2 {
		enter(t, g, stranger(i, 1)).Leave(at(1))
	}
	got := debts(g, 9)
	if len(got) != 2 || got[0].Minute != 1 || got[1].Minute != 1 || got[0].Tag == got[1].Tag {
		t.Errorf("%+v", got)
	}
}

// A debt that did not arrive was forgotten, and so was one that was looked at for another
// part of the store.
func TestADebtThatWasNotToldComesAgain(t *testing.T) {
	together := newSite(2, true, admit.LocalShare, admit.LocalShare)
	together.become(away)
	g := together.gates[0]
	enter(t, g, asking(1, 0, &limit.Limits{PerSecond: limit.Rate{Each: time.Second, Burst: 10}}, 50))
	for range 2 {
		n := 0
		g.Debts(at(2*time.Microsecond), func(d admit.Debt, _ func()) bool {
			n += int(d.Second)
			return true
		})
		if n != 1 {
			t.Errorf("%d requests are owed, want 1", n)
		}
	}
	if got := debts(g, 9); len(got) != 1 {
		t.Errorf("%v is owed", got)
	}
	if got := debts(g, 9); len(got) != 0 {
		t.Errorf("%v is owed after it was told", got)
	}
}
