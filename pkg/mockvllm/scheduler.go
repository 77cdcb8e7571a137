package mockvllm

import (
	"slices"
	"sync"
	"time"
)

// maxBatchedTokens bounds the work of one step, as vLLM's --max-num-batched-tokens.
const maxBatchedTokens = 8192

// sequence is one answer being generated. Fields below the line are guarded by
// the scheduler's mutex.
type sequence struct {
	prompt int           // tokens
	hashes []uint64      // of the full prompt blocks
	want   int           // tokens to generate
	reason string        // why it will end: "stop" or "length"
	delay  time.Duration // least time from admission to the first token
	each   bool          // wake at every token, not only at the last
	wake   chan<- struct{}
	report func(state string, at time.Time)

	// ---
	cached    int // prompt tokens found in the prefix cache
	computed  int // prompt tokens computed or cached
	produced  int
	arrived   time.Time
	scheduled time.Time
	first     time.Time
	last      time.Time
	over      bool // finished or aborted
}

// scheduler advances all sequences step by step, as vLLM's does: sequences that
// decode go first, then prompts are computed as far as the step's budget goes;
// waiting sequences are admitted first come first served while there are slots
// and KV blocks.
type scheduler struct {
	opt   *Options
	stats *stats
	poke  chan struct{} // there may be something to do

	mu      sync.Mutex // guards everything below and the state of sequences
	waiting []*sequence
	running []*sequence
	used    int // KV blocks reserved by running sequences
	prefix  *prefixCache
	slow    float64 // steps take so many times as long
}

func newScheduler(opt *Options, st *stats) *scheduler {
	return &scheduler{opt: opt, stats: st, poke: make(chan struct{}, 1), prefix: newPrefixCache(opt.KVBlocks), slow: 1}
}

// step is the work planned for one step.
type step struct {
	decode  []*sequence
	prefill []*sequence
	tokens  []int // of each prefill
	cost    time.Duration
	wait    time.Duration // nothing can run before; negative: nothing to do at all
}

// run drives steps until done is closed.
func (s *scheduler) run(done <-chan struct{}) {
	var st step
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		s.plan(&st)
		switch {
		case st.wait < 0:
			select {
			case <-s.poke:
			case <-done:
				return
			}
			continue
		case st.wait > 0:
			timer.Reset(st.wait)
			select {
			case <-timer.C:
			case <-s.poke:
			case <-done:
				return
			}
			continue
		case st.cost > 0:
			timer.Reset(st.cost)
			select {
			case <-timer.C:
			case <-done:
				return
			}
		}
		s.apply(&st)
	}
}

// submit queues sequences; false when the queue is full.
func (s *scheduler) submit(seqs []*sequence, limit int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if limit > 0 && len(s.waiting)+len(seqs) > limit {
		return false
	}
	now := time.Now()
	for _, q := range seqs {
		q.arrived = now
	}
	s.waiting = append(s.waiting, seqs...)
	s.nudge()
	return true
}

func (s *scheduler) nudge() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// abort gives up what is not finished and frees its slots at once.
func (s *scheduler) abort(seqs []*sequence) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range seqs {
		if q.over {
			continue
		}
		q.over = true
		if q.scheduled.IsZero() {
			i := slices.Index(s.waiting, q)
			s.waiting = slices.Delete(s.waiting, i, i+1)
		} else {
			s.release(q)
		}
		s.stats.finished(q, "abort", time.Now())
	}
	s.nudge()
}

// release takes a running sequence off; mu is held.
func (s *scheduler) release(q *sequence) {
	i := slices.Index(s.running, q)
	s.running = slices.Delete(s.running, i, i+1)
	s.used -= blocks(q.prompt + q.want)
}

// plan admits what fits and chooses the work of the next step.
func (s *scheduler) plan(st *step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*st = step{decode: st.decode[:0], prefill: st.prefill[:0], tokens: st.tokens[:0]}
	now := time.Now()
	s.admit(now)
	budget := maxBatchedTokens
	for _, q := range s.running {
		if !q.first.IsZero() {
			st.decode = append(st.decode, q)
			budget--
		}
	}
	soonest := time.Duration(-1)
	for _, q := range s.running {
		if !q.first.IsZero() {
			continue
		}
		n := min(q.prompt-q.computed, max(budget, 0))
		if left := q.scheduled.Add(q.delay).Sub(now); q.prompt-q.computed == n && left > 0 {
			if soonest < 0 || left < soonest {
				soonest = left
			}
			continue
		}
		if n == 0 {
			continue // no budget left in this step
		}
		st.prefill = append(st.prefill, q)
		st.tokens = append(st.tokens, n)
		st.cost += time.Duration(n) * s.opt.PrefillPerToken
		budget -= n
	}
	if len(st.decode)+len(st.prefill) == 0 {
		st.wait = soonest
		return
	}
	st.cost += s.opt.StepBase + time.Duration(len(st.decode))*s.opt.DecodePerSeq
	st.cost = time.Duration(float64(st.cost) * s.slow)
}

// slower makes each step take factor times as long.
func (s *scheduler) slower(factor float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow = factor
}

// admit moves sequences from the queue to the batch; mu is held.
func (s *scheduler) admit(now time.Time) {
	n := 0
	for _, q := range s.waiting {
		need := blocks(q.prompt + q.want)
		if len(s.running) >= s.opt.MaxNumSeqs || s.used+need > s.opt.KVBlocks {
			break
		}
		n++
		s.used += need
		q.scheduled = now
		// The last token is always computed: its output is the first new token.
		q.cached = min(s.prefix.match(q.hashes)*blockTokens, (q.prompt-1)/blockTokens*blockTokens)
		q.computed = q.cached
		s.stats.admitted(q)
		q.report(StatePrefill, now)
		s.running = append(s.running, q)
	}
	s.waiting = slices.Delete(s.waiting, 0, n)
}

// apply ends a step: every sequence in it that still lives gets its token.
func (s *scheduler) apply(st *step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.stats.stepped(st.cost, float64(len(st.decode)+len(st.prefill))/float64(s.opt.MaxNumSeqs))
	for i, q := range st.prefill {
		if q.over {
			continue
		}
		q.computed += st.tokens[i]
		if q.computed < q.prompt {
			continue
		}
		s.prefix.add(q.hashes)
		q.first = now
		s.stats.firstToken(q, now)
		q.report(StateDecode, now)
		s.advance(q, now)
	}
	for _, q := range st.decode {
		if !q.over {
			s.advance(q, now)
		}
	}
}

// advance gives q one token; mu is held.
func (s *scheduler) advance(q *sequence, now time.Time) {
	if q.produced > 0 {
		s.stats.nextToken(now.Sub(q.last))
	}
	q.produced++
	q.last = now
	if q.produced >= q.want {
		q.over = true
		s.release(q)
		s.stats.finished(q, q.reason, now)
	}
	if q.each || q.over {
		select {
		case q.wake <- struct{}{}:
		default: // a wake-up is pending: its reader will see this token too
		}
	}
}

// progress is what the sequences of one request have come to.
type progress struct {
	produced, cached       int // over all
	scheduled, first, last time.Time
}

func (s *scheduler) progress(seqs []*sequence) progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	var p progress
	for _, q := range seqs {
		p.produced += q.produced
		p.cached += q.cached
		p.scheduled = earlier(p.scheduled, q.scheduled)
		p.first = earlier(p.first, q.first)
		if q.last.After(p.last) {
			p.last = q.last
		}
	}
	return p
}

// tokens fills counts with the tokens each sequence has; true when all are over.
func (s *scheduler) tokens(seqs []*sequence, counts []int) (over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	over = true
	for i, q := range seqs {
		counts[i] = q.produced
		over = over && q.over
	}
	return over
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// load tells the running and waiting sequences and the share of KV blocks used.
func (s *scheduler) load() (running, waiting int, kv float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.running), len(s.waiting), float64(s.used) / float64(s.opt.KVBlocks)
}

// forget empties the prefix cache.
func (s *scheduler) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prefix = newPrefixCache(s.opt.KVBlocks)
}
