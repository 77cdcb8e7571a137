package route

import (
	"sync"
	"testing"
	"time"
)

// An operator's drain is what the configuration's is: wherever one counts, the
// other does.
func TestEitherDrainKeepsRequestsAway(t *testing.T) {
	for _, c := range []struct {
		what       string
		configured bool
		operator   []bool
		want       bool
	}{
		{"neither", false, nil, false},
		{"the configuration's is lost", true, nil, true},
		{"the operator's is lost", false, []bool{true}, true},
		{"the operator's cannot be called off", false, []bool{true, false}, false},
		{"called off, it takes the configuration's with it", true, []bool{true, false}, true},
		{"called off twice", false, []bool{true, false, false}, false},
		{"twice on counts twice", false, []bool{true, true, false}, false},
	} {
		for _, s := range []Strategy{RoundRobin, LeastConnections, Latency} {
			name := "a"
			if c.configured {
				name = "a!"
			}
			table := drained(t, s, nil, name, "b", "c")
			p, a := mustResolve(t, table, "m"), table.Backends()[0]
			picks(t, p, noon, "", 10) // what is prepared before must not stay
			for _, on := range c.operator {
				a.SetDrain(on)
			}
			if a.Drained() != c.want {
				t.Errorf("%s: drained %t", c.what, a.Drained())
			}
			if got := picks(t, p, noon, "", 99)["a"]; (got == 0) != c.want {
				t.Errorf("%s (%v): it got %d of 99", c.what, s, got)
			}
		}
	}
}

// The last backend of a model can be drained too, and what only it can answer
// still comes to it.
func TestDrainOfTheOnlyBackend(t *testing.T) {
	table := drained(t, RoundRobin, nil, "a")
	p, a := mustResolve(t, table, "m"), table.Backends()[0]
	a.SetDrain(true)
	if b, err := p.Pick(noon, "", new(Tried)); err != None {
		t.Errorf("picked %v, %v", b, err)
	}
	if !a.Usable() || !a.Enter() {
		t.Error("a response that lives there is lost before the backend is")
	}
	a.Leave()
	a.SetDrain(false)
	if got := picks(t, p, noon, "", 3)["a"]; got != 3 {
		t.Errorf("back in use, it got %d of 3", got)
	}
}

func TestDrainOutlivesReloads(t *testing.T) {
	first := drained(t, LeastConnections, nil, "a", "b")
	first.Backends()[0].SetDrain(true)
	second := drained(t, LeastConnections, first, "b", "a")
	third := drained(t, LeastConnections, second, "a!", "b")
	for _, table := range []*Table{first, second, third} {
		if got := picks(t, mustResolve(t, table, "m"), noon, "", 20)["a"]; got != 0 {
			t.Errorf("%d requests to a drained backend", got)
		}
	}
	// Called off by way of the newest table: older ones are in use by requests
	// that began before a reload.
	third.Backends()[0].SetDrain(false)
	for what, c := range map[string]struct {
		table *Table
		want  int
	}{"first": {first, 10}, "second": {second, 10}, "third, where the configuration drains it": {third, 0}} {
		if got := picks(t, mustResolve(t, c.table, "m"), noon, "", 20)["a"]; got != c.want {
			t.Errorf("%s: it got %d of 20, want %d", what, got, c.want)
		}
	}
	other := mustBuild(t, TableConfig{Backends: []BackendConfig{{Name: "a", URL: "http://elsewhere"}}}, second)
	second.Backends()[1].SetDrain(true)
	if other.Backends()[0].Drained() {
		t.Error("an engine at another address is drained for the one before it")
	}
}

// A backend whose drain is called off has cold caches and nothing in flight: it
// would get every request at once.
func TestEndOfADrainIsASlowStart(t *testing.T) {
	table := mustBuild(t, TableConfig{Strategy: RoundRobin, Backends: backends("a", "b"), SlowStart: 10 * time.Second}, nil)
	p, a := mustResolve(t, table, "m"), table.Backends()[0]
	a.SetDrain(false) // it never drained
	if got := picks(t, p, noon, "", 100)["a"]; got != 50 {
		t.Errorf("it got %d of 100 before", got)
	}
	a.SetDrain(true)
	picks(t, p, noon, "", 10)
	a.SetDrain(false)
	if got := picks(t, p, noon, "", 100)["a"]; got < 1 || got > 20 {
		t.Errorf("it got %d of the first 100", got)
	}
	if got := picks(t, p, noon.Add(10*time.Second), "", 100)["a"]; got != 50 {
		t.Errorf("it got %d of 100 afterwards", got)
	}
}

// Drains that come and go while requests are picked leave nothing behind: not a
// backend in use that drains, nor one out of use that does not.
func TestDrainsAmongPicks(t *testing.T) {
	table := drained(t, LeastConnections, nil, "a", "b", "c")
	p := mustResolve(t, table, "m")
	var work sync.WaitGroup
	for i := range 2 {
		work.Go(func() {
			for n := range 2000 {
				table.Backends()[i].SetDrain(n%2 == 0)
			}
			table.Backends()[i].SetDrain(i == 0)
		})
		work.Go(func() {
			for range 2000 {
				b, err := p.Pick(noon, "", new(Tried))
				if err != Picked {
					t.Error(err) // c is there all the time
					return
				}
				b.Leave()
			}
		})
	}
	work.Wait()
	got := picks(t, p, noon, "", 100)
	if got["a"] != 0 || got["b"] == 0 || got["c"] == 0 {
		t.Errorf("afterwards: %v", got)
	}
}
