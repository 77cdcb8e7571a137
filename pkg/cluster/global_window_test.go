package cluster

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/limit"
)

// passed is a unit that was taken at some moment of a time, in ns.
type passed struct{ from, to int64 }

// worstWindow is by how much, in ns, the worst window of time is over r: of all windows that
// have whole takes in them.
func worstWindow(takes []passed, r limit.Rate) int64 {
	starts := make([]int64, len(takes))
	for i, k := range takes {
		starts[i] = k.from
	}
	slices.Sort(starts)
	starts = slices.Compact(starts)
	byEnd := slices.SortedFunc(slices.Values(takes), func(a, b passed) int { return cmp.Compare(a.to, b.to) })
	// A tree over the starts of windows: of each part what its takes weigh, and the
	// highest start plus the weight of the takes that began since.
	size := 1
	for size < len(starts) {
		size *= 2
	}
	const none = -1 << 62
	weight, highest := make([]int64, 2*size), make([]int64, 2*size)
	for i := range highest {
		highest[i] = none
	}
	worst := int64(none)
	for _, k := range byEnd {
		i, _ := slices.BinarySearch(starts, k.from)
		i += size
		weight[i] += int64(r.Each)
		highest[i] = k.from + weight[i]
		for i /= 2; i > 0; i /= 2 {
			weight[i] = weight[2*i] + weight[2*i+1]
			highest[i] = max(highest[2*i+1], highest[2*i]+weight[2*i+1])
		}
		worst = max(worst, highest[1]-k.to-r.Burst*int64(r.Each))
	}
	return worst
}

// The measure of the tests here is itself measured, against every window one by one.
func TestTheMeasureSeesTheWorstWindow(t *testing.T) {
	r := limit.Rate{Each: 10, Burst: 2}
	for _, c := range []struct {
		name  string
		takes []passed
		want  int64
	}{
		{"a burst", []passed{{5, 5}, {5, 5}}, 0},
		{"a burst and one", []passed{{5, 5}, {5, 5}, {5, 5}}, 10},
		{"one just in time", []passed{{5, 5}, {5, 5}, {15, 15}}, 0},
		{"one a ns early, told first", []passed{{14, 14}, {5, 5}, {5, 5}}, 1},
		{"one that may have been in time", []passed{{5, 5}, {5, 5}, {6, 15}}, 0},
		{"late in the log", []passed{{0, 0}, {900, 900}, {901, 901}, {902, 902}}, 8},
		{"within a long one", []passed{{0, 1000}, {900, 900}, {901, 901}, {902, 902}}, 8},
	} {
		if got := worstWindow(c.takes, r); got != c.want {
			t.Errorf("%s: %d ns over, want %d", c.name, got, c.want)
		}
	}
	takes := []passed(nil)
	for i := range int64(60) {
		takes = append(takes, passed{i * i * 7 % 100, i*i*7%100 + i%4})
	}
	want := int64(-1 << 62)
	for _, a := range takes {
		for _, b := range takes {
			n := int64(0)
			for _, k := range takes {
				if k.from >= a.from && k.to <= b.to {
					n++
				}
			}
			if n > 0 {
				want = max(want, n*int64(r.Each)-(b.to-a.from)-r.Burst*int64(r.Each))
			}
		}
	}
	if got := worstWindow(takes, r); got != want {
		t.Errorf("%d ns over, want %d", got, want)
	}
}

// report says how much of what there was has passed.
func report(takes int, r limit.Rate, during time.Duration) (share float64, text string) {
	most := float64(r.Burst) + float64(during)/float64(r.Each)
	share = float64(takes) / most
	return share, fmt.Sprintf("%d of %.1f passed in %v: %.2f %%", takes, most, during.Round(time.Millisecond), 100*share)
}
