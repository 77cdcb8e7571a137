package route

import (
	"testing"
	"time"
)

// attempts plays a request whose every attempt fails and tells whom it met;
// a repeat is marked with "!".
func attempts(t *testing.T, p *Pool, first, model string, n int) string {
	t.Helper()
	var tried Tried
	var head *Backend
	for head == nil {
		b := mustPick(t, p, noon, "")
		if b.Leave(); b.Name == first {
			head = b
			tried.Add(b)
		}
	}
	met := head.Name
	for range n {
		b, repeat, err := p.Next(noon, "", head, model, &tried)
		if err != Picked {
			return met + " " + err.String()
		}
		b.Leave()
		met += " " + b.Name
		if repeat {
			met += "!"
		}
	}
	return met
}

func url(name string) string { return backend(name).URL }

func TestNext(t *testing.T) {
	fallback := []FallbackConfig{
		{Primary: url("a"), Fallback: []string{url("d"), url("other"), url("c")}, Models: []string{"m", "big-*"}},
		{Primary: url("a"), Fallback: []string{url("b")}, Models: []string{"n*"}},
		{Primary: url("b"), Fallback: []string{url("a")}},
	}
	for _, c := range []struct {
		what, first, model string
		prepare            func(b []*Backend)
		n                  int
		want               string
	}{
		{"the order of the entry, then the rest", "a", "m", nil, 3, "a d c b"},
		{"a glob in models", "a", "big-one", nil, 3, "a d c b"},
		{"the first entry that holds", "a", "n1", nil, 1, "a b"},
		{"an entry without models holds for all", "b", "whatever", nil, 1, "b a"},
		{"a busy one of the list is not preferred", "a", "m", func(b []*Backend) { b[3].Busy(noon.Add(time.Second)) }, 3, "a c b d"},
		{"an unhealthy one is not tried", "a", "m", func(b []*Backend) { b[3].SetHealthy(false) }, 2, "a c b"},
		{"an ejected one is not tried", "a", "m", func(b []*Backend) { b[3].Failed(FailDial, noon) }, 2, "a c b"},
		{"a full one is passed over", "a", "m", func(b []*Backend) { b[3].MaxInFlight = 1; b[3].Enter() }, 2, "a c b"},
		{"an ejected one is tried before one that failed just now", "a", "zzz", func(b []*Backend) {
			b[1].Failed(FailDial, noon)
			b[2].Failed(FailDial, noon)
		}, 3, "a d b c"},
		{"with the others full, the first again", "a", "m", func(b []*Backend) {
			for _, b := range b[1:] {
				b.MaxInFlight = 1
				b.Enter()
			}
		}, 2, "a a! a!"},
	} {
		table := mustBuild(t, TableConfig{
			Backends: backends("a", "b", "c", "d", "other x"), Fallback: fallback,
		}, nil)
		p := mustResolve(t, table, "m")
		if c.prepare != nil {
			c.prepare(p.Backends())
		}
		if got := attempts(t, p, c.first, c.model, c.n); got != c.want {
			t.Errorf("%s: %s; want %s", c.what, got, c.want)
		}
	}
}

func TestNextWithoutAnEntryGoesByStrategyAndRegion(t *testing.T) {
	p := poolOf(t, LeastConnections, "a", "b", "c", "d")
	p.Backends()[1].Enter()
	if got := attempts(t, p, "a", "m", 3); got != "a c d b" && got != "a d c b" {
		t.Errorf("the busiest was not last: %s", got)
	}
	p = poolOf(t, RoundRobin, "a@east", "b@west", "c@east")
	var tried Tried
	first := p.Backends()[0]
	tried.Add(first)
	if b, _, _ := p.Next(noon, "east", first, "m", &tried); b.Name != "c" {
		t.Errorf("the next attempt left the region for %s", b.Name)
	}
}

func TestNextOfASingleBackendRepeats(t *testing.T) {
	if got := attempts(t, poolOf(t, RoundRobin, "a"), "a", "m", 2); got != "a a! a!" {
		t.Errorf("attempts: %s", got)
	}
	p := poolOf(t, RoundRobin, "a")
	a := p.Backends()[0]
	var tried Tried
	tried.Add(a)
	a.MaxInFlight = 1
	a.Enter()
	if b, _, err := p.Next(noon, "", a, "m", &tried); err != Full {
		t.Errorf("the only backend is full, yet Next gave %v, %v", b, err)
	}
}

// Two that take turns: a repeat goes to the one that did not fail last.
func TestNextRepeatsAwayFromTheLast(t *testing.T) {
	if got := attempts(t, poolOf(t, RoundRobin, "a*100", "b"), "a", "m", 4); got != "a b a! b! a!" {
		t.Errorf("attempts: %s", got)
	}
}
