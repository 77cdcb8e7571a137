package cluster

import (
	_ "embed"
	"fmt"
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/redis"
)

// portion is what one fetch has brought. Times are on the stock's clock.
type portion struct {
	left    atomic.Int64 // units; sealed: it is not used any more
	ordered atomic.Bool  // the portion after it
	_       [48]byte     // every request writes what stands before

	rate  limit.Rate
	size  int64 // units
	low   int64 // order the next when so many are left; -1 never
	end   int64 // no unit is used from then on
	again int64 // until then there is no more to fetch
	begun int64 // no unit of an earlier portion was taken at or after it
	drawn int64 // the number of the draw

	// What the next fetch is reckoned from.
	sent   int64
	most   int64   // units in the last fetch that brought any
	demand float64 // units a ns, when it was fetched
	ahead  bool    // so much that one ordered ahead will be used
	unused int64   // units, when it was sealed

	next *portion
}

const (
	sealed     = math.MinInt64
	mostWanted = 1 << 40 // units at once
)

// take takes a unit, and tells how many are left.
func (p *portion) take(at int64, r limit.Rate) (left int64, ok bool) {
	if p.rate != r || at >= p.end {
		return 0, false
	}
	for {
		left := p.left.Load()
		if left <= 0 {
			return 0, false
		}
		if p.left.CompareAndSwap(left, left-1) {
			return left - 1, true
		}
	}
}

// put returns a unit.
func (p *portion) put() {
	for {
		left := p.left.Load()
		if left < 0 || left >= p.size || p.left.CompareAndSwap(left, left+1) {
			return
		}
	}
}

// used is how many units have been taken.
func (p *portion) used() int64 {
	if left := p.left.Load(); left != sealed {
		return p.size - left
	}
	return p.size - p.unused
}

// lives are how long a portion has to be used for at least, for it to arrive in time, and
// may be at most: the longer, the less often one is fetched; the shorter, the less of the
// burst is kept back for those that are used late. With a burst of 1 that is a part of
// each unit.
func (s *stock) lives(r limit.Rate) (least, most int64) {
	each := float64(r.Each)
	long := min(max(float64(r.Burst-1)*each/10, each/64), float64(mostLife))
	least = min(2*s.slow+int64(time.Millisecond), mostLife)
	return least, max(least, int64(long))
}

// pace is how long to wait for more after Redis had little.
func pace(r limit.Rate) int64 {
	return int64(min(float64(r.Burst)*float64(r.Each)/8, float64(mostPace)))
}

// plan is the portion to ask for at the time sent. It wants what was used of late in half
// a life, but not more than twice as much as the last time: of a few requests in a row it
// is not known whether more will come. It lives for twice as long as that will take.
func (s *stock) plan(sent int64, r limit.Rate) (p *portion, want int64) {
	last := s.current.Load()
	for last.next != nil {
		last = last.next
	}
	p = &portion{rate: r, sent: sent, demand: last.demand, most: last.most}
	if last.size > 0 {
		p.demand = float64(last.used()) / float64(max(1, sent-last.sent))
	}
	least, most := s.lives(r)
	waiting := s.waiting.Load()
	want = int64(min(math.Ceil(p.demand*float64(most)/2), float64(2*p.most+waiting), mostWanted))
	want = max(want, waiting, 1)
	p.end = sent + least
	if p.ahead = p.demand*float64(most) >= 1; p.ahead {
		p.end = sent + max(least, int64(min(2*float64(want)/p.demand, float64(most))))
	}
	return p, want
}

// fetch draws a portion, and ends f.
func (s *stock) fetch(f *flight, r limit.Rate) {
	sent := s.clock(s.now())
	s.mu.Lock()
	p, want := s.plan(sent, r)
	a := drawAsk{rate: r, want: want, life: p.end - sent}
	if s.refund.rate == r {
		a.unused, a.drawn = s.refund.units, s.refund.drawn
	}
	s.refund = refund{} // it must not count twice, and nobody knows what becomes of a call that fails
	s.mu.Unlock()

	var w drawAnswer
	m, err := s.run(a.call(s.prefix))
	if err == nil {
		err = w.read(m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(f.done)
	s.flight = nil
	back := s.clock(s.now())
	if f.err = err; err != nil {
		// Whoever waits will go by another count, and may return to this one what it took
		// there.
		s.seal(s.current.Load())
		s.floor = back + 1
		return
	}
	s.slow = max(back-sent, s.slow-s.slow/8)
	s.full.Store(back + w.owed)
	s.bring(p, back, want, &w)
}

// bring adds a portion to the stock.
func (s *stock) bring(p *portion, back, want int64, w *drawAnswer) {
	p.size, p.drawn, p.low = w.units, w.number, -1
	p.left.Store(w.units)
	if w.units > 0 {
		p.most = min(w.units, mostWanted)
	}
	scarce := w.units < want && float64(w.rest)*float64(p.rate.Each) < 4*float64(pace(p.rate))
	switch {
	case scarce:
		p.again = back + max(w.wait, pace(p.rate))
	case w.wait > 0:
		p.again = back + w.wait
	case p.ahead:
		p.low = w.units / 4
	}
	s.current.Load().next = p
}

var (
	//go:embed global.lua
	globalLua    string
	globalScript = redis.NewScript(globalLua)
)

// drawAsk asks Redis for units of the global limit.
type drawAsk struct {
	rate          limit.Rate
	want          int64 // units; fewer may come
	life          int64 // ns
	unused, drawn int64 // see refund
	debt          int64 // units that were used without asking
}

// call asks. Its only key is `<prefix>{global}:g`.
func (a *drawAsk) call(prefix string) redis.Call {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	life := (a.life + 999) / 1000
	return redis.Call{
		Script: globalScript,
		Keys:   []string{prefix + "{global}:g"},
		Args: []string{
			number(int64(a.rate.Each)), number(max(1, a.rate.Burst)), number(a.want), number(life),
			number(a.debt), number(a.unused), number(a.drawn),
		},
	}
}

// drawAnswer is what Redis gives.
type drawAnswer struct {
	number int64 // of the draw; later ones have higher numbers
	units  int64
	rest   int64 // units that are still there
	wait   int64 // ns until there is another unit
	owed   int64 // ns until all are there
}

// read is the inverse of what the script returns.
func (w *drawAnswer) read(m rueidis.RedisMessage) error {
	values, err := m.ToArray()
	if err != nil {
		return fmt.Errorf("cannot ask for the global limit in Redis: %w", err)
	}
	v := reading{values: values}
	*w = drawAnswer{number: v.number(), units: v.number(), rest: v.number(), wait: int64(v.micros()), owed: int64(v.micros())}
	return v.end()
}
