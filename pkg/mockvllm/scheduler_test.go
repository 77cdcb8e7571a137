package mockvllm

import (
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// sequenceFor is a sequence with its own waker.
func sequenceFor(prompt, want int) (*sequence, <-chan struct{}) {
	wake := make(chan struct{}, 1)
	return &sequence{prompt: prompt, want: want, wake: wake, report: func(string, time.Time) {}}, wake
}

// TestSchedulerProperties: whatever comes and goes, slots and KV blocks are
// never exceeded, everything that stays finishes, and nothing is left over.
func TestSchedulerProperties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opt := Options{MaxNumSeqs: 4, MaxModelLen: 1000, KVBlocks: 100, StepBase: time.Millisecond, PrefillPerToken: time.Microsecond}
		opt.fill()
		s := newScheduler(&opt, &stats{})
		done := make(chan struct{})
		var work sync.WaitGroup
		work.Go(func() { s.run(done) })
		rnd := rand.New(rand.NewPCG(1, 2))
		var clients sync.WaitGroup
		for range 300 {
			q, wake := sequenceFor(1+rnd.IntN(700), 1+rnd.IntN(100))
			q.delay = time.Duration(rnd.IntN(3)) * time.Millisecond
			patience := time.Hour
			if rnd.IntN(3) == 0 {
				patience = time.Duration(rnd.IntN(500)) * time.Millisecond
			}
			clients.Go(func() {
				s.submit([]*sequence{q}, 0)
				select {
				case <-wake:
					if p := s.progress([]*sequence{q}); p.produced != q.want {
						t.Errorf("woken with %d of %d tokens", p.produced, q.want)
					}
				case <-time.After(patience):
					s.abort([]*sequence{q})
					s.abort([]*sequence{q}) // twice does no harm
				}
			})
			running, waiting, kv := s.load()
			if running > opt.MaxNumSeqs || kv > 1 {
				t.Fatalf("running %d of %d, waiting %d, kv %v", running, opt.MaxNumSeqs, waiting, kv)
			}
			<-time.After(time.Duration(rnd.IntN(5)) * time.Millisecond) // the bubble's clock
		}
		clients.Wait()
		if running, waiting, kv := s.load(); running != 0 || waiting != 0 || kv != 0 {
			t.Errorf("left over: running %d, waiting %d, kv %v", running, waiting, kv)
		}
		close(done)
		work.Wait()
	})
}

// TestFirstComeFirstServed: a small request does not overtake a big one that
// waits for KV blocks.
func TestFirstComeFirstServed(t *testing.T) {
	opt := Options{MaxModelLen: 160, KVBlocks: 11}
	opt.fill()
	s := newScheduler(&opt, &stats{})
	var seqs []*sequence
	for _, prompt := range []int{100, 100, 1} {
		q, _ := sequenceFor(prompt, 1)
		seqs = append(seqs, q)
	}
	s.submit(seqs, 0)
	s.plan(&step{})
	if running, waiting, _ := s.load(); running != 1 || waiting != 2 {
		t.Errorf("running %d, waiting %d, want 1 and 2", running, waiting)
	}
}

// TestCostModel: the time of an answer is exactly what the options say.
func TestCostModel(t *testing.T) {
	cases := []struct {
		name        string
		opt         Options
		prompts     []int
		first, last time.Duration // of the last sequence
	}{
		{"one step per token", Options{StepBase: 10 * time.Millisecond}, []int{5}, 10 * time.Millisecond, 40 * time.Millisecond},
		{"prefill is paid by the token", Options{PrefillPerToken: time.Millisecond}, []int{100}, 100 * time.Millisecond, 100 * time.Millisecond},
		{"each sequence slows the step", Options{DecodePerSeq: time.Millisecond}, []int{1, 1, 1}, 0, 9 * time.Millisecond},
		{"delay of one prefill", Options{PrefillDelay: time.Second, StepBase: time.Millisecond}, []int{1}, 1001 * time.Millisecond, 1004 * time.Millisecond},
		{"a long prompt takes several steps", Options{StepBase: time.Second}, []int{3 * maxBatchedTokens}, 3 * time.Second, 6 * time.Second},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.opt.fill()
				s := newScheduler(&c.opt, &stats{})
				done := make(chan struct{})
				var work sync.WaitGroup
				var seqs []*sequence
				for _, prompt := range c.prompts {
					q, _ := sequenceFor(prompt, 4)
					q.delay = c.opt.PrefillDelay
					seqs = append(seqs, q)
				}
				start := time.Now()
				s.submit(seqs, 0)
				work.Go(func() { s.run(done) })
				for over := false; !over; <-time.After(time.Millisecond) {
					over = s.tokens(seqs, make([]int, len(seqs)))
				}
				p := s.progress(seqs[len(seqs)-1:])
				if p.first.Sub(start) != c.first || p.last.Sub(start) != c.last {
					t.Errorf("first %v last %v, want %v %v", p.first.Sub(start), p.last.Sub(start), c.first, c.last)
				}
				close(done)
				work.Wait()
			})
		})
	}
}

// TestSlowEngine: the steps of an engine made slow take longer, and what it
// tells of its use is the time of its steps and their share of the batch.
func TestSlowEngine(t *testing.T) {
	opt := Options{StepBase: time.Second, MaxNumSeqs: 4}
	opt.fill()
	st := &stats{}
	s := newScheduler(&opt, st)
	q, _ := sequenceFor(1, 10)
	s.submit([]*sequence{q}, 0)
	var step step
	for _, c := range []struct{ factor, busy, batch float64 }{{1, 1, 0.25}, {3, 4, 1}, {1, 5, 1.25}} {
		s.slower(c.factor)
		s.plan(&step)
		s.apply(&step)
		if st.busy != c.busy || st.batch != c.batch {
			t.Errorf("after a step %v times as long: busy %v s, times batch %v s, want %v and %v", c.factor, st.busy, st.batch, c.busy, c.batch)
		}
	}
}

// TestPrefixCache: only whole blocks of an equal beginning count, at least one
// token is always computed, and the end of a prefix is evicted first.
func TestPrefixCache(t *testing.T) {
	block := func(c string) string { return strings.Repeat(c, blockTokens*tokenBytes) }
	h := func(s string) []uint64 { return blockHashes("m", []byte(s)) }
	p := newPrefixCache(3)
	p.add(h(block("a") + block("b") + block("c")))
	cases := []struct {
		name, text string
		want       int
	}{
		{"equal", block("a") + block("b") + block("c"), 3},
		{"longer", block("a") + block("b") + "x", 2},
		{"a block elsewhere is no prefix", block("b") + block("c"), 0},
		{"same block after another beginning", block("x") + block("b"), 0},
		{"half a block", block("a")[:60], 0},
	}
	for _, c := range cases {
		if got := p.match(h(c.text)); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	if got := p.match(blockHashes("other model", []byte(block("a")))); got != 0 {
		t.Error("one model's blocks serve another")
	}
	p.add(h(block("z")))
	if got := p.match(h(block("a") + block("b") + block("c"))); got != 2 {
		t.Errorf("after eviction %d blocks, want 2", got)
	}
}

// TestCachedTokens: a repeated prompt is cached but for its last block.
func TestCachedTokens(t *testing.T) {
	e, addr := tcpEngine(t, Options{})
	body := `{"model":"mock-model","prompt":"` + strings.Repeat("p", 10*blockTokens*tokenBytes) + `"}`
	for range 2 {
		exchange(t, addr, request("/v1/completions", body, closing))
	}
	rows := e.Ledger()
	if rows[0].CachedTokens != 0 || rows[1].CachedTokens != 9*blockTokens || rows[1].PromptTokens != 160 {
		t.Errorf("cached %d then %d of %d", rows[0].CachedTokens, rows[1].CachedTokens, rows[1].PromptTokens)
	}
}
