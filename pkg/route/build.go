package route

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
)

// Build makes a Table. The State of a backend that old holds under the same
// Name and URL is carried over; old may be nil.
func Build(c TableConfig, old *Table) (*Table, error) {
	t := &Table{
		strategy: c.Strategy, seed: c.Seed, fallback: c.Fallback, slow: c.SlowStart, flips: new(atomic.Uint64),
		exact: map[string]Resolved{}, globs: map[string][]*glob{},
	}
	t.joins.Store(&map[join]*Pool{})
	var carried []*Backend
	if old != nil {
		carried, t.flips = old.backends, old.flips
	}
	if err := t.addBackends(c.Backends, carried); err != nil {
		return nil, err
	}
	b := builder{t: t, named: map[string][]*Backend{}, groups: map[string]*group{}}
	if err := b.addPatterns(); err != nil {
		return nil, err
	}
	b.addPools(c.Mapping)
	if err := b.addMapping(c.Mapping); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *Table) addBackends(configs []BackendConfig, carried []*Backend) error {
	if len(configs) == 0 {
		return errors.New("cannot route without backends")
	}
	type identity struct{ name, url string }
	states := map[identity]*State{}
	for _, b := range carried {
		states[identity{b.Name, b.URL}] = b.State
	}
	seen := map[identity]bool{}
	for i, config := range configs {
		id := identity{config.Name, config.URL}
		if seen[id] {
			return fmt.Errorf("cannot route to backend %q (%s) twice", config.Name, config.URL)
		}
		seen[id] = true
		if config.Weight < 0 {
			return fmt.Errorf("cannot give backend %q the weight %d", config.Name, config.Weight)
		}
		config.Weight = max(config.Weight, 1)
		state := states[id]
		if state == nil {
			state = &State{flips: t.flips}
		}
		t.backends = append(t.backends, &Backend{BackendConfig: config, Index: i, State: state})
	}
	return nil
}

// builder holds what only Build needs.
type builder struct {
	t      *Table
	named  map[string][]*Backend // by exact model name
	any    []*Backend            // serve any model
	groups map[string]*group     // by members: pools of the same backends share one rotation
	pools  []*Pool
}

// addPatterns sorts what the backends serve into exact names, globs and any.
func (b *builder) addPatterns() error {
	globs := map[string]*glob{}
	for _, backend := range b.t.backends {
		if len(backend.Models) == 0 {
			b.any = append(b.any, backend)
		}
		for _, model := range backend.Models {
			switch {
			case model == "":
				return fmt.Errorf("cannot let backend %q serve a model without a name", backend.Name)
			case !isGlob(model):
				b.named[model] = union(b.named[model], []*Backend{backend})
			default:
				g := globs[model]
				if g == nil {
					g = newGlob(model)
					globs[model] = g
					b.t.globs[g.prefix()] = append(b.t.globs[g.prefix()], g)
				}
				g.members = union(g.members, []*Backend{backend})
			}
		}
	}
	b.t.names = slices.Collect(maps.Keys(b.named))
	for prefix := range b.t.globs {
		b.t.lengths = append(b.t.lengths, len(prefix))
	}
	slices.Sort(b.t.lengths)
	b.t.lengths = slices.Compact(b.t.lengths)
	return nil
}

// addPools makes the pools of any model, of each glob and of each exact name,
// those a mapping leads to included.
func (b *builder) addPools(mapping map[string]string) {
	t := b.t
	if b.any != nil {
		t.any = b.pool("*", 0, b.any)
	}
	for _, globs := range t.globs {
		for _, g := range globs {
			g.pool = b.pool(g.text, g.literals, union(b.any, g.members))
		}
	}
	for _, to := range mapping {
		b.named[to] = union(b.named[to], nil)
	}
	for name, members := range b.named {
		members = union(members, b.any)
		for g := range t.matches(name) {
			members = union(members, g.members)
		}
		if len(members) > 0 {
			t.exact[name] = Resolved{Pool: b.pool(name, len(name), members)}
		}
	}
	switch {
	case len(b.pools) == 1:
		t.only = b.pools[0]
	case len(b.groups) == 1:
		t.only = &Pool{Label: "*", group: b.pools[0].group}
	}
	if t.all = t.any; len(b.any) < len(t.backends) {
		t.all = b.pool("*", 0, t.backends)
	}
}

func (b *builder) pool(label string, literals int, members []*Backend) *Pool {
	key := memberKey(members)
	if b.groups[key] == nil {
		b.groups[key] = b.t.newGroup(members)
	}
	pool := &Pool{Label: label, literals: literals, group: b.groups[key]}
	b.pools = append(b.pools, pool)
	return pool
}

// memberKey is the same for the same members.
func memberKey(members []*Backend) string {
	key := make([]byte, 0, 4*len(members))
	for _, m := range members {
		key = fmt.Appendf(key, "%d ", m.Index)
	}
	return string(key)
}

// addMapping comes last: a name that is mapped hides a backend's own of that
// name, but not from other mappings that lead to it.
func (b *builder) addMapping(mapping map[string]string) error {
	mapped := map[string]Resolved{}
	for from, to := range mapping {
		r, ok := b.t.exact[to]
		if !ok {
			return fmt.Errorf("cannot map model %q to %q: no backend serves it", from, to)
		}
		if from != to {
			r.Model = to
		}
		mapped[from] = r
	}
	maps.Copy(b.t.exact, mapped)
	b.t.names = append(b.t.names, slices.Collect(maps.Keys(mapping))...)
	slices.Sort(b.t.names)
	b.t.names = slices.Compact(b.t.names)
	return nil
}

// union merges two sets of backends, in the order of the table.
func union(a, b []*Backend) []*Backend {
	all := slices.Concat(a, b)
	slices.SortFunc(all, func(x, y *Backend) int { return x.Index - y.Index })
	return slices.Compact(all)
}
