package cluster

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
)

// The exact counting of one process is the measure: of the same requests at the
// same times both let the same pass, and say the same wait. Steps of 2^-20 units
// hold what comes back of these rates exactly.
func TestOneGatewayOrManyTheSameRequestsPass(t *testing.T) {
	s := newStage(t)
	rnd := rand.New(rand.NewPCG(7, 2))
	for n := range 20 {
		r := limit.Rate{Each: time.Duration(1+rnd.IntN(3)) << (8 + rnd.IntN(10)) * time.Microsecond, Burst: 1 + rnd.Int64N(20)}
		if r.Each/time.Microsecond%3 == 0 {
			r.Each = r.Each / 3 * 4
		}
		l := limit.Limits{PerSecond: r}
		one := ask{tag: s.tag(), limits: &l, requests: 1}
		var exact limit.Bucket
		begun := s.now
		for range 200 {
			s.pass(time.Duration(rnd.Int64N(2 * int64(r.Each))))
			want := exact.Take((s.now-begun)*1000, r, 1)
			got := s.admit(one)
			if off := got.wait - want; off < 0 || off >= time.Microsecond {
				t.Fatalf("rate %d, %v: waits %v, want %v", n, r, got.wait, want)
			}
		}
	}
}

// Whatever the rate and the times, no window sees more than the burst and what
// came back, in whole ns, and little less: a step of each request is lost.
func TestNoWindowIsOverTheRate(t *testing.T) {
	s := newStage(t)
	rnd := rand.New(rand.NewPCG(7, 3))
	for n := range 20 {
		r := limit.Rate{Each: 1 + time.Duration(rnd.Int64N(int64(time.Second)>>rnd.IntN(30))), Burst: 1 + rnd.Int64N(30)}
		l := limit.Limits{PerMinute: r}
		one := ask{tag: s.tag(), limits: &l, requests: 1}
		begun, passed := s.now, []int64(nil)
		for range 300 {
			got := s.admit(one)
			if got.by == admit.None {
				passed = append(passed, s.now)
				continue
			}
			if rnd.IntN(2) == 0 {
				s.now += got.wait.Microseconds() // hammered: not a µs is left unused
			} else {
				s.now += rnd.Int64N(got.wait.Microseconds() + 1)
			}
		}
		for i := range passed {
			for j := i; j < len(passed); j++ {
				window := (passed[j] - passed[i]) * 1000
				if most := r.Burst*int64(r.Each) + window; int64(j-i+1)*int64(r.Each) > most {
					t.Fatalf("rate %d, %v: %d passed in %d ns", n, r, j-i+1, window)
				}
			}
		}
		elapsed := (s.now - begun) * 1000
		least := float64(r.Burst) + float64(elapsed)/float64(r.Each) - 1
		if r.Each >= time.Microsecond && float64(len(passed)) < 0.99*least-1 {
			t.Errorf("rate %d, %v: %d passed in %d ns, want %.1f", n, r, len(passed), elapsed, least)
		}
	}
}

// The scripts as they are, by Redis's own clock, many at once.
func TestManyAtOnceOnlyTheRatePasses(t *testing.T) {
	s := newStage(t)
	r := limit.Rate{Each: 5 * time.Millisecond, Burst: 20}
	one := ask{tag: s.tag(), limits: &limit.Limits{PerSecond: r}, requests: 1}
	var mu sync.Mutex // protects passed
	var passed []int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for begun := int64(0); ; {
				var got answer
				m, err := s.client.Run(one.call("p:"), promptly)
				if err == nil {
					err = got.read(m)
				}
				if err != nil {
					t.Error(err)
					return
				}
				if begun == 0 {
					begun = got.now
				}
				if got.now > begun+300_000 {
					return
				}
				if got.by == admit.None {
					mu.Lock()
					passed = append(passed, got.now)
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	slices.Sort(passed)
	for i := range passed {
		for j := i; j < len(passed); j++ {
			if window := time.Duration(passed[j]-passed[i]) * time.Microsecond; time.Duration(j-i+1)*r.Each > time.Duration(r.Burst)*r.Each+window {
				t.Fatalf("%d passed in %v", j-i+1, window)
			}
		}
	}
	if len(passed) <= int(r.Burst) {
		t.Errorf("%d passed in 300 ms: nothing came back", len(passed))
	}
}

// Nobody who uses no more than it holds brings the tokens over the rate.
func TestTokensThatWereHeldKeepWithinTheRate(t *testing.T) {
	s := newStage(t)
	rnd := rand.New(rand.NewPCG(7, 4))
	r := limit.Rate{Each: 3 * time.Millisecond, Burst: 400}
	l := limit.Limits{Tokens: r}
	tag := s.tag()
	type running struct {
		member string
		held   int64
	}
	var all []running
	sum, begun := int64(0), s.now
	for n := range 2000 {
		s.pass(time.Duration(rnd.Int64N(int64(40 * time.Millisecond))))
		if len(all) > 0 && rnd.IntN(2) == 0 {
			i := rnd.IntN(len(all))
			used := rnd.Int64N(all[i].held + 1)
			s.settle(settlement{tag: tag, lease: all[i].member, tokens: r, charge: used})
			all = slices.Delete(all, i, i+1)
			sum += used
		} else if a := (ask{tag: tag, limits: &l, requests: 1, tokens: 1 + rnd.Int64N(500), lease: "n." + string(rune('a'+n)), ttl: time.Hour}); s.admit(a).by == admit.None {
			all = append(all, running{member(a.lease, a.held(), 0, 0), a.held()})
		}
		if got := s.look(tag, &l); got.tokens+time.Duration(got.reserved)*r.Each > time.Duration(r.Burst)*r.Each+time.Microsecond {
			t.Fatalf("used, full in %v, and held %d: more than a burst", got.tokens, got.reserved)
		}
		if elapsed := (s.now - begun) * 1000; sum*int64(r.Each) > r.Burst*int64(r.Each)+elapsed {
			t.Fatalf("%d used in %d ns", sum, elapsed)
		}
	}
	if sum < r.Burst {
		t.Errorf("%d used in all: the test shows nothing", sum)
	}
}
