package route

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// noon is when every test with its own clock begins.
var noon = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func mustBuild(t testing.TB, c TableConfig, old *Table) *Table {
	t.Helper()
	table, err := Build(c, old)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// backend reads "name", "name*weight", "name@region" or "name*weight@region",
// and after a space the models.
func backend(spec string) BackendConfig {
	words := strings.Fields(spec)
	name, region, _ := strings.Cut(words[0], "@")
	name, weight, _ := strings.Cut(name, "*")
	b := BackendConfig{Name: name, URL: "http://" + name + ":8000", Region: region, Models: words[1:]}
	fmt.Sscan(weight, &b.Weight)
	return b
}

func backends(specs ...string) (list []BackendConfig) {
	for _, spec := range specs {
		list = append(list, backend(spec))
	}
	return list
}

func mustResolve(t testing.TB, table *Table, model string) *Pool {
	t.Helper()
	r, ok := table.Resolve(model)
	if !ok {
		t.Fatalf("Resolve(%q): reason %d", model, r.Reason)
	}
	return r.Pool
}

// poolOf is a table of its own whose backends serve any model.
func poolOf(t testing.TB, s Strategy, specs ...string) *Pool {
	t.Helper()
	return mustResolve(t, mustBuild(t, TableConfig{Backends: backends(specs...), Strategy: s}, nil), "m")
}

func names(list []*Backend) string {
	var s []string
	for _, b := range list {
		s = append(s, b.Name)
	}
	return strings.Join(s, " ")
}

// mustPick picks for a request of its own.
func mustPick(t testing.TB, p *Pool, now time.Time, region string) *Backend {
	t.Helper()
	b, err := p.Pick(now, region, new(Tried))
	if err != Picked {
		t.Fatalf("Pick: %v", err)
	}
	return b
}

// picks tells who got n requests, one after the other, each over at once.
func picks(t testing.TB, p *Pool, now time.Time, region string, n int) map[string]int {
	t.Helper()
	got := map[string]int{}
	for range n {
		b := mustPick(t, p, now, region)
		got[b.Name]++
		b.Leave()
	}
	return got
}

// who lists the names in a count of picks.
func who(got map[string]int) string {
	return strings.Join(slices.Sorted(maps.Keys(got)), " ")
}

func TestParseStrategy(t *testing.T) {
	for _, s := range []Strategy{RoundRobin, LeastConnections, Latency} {
		if got, err := ParseStrategy(s.String()); got != s || err != nil {
			t.Errorf("ParseStrategy(%q) = %v, %v", s, got, err)
		}
	}
	if _, err := ParseStrategy("random"); err == nil || !strings.Contains(err.Error(), "least_connections") {
		t.Errorf("an unknown strategy must be refused with the known ones, got %v", err)
	}
}

func TestStringsOfUnknownValues(t *testing.T) {
	if got := Strategy(7).String(); got != "Strategy(7)" {
		t.Error(got)
	}
	if got := fmt.Sprint(Picked, Full, None); got != "picked full none" {
		t.Error(got)
	}
}

func TestTriedRemembersMoreThanFitInline(t *testing.T) {
	var tried Tried
	var list []*Backend
	for i := range 20 {
		list = append(list, &Backend{Index: i * 100})
	}
	for i, b := range list {
		if tried.Has(b) {
			t.Fatalf("backend %d is in the set before it was added", i)
		}
		tried.Add(b)
		tried.Add(b)
		if tried.Len() != i+1 {
			t.Fatalf("Len after %d backends = %d", i+1, tried.Len())
		}
	}
	if i := slices.IndexFunc(list, func(b *Backend) bool { return !tried.Has(b) }); i >= 0 {
		t.Fatalf("backend %d was forgotten", i)
	}
	tried.Reset()
	if i := slices.IndexFunc(list, tried.Has); i >= 0 || tried.Len() != 0 {
		t.Fatalf("backend %d is in the set after Reset", i)
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"", "", true},
		{"", "a", false},
		{"*", "", true},
		{"*", "meta-llama/Llama-3.1-8B", true},
		{"llama*", "llama", true},
		{"llama*", "llam", false},
		{"llama*", "Llama", false},
		{"*llama", "codellama", true},
		{"*llama", "llama-3", false},
		{"a*b*c", "aXbXbYc", true},
		{"a*b*c", "aXcXb", false},
		{"a**c", "ac", true},
		{"a?c", "abc", true},
		{"a?c", "ac", false},
		{"a?c", "abbc", false},
		{"a?c", "a世c", true},
		{"a*?", "a", false},
		{"*?世", "世世", true},
		{"a.c", "abc", false},
		{"[ab]", "a", false},
		{"[ab]*", "[ab]c", true},
		{"*a*a*a*a*b", strings.Repeat("a", 2000), false},
	} {
		if got := match(c.pattern, c.name); got != c.want {
			t.Errorf("match(%q, %.40q) = %t", c.pattern, c.name, got)
		}
	}
}
