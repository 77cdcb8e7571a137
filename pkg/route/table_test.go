package route

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestResolve(t *testing.T) {
	table := mustBuild(t, TableConfig{
		Backends: backends(
			"l1 llama-3-70b*", "l2 llama-3-70b* *-chat", "l3 llama-?-8b", "q1 qwen exact-a", "q2 qwen*", "m1 mid a-name", "s1 self-x second"),
		Mapping: map[string]string{
			"llama":  "llama-3-70b-instruct",
			"qwen":   "qwen-72b-chat", // hides q1's own name
			"first":  "second",        // is not mapped on
			"second": "mid",
			"self":   "self-x",
			"mid":    "mid",
		},
	}, nil)
	for _, c := range []struct{ what, model, upstream, label, pool string }{
		{"a glob", "llama-3-70b", "", "llama-3-70b*", "l1 l2"},
		{"a glob with ?", "llama-3-8b", "", "llama-?-8b", "l3"},
		{"? is not nothing", "llama--8b", "", "", ""},
		{"two globs join and the more specific one is the label", "llama-3-70b-chat", "", "llama-3-70b*", "l1 l2"},
		{"a glob and another's glob", "qwen-9-chat", "", "*-chat", "l2 q2"},
		{"an exact name", "exact-a", "", "exact-a", "q1"},
		{"a mapped name is upstream's and its label too", "llama", "llama-3-70b-instruct", "llama-3-70b-instruct", "l1 l2"},
		{"what it is mapped to, used directly", "llama-3-70b-instruct", "", "llama-3-70b-instruct", "l1 l2"},
		{"a mapping hides an exact name", "qwen", "qwen-72b-chat", "qwen-72b-chat", "l2 q2"},
		{"a mapping applies once", "first", "second", "second", "s1"},
		{"a mapped value that is a key is mapped when used directly", "second", "mid", "mid", "m1"},
		{"a mapping to itself leaves the body alone", "mid", "", "mid", "m1"},
		{"unknown", "gpt-4", "", "", ""},
		{"case matters", "LLAMA-3-70B", "", "", ""},
		{"a prefix is no match", "exact-ab", "", "", ""},
		{"absurdly long names are not matched", "llama-3-70b" + strings.Repeat("x", maxModel), "", "", ""},
	} {
		r, ok := table.Resolve(c.model)
		if c.pool == "" {
			if ok || r.Reason != Unknown || r.Pool != nil {
				t.Errorf("%s: Resolve(%.30q) = %+v, %t; want Unknown", c.what, c.model, r, ok)
			}
			continue
		}
		if !ok || r.Reason != Found {
			t.Errorf("%s: Resolve(%q): reason %d", c.what, c.model, r.Reason)
			continue
		}
		if r.Model != c.upstream || r.Pool.Label != c.label || names(r.Pool.Backends()) != c.pool {
			t.Errorf("%s: Resolve(%q) = model %q label %q pool %q; want %q %q %q", c.what, c.model,
				r.Model, r.Pool.Label, names(r.Pool.Backends()), c.upstream, c.label, c.pool)
		}
	}
	want := "a-name exact-a first llama mid qwen second self self-x"
	if got := strings.Join(table.Names(), " "); got != want {
		t.Errorf("Names() = %s; want %s", got, want)
	}
}

func TestBackendsForAnyModelJoinEveryPool(t *testing.T) {
	table := mustBuild(t, TableConfig{
		Backends: backends("any1", "l1 llama*", "x1 exact", "any2"),
		Mapping:  map[string]string{"alias": "whatever"},
	}, nil)
	for model, want := range map[string]string{
		"gpt-4":   "* any1 any2",
		"llama-3": "llama* any1 l1 any2",
		"exact":   "exact any1 x1 any2",
		"alias":   "whatever any1 any2",
	} {
		p := mustResolve(t, table, model)
		if got := p.Label + " " + names(p.Backends()); got != want {
			t.Errorf("Resolve(%q) = %s; want %s", model, got, want)
		}
	}
}

func TestResolveWithoutModel(t *testing.T) {
	for _, c := range []struct {
		what   string
		config TableConfig
		want   string // label and backends; "" for none
	}{
		{"any model", TableConfig{Backends: backends("a", "b")}, "* a b"},
		{"any model, with aliases", TableConfig{Backends: backends("a", "b"), Mapping: map[string]string{"x": "y"}}, "* a b"},
		{"one name", TableConfig{Backends: backends("a m", "b m")}, "m a b"},
		{"one glob", TableConfig{Backends: backends("a m*", "b m*")}, "m* a b"},
		{"two names on the same backends are one pool", TableConfig{Backends: backends("a m n", "b m n")}, "* a b"},
		{"two models", TableConfig{Backends: backends("a m", "b n")}, ""},
		{"some serve any, one serves more", TableConfig{Backends: backends("a", "b n")}, ""},
		{"globs that overlap", TableConfig{Backends: backends("a m*", "b *n")}, ""},
	} {
		r, ok := mustBuild(t, c.config, nil).Resolve("")
		switch {
		case c.want == "":
			if ok || r.Reason != NoModel {
				t.Errorf("%s: %+v, %t; want NoModel", c.what, r, ok)
			}
		case !ok:
			t.Errorf("%s: reason %d", c.what, r.Reason)
		default:
			if got := r.Pool.Label + " " + names(r.Pool.Backends()); got != c.want || r.Model != "" {
				t.Errorf("%s: %s, model %q; want %s", c.what, got, r.Model, c.want)
			}
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, c := range []struct {
		config TableConfig
		want   string
	}{
		{TableConfig{}, "without backends"},
		{TableConfig{Backends: backends("a", "a")}, "twice"},
		{TableConfig{Backends: []BackendConfig{{Name: "a", Weight: -1}}}, "weight -1"},
		{TableConfig{Backends: []BackendConfig{{Name: "a", Models: []string{""}}}}, "without a name"},
		{TableConfig{Backends: backends("a m"), Mapping: map[string]string{"x": "y"}}, `cannot map model "x" to "y"`},
	} {
		if _, err := Build(c.config, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Build: %v; want an error with %q", err, c.want)
		}
	}
}

func TestReloadCarriesStateByNameAndURL(t *testing.T) {
	first := mustBuild(t, TableConfig{Backends: backends("a", "b", "c")}, nil)
	for _, b := range first.Backends() {
		b.Enter()
	}
	moved := backend("b")
	moved.URL = "http://elsewhere:8000"
	second := mustBuild(t, TableConfig{Backends: append(backends("new", "a*7"), moved)}, first)
	for i, want := range []int64{0, 1, 0} {
		if got := second.Backends()[i].InFlight(); got != want {
			t.Errorf("backend %d has %d in flight after the reload, want %d", i, got, want)
		}
	}
	first.Backends()[0].Leave()
	if got := second.Backends()[1].InFlight(); got != 0 {
		t.Errorf("a request of the old table left, the new one still counts %d", got)
	}
	first.Backends()[0].SetHealthy(false)
	if got := picks(t, mustResolve(t, second, "m"), noon, "", 30)["a"]; got != 0 {
		t.Errorf("a flip through the old table did not reach the new pool: %d picks", got)
	}
	second.Backends()[1].SetHealthy(true)
	second.Backends()[0].SetHealthy(false)
	third := mustBuild(t, TableConfig{Backends: backends("a", "new")}, second)
	if got := picks(t, mustResolve(t, third, "m"), noon, "", 30)["new"]; got != 0 {
		t.Errorf("a backend unhealthy before the reload was picked %d times after it", got)
	}
}

// The number of combinations is up to clients, what is remembered of them is not.
func TestJoinedPoolsAreBounded(t *testing.T) {
	var config TableConfig
	for i := range 12 {
		config.Backends = append(config.Backends, backend(fmt.Sprintf("b%d *%c*", i, 'a'+i)))
	}
	table := mustBuild(t, config, nil)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := 1; i < 1<<12; i++ {
				set := (i*7 + worker) % (1 << 12)
				var model []byte
				for bit := range 12 {
					if set>>bit&1 == 1 {
						model = append(model, byte('a'+bit))
					}
				}
				r, ok := table.Resolve(string(model))
				if ok != (set != 0) {
					t.Errorf("Resolve(%s): %t", model, ok)
				} else if ok && len(r.Pool.Backends()) != len(model) {
					t.Errorf("Resolve(%s) = %s", model, names(r.Pool.Backends()))
				}
			}
		})
	}
	wg.Wait()
	if n := len(*table.joins.Load()); n != maxJoins {
		t.Errorf("%d joined pools are remembered, want %d", n, maxJoins)
	}
	r, _ := table.Resolve("ab")
	again, _ := table.Resolve("ab")
	if !slices.Equal(r.Pool.Backends(), again.Pool.Backends()) {
		t.Error("a model's pool changed")
	}
}
