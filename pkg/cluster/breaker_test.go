package cluster

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// lived plays how commands went, one every gap: + answered, - not.
func lived(b *breaker, now *time.Time, gap time.Duration, commands string) (openedAt int) {
	openedAt = -1
	for i, c := range commands {
		*now = now.Add(gap)
		if c == '+' {
			b.ok(*now)
		} else if b.failed(*now) && openedAt < 0 {
			openedAt = i
		}
	}
	return openedAt
}

func TestBreaker(t *testing.T) {
	const ms = time.Millisecond
	repeat := func(s string, n int) (all string) {
		for range n {
			all += s
		}
		return all
	}
	for _, c := range []struct {
		name     string
		gap      time.Duration
		commands string
		opens    int // at which command; -1 never
	}{
		{"four in a row", ms, "----", -1},
		{"five in a row", ms, "-----", 4},
		{"five in a row, an hour between", time.Hour, "-----", 4},
		{"five, with one that was answered", ms, "----+----", -1},
		{"half of nineteen", ms, repeat("+-", 9) + "-", -1},
		{"half of twenty", ms, repeat("+-", 10), 19},
		{"half of the last second, not of all before", 20 * ms, repeat("+", 200) + repeat("-+", 50), 224},
		{"less than half", ms, repeat("++-", 300), -1},
		{"half, too few in a second", 60 * ms, repeat("+-", 40), -1},
		{"half of very many, slowly", 100 * time.Microsecond, repeat("+", 900) + repeat("-+--+", 1000), 2203},
	} {
		var b breaker
		now := time.Unix(1000, 0)
		if got := lived(&b, &now, c.gap, c.commands); got != c.opens || b.open() != (c.opens >= 0) {
			t.Errorf("%s: opens at %d (%v), want %d", c.name, got, b.open(), c.opens)
		}
	}
}

func TestBreakerOpensOnceAndStaysOpen(t *testing.T) {
	var b breaker
	now := time.Unix(1000, 0)
	lived(&b, &now, time.Millisecond, "-----")
	if at := lived(&b, &now, time.Millisecond, "+++++-----"); at >= 0 || !b.open() {
		t.Errorf("opens again at %d, open %v", at, b.open())
	}
	b.close()
	if b.open() {
		t.Fatal("still open")
	}
	if at := lived(&b, &now, time.Millisecond, "----"); at >= 0 {
		t.Error("what was before it was closed still counts")
	}
	if at := lived(&b, &now, time.Millisecond, "-"); at != 0 {
		t.Error("does not open a second time")
	}
}

// A caller that was held up, or a clock that goes back, does no more harm than to count
// in another second.
func TestBreakerClockGoesBack(t *testing.T) {
	var b breaker
	now := time.Unix(1000, 0)
	lived(&b, &now, time.Millisecond, "+-+-+-+-+-+-+-+-+-")
	late := now.Add(-half)
	if b.failed(late) || !b.failed(now) {
		t.Error("the one that came late does not count")
	}
	b.close()
	now = time.Unix(10, 0)
	if at := lived(&b, &now, time.Millisecond, "+-+-+-+-+-+-+-+-+-+-"); at != 19 {
		t.Errorf("opens at %d, want 19", at)
	}
}

func TestBreakerFromManyGoroutines(t *testing.T) {
	for round := range 50 {
		var b breaker
		var opened, since atomic.Int64
		now := time.Unix(int64(round), 0)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for n := range 200 {
					at := now.Add(time.Duration(n) * 10 * time.Millisecond)
					if b.open() {
						since.Add(1)
						b.ok(at)
						continue
					}
					if (n+i)%3 == 0 || n > 150 {
						if b.failed(at) {
							opened.Add(1)
						}
					} else {
						b.ok(at)
					}
				}
			})
		}
		wg.Wait()
		if opened.Load() != 1 || !b.open() {
			t.Fatalf("round %d: opened %d times, open %v", round, opened.Load(), b.open())
		}
	}
}

// No tally has more failures than commands, and none runs over into its neighbour.
func FuzzTally(f *testing.F) {
	f.Add(uint64(0), []byte{0, 1, 2, 3, 255})
	f.Fuzz(func(t *testing.T, n uint64, steps []byte) {
		var y tally
		want := [4]uint64{}
		for _, s := range steps {
			n = (n + uint64(s>>6)) % (1 << 24)
			for range 1 + int(s>>1&31)*30 {
				y = y.at(n).add(uint64(s & 1))
			}
			if y.half() != n {
				t.Fatalf("in half %d, want %d", y.half(), n)
			}
			want[0], want[1] = y.before()
			want[2], want[3] = y.since()
			if want[1] > want[0] || want[3] > want[2] || want[2] == 0 {
				t.Fatal(fmt.Sprint(want))
			}
		}
	})
}
