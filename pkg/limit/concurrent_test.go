package limit_test

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/limit"
)

const callers = 8

// virtual is a clock that its readers advance. It moves only from the time somebody has read, so that one who was held
// up moves nothing, and others are held up with a time that gets old.
type virtual struct{ atomic.Int64 }

func (c *virtual) advance(now int64, by time.Duration) { c.CompareAndSwap(now, now+int64(by)) }

// rounds runs f in many goroutines at once, often, each time until all return.
func rounds(t *testing.T, begin func() (f func(rnd *rand.Rand), end func())) {
	t.Helper()
	for round := range uint64(50) {
		f, end := begin()
		var wg sync.WaitGroup
		for i := range uint64(callers) {
			wg.Go(func() { f(rand.New(rand.NewPCG(round, i))) })
		}
		wg.Wait()
		if end(); t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
}

// joined is the log of all goroutines.
type joined struct {
	mu  sync.Mutex // protects all
	all takes
}

func (j *joined) add(l takes) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.all = append(j.all, l...)
}

func (j *joined) sum() (sum int64) {
	for _, k := range j.all {
		if !k.undone {
			sum += k.n
		}
	}
	return sum
}

// drain takes what is left, one by one.
func drain(b *limit.Bucket, now int64, r limit.Rate) (l takes) {
	for b.Take(now, r, 1) == 0 {
		l = append(l, take{at: now, n: 1})
	}
	return l
}

// The clock moves only when somebody was refused at its time, so the bucket never flows over: what passed and what is
// left is exactly the burst and what came back.
func TestConcurrentlyNeitherMoreNorLessThanTheRate(t *testing.T) {
	const until = 3000
	rounds(t, func() (func(*rand.Rand), func()) {
		var b limit.Bucket
		var clock virtual
		var log joined
		r := limit.Rate{Each: 7, Burst: 20}
		return func(rnd *rand.Rand) {
				var mine takes
				for now := clock.Load(); now < until; now = clock.Load() {
					n := 1 + rnd.Int64N(5)
					if wait := b.Take(now, r, n); wait > 0 {
						clock.advance(now, wait)
						runtime.Gosched()
						continue
					}
					mine = append(mine, take{at: now, n: n})
				}
				log.add(mine)
			}, func() {
				end := clock.Load()
				log.add(drain(&b, end, r))
				if want := r.Burst + end/int64(r.Each); log.sum() != want {
					t.Errorf("%d passed in %d ns, want exactly %d", log.sum(), end, want)
				}
				if over := log.all.worst(r); over > 0 {
					t.Errorf("the worst window is %d ns over", over)
				}
			}
	})
}

// Another limit refuses half of those who took. What is missing at the end is what flowed over while they held it.
func TestConcurrentlyUndoneNeverMoreAndNotMuchLess(t *testing.T) {
	const until = 2000
	rounds(t, func() (func(*rand.Rand), func()) {
		var b limit.Bucket
		var clock virtual
		var log joined
		var missed atomic.Int64 // unit times: of each undoing the time it was late
		r := limit.Rate{Each: 7, Burst: 20}
		return func(rnd *rand.Rand) {
				var mine takes
				for now := clock.Load(); now < until; now = clock.Load() {
					n := 1 + rnd.Int64N(5)
					wait := b.Take(now, r, n)
					switch {
					case wait > 0:
						clock.advance(now, wait)
					case rnd.IntN(2) == 0:
						mine = append(mine, take{at: now, n: n})
					default:
						runtime.Gosched()
						b.Return(now, now, r, n) // with the time of the decision, whatever it is by now
						missed.Add(clock.Load() - now)
					}
					runtime.Gosched()
				}
				log.add(mine)
			}, func() {
				end := clock.Load()
				log.add(drain(&b, end, r))
				most := r.Burst*int64(r.Each) + end
				if got := log.sum() * int64(r.Each); got > most || got <= most-missed.Load()-int64(r.Each) {
					t.Errorf("%d ns worth passed in %d ns, want %d, or less by %d", got, end, most, missed.Load())
				}
				if over := log.all.worst(r); over > 0 {
					t.Errorf("the worst window is %d ns over", over)
				}
			}
	})
}

// At one moment nothing flows: every take, undoing and charge shows in the end.
func TestConcurrentlyNoTakeIsForgotten(t *testing.T) {
	const each = 1000
	rounds(t, func() (func(*rand.Rand), func()) {
		var b limit.Bucket
		var tokens limit.Tokens
		r := limit.Rate{Each: 10, Burst: 2 * callers * each}
		return func(*rand.Rand) {
				for range each {
					b.Take(5, r, 2)
					b.Return(5, 5, r, 1)
				}
				for range each {
					tokens.Charge(5, r, 1, 0)
				}
			}, func() {
				left, _ := b.Look(5, r)
				uncharged, _ := tokens.Look(5, r)
				if left != callers*each || uncharged != callers*each {
					t.Errorf("%d left and %d not charged of %d, want half", left, uncharged, r.Burst)
				}
			}
	})
}

// At one moment, whichever of both rates each caller has. All units of either come back in the same time, so that each
// caller goes on where the other was.
func TestConcurrentlyAReloadGivesNoSecondBurst(t *testing.T) {
	rounds(t, func() (func(*rand.Rand), func()) {
		var b limit.Bucket
		var passed atomic.Int64
		slow, fast := limit.Rate{Each: 3000, Burst: 1000}, limit.Rate{Each: 1000, Burst: 3000}
		b.Take(5, slow, 1)
		return func(rnd *rand.Rand) {
				for range 500 {
					r := slow
					if rnd.IntN(2) == 0 {
						r = fast
					}
					if b.Take(5, r, 1) == 0 {
						passed.Add(1)
					}
					if b.Idle(5) {
						t.Error("idle, as if nothing was taken")
					}
				}
			}, func() {
				if got := 1 + passed.Load(); got < slow.Burst || got > fast.Burst {
					t.Errorf("%d passed at once, want %d to %d", got, slow.Burst, fast.Burst)
				}
			}
	})
}

// All callers are the first: one must not take the rate that another sets for an earlier one.
func TestConcurrentlyTheFirstBurstIsWhole(t *testing.T) {
	r := limit.Rate{Each: 1000, Burst: callers}
	rounds(t, func() (func(*rand.Rand), func()) {
		buckets := make([]limit.Bucket, 200)
		return func(*rand.Rand) {
				for i := range buckets {
					if wait := buckets[i].Take(0, r, 1); wait > 0 {
						t.Errorf("one of %d waits %v", callers, wait)
					}
				}
			}, func() {
				for i := range buckets {
					if left, _ := buckets[i].Look(0, r); left != 0 {
						t.Errorf("%d left", left)
					}
				}
			}
	})
}

func TestConcurrentlyChargedIsWhatWasUsed(t *testing.T) {
	rounds(t, func() (func(*rand.Rand), func()) {
		var tokens limit.Tokens
		var used atomic.Int64
		r := limit.Rate{Each: 1000, Burst: 1e9}
		return func(rnd *rand.Rand) {
				for range 100 {
					held, _ := tokens.Reserve(0, r, 1+rnd.Int64N(500))
					for actual := rnd.Int64N(700); actual > 0; actual -= 64 { // some use more, some less
						part := min(held, 64)
						tokens.Charge(0, r, min(actual, 64), part)
						used.Add(min(actual, 64))
						held -= part
					}
					tokens.Charge(0, r, 0, held)
				}
			}, func() {
				if _, full := tokens.Look(0, r); int64(full) != used.Load()*int64(r.Each) || tokens.Reserved() != 0 {
					t.Errorf("%d charged, %d reserved, want %d and none", int64(full)/int64(r.Each), tokens.Reserved(), used.Load())
				}
			}
	})
}

// Those who use what they hold or less keep within the rate.
func TestConcurrentTokensNeverMoreThanTheRate(t *testing.T) {
	const until = 2000
	rounds(t, func() (func(*rand.Rand), func()) {
		var tokens limit.Tokens
		var clock virtual
		var held atomic.Int64
		var log joined
		r := limit.Rate{Each: 3, Burst: 40}
		return func(rnd *rand.Rand) {
				var mine takes
				for now := clock.Load(); now < until; now = clock.Load() {
					n, wait := tokens.Reserve(now, r, 1+rnd.Int64N(50))
					if wait > 0 {
						clock.advance(now, 1+wait/8)
						runtime.Gosched()
						continue
					}
					if all := held.Add(n); all > r.Burst {
						t.Errorf("%d held at once, want at most %d", all, r.Burst)
					}
					runtime.Gosched()
					held.Add(-n)
					for n > 0 {
						part, at := min(n, 7), clock.Load()
						spent := rnd.Int64N(part + 1)
						tokens.Charge(at, r, spent, part)
						mine = append(mine, take{at: at, n: spent})
						n -= part
					}
				}
				log.add(mine)
			}, func() {
				if over := log.all.worst(r); over > 0 {
					t.Errorf("the worst window is %d ns over", over)
				}
				if tokens.Reserved() != 0 {
					t.Errorf("%d reserved", tokens.Reserved())
				}
				if n, wait := tokens.Reserve(clock.Load()+r.Burst*int64(r.Each), r, r.Burst); n != r.Burst {
					t.Errorf("a burst later it waits %v", wait)
				}
			}
	})
}
