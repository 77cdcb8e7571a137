package limit_test

import (
	"cmp"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/limit"
)

// take is one that passed.
type take struct {
	at, n  int64
	undone bool
}

// takes is the slow way to limit: all that ever passed.
type takes []take

// wait is the least time after which n more keep every window within r, when nothing was undone.
func (l takes) wait(now int64, r limit.Rate, n int64) (wait time.Duration) {
	for sum, i := n, len(l)-1; i >= 0; i-- {
		sum += l[i].n
		wait = max(wait, time.Duration((sum-r.Burst)*int64(r.Each)-(now-l[i].at)))
	}
	return wait
}

// left is how many more could pass now, when nothing was undone.
func (l takes) left(now int64, r limit.Rate) int64 {
	left := r.Burst
	for sum, i := int64(0), len(l)-1; i >= 0; i-- {
		sum += l[i].n
		left = min(left, r.Burst-sum+(now-l[i].at)/int64(r.Each))
	}
	return left
}

// worst is by how much, in nanoseconds, the worst window of l is over r; 0 or less is within it.
func (l takes) worst(r limit.Rate) int64 {
	kept := slices.DeleteFunc(slices.Clone(l), func(k take) bool { return k.undone })
	slices.SortFunc(kept, func(a, b take) int { return cmp.Compare(a.at, b.at) })
	worst, window := -r.Burst*int64(r.Each), int64(0)
	for i, k := range kept {
		if i > 0 { // the worst window that ends at the take before grows by the time between, or a new one begins
			window = max(window-(k.at-kept[i-1].at), 0)
		}
		window += k.n * int64(r.Each)
		worst = max(worst, window-r.Burst*int64(r.Each))
	}
	return worst
}

func TestReferenceSeesAWindowThatIsOver(t *testing.T) {
	r := limit.Rate{Each: 10, Burst: 3}
	for _, c := range []struct {
		name  string
		takes takes
		worst int64
	}{
		{"nothing", nil, -30},
		{"a burst", takes{{at: 5, n: 3}}, 0},
		{"a burst and one", takes{{at: 5, n: 3}, {at: 5, n: 1}}, 10},
		{"one just in time", takes{{at: 5, n: 3}, {at: 15, n: 1}}, 0},
		{"one a ns early, written first", takes{{at: 14, n: 1}, {at: 5, n: 3}}, 1},
		{"one undone", takes{{at: 5, n: 3}, {at: 5, n: 1, undone: true}}, 0},
		{"late in the log", takes{{at: 5, n: 1}, {at: 900, n: 2}, {at: 905, n: 3}}, 15},
	} {
		if got := c.takes.worst(r); got != c.worst {
			t.Errorf("%s: %d ns over, want %d", c.name, got, c.worst)
		}
	}
}

// schedules runs f with many seeds: a million with LLMPROXY_LONG=1.
func schedules(t *testing.T, f func(rnd *rand.Rand) (fault string)) {
	t.Helper()
	count := uint64(10_000)
	switch {
	case os.Getenv("LLMPROXY_LONG") != "":
		count = 1_000_000
	case testing.Short():
		count = 2_000
	}
	source := rand.NewPCG(0, 0)
	for seed := range count {
		source.Seed(seed, 6)
		if fault := f(rand.New(source)); fault != "" {
			t.Fatalf("seed %d: %s", seed, fault)
		}
	}
}

// anyRate is small, so that edges meet; now and then it is large.
func anyRate(rnd *rand.Rand) limit.Rate {
	r := limit.Rate{Each: time.Duration(1 + rnd.Int64N(9)), Burst: 1 + rnd.Int64N(9)}
	if rnd.IntN(8) == 0 {
		r.Each *= time.Millisecond + 7
	}
	return r
}

// anyGap is a time from nothing to what is needed to fill the bucket.
func anyGap(rnd *rand.Rand, r limit.Rate) int64 {
	switch rnd.IntN(4) {
	case 0:
		return 0
	case 1:
		return rnd.Int64N(r.Burst*int64(r.Each) + 1)
	}
	return rnd.Int64N(2*int64(r.Each) + 1)
}
