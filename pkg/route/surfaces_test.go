package route

import (
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	chat Surfaces = 1 << iota
	rerank
	audio
)

// servingConfig is "name" or "name models" with the surfaces next to it.
func servingConfig(specs ...any) (c TableConfig) {
	for i := 0; i < len(specs); i += 2 {
		b := backend(specs[i].(string))
		b.Surfaces = specs[i+1].(Surfaces)
		c.Backends = append(c.Backends, b)
	}
	return c
}

func TestServing(t *testing.T) {
	p := mustResolve(t, mustBuild(t, servingConfig(
		"all", Surfaces(0), "chat", chat, "both", chat|rerank, "rerank", rerank), nil), "m")
	for _, c := range []struct {
		what string
		s    Surfaces
		want string
	}{
		{"no surface asked for: everyone", 0, "all chat both rerank"},
		{"0 in configuration is everything, not nothing", audio, "all"},
		{"some serve it", chat, "all chat both"},
		{"each bit has to be served, not any", chat | rerank, "all both"},
		{"a bit nobody was given by name", 1 << 63, "all"},
	} {
		got := p.Serving(c.s)
		if got == nil || names(got.Backends()) != c.want || got.Label != p.Label {
			t.Errorf("%s: %+v, want %s", c.what, got, c.want)
		}
		if again := p.Serving(c.s); again != got {
			t.Errorf("%s: a second pool, with a rotation of its own, the second time", c.what)
		}
	}
	if p.Serving(0) != p {
		t.Error("what all serve has a pool beside the pool")
	}
	if p.Serving(audio) != p.Serving(audio|1<<40) {
		t.Error("two sets of surfaces that the same backends serve have two pools")
	}
	if got := p.Serving(chat).Serving(rerank); names(got.Backends()) != "all both" {
		t.Errorf("a part of a part: %s", names(got.Backends()))
	}
}

func TestServingByNobodyIsNil(t *testing.T) {
	p := mustResolve(t, mustBuild(t, servingConfig("a", chat, "b", chat|rerank), nil), "m")
	for range 2 {
		for _, s := range []Surfaces{audio, chat | audio} {
			if got := p.Serving(s); got != nil {
				t.Errorf("nobody serves %b, yet %s", s, names(got.Backends()))
			}
		}
	}
}

// Requests for one model must not send the turns of another's out of step, and
// must not be counted under its name.
func TestPartsOfPoolsWithTheSameMembersShareTheRotation(t *testing.T) {
	table := mustBuild(t, servingConfig("a m n", chat, "b m n", chat, "c m n", rerank), nil)
	m, n := mustResolve(t, table, "m").Serving(chat), mustResolve(t, table, "n").Serving(chat)
	if m.Label != "m" || n.Label != "n" || m == n {
		t.Fatalf("the labels are %q and %q", m.Label, n.Label)
	}
	for range 10 {
		if first, second := mustPick(t, m, noon, ""), mustPick(t, n, noon, ""); first == second {
			t.Fatal("two models in turn were sent to the same backend")
		}
	}
}

func TestAPartSeesWhoIsDownAndWhoFails(t *testing.T) {
	p := mustResolve(t, mustBuild(t, servingConfig("a", chat, "b", chat, "c", rerank), nil), "m").Serving(chat)
	p.Backends()[0].SetHealthy(false)
	if got := picks(t, p, noon, "", 10); got["b"] != 10 {
		t.Errorf("with a unhealthy: %v", got)
	}
	var tried Tried
	first, _ := p.Pick(noon, "", &tried)
	p.Backends()[0].SetHealthy(true)
	if next, _, _ := p.Next(noon, "", first, "m", &tried); next.Name != "a" {
		t.Errorf("after b, %s", next.Name)
	}
}

func TestServingMadeOnceUnderConcurrency(t *testing.T) {
	p := mustResolve(t, mustBuild(t, servingConfig("a", chat, "b", chat|rerank, "c", rerank), nil), "m")
	got := make([][3]*Pool, 8)
	var wg sync.WaitGroup
	for w := range got {
		wg.Go(func() {
			for i, s := range []Surfaces{chat, rerank, chat | rerank} {
				got[w][i] = p.Serving(s)
				got[w][i].Pick(noon, "", nil)
			}
		})
	}
	wg.Wait()
	for _, g := range got {
		if g != got[0] {
			t.Fatal("requests at the same time got pools of their own")
		}
	}
}

func TestEverything(t *testing.T) {
	for _, c := range []struct {
		what, want string
		config     TableConfig
	}{
		{"each serves its own model", "a b c", TableConfig{Backends: backends("a x", "b y*", "c z")}},
		{"one serves any", "a b", TableConfig{Backends: backends("a", "b y")}},
		{"a single one", "a", TableConfig{Backends: backends("a x")}},
	} {
		p := mustBuild(t, c.config, nil).Everything()
		if p.Label != "*" || names(p.Backends()) != c.want {
			t.Errorf("%s: %s %s", c.what, p.Label, names(p.Backends()))
		}
		picks(t, p, noon, "", 3)
	}
	table := mustBuild(t, TableConfig{Backends: backends("a x", "b y")}, nil)
	if _, ok := table.Resolve(""); ok {
		t.Error("the pool of everything answers for a request that names no model")
	}
	any := mustBuild(t, TableConfig{Backends: backends("a", "b")}, nil)
	if any.Everything() != mustResolve(t, any, "m") {
		t.Error("two pools for the same, each with a retry budget")
	}
}

func TestOfFindsTheHomeAfterAReload(t *testing.T) {
	first := mustBuild(t, TableConfig{Backends: backends("a", "b", "c")}, nil)
	home := first.Backends()[1].State
	second := mustBuild(t, TableConfig{Backends: backends("new", "c", "b")}, first)
	if b := second.Of(home); b == nil || b.Name != "b" || b != second.Backends()[2] {
		t.Errorf("the home of b's responses is %+v", b)
	}
	third := mustBuild(t, TableConfig{Backends: backends("new", "c")}, second)
	if b := third.Of(home); b != nil {
		t.Errorf("b is gone, its responses live at %s", b.Name)
	}
	if b := third.Of(nil); b != nil {
		t.Errorf("no home is %s", b.Name)
	}
}

// drained is a table of "name" or, to drain, "name!".
func drained(t *testing.T, s Strategy, old *Table, specs ...string) *Table {
	t.Helper()
	c := TableConfig{Strategy: s}
	for _, spec := range specs {
		drains := spec[len(spec)-1] == '!'
		if drains {
			spec = spec[:len(spec)-1]
		}
		b := backend(spec)
		b.Draining = drains
		c.Backends = append(c.Backends, b)
	}
	return mustBuild(t, c, old)
}

func TestDrainingGetsNothing(t *testing.T) {
	for _, c := range []struct {
		what, specs, want string
		prepare           func(b []*Backend)
	}{
		{"others take over", "a! b c", "b c", nil},
		{"none but it healthy: the others all the same", "a! b c", "b c", func(b []*Backend) {
			b[1].SetHealthy(false)
			b[2].SetHealthy(false)
		}},
		{"it is not in the half that must stay", "a! b c", "c", func(b []*Backend) { b[1].Failed(FailDial, noon) }},
		{"its health lifts no ejection limit", "a! b! c d e", "c d e", func(b []*Backend) {
			b[2].Failed(FailDial, noon)
			b[3].Failed(FailDial, noon)
		}},
		{"ejected as well, its probe is not sent", "a! b c", "b c", func(b []*Backend) { b[0].Failed(FailDial, noon.Add(-time.Hour)) }},
		{"the others busy", "a! b", "b", func(b []*Backend) { b[1].Busy(noon.Add(time.Second)) }},
	} {
		for _, s := range []Strategy{RoundRobin, LeastConnections, Latency} {
			p := mustResolve(t, drained(t, s, nil, strings.Fields(c.specs)...), "m")
			if c.prepare != nil {
				c.prepare(p.Backends())
			}
			if got := who(picks(t, p, noon, "", 100)); got != c.want {
				t.Errorf("%s (%v): picked %q, want %q", c.what, s, got, c.want)
			}
			if len(p.Backends()) != len(strings.Fields(c.specs)) {
				t.Errorf("%s: it is no member any more: %s", c.what, names(p.Backends()))
			}
		}
	}
}

func TestNextNeverGoesToADrainingBackend(t *testing.T) {
	c := TableConfig{
		Backends: backends("a", "b", "c"),
		Fallback: []FallbackConfig{{Primary: url("a"), Fallback: []string{url("b"), url("c")}}},
	}
	c.Backends[1].Draining = true
	p := mustResolve(t, mustBuild(t, c, nil), "m")
	p.Backends()[1].Failed(FailDial, noon)
	if got := attempts(t, p, "a", "m", 3); got != "a c a! c!" {
		t.Errorf("attempts: %s", got)
	}
}

func TestAModelOfDrainingBackendsOnlyIsKnownButHasNone(t *testing.T) {
	table := drained(t, LeastConnections, nil, "a@x m!", "b@x m!", "c n")
	p := mustResolve(t, table, "m")
	for _, region := range []string{"", "x"} {
		if b, err := p.Pick(noon, region, new(Tried)); err != None {
			t.Errorf("region %q: picked %v, %v", region, b, err)
		}
	}
	a := table.Backends()[0]
	var tried Tried
	tried.Add(a)
	if b, _, err := p.Next(noon, "", a, "m", &tried); err != None {
		t.Errorf("after it failed: %v, %v", b, err)
	}
	if !a.Usable() || !a.Enter() {
		t.Error("a response that lives there is lost before the backend is")
	}
	a.Leave()
}

// Drain by reload: what runs is still counted, nothing new comes, and when the
// drain is called off the backend is as before.
func TestDrainByReloadAndBack(t *testing.T) {
	before := drained(t, LeastConnections, nil, "a", "b")
	before.Backends()[0].Enter()
	during := drained(t, LeastConnections, before, "a!", "b")
	if got := picks(t, mustResolve(t, during, "m"), noon, "", 20)["a"]; got != 0 {
		t.Errorf("%d requests to a draining backend", got)
	}
	if during.Backends()[0].InFlight() != 1 {
		t.Error("the stream that runs there is forgotten")
	}
	before.Backends()[0].Leave()
	after := drained(t, LeastConnections, during, "a", "b")
	if got := picks(t, mustResolve(t, after, "m"), noon, "", 20)["a"]; got != 10 {
		t.Errorf("back in use, it got %d of 20", got)
	}
}

func TestUsable(t *testing.T) {
	for _, c := range []struct {
		what    string
		prepare func(b *Backend)
		want    bool
	}{
		{"nothing known", func(*Backend) {}, true},
		{"found unhealthy", func(b *Backend) { b.SetHealthy(false) }, false},
		{"ejected", func(b *Backend) { b.Failed(FailDial, noon) }, false},
		{"ejected, and the time is over: still nobody knows", func(b *Backend) { b.Failed(FailDial, noon.Add(-time.Hour)) }, false},
		{"an answer ends the ejection but not the verdict of the checks", func(b *Backend) {
			b.SetHealthy(false)
			b.Failed(FailDial, noon.Add(-time.Hour))
			b.Succeeded(noon)
		}, false},
		{"busy is not lost", func(b *Backend) { b.Busy(noon.Add(time.Hour)) }, true},
		{"back", func(b *Backend) { b.SetHealthy(false); b.SetHealthy(true) }, true},
	} {
		b := poolOf(t, RoundRobin, "a").Backends()[0]
		if c.prepare(b); b.Usable() != c.want {
			t.Errorf("%s: usable %t", c.what, b.Usable())
		}
	}
}
