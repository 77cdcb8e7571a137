package cluster

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/redis"
)

var virtualGlobal = virtual(globalLua)

func (s *stage) draw(a drawAsk, prefix string) (got drawAnswer) {
	s.t.Helper()
	call := a.call(prefix)
	call.Script, call.Args = virtualGlobal, append(call.Args, strconv.FormatInt(s.now, 10))
	m, err := s.client.Run(call, promptly)
	if err == nil {
		err = got.read(m)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

// lot is what one draw gave.
type lot struct {
	ask  drawAsk
	got  drawAnswer
	at   int64 // µs
	left int64
}

// user is a gateway that uses what it drew whenever it likes, and now and then reports
// what it did not use.
type user struct {
	lots   []lot
	refund drawAsk
}

func (u *user) draw(s *stage, rnd *rand.Rand, r limit.Rate, prefix string) {
	a := drawAsk{rate: r, want: 1 + rnd.Int64N(2*r.Burst), life: rnd.Int64N(int64(r.Each)*2+1) / 1000 * 1000}
	if rnd.IntN(2) == 0 && u.refund.unused > 0 {
		a.unused, a.drawn = u.refund.unused, u.refund.drawn
		u.refund = drawAsk{}
	}
	if got := s.draw(a, prefix); got.units > 0 {
		u.lots = append(u.lots, lot{a, got, s.now, got.units})
	}
}

// use uses some of the first lot that is not over, and tells how many.
func (u *user) use(s *stage, rnd *rand.Rand) int64 {
	for len(u.lots) > 0 {
		l := &u.lots[0]
		if s.now*1000 <= l.at*1000+l.ask.life && l.left > 0 && rnd.IntN(9) > 0 {
			n := 1 + rnd.Int64N(l.left)
			l.left -= n
			return n
		}
		if l.left > 0 {
			if u.refund.unused == 0 {
				u.refund.drawn = l.got.number
			}
			u.refund.unused += l.left
			u.refund.drawn = min(u.refund.drawn, l.got.number)
		}
		u.lots = u.lots[1:]
	}
	return 0
}

// However late in its life each unit is used, whoever drew it, and whatever is told of
// those that were not: no window of time sees more than the rate.
func TestGlobalNoWindowIsOverHoweverLateUnitsAreUsed(t *testing.T) {
	s := newStage(t)
	seeds := 400
	if os.Getenv("LLMPROXY_LONG") != "" {
		seeds = 5000
	}
	for seed := range seeds {
		rnd := rand.New(rand.NewPCG(uint64(seed), 7))
		r := limit.Rate{Each: time.Duration(1+rnd.IntN(50)) * time.Millisecond / 7, Burst: 1 + rnd.Int64N(12)}
		prefix := "n" + strconv.Itoa(seed) + ":"
		users := make([]user, 1+rnd.IntN(3))
		takes := []passed(nil)
		for range 150 {
			u := &users[rnd.IntN(len(users))]
			switch rnd.IntN(3) {
			case 0:
				u.draw(s, rnd, r, prefix)
			case 1:
				for range u.use(s, rnd) {
					takes = append(takes, passed{s.now * 1000, s.now * 1000})
				}
			default:
				s.now += rnd.Int64N(int64(r.Each)/500 + 1)
			}
		}
		if ns := worstWindow(takes, r); len(takes) > 0 && ns > 0 {
			t.Fatalf("seed %d, %v: %d ns over", seed, r, ns)
		}
	}
}

// What is used at once loses nothing of the rate, and what is never used comes back.
func TestGlobalNothingIsLostWhileItIsScarce(t *testing.T) {
	s := newStage(t)
	r := limit.PerSecond(100, 20)
	a := drawAsk{rate: r, want: 20, life: int64(10 * time.Millisecond)}
	used, begun := int64(0), s.now
	var unused lot
	for i := range 2000 {
		a.unused, a.drawn = unused.left, unused.got.number
		got := s.draw(a, "p:")
		if unused = (lot{got: got}); i%3 == 0 {
			unused.left = got.units // this gateway had no use for them
		} else {
			used += got.units
		}
		s.pass(20 * time.Millisecond)
	}
	most := r.Burst + (s.now-begun)*1000/int64(r.Each)
	if used > most || used < most-r.Burst {
		t.Errorf("%d used, want %d or what may still be there less", used, most)
	}
}

func TestGlobalDraws(t *testing.T) {
	r := limit.PerSecond(10, 100)
	life := int64(100 * time.Millisecond)
	for _, c := range []struct {
		name string
		does func(s *stage) drawAnswer
		want drawAnswer // but the number
	}{
		{"a quarter of the rest", func(s *stage) drawAnswer {
			return s.draw(drawAsk{rate: r, want: 1000}, "p:")
		}, drawAnswer{units: 25, rest: 75, owed: 2.5e9}},
		{"the life of a portion is kept back once", func(s *stage) drawAnswer {
			s.draw(drawAsk{rate: r, want: 1, life: life}, "p:")
			return s.draw(drawAsk{rate: r, want: 1, life: life}, "p:")
		}, drawAnswer{units: 1, rest: 97, owed: 3e8}},
		{"the last one", func(s *stage) drawAnswer {
			one := limit.PerSecond(10, 1)
			return s.draw(drawAsk{rate: one, want: 5, life: 1e6}, "p:")
		}, drawAnswer{units: 1, wait: 101e6, owed: 101e6}},
		{"none, and for how long", func(s *stage) drawAnswer {
			one := limit.PerSecond(10, 1)
			s.draw(drawAsk{rate: one, want: 5, life: 1e6}, "p:")
			s.pass(time.Millisecond)
			return s.draw(drawAsk{rate: one, want: 5, life: 1e6}, "p:")
		}, drawAnswer{wait: 1e8, owed: 1e8}},
		{"a third of a second is not lost to rounding", func(s *stage) drawAnswer {
			third := limit.PerSecond(3, 3)
			s.draw(drawAsk{rate: third, want: 3}, "p:")
			s.draw(drawAsk{rate: third, want: 3}, "p:")
			return s.draw(drawAsk{rate: third, want: 3}, "p:")
		}, drawAnswer{units: 1, wait: 333334e3, owed: 1000001e3}},
		{"the clock goes back: nothing comes back, and it goes on", func(s *stage) drawAnswer {
			s.draw(drawAsk{rate: r, want: 20}, "p:")
			s.pass(-time.Hour)
			s.draw(drawAsk{rate: r, want: 20}, "p:")
			s.pass(time.Second)
			return s.draw(drawAsk{rate: r, want: 1}, "p:")
		}, drawAnswer{units: 1, rest: 69, owed: 3.1e9}},
		{"what was not used", func(s *stage) drawAnswer {
			got := s.draw(drawAsk{rate: r, want: 20}, "p:")
			return s.draw(drawAsk{rate: r, want: 1, unused: 15, drawn: got.number}, "p:")
		}, drawAnswer{units: 1, rest: 94, owed: 6e8}},
		{"what was not used while the bucket was full again", func(s *stage) drawAnswer {
			got := s.draw(drawAsk{rate: r, want: 20}, "p:")
			s.pass(time.Minute)
			s.draw(drawAsk{rate: r, want: 20}, "p:")
			return s.draw(drawAsk{rate: r, want: 1, unused: 20, drawn: got.number}, "p:")
		}, drawAnswer{units: 1, rest: 79, owed: 2.1e9}},
		{"what was not used before it was forgotten", func(s *stage) drawAnswer {
			got := s.draw(drawAsk{rate: r, want: 20}, "p:")
			s.pass(time.Millisecond)
			s.server.Must("FLUSHALL")
			s.draw(drawAsk{rate: r, want: 20}, "p:")
			return s.draw(drawAsk{rate: r, want: 1, unused: 20, drawn: got.number}, "p:")
		}, drawAnswer{units: 1, rest: 79, owed: 2.1e9}},
		{"what was not used, though the clock went back", func(s *stage) drawAnswer {
			got := s.draw(drawAsk{rate: r, want: 20}, "p:")
			s.pass(-time.Hour)
			return s.draw(drawAsk{rate: r, want: 1, unused: 20, drawn: got.number}, "p:")
		}, drawAnswer{units: 1, rest: 99, owed: 1e8}},
		{"what was not used of a draw that is still to come", func(s *stage) drawAnswer {
			got := s.draw(drawAsk{rate: r, want: 20}, "p:")
			return s.draw(drawAsk{rate: r, want: 1, unused: 20, drawn: got.number + 1}, "p:")
		}, drawAnswer{units: 1, rest: 79, owed: 2.1e9}},
		{"what two did not use: no more than what is surely not needed", func(s *stage) drawAnswer {
			first := s.draw(drawAsk{rate: r, want: 25}, "p:")
			second := s.draw(drawAsk{rate: r, want: 18}, "p:")
			s.draw(drawAsk{rate: r, unused: 25, drawn: first.number}, "p:")
			return s.draw(drawAsk{rate: r, want: 1, unused: 18, drawn: second.number}, "p:")
		}, drawAnswer{units: 1, rest: 81, owed: 1.9e9}},
		{"more than there can be", func(s *stage) drawAnswer {
			return s.draw(drawAsk{rate: limit.Rate{Each: 1e15, Burst: 1 << 62}, want: 1 << 62, life: life}, "p:")
		}, drawAnswer{units: 1 << 60, rest: 1 << 51, owed: longest * 1000}},
		{"something else is there", func(s *stage) drawAnswer {
			s.server.Must("SET", "p:{global}:g", "something")
			return s.draw(drawAsk{rate: r, want: 1}, "p:")
		}, drawAnswer{units: 1, rest: 99, owed: 1e8}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t)
			got := c.does(s)
			if got.number = 0; got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			if left := s.left("p:{global}:g"); left < time.Minute || left > 33*24*time.Hour {
				t.Errorf("it is kept for %v", left)
			}
		})
	}
}

// The same table as limit.Bucket's: what is owed at another rate.
func TestGlobalReloadKeepsWhatWasTaken(t *testing.T) {
	s := newStage(t)
	for n, c := range []struct {
		name   string
		before limit.Rate
		take   int64
		after  limit.Rate
		full   time.Duration
	}{
		{"larger burst", limit.PerSecond(10, 10), 10, limit.PerSecond(10, 30), time.Second},
		{"slower, of longer return: no second burst", limit.PerSecond(1000, 1000), 1000, limit.PerSecond(1, 10), 10 * time.Second},
		{"slower, of longer return: half", limit.PerSecond(1000, 1000), 500, limit.PerSecond(1, 10), 5 * time.Second},
		{"slower, of larger burst: the same units", limit.PerSecond(1000, 10), 10, limit.PerSecond(1, 100), 10 * time.Second},
		{"slower, of shorter return", limit.PerSecond(10, 100), 50, limit.PerSecond(1, 4), 5 * time.Second},
		{"faster, of shorter return", limit.PerSecond(1, 10), 5, limit.PerSecond(1000, 1000), 500 * time.Millisecond},
	} {
		prefix := "n" + strconv.Itoa(n) + ":"
		for left := c.take; left > 0; {
			left -= s.draw(drawAsk{rate: c.before, want: left}, prefix).units
		}
		for _, there := range []limit.Rate{c.after, c.before, c.after} {
			got := s.draw(drawAsk{rate: there}, prefix)
			want := c.full
			if there == c.before {
				want = time.Duration(c.take) * c.before.Each
			}
			if off := time.Duration(got.owed) - want; off < 0 || off > time.Microsecond {
				t.Errorf("%s: at %v full in %v, want %v", c.name, there, time.Duration(got.owed), want)
			}
		}
	}
}

func TestGlobalKeysAndCommandsAreInOneSlot(t *testing.T) {
	call := (&drawAsk{rate: limit.PerSecond(10, 0), want: 1}).call("llmproxy:")
	if len(call.Keys) != 1 || call.Keys[0] != "llmproxy:{global}:g" || redis.Slot(call.Keys[0]) != redis.Slot("global") {
		t.Errorf("keys %q", call.Keys)
	}
}

// FuzzReadDraw: whatever a server answers, what is read of it is no nonsense.
func FuzzReadDraw(f *testing.F) {
	f.Add(bytesOf(7, 1, 2, 3, 4))
	f.Add(bytesOf(7, 1, 2, 3))
	f.Add(bytesOf(7, 1, 2, longest+1, 4))
	f.Add([]byte("$\x05MOVED-\x03ERR_\x00#\x01\x01*\x00%\x00,\x031.5"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, ok := message(data)
		if !ok {
			return
		}
		var w drawAnswer
		if err := w.read(m); err == nil && min(w.number, w.units, w.rest, w.wait, w.owed) < 0 {
			t.Errorf("%+v", w)
		}
	})
}
