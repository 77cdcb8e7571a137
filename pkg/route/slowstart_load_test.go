package route

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// The same with many streams at a time, which end out of order: the share of
// what comes is still that of the moment.
func TestShareOverARampUnderLoad(t *testing.T) {
	for _, s := range strategies {
		for _, streams := range []int{2, 5, 40} {
			p := slowPool(t, s, "r", "b", "c")
			r := p.Backends()[0]
			returns(t, p, r, noon)
			ends := make([]*Backend, streams)
			rnd := rand.New(rand.NewPCG(1, 2))
			const steps, n = 5, 1000
			last := 0.0
			for step := range steps {
				got := 0.0
				for i := range n {
					now := noon.Add(time.Duration(step*n+i) * slow / (steps * n))
					ending := rnd.IntN(streams)
					if b := ends[ending]; b != nil {
						b.Leave()
					}
					b := mustPick(t, p, now, "")
					b.Observe(100*time.Millisecond, now)
					ends[ending] = b
					if b == r {
						got++
					}
				}
				part := minRamp + (1-minRamp)*(float64(step)+0.5)/steps
				want, share := part/(part+2), got/n
				if share > 1.05*want+2.0/n || share < 0.85*want || share < last {
					t.Errorf("%v, %d at a time: at %d %% it had %.1f %% of the requests after %.1f %%, want %.1f %%",
						s, streams, 100*step/steps, 100*share, 100*last, 100*want)
				}
				last = share
			}
		}
	}
}

// Long streams: it is the emptiest by far, and must not get all that come.
func TestAReturnedIdleBackendDoesNotSwallowEverything(t *testing.T) {
	for _, s := range strategies {
		p := slowPool(t, s, "r", "b", "c")
		for _, b := range p.Backends()[1:] {
			b.Observe(100*time.Millisecond, noon)
			for range 100 {
				b.Enter()
			}
		}
		r := p.Backends()[0]
		returns(t, p, r, noon)
		for range 105 {
			mustPick(t, p, noon, "")
		}
		if got := r.InFlight(); got < 3 || got > 6 {
			t.Errorf("%v: of 105 streams at the start of the ramp it got %d, its share is 5", s, got)
		}
	}
}

// It is slow at first: what it holds, not only what it gets, stays below its
// weight of the moment under LeastConnections.
func TestAReturnedSlowBackendDoesNotFillUp(t *testing.T) {
	p := slowPool(t, LeastConnections, "r", "b")
	r, b := p.Backends()[0], p.Backends()[1]
	for range 20 {
		b.Enter()
	}
	returns(t, p, r, noon)
	for range 200 {
		if got := mustPick(t, p, noon, ""); got == b {
			b.Leave()
		}
	}
	if got := r.InFlight(); got < 1 || got > 3 {
		t.Errorf("a tenth of its weight, and %d in flight beside 20", got)
	}
}

// What it could not or did not want to take is not made up for at once.
func TestSlowStartHasNoBurst(t *testing.T) {
	for _, c := range []struct {
		what string
		play func(p *Pool, r, b *Backend)
		most int
	}{
		{"it had too much in flight to be chosen", func(p *Pool, r, b *Backend) {
			for range 5 {
				r.Enter()
			}
			picks(t, p, noon, "", 500)
			for range 5 {
				r.Leave()
			}
		}, 3},
		{"retries that began there", func(p *Pool, r, b *Backend) {
			for range 100 {
				var tried Tried
				tried.Add(r)
				next, _, _ := p.Next(noon, "", r, "m", &tried)
				next.Leave()
			}
		}, 1},
		{"it was full", func(p *Pool, r, b *Backend) {
			r.MaxInFlight = 1
			r.Enter()
			picks(t, p, noon, "", 500)
			r.Leave()
		}, 1},
	} {
		p := slowPool(t, LeastConnections, "r", "b")
		r, b := p.Backends()[0], p.Backends()[1]
		returns(t, p, r, noon)
		c.play(p, r, b)
		b.Enter() // so that the other is preferred
		if got := picks(t, p, noon, "", 12)["r"]; got > c.most {
			t.Errorf("%s: then it got %d of 12, want at most %d", c.what, got, c.most)
		}
	}
}

// Picks at the same time must not each take the request the backend is owed.
func TestARampHoldsUnderConcurrency(t *testing.T) {
	for _, s := range strategies {
		p := slowPool(t, s, "r", "b")
		returns(t, p, p.Backends()[0], noon)
		var wg sync.WaitGroup
		counts := make([]int, 8)
		for w := range counts {
			wg.Go(func() {
				for range 500 {
					b, _ := p.Pick(noon, "", nil)
					if b.Name == "r" {
						counts[w]++
					}
					b.Leave()
				}
			})
		}
		wg.Wait()
		got := 0
		for _, n := range counts {
			got += n
		}
		if want := 4000 / 11; got > want+len(counts) || s == RoundRobin && got < want-len(counts) {
			t.Errorf("%v: %d of 4000, want at most %d", s, got, want)
		}
	}
}

// While one has room, nobody is told that all are full.
func TestARampRefusesNobodyUnderConcurrency(t *testing.T) {
	for _, s := range strategies {
		p := slowPool(t, s, "r", "b", "c")
		for _, b := range p.Backends()[1:] {
			b.MaxInFlight = 1
		}
		returns(t, p, p.Backends()[0], noon)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 2000 {
					b, err := p.Pick(noon, "", nil)
					if err != Picked {
						t.Errorf("%v: Pick: %v", s, err)
						return
					}
					b.Leave()
				}
			})
		}
		wg.Wait()
	}
}
