package route

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func inUseNames(p *Pool) string { return names(p.current(noon).all.backends) }

func failAnswers(b *Backend, n int, now time.Time) (ejected bool) {
	for range n {
		ejected = b.Failed(FailAnswer, now) || ejected
	}
	return ejected
}

func TestEjection(t *testing.T) {
	s := &State{}
	b := &Backend{State: s}
	if failAnswers(b, 4, noon) {
		t.Fatal("four failed answers ejected")
	}
	b.Succeeded(noon)
	if failAnswers(b, 4, noon) {
		t.Fatal("eight failed answers with a good one between them ejected")
	}
	if !b.Failed(FailAnswer, noon) || !b.Ejected() {
		t.Fatal("five failed answers in a row did not eject")
	}
	if b.Failed(FailDial, noon) {
		t.Fatal("an ejection was reported twice")
	}
	if b.Succeeded(noon.Add(9*time.Second)) || !b.Ejected() {
		t.Fatal("the answer to an older request ended an ejection")
	}
	if !b.Succeeded(noon.Add(10*time.Second)) || b.Ejected() {
		t.Fatal("a success after the time did not bring it back")
	}
	if failAnswers(b, 4, noon.Add(11*time.Second)) {
		t.Fatal("failures from before the ejection still count")
	}
	if b.Succeeded(noon) {
		t.Fatal("it came back twice")
	}
}

func TestEjectionsGrowWhileInARow(t *testing.T) {
	b := &Backend{State: &State{}}
	now := noon
	for i, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300, 300} {
		if ejected := b.Failed(FailDial, now); ejected != (i == 0) {
			t.Fatalf("ejection %d: reported %t", i, ejected)
		}
		want *= time.Second
		b.Failed(FailDial, now.Add(want-time.Millisecond)) // in vain: the time is not over
		if b.enterProbe(now.Add(want - time.Millisecond)) {
			t.Fatalf("ejection %d is over before %v", i, want)
		}
		now = now.Add(want)
		if !b.enterProbe(now) {
			t.Fatalf("ejection %d is not over after %v", i, want)
		}
		b.Leave()
	}
	b.Succeeded(now)
	b.Failed(FailDial, now.Add(299*time.Second))
	if now = now.Add(299 * time.Second); b.enterProbe(now.Add(299 * time.Second)) {
		t.Error("soon after the last ejection, the next should be as long")
	}
	now = now.Add(300 * time.Second)
	b.Succeeded(now)
	now = now.Add(300 * time.Second)
	b.Failed(FailDial, now)
	if !b.enterProbe(now.Add(10 * time.Second)) {
		t.Error("after 300 s without trouble an ejection should last 10 s again")
	}
}

func TestClockSetBackDoesNotPinAnEjection(t *testing.T) {
	b := &Backend{State: &State{}}
	b.Failed(FailDial, noon)
	b.Busy(noon.Add(time.Minute))
	if !b.enterProbe(noon.Add(-time.Hour)) {
		t.Error("a clock set back by an hour keeps the backend out for an hour")
	}
	if b.overloaded(noon.Add(-time.Hour).UnixNano()) {
		t.Error("a clock set back by an hour keeps the backend busy for an hour")
	}
}

func TestHalfRule(t *testing.T) {
	for _, c := range []struct{ what, members, ejected, unhealthy, want string }{
		{"a single backend is never ejected", "a", "a", "", "a"},
		{"half of two", "a b", "a", "", "b"},
		{"all of two", "a b", "a b", "", "a b"},
		{"one of three", "a b c", "b", "", "a c"},
		{"two of three is more than half: all", "a b c", "a b", "", "a b c"},
		{"two of four", "a b c d", "a d", "", "b c"},
		{"three of four: all", "a b c d", "a b c", "", "a b c d"},
		{"ejected and unhealthy is unhealthy", "a b c", "a", "a", "b c"},
		{"the unhealthy stay out when ejection is void", "a b c d", "a b", "d", "a b c"},
		{"the one healthy backend is never ejected", "a b c", "c", "a b", "c"},
		{"none healthy: all", "a b c", "", "a b c", "a b c"},
		{"none healthy, some ejected: all", "a b c", "a", "a b c", "a b c"},
	} {
		p := poolOf(t, RoundRobin, strings.Fields(c.members)...)
		for _, b := range p.Backends() {
			if strings.Contains(c.unhealthy, b.Name) {
				b.SetHealthy(false)
			}
			if strings.Contains(c.ejected, b.Name) && !b.Failed(FailDial, noon) {
				t.Fatalf("%s: %s was not ejected", c.what, b.Name)
			}
		}
		if got := inUseNames(p); got != c.want {
			t.Errorf("%s: in use: %q, want %q", c.what, got, c.want)
		}
		turns := picks(t, p, noon, "", 400)
		if got := slices.Sorted(maps.Keys(turns)); strings.Join(got, " ") != c.want {
			t.Errorf("%s: picked %v, want %q", c.what, got, c.want)
		}
		for name := range strings.FieldsSeq(c.ejected) {
			if n := turns[name]; n > 400/8 && c.unhealthy == "" && len(turns) > len(strings.Fields(c.ejected)) {
				t.Errorf("%s: %s, which fails, was picked %d times of 400", c.what, name, n)
			}
		}
	}
}

// The half rule is a matter of each pool, the ejection of the backend.
func TestOneBackendInTwoPools(t *testing.T) {
	table := mustBuild(t, TableConfig{Backends: backends("a one two", "b two", "c two")}, nil)
	table.Backends()[0].Failed(FailDial, noon)
	if got := inUseNames(mustResolve(t, table, "one")); got != "a" {
		t.Errorf("alone in its pool, an ejected backend must be used: %q", got)
	}
	if got := inUseNames(mustResolve(t, table, "two")); got != "b c" {
		t.Errorf("with others in its pool, it must not: %q", got)
	}
}

func TestOnlyOneRequestIsTheProbe(t *testing.T) {
	for _, s := range []Strategy{RoundRobin, LeastConnections, Latency} {
		p := poolOf(t, s, "a", "b", "c")
		a := p.Backends()[0]
		a.Failed(FailDial, noon)
		if got := picks(t, p, noon.Add(9*time.Second), "", 60)["a"]; got != 0 {
			t.Fatalf("%v: an ejected backend got %d requests", s, got)
		}
		due := noon.Add(10 * time.Second)
		var probes atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 50 {
					if b, _ := p.Pick(due, "", new(Tried)); b == a {
						probes.Add(1)
					} else {
						b.Leave()
					}
				}
			})
		}
		wg.Wait()
		if probes.Load() != 1 || a.InFlight() != 1 {
			t.Fatalf("%v: %d requests were probes at once, %d in flight", s, probes.Load(), a.InFlight())
		}
		a.Leave() // the probe's client left: no verdict
		if b := mustPick(t, p, due, ""); b != a {
			t.Fatalf("%v: a probe that left keeps the next one waiting", s)
		}
		a.Failed(FailAnswer, due)
		a.Leave()
		if got := picks(t, p, due.Add(19*time.Second), "", 60)["a"]; got != 0 {
			t.Fatalf("%v: %d requests in the 20 s after a failed probe", s, got)
		}
		due = due.Add(20 * time.Second)
		if b := mustPick(t, p, due, ""); b != a || !a.Succeeded(due) {
			t.Fatalf("%v: the second probe did not bring it back", s)
		}
		a.Leave()
		if got := inUseNames(p); got != "a b c" {
			t.Fatalf("%v: in use after a good probe: %q", s, got)
		}
	}
}

// A claim outlives a probe only without a verdict.
func TestAVerdictFreesTheNextProbe(t *testing.T) {
	b := &Backend{State: &State{}}
	b.Enter() // a stream from before, so that leaving alone frees nothing
	b.Failed(FailDial, noon)
	due := noon.Add(10 * time.Second)
	if !b.enterProbe(due) {
		t.Fatal("no probe is let through in time")
	}
	b.Failed(FailDial, due)
	if !b.enterProbe(due.Add(20 * time.Second)) {
		t.Error("after a failed probe the next one is not let through in time")
	}
	due = due.Add(20 * time.Second)
	b.Succeeded(due)
	b.Failed(FailDial, due.Add(time.Second))
	if !b.enterProbe(due.Add(41 * time.Second)) {
		t.Error("after a good probe and a new ejection none is let through in time")
	}
	if b.enterProbe(due.Add(100 * time.Second)) {
		t.Error("a second probe while the first is under way")
	}
	if !b.enterProbe(due.Add(101 * time.Second)) {
		t.Error("a probe that was lost keeps the backend out for ever")
	}
}

func TestARetryIsNoProbe(t *testing.T) {
	p := poolOf(t, RoundRobin, "a", "b", "c")
	p.Backends()[0].Failed(FailDial, noon)
	due := noon.Add(time.Minute)
	var tried Tried
	tried.Add(p.Backends()[1])
	b, _, _ := p.Next(due, "", p.Backends()[1], "m", &tried)
	if b.Name != "c" {
		t.Errorf("the attempt after a failure was sent to %s", b.Name)
	}
}

func TestAnotherRegionIsNotProbedWithoutNeed(t *testing.T) {
	p := poolOf(t, RoundRobin, "a@east", "b@west", "c@west")
	p.Backends()[0].Failed(FailDial, noon)
	due := noon.Add(time.Minute)
	if got := picks(t, p, due, "west", 10)["a"]; got != 0 {
		t.Errorf("%d requests left their region to probe", got)
	}
	if b := mustPick(t, p, due, "east"); b.Name != "a" {
		t.Errorf("the region's own backend was not probed, but %s picked", b.Name)
	}
}

func TestActiveCheckEndsAnEjection(t *testing.T) {
	for _, c := range []struct {
		what      string
		kind      FailKind
		unhealthy bool
		freed     bool
	}{
		{"by a dial error", FailDial, false, true},
		{"by failed answers: the engine answers checks but not requests", FailAnswer, false, false},
		{"by failed answers, then unhealthy, then healthy: it was restarted", FailAnswer, true, true},
	} {
		p := poolOf(t, RoundRobin, "a", "b")
		a := p.Backends()[0]
		for range failLimit {
			a.Failed(c.kind, noon)
		}
		if c.unhealthy && !a.SetHealthy(false) {
			t.Errorf("%s: the verdict was not new", c.what)
		}
		if changed := a.SetHealthy(true); changed != c.unhealthy {
			t.Errorf("%s: SetHealthy(true) = %t", c.what, changed)
		}
		if got := strings.Contains(inUseNames(p), "a"); got != c.freed {
			t.Errorf("%s: back in use: %t, want %t", c.what, got, c.freed)
		}
	}
}

func TestHealthFlipsOnce(t *testing.T) {
	var s State
	if s.SetHealthy(true) || !s.Healthy() {
		t.Error("a backend nobody checked yet is not healthy")
	}
	var changed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if s.SetHealthy(false) {
				changed.Add(1)
			}
		})
	}
	wg.Wait()
	if changed.Load() != 1 || s.Healthy() {
		t.Errorf("one flip was reported %d times", changed.Load())
	}
}

// However flips, verdicts and picks interleave, a pick gives a backend, every
// request leaves, and at the end the view is that of the last state.
func TestFlipsUnderLoad(t *testing.T) {
	p := poolOf(t, LeastConnections, "a@x", "b@x*3", "c@y", "d")
	var done atomic.Bool
	var flips, load sync.WaitGroup
	for i, b := range p.Backends()[:3] {
		flips.Go(func() {
			now := noon
			for n := range 300 {
				now = now.Add(time.Duration(n) * time.Second)
				b.Failed(FailKind(i%2), now)
				b.SetHealthy(n%3 != 0)
				b.Succeeded(now)
			}
			b.SetHealthy(false)
			b.SetHealthy(true)
		})
	}
	for w := range 4 {
		load.Go(func() {
			now := noon
			for !done.Load() {
				now = now.Add(time.Second)
				var tried Tried
				first, err := p.Pick(now, []string{"", "x"}[w%2], &tried)
				if err != Picked {
					t.Errorf("Pick: %v", err)
					return
				}
				b, _, err := p.Next(now, "", first, "m", &tried)
				if err != Picked {
					t.Errorf("Next: %v", err)
					return
				}
				first.Leave()
				b.Leave()
			}
		})
	}
	flips.Wait()
	done.Store(true)
	load.Wait()
	if got := inUseNames(p); got != "a b c d" {
		t.Errorf("in use at the end: %q", got)
	}
	for _, b := range p.Backends() {
		if b.InFlight() != 0 {
			t.Errorf("%s keeps %d in flight", b.Name, b.InFlight())
		}
	}
}
