package route

import (
	"math"
	"testing"
	"time"
)

const slow = 30 * time.Second

var strategies = []Strategy{RoundRobin, LeastConnections, Latency}

// slowPool is a pool of backends for any model with a slow start of 30 s.
func slowPool(t *testing.T, s Strategy, specs ...string) *Pool {
	t.Helper()
	return mustResolve(t, mustBuild(t, TableConfig{Backends: backends(specs...), Strategy: s, SlowStart: slow}, nil), "m")
}

// returns takes b away and back, by the active checks, and lets the pool know.
func returns(t *testing.T, p *Pool, b *Backend, now time.Time) {
	t.Helper()
	b.SetHealthy(false)
	p.current(now)
	b.SetHealthy(true)
	p.current(now)
}

func TestWhoIsInSlowStart(t *testing.T) {
	due := noon.Add(minEjection)
	for _, c := range []struct {
		what  string
		happs func(b *Backend)
		want  bool
	}{
		{"nothing happened", func(*Backend) {}, false},
		{"the first check is good", func(b *Backend) { b.SetHealthy(true) }, false},
		{"down", func(b *Backend) { b.SetHealthy(false) }, false},
		{"down and up again", func(b *Backend) { b.SetHealthy(false); b.SetHealthy(true) }, true},
		{"failed now and then", func(b *Backend) { b.Failed(FailAnswer, noon); b.Succeeded(due) }, false},
		{"ejected and the probe was good", func(b *Backend) { b.Failed(FailDial, noon); b.Succeeded(due) }, true},
		{"ejected by a dial error and the check was good", func(b *Backend) { b.Failed(FailDial, noon); b.SetHealthy(true) }, true},
		{"ejected by answers, which a good check does not end", func(b *Backend) { failAnswers(b, failLimit, noon); b.SetHealthy(true) }, false},
		{"ejected, and an older request answered", func(b *Backend) { b.Failed(FailDial, noon); b.Succeeded(noon) }, false},
	} {
		p := slowPool(t, RoundRobin, "a", "b")
		c.happs(p.Backends()[0])
		if v := p.current(due); (v.ramps > 0) != c.want {
			t.Errorf("%s: in slow start: %t", c.what, v.ramps > 0)
		}
		if got := picks(t, p, due, "", 100)["a"]; c.want && (got < 5 || got > 15) {
			t.Errorf("%s: it got %d of 100 at once", c.what, got)
		}
	}
}

func TestSlowStartOffIsOff(t *testing.T) {
	for _, s := range strategies {
		p := poolOf(t, s, "a", "b")
		returns(t, p, p.Backends()[0], noon)
		if got := picks(t, p, noon, "", 100)["a"]; got != 50 {
			t.Errorf("%v: %d of 100", s, got)
		}
	}
}

// The share of requests, one after the other, over the whole time: within a few
// percent of the weight of the moment, never falling, exact again at the end.
func TestShareOverARamp(t *testing.T) {
	for _, specs := range [][]string{{"r", "b"}, {"r", "b", "c", "d"}, {"r*5", "b", "c*2"}, {"r", "b*9"}, {"r*30", "b*1"}} {
		for _, s := range strategies {
			p := slowPool(t, s, specs...)
			r, sum := p.Backends()[0], 0
			for _, b := range p.Backends() {
				sum += b.Weight
				b.Observe(100*time.Millisecond, noon)
			}
			if s == Latency && sum > len(specs) {
				continue // of the equally fast it takes the heaviest
			}
			returns(t, p, r, noon)
			const steps, n = 10, 600
			last := 0.0
			for step := range steps {
				got := 0.0
				for i := range n {
					now := noon.Add(time.Duration(step*n+i) * slow / (steps * n))
					b := mustPick(t, p, now, "")
					if b == r {
						got++
					}
					b.Leave()
				}
				part := (minRamp + (1-minRamp)*(float64(step)+0.5)/steps) * float64(r.Weight)
				want := part / (part + float64(sum-r.Weight))
				if share := got / n; math.Abs(share-want) > 0.05*want+2.0/n || share < last {
					t.Errorf("%v %v: at %d %% it had %.1f %% of the requests after %.1f %%, want %.1f %%",
						s, specs, 100*step/steps, 100*share, 100*last, 100*want)
				}
				last = got / n
			}
			if q := p.now.Load().query(p, noon.Add(slow), nil); q.slow != 0 {
				t.Errorf("%v %v: the ramp is over and picks still pay for it", s, specs)
			}
			turns := len(p.now.Load().all.slots)
			if got := picks(t, p, noon.Add(slow), "", 3*turns)["r"]; got*sum != 3*turns*r.Weight {
				t.Errorf("%v %v: after the ramp it got %d turns of %d", s, specs, got, 3*turns)
			}
		}
	}
}

// Whoever else can take a request decides what slow start means.
func TestSlowStartLeavesNoRequestBehind(t *testing.T) {
	for _, c := range []struct {
		what, want string
		specs      []string
		prepare    func(b []*Backend)
	}{
		{"alone in its pool", "r", []string{"r"}, nil},
		{"the others are down", "r", []string{"r", "b", "c"}, func(b []*Backend) { b[1].SetHealthy(false); b[2].SetHealthy(false) }},
		{"the others are full", "r", []string{"r", "b", "c*100"}, func(b []*Backend) {
			for _, b := range b[1:] {
				b.MaxInFlight = 1
				b.Enter()
			}
		}},
		{"the others are busy", "r", []string{"r", "b"}, func(b []*Backend) { b[1].Busy(noon.Add(time.Minute)) }},
		{"the only one of its region", "r", []string{"r@here", "b@there"}, nil},
	} {
		for _, s := range strategies {
			p := slowPool(t, s, c.specs...)
			if c.prepare != nil {
				c.prepare(p.Backends())
			}
			returns(t, p, p.Backends()[0], noon)
			if got := who(picks(t, p, noon, "here", 50)); got != c.want {
				t.Errorf("%s (%v): picked %s, want %s", c.what, s, got, c.want)
			}
		}
	}
}

func TestARetryReachesABackendInSlowStart(t *testing.T) {
	for _, s := range strategies {
		p := slowPool(t, s, "r", "b")
		r, b := p.Backends()[0], p.Backends()[1]
		returns(t, p, r, noon)
		var tried Tried
		tried.Add(b)
		if next, repeat, _ := p.Next(noon, "", b, "m", &tried); next != r || repeat {
			t.Errorf("%v: the second attempt went to %s", s, next.Name)
		}
	}
}

// After an outage of all of them there is nobody to spare them.
func TestAllInSlowStartShareByTheWeightOfTheMoment(t *testing.T) {
	for _, c := range []struct {
		what  string
		specs []string
		after []time.Duration // how long before the picks each came back; slow: it was never away
		want  []int           // of 1,000
	}{
		{"at the same time", []string{"a", "b"}, []time.Duration{0, 0}, []int{500, 500}},
		{"at the same time, by weight", []string{"a*3", "b"}, []time.Duration{0, 0}, []int{750, 250}},
		{"one after the other", []string{"a", "b"}, []time.Duration{slow / 3, 0}, []int{800, 200}},
		{"the heavy one last", []string{"a", "b*4"}, []time.Duration{slow / 3, 0}, []int{500, 500}},
		{"one that is full has no say", []string{"a", "b", "c*10"}, []time.Duration{slow / 3, 0, slow}, []int{800, 200, 0}},
		{"three steps", []string{"a", "b", "c"}, []time.Duration{slow * 2 / 3, slow / 3, 0}, []int{583, 333, 83}},
	} {
		for _, s := range []Strategy{RoundRobin, LeastConnections} {
			p := slowPool(t, s, c.specs...)
			for i, b := range p.Backends() {
				if c.after[i] == slow {
					b.MaxInFlight = 1
					b.Enter()
					continue
				}
				returns(t, p, b, noon.Add(-c.after[i]))
			}
			got := picks(t, p, noon, "", 1000)
			for i, b := range p.Backends() {
				if n := got[b.Name]; n < c.want[i]-20 || n > c.want[i]+20 {
					t.Errorf("%s (%v): %v, want %v", c.what, s, got, c.want)
					break
				}
			}
		}
	}
}

func TestRampTimes(t *testing.T) {
	at := noon.UnixNano()
	for _, c := range []struct {
		what string
		back int64
		now  time.Time
		want float64
	}{
		{"never away", 0, noon, 1},
		{"back this moment", at, noon, 0.1},
		{"a pick that began before it was back", at, noon.Add(-time.Microsecond), 0.1},
		{"half way", at, noon.Add(slow / 2), 0.55},
		{"over", at, noon.Add(slow), 1},
		{"long over", at, noon.Add(time.Hour), 1},
		{"the clock was set back by an hour", at, noon.Add(-time.Hour), 1},
	} {
		s := &State{}
		s.back.Store(c.back)
		if got := s.ramp(c.now.UnixNano(), int64(slow)); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: %.3f of the weight, want %.3f", c.what, got, c.want)
		}
	}
}

// The checks do not tell the time, and a pool nobody asks has no ramp to run.
func TestTheRampOfAnIdlePoolBeginsWithTheFirstRequest(t *testing.T) {
	p := slowPool(t, RoundRobin, "a", "b")
	a := p.Backends()[0]
	a.SetHealthy(false)
	a.SetHealthy(true)
	later := noon.Add(time.Hour)
	if got := picks(t, p, later, "", 100)["a"]; got < 5 || got > 15 {
		t.Errorf("the first requests after an hour: %d of 100", got)
	}
	if got := picks(t, p, later.Add(slow), "", 100)["a"]; got != 50 {
		t.Errorf("30 s after the first: %d of 100", got)
	}
}

func TestAReloadDoesNotTouchARamp(t *testing.T) {
	config := TableConfig{Backends: backends("a", "b"), SlowStart: slow}
	first := mustBuild(t, config, nil)
	a := first.Backends()[0]
	a.SetHealthy(false)
	a.SetHealthy(true) // and no request before the reload
	second := mustBuild(t, config, first)
	if got := picks(t, mustResolve(t, second, "m"), noon, "", 100)["a"]; got < 5 || got > 15 {
		t.Errorf("at the first reload its ramp was lost: %d of 100", got)
	}
	config.Backends = backends("a", "b", "new")
	third := mustBuild(t, config, second)
	got := picks(t, mustResolve(t, third, "m"), noon.Add(slow/2), "", 100)
	if got["new"] != got["b"] && got["new"] != got["b"]-1 && got["new"] != got["b"]+1 {
		t.Errorf("a backend new by reload does not get its full share: %v", got)
	}
	if got["a"] < 17 || got["a"] > 25 {
		t.Errorf("half way and a reload later: %v", got)
	}
}

// One that goes and comes again begins again.
func TestASecondReturnBeginsAnew(t *testing.T) {
	p := slowPool(t, LeastConnections, "a", "b")
	a := p.Backends()[0]
	returns(t, p, a, noon)
	returns(t, p, a, noon.Add(slow-time.Second))
	if got := picks(t, p, noon.Add(slow), "", 100)["a"]; got > 20 {
		t.Errorf("a second after it came back again: %d of 100", got)
	}
}
