package route

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRoundRobinIsExactUnderConcurrency(t *testing.T) {
	for _, specs := range [][]string{
		{"a", "b", "c"},
		{"a*10", "b*10", "c*10"},
		{"a*5", "b*1", "c*1"},
		{"a*3", "b*5", "c*7", "d*11"},
		{"a*1000", "b*1"},
	} {
		config := TableConfig{Backends: backends(specs...), Seed: 12345}
		p := mustResolve(t, mustBuild(t, config, nil), "m")
		const cycles = 20
		turns := len(p.now.Load().all.slots) * cycles
		counts := make([]map[string]int, 4)
		var wg sync.WaitGroup
		for w := range counts {
			counts[w] = map[string]int{}
			wg.Go(func() {
				for i := w; i < turns; i += len(counts) {
					b, _ := p.Pick(noon, "", nil)
					counts[w][b.Name]++
					b.Leave()
				}
			})
		}
		wg.Wait()
		sum := 0
		for _, b := range p.Backends() {
			sum += b.Weight
		}
		for _, b := range p.Backends() {
			got := 0
			for _, c := range counts {
				got += c[b.Name]
			}
			if got*sum != turns*b.Weight {
				t.Errorf("%v: %s got %d of %d", specs, b.Name, got, turns)
			}
		}
	}
}

// Turns of one backend are spread over the cycle, also where it begins again.
func TestRotationIsSmooth(t *testing.T) {
	for _, weights := range [][]int{{1}, {5, 1, 1}, {1, 1, 5}, {10, 10, 5, 5}, {7, 3, 2, 1, 1, 1}, {100, 99}, {30, 1}} {
		slots := rotation(weights)
		for i, w := range weights {
			longest := 1
			for j, other := range weights {
				if j != i {
					longest += (other + w - 1) / w
				}
			}
			gap := 0
			for _, s := range append(slots, slots...) {
				if gap++; int(s) == i {
					gap = 0
				} else if gap > longest {
					t.Fatalf("%v: %v waits %d turns for %d", weights, slots, gap, i)
				}
			}
		}
	}
	if got := fmt.Sprint(rotation([]int{20, 20, 20})); got != "[0 1 2]" {
		t.Errorf("equal weights take turns %s", got)
	}
	if got := fmt.Sprint(rotation([]int{5, 1, 1})); strings.Contains(got, "1 2") || strings.Contains(got, "0 0 0 0") {
		t.Errorf("5:1:1 comes in runs: %s", got)
	}
	huge := make([]int, 1000)
	for i := range huge {
		huge[i] = 1000 - i
	}
	if n := len(rotation(huge)); n > maxSlots+len(huge) {
		t.Errorf("a rotation of 1,000 weights has %d slots", n)
	}
}

func TestRoundRobinSharesTheTurnsOfAFullBackendByWeight(t *testing.T) {
	config := TableConfig{Backends: backends("a*2", "b*1", "c*1")}
	config.Backends[0].MaxInFlight = 1
	p := mustResolve(t, mustBuild(t, config, nil), "m")
	for p.Backends()[0].InFlight() == 0 {
		if b := mustPick(t, p, noon, ""); b.Name != "a" {
			b.Leave()
		}
	}
	if got := picks(t, p, noon, "", 100); got["a"] != 0 || got["b"] != 50 || got["c"] != 50 {
		t.Errorf("with a full, b and c should share equally: %v", got)
	}
}

// Its thousand turns in a row must not hide the one of the other.
func TestAHeavyFullBackendDoesNotHideALightOne(t *testing.T) {
	config := TableConfig{Backends: backends("a*1000", "b*1")}
	config.Backends[0].MaxInFlight = 1
	p := mustResolve(t, mustBuild(t, config, nil), "m")
	p.Backends()[0].Enter()
	if got := picks(t, p, noon, "", 10)["b"]; got != 10 {
		t.Errorf("b got %d of 10", got)
	}
}

func TestBusyKeepsTheLongerTime(t *testing.T) {
	p := poolOf(t, RoundRobin, "a", "b")
	a := p.Backends()[0]
	a.Busy(noon.Add(5 * time.Second))
	a.Busy(noon.Add(time.Second))
	if got := picks(t, p, noon.Add(3*time.Second), "", 10)["a"]; got != 0 {
		t.Errorf("a busy backend got %d of 10", got)
	}
	if got := picks(t, p, noon.Add(5*time.Second), "", 10)["a"]; got != 5 {
		t.Errorf("a backend no longer busy got %d of 10", got)
	}
}

func TestLeastConnections(t *testing.T) {
	p := poolOf(t, LeastConnections, "a*3", "b*1", "c*2")
	var held []*Backend
	for range 600 {
		held = append(held, mustPick(t, p, noon, ""))
	}
	for i, want := range []int64{300, 100, 200} {
		if got := p.Backends()[i].InFlight(); got != want {
			t.Errorf("%s holds %d streams, want %d", p.Backends()[i].Name, got, want)
		}
	}
	for _, b := range held[:3] {
		b.Leave()
	}
	freed := map[*Backend]int{}
	for _, b := range held[:3] {
		freed[b]++
	}
	for range 3 {
		freed[mustPick(t, p, noon, "")]--
	}
	for b, n := range freed {
		if n != 0 {
			t.Errorf("%s: %d freed places were not taken first", b.Name, n)
		}
	}
}

func TestLeastConnectionsTiesGoByWeight(t *testing.T) {
	p := poolOf(t, LeastConnections, "a*5", "b*3", "c*2")
	want := map[string]int{"a": 500, "b": 300, "c": 200}
	if got := picks(t, p, noon, "", 1000); !maps.Equal(got, want) {
		t.Errorf("idle backends were picked %v, want %v", got, want)
	}
}

func TestMaxInFlightHoldsUnderConcurrency(t *testing.T) {
	for _, s := range []Strategy{RoundRobin, LeastConnections, Latency} {
		config := TableConfig{Backends: backends("a", "b", "c"), Strategy: s}
		for i := range config.Backends {
			config.Backends[i].MaxInFlight = 4
		}
		p := mustResolve(t, mustBuild(t, config, nil), "m")
		var mu sync.Mutex
		var held []*Backend
		full := 0
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 4 {
					b, err := p.Pick(noon, "", new(Tried))
					mu.Lock()
					switch err {
					case Picked:
						held = append(held, b)
					case Full:
						full++
					default:
						t.Errorf("%v: Pick: %v", s, err)
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if len(held) != 12 || full != 20 {
			t.Errorf("%v: 32 requests for 12 places: %d entered, %d were told Full", s, len(held), full)
		}
		for _, b := range held {
			b.Leave()
		}
		for _, b := range p.Backends() {
			if b.InFlight() != 0 {
				t.Errorf("%v: %s keeps %d in flight", s, b.Name, b.InFlight())
			}
		}
	}
}

func TestRegion(t *testing.T) {
	specs := []string{"n1@north", "n2@north", "s1@south", "x1"}
	for _, c := range []struct {
		what, region string
		prepare      func(b []*Backend)
		want         string // who may be picked
	}{
		{"the same region first", "north", nil, "n1 n2"},
		{"another region", "south", nil, "s1"},
		{"no region: all", "", nil, "n1 n2 s1 x1"},
		{"a region nobody stands in: all", "mars", nil, "n1 n2 s1 x1"},
		{"a busy one of the region is avoided", "north", func(b []*Backend) { b[0].Busy(noon.Add(time.Second)) }, "n2"},
		{"a busy region spills", "south", func(b []*Backend) { b[2].Busy(noon.Add(time.Second)) }, "n1 n2 x1"},
		{"a full region spills", "south", func(b []*Backend) { b[2].MaxInFlight = 1; b[2].Enter() }, "n1 n2 x1"},
		{"an unhealthy region spills", "south", func(b []*Backend) { b[2].SetHealthy(false) }, "n1 n2 x1"},
		{"an ejected region spills", "south", func(b []*Backend) { b[2].Failed(FailDial, noon) }, "n1 n2 x1"},
		{"busy no more", "south", func(b []*Backend) { b[2].Busy(noon) }, "s1"},
		{"all busy: the region again", "south", func(b []*Backend) {
			for _, b := range b {
				b.Busy(noon.Add(time.Second))
			}
		}, "s1"},
	} {
		for _, s := range []Strategy{RoundRobin, LeastConnections, Latency} {
			p := poolOf(t, s, specs...)
			if c.prepare != nil {
				c.prepare(p.Backends())
			}
			got := picks(t, p, noon, c.region, 120)
			var who []string
			for _, b := range p.Backends() {
				if got[b.Name] > 0 {
					who = append(who, b.Name)
				}
			}
			if strings.Join(who, " ") != c.want {
				t.Errorf("%s (%v): picked %v, want %s", c.what, s, got, c.want)
			}
		}
	}
}

func TestPickSkipsTriedAndEnds(t *testing.T) {
	for _, s := range []Strategy{RoundRobin, LeastConnections, Latency} {
		p := poolOf(t, s, "a*100", "b", "c")
		var tried Tried
		seen := map[string]bool{}
		for range 3 {
			b, err := p.Pick(noon, "", &tried)
			if err != Picked || seen[b.Name] {
				t.Fatalf("%v: picked %v, %v after %v", s, b, err, seen)
			}
			seen[b.Name] = true
		}
		if b, err := p.Pick(noon, "", &tried); err != None {
			t.Errorf("%v: all tried, yet picked %v, %v", s, b, err)
		}
	}
}
