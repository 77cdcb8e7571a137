package cluster

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/redis"
)

// stock is what one gateway has drawn of a limit that holds over all of them. It draws
// as many units as it may use in the next moment, and each is used soon or never: so
// requests need not ask Redis, and yet no window of time sees more than Burst +
// time/Each of them on all gateways together. A unit counts at some moment between the
// now that take is given and its return.
//
// It stays below that bound by what the gateways have in stock, and after an idle time
// once by what comes back in the life of a portion. With a Burst that comes back in less
// than ten round trips to Redis much of the rate is lost.
//
// While gateways are at odds about the rate, as during a reload, the bound is that of
// the larger Burst and the faster Each, for a window that is the life of a portion
// longer. When Redis loses what it knew, one Burst more is let pass. The methods are
// safe for concurrent use.
type stock struct {
	run    func(redis.Call) (rueidis.RedisMessage, error)
	prefix string
	now    func() time.Time
	epoch  time.Time

	current atomic.Pointer[portion] // never nil
	waiting atomic.Int64            // takes that wait for a fetch
	full    atomic.Int64            // when Redis's bucket will be, on the stock's clock

	mu     sync.Mutex // protects what follows, and portion.next
	flight *flight    // the fetch under way, nil for none
	slow   int64      // ns that a fetch takes, at most, of late
	floor  int64      // no portion begins before it
	refund refund
}

// flight is one fetch, for which all wait who need it.
type flight struct {
	done chan struct{} // closed at its end
	err  error         // set by then
}

// refund is what was drawn and not used, which Redis is to be told.
type refund struct {
	rate  limit.Rate
	units int64
	drawn int64 // the number of the earliest draw that they are of
}

const (
	// mostLife is how long a portion may be used for.
	mostLife = int64(100 * time.Millisecond)
	// mostPace is how long to wait for more when Redis has not much: others want it too.
	mostPace = int64(20 * time.Millisecond)
	// A take waits for two fetches, and for more only if they are fast: units came, and
	// others took them.
	leastRounds, mostRounds = 2, 10
	enoughTime              = int64(50 * time.Millisecond)
)

// newStock has nothing yet. run runs a script in Redis, and is back within the time that
// a request may wait; now is time.Now.
func newStock(run func(redis.Call) (rueidis.RedisMessage, error), prefix string, now func() time.Time) *stock {
	s := &stock{run: run, prefix: prefix, now: now, epoch: now(), slow: int64(2 * time.Millisecond)}
	s.current.Store(&portion{})
	return s
}

// clock is t on the stock's clock, which follows the monotonic reading of t.
func (s *stock) clock(t time.Time) int64 { return max(1, int64(t.Sub(s.epoch))+1) }

// take takes a unit, if wait and err are zero. wait is the time until there may be one;
// with an error nobody could be asked, and nothing was taken. It is at once back with
// what there is in stock or when Redis is known to have nothing, and else waits for a
// fetch.
func (s *stock) take(now time.Time, r limit.Rate) (wait time.Duration, err error) {
	if !r.Limited() {
		return 0, nil
	}
	p, at := s.current.Load(), s.clock(now)
	if left, ok := p.take(at, r); ok {
		if left <= p.low && p.ordered.CompareAndSwap(false, true) {
			s.order(r)
		}
		return 0, nil
	}
	if p.rate == r && at < p.again {
		return time.Duration(p.again - at), nil
	}
	return s.fetched(r)
}

// giveBack returns a unit that was not needed. now is the one that take was given; by it
// the unit is known to be of what is in stock now. One of an earlier portion is lost.
func (s *stock) giveBack(now time.Time) {
	if p := s.current.Load(); s.clock(now) >= p.begun {
		p.put()
	}
}

// owed is how long until all units are back, by Redis's last answer.
func (s *stock) owed() time.Duration {
	return time.Duration(max(0, s.full.Load()-s.clock(s.now())))
}

// order begins a fetch for which nobody waits.
func (s *stock) order(r limit.Rate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flight == nil && s.current.Load().next == nil {
		f := s.begin()
		go s.fetch(f, r)
	}
}

// fetched takes a unit of what a fetch brings.
func (s *stock) fetched(r limit.Rate) (wait time.Duration, err error) {
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	start := s.clock(s.now())
	for round := 1; ; round++ {
		at := s.clock(s.now())
		more := round <= leastRounds || round <= mostRounds && at-start < enoughTime
		f, first, none := s.board(at, r, more)
		switch {
		case f == nil:
			return none, nil
		case first:
			s.fetch(f, r)
		default:
			<-f.done
		}
		if f.err != nil {
			return 0, f.err
		}
	}
}

// board takes a unit if one is there by now, or tells how long there will be none. Else it
// tells which fetch to wait for, if there shall be one more, and whether that is the
// caller's to do.
func (s *stock) board(at int64, r limit.Rate, more bool) (f *flight, first bool, none time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.current.Load()
	for {
		if _, ok := p.take(at, r); ok {
			return nil, false, 0
		}
		if p.next == nil {
			break
		}
		p = s.advance(p)
	}
	switch {
	case p.rate == r && at < p.again:
		return nil, false, time.Duration(p.again - at)
	case !more:
		return nil, false, time.Duration(mostPace)
	case s.flight != nil:
		return s.flight, false, 0
	}
	s.seal(p)
	return s.begin(), true, 0
}

func (s *stock) begin() *flight {
	s.flight = &flight{done: make(chan struct{})}
	return s.flight
}

// seal ends a portion. Afterwards nothing is taken of it or put back, so that it is
// known what was not used.
func (s *stock) seal(p *portion) {
	left := p.left.Swap(sealed)
	if left == sealed {
		return
	}
	p.unused = left
	if left == 0 {
		return
	}
	if s.refund.units == 0 || s.refund.rate != p.rate {
		s.refund = refund{rate: p.rate, drawn: p.drawn}
	}
	s.refund.units += left
	s.refund.drawn = min(s.refund.drawn, p.drawn)
}

// advance puts the next portion in the place of p. A unit that was taken at a time from
// the new one's begun is not of p: that is over by then, or sealed.
func (s *stock) advance(p *portion) *portion {
	s.seal(p)
	next := p.next
	next.begun = max(min(max(p.begun, p.end), s.clock(s.now())+1), s.floor)
	s.current.Store(next)
	return next
}
