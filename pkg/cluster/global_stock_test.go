package cluster

import (
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/redis"
)

// faked is a stock whose Redis gives what the test says, at the time that it says.
type faked struct {
	*stock
	t      *testing.T
	now    time.Time
	mu     sync.Mutex
	asked  []redis.Call
	answer func() (units int, err error) // nil: 8 units
}

var errFaked = errors.New("no answer")

func newFaked(t *testing.T) *faked {
	f := &faked{t: t, now: time.Unix(1, 0)}
	f.stock = newStock(f.run, "p:", func() time.Time { return f.now })
	return f
}

func (f *faked) run(call redis.Call) (m rueidis.RedisMessage, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, call)
	units := 8
	if f.answer != nil {
		if units, err = f.answer(); err != nil {
			return m, err
		}
	}
	rest, wait := 1000, 0
	if units == 0 {
		rest, wait = 0, 100000
	}
	m, ok := message(bytesOf(int(f.now.UnixMicro()), units, rest, wait, 5000))
	if !ok {
		f.t.Error("no answer")
	}
	return m, nil
}

// settled waits for the fetch under way.
func (s *stock) settled() {
	s.mu.Lock()
	f := s.flight
	s.mu.Unlock()
	if f != nil {
		<-f.done
	}
}

func (f *faked) take(r limit.Rate) {
	f.t.Helper()
	if wait, err := f.stock.take(f.now, r); wait != 0 || err != nil {
		f.t.Fatalf("waits %v, %v", wait, err)
	}
	f.settled()
}

// left is what can be taken without asking.
func (f *faked) left() int64 { return max(0, f.current.Load().left.Load()) }

func (f *faked) wantAsked(n int, args ...string) {
	f.t.Helper()
	if len(f.asked) != n {
		f.t.Fatalf("asked %d times, want %d", len(f.asked), n)
	}
	got := f.asked[n-1].Args
	for i, a := range args {
		if at := len(got) - len(args) + i; got[at] != a {
			f.t.Errorf("asked with %q, want %q at the end", got, args)
		}
	}
}

var thousand = limit.PerSecond(1000, 1000)

func TestStockAsksOnceForAPortion(t *testing.T) {
	f := newFaked(t)
	for range 8 {
		f.take(thousand)
	}
	f.wantAsked(1)
	f.take(thousand)
	f.wantAsked(2)
	if f.owed() != 5*time.Millisecond {
		t.Errorf("owed %v, want 5ms", f.owed())
	}
}

func TestStockWithoutALimitAsksNobody(t *testing.T) {
	f := newFaked(t)
	f.take(limit.Rate{})
	f.giveBack(f.now)
	if len(f.asked) > 0 || f.left() > 0 {
		t.Error("it asked")
	}
}

func TestStockUsesNothingThatIsOver(t *testing.T) {
	f := newFaked(t)
	f.take(thousand)
	f.now = f.now.Add(time.Duration(f.current.Load().end-f.current.Load().sent) - 1)
	f.take(thousand)
	f.wantAsked(1)
	f.now = f.now.Add(1)
	f.take(thousand)
	f.wantAsked(2, "6", "1000000") // and tells of the 6
}

// An answer that comes after the life of the portion brings nothing that may be used;
// the next asks for a longer one.
func TestStockTooLateAnAnswer(t *testing.T) {
	f := newFaked(t)
	slow := limit.PerSecond(1000, 1)
	f.answer = func() (int, error) {
		f.now = f.now.Add(15 * time.Millisecond)
		return 1, nil
	}
	f.take(slow)
	f.wantAsked(2, "31000", "0", "1", "1015000")
}

func TestStockKnowsThatThereIsNothing(t *testing.T) {
	f := newFaked(t)
	f.answer = func() (int, error) { return 0, nil }
	if wait, err := f.stock.take(f.now, limit.PerSecond(10, 1)); wait != 100*time.Millisecond || err != nil {
		t.Fatalf("waits %v, %v", wait, err)
	}
	n := len(f.asked)
	wait, err := f.stock.take(f.now, limit.PerSecond(10, 1))
	if wait <= 0 || err != nil || len(f.asked) != n {
		t.Fatalf("waits %v, %v, asked %d times", wait, err, len(f.asked)-n)
	}
	f.now = f.now.Add(wait - 1)
	if again, _ := f.stock.take(f.now, limit.PerSecond(10, 1)); again != 1 || len(f.asked) != n {
		t.Errorf("a ns before its time it waits %v", again)
	}
	f.now = f.now.Add(1)
	f.answer = nil
	f.take(limit.PerSecond(10, 1))
}

func TestStockGivesBack(t *testing.T) {
	for _, c := range []struct {
		name string
		does func(f *faked, taken time.Time)
		left int64
	}{
		{"at once", func(*faked, time.Time) {}, 8},
		{"later", func(f *faked, _ time.Time) { f.now = f.now.Add(time.Millisecond) }, 8},
		{"twice: more than were drawn", func(f *faked, taken time.Time) { f.giveBack(taken) }, 8},
		{"a later portion's", func(f *faked, _ time.Time) {
			f.now = f.now.Add(time.Second)
			f.take(thousand)
		}, 7},
		{"the portion after one that was used up", func(f *faked, _ time.Time) {
			for range 8 {
				f.take(thousand)
			}
		}, 7},
		{"another rate's", func(f *faked, _ time.Time) {
			f.now = f.now.Add(time.Millisecond)
			f.take(limit.PerSecond(7, 0))
		}, 7},
		// Whoever could not ask counts elsewhere, and gives back here all the same.
		{"what a failure took elsewhere", func(f *faked, _ time.Time) {
			f.now = f.now.Add(time.Second)
			f.answer = func() (int, error) { return 0, errFaked }
			if _, err := f.stock.take(f.now, thousand); !errors.Is(err, errFaked) {
				f.t.Fatal(err)
			}
			failed := f.now
			f.answer = nil
			f.take(thousand)
			f.giveBack(failed)
		}, 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFaked(t)
			f.take(thousand)
			taken := f.now
			c.does(f, taken)
			f.giveBack(taken)
			if f.left() != c.left {
				t.Errorf("%d left, want %d", f.left(), c.left)
			}
		})
	}
}

// A call that fails may have been done: what it told of must not count twice.
func TestStockTellsOnceOfWhatWasNotUsed(t *testing.T) {
	f := newFaked(t)
	f.take(thousand)
	f.now = f.now.Add(time.Second)
	f.answer = func() (int, error) { return 0, errFaked }
	if _, err := f.stock.take(f.now, thousand); !errors.Is(err, errFaked) {
		t.Fatal(err)
	}
	f.wantAsked(2, "7", "1000000")
	f.answer = nil
	f.take(thousand)
	f.wantAsked(3, "0", "0")
}

// Nobody waits for the second portion of those who come often enough; and who comes
// seldom does not draw for nobody.
func TestStockOrdersAheadByDemand(t *testing.T) {
	for _, c := range []struct {
		name  string
		every time.Duration
		ahead bool
	}{
		{"often", 5 * time.Millisecond, true},
		{"seldom", 300 * time.Millisecond, false},
	} {
		f := newFaked(t)
		waited := 0
		for range 100 {
			f.mu.Lock()
			before := len(f.asked)
			f.mu.Unlock()
			f.take(thousand)
			if f.current.Load().sent == f.clock(f.now) && len(f.asked) > before {
				waited++
			}
			f.now = f.now.Add(c.every)
		}
		if c.ahead && waited > 3 || !c.ahead && waited != len(f.asked) {
			t.Errorf("%s: %d waited for one of %d", c.name, waited, len(f.asked))
		}
	}
}

func TestStockFailsForAllWhoWait(t *testing.T) {
	f := newFaked(t)
	all, begun := make(chan struct{}), make(chan struct{})
	f.answer = func() (int, error) {
		close(begun)
		<-all
		return 0, errFaked
	}
	var wg sync.WaitGroup
	for i := range 50 {
		if i == 1 {
			<-begun
		}
		wg.Go(func() {
			if _, err := f.stock.take(f.now, thousand); !errors.Is(err, errFaked) {
				t.Errorf("%v", err)
			}
		})
	}
	until(t, "all wait", func() bool { return f.waiting.Load() == 50 })
	close(all)
	wg.Wait()
	f.wantAsked(1)
}

func TestStockAsksForAllWhoWait(t *testing.T) {
	f := newFaked(t)
	all, begun := make(chan struct{}), make(chan struct{})
	first := true
	f.answer = func() (int, error) {
		if !first {
			n, err := strconv.Atoi(f.asked[len(f.asked)-1].Args[2])
			return n, err
		}
		first = false
		close(begun)
		<-all
		return 1, nil
	}
	var wg sync.WaitGroup
	for i := range 50 {
		if i == 1 {
			<-begun
		}
		wg.Go(func() {
			if wait, err := f.stock.take(f.now, thousand); wait != 0 || err != nil {
				t.Errorf("waits %v, %v", wait, err)
			}
		})
	}
	until(t, "all wait", func() bool { return f.waiting.Load() == 50 })
	close(all)
	wg.Wait()
	if len(f.asked) > 5 {
		t.Errorf("asked %d times for 50", len(f.asked))
	}
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(promptly); !cond(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("never happened: " + what)
		}
	}
}

// Three stocks of one Redis, whose clock and theirs the test moves, with demands that
// come and go, slow answers, failures, units given back and a rate that changes.
func TestStocksNoWindowIsOverWhateverHappens(t *testing.T) {
	s := newStage(t)
	seeds := 30
	if os.Getenv("LLMPROXY_LONG") != "" {
		seeds = 2000
	}
	for seed := range seeds {
		rnd := rand.New(rand.NewPCG(uint64(seed), 8))
		p := play{stage: s, rnd: rnd, prefix: "n" + strconv.Itoa(seed) + ":"}
		p.rate = limit.Rate{Each: time.Duration(1+rnd.IntN(30)) * 100 * time.Microsecond, Burst: 1 + rnd.Int64N(100)}
		p.play()
		if ns := worstWindow(p.takes, p.rate); ns > 0 {
			t.Fatalf("seed %d, %v: %d ns over", seed, p.rate, ns)
		}
	}
}

type play struct {
	*stage
	rnd    *rand.Rand
	prefix string
	rate   limit.Rate
	takes  []passed
}

func (p *play) clock() time.Time { return time.UnixMicro(p.now) }

func (p *play) run(call redis.Call) (rueidis.RedisMessage, error) {
	call.Script, call.Args = virtualGlobal, append(call.Args, strconv.FormatInt(p.now, 10))
	p.now += p.rnd.Int64N(300)
	fails := p.rnd.IntN(30)
	if fails == 0 {
		return rueidis.RedisMessage{}, errFaked
	}
	call.Args[len(call.Args)-1] = strconv.FormatInt(p.now, 10)
	m, err := p.client.Run(call, promptly)
	p.now += p.rnd.Int64N(300)
	if p.rnd.IntN(50) == 0 {
		p.now += 15000
	}
	if fails == 1 { // it was done, and nobody knows
		return m, errFaked
	}
	return m, err
}

func (p *play) play() {
	stocks := make([]*stock, 3)
	for i := range stocks {
		stocks[i] = newStock(p.run, p.prefix, p.clock)
	}
	busy := 1
	for range 400 {
		s := stocks[p.rnd.IntN(len(stocks))]
		if p.rnd.IntN(20) == 0 {
			busy = 1 + p.rnd.IntN(60)
		}
		for range p.rnd.IntN(busy) {
			begun := p.clock()
			wait, err := s.take(begun, p.rate)
			s.settled()
			if wait != 0 || err != nil {
				break
			}
			if p.rnd.IntN(10) > 0 {
				p.takes = append(p.takes, passed{begun.UnixNano(), p.clock().UnixNano()})
				continue
			}
			p.now += p.rnd.Int64N(1000)
			s.giveBack(begun)
		}
		p.now += p.rnd.Int64N(int64(p.rate.Each)/100 + 1)
	}
}
