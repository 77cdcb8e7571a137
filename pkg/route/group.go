package route

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// group is a set of backends that share one rotation, and who of them is in use
// at the moment. Pools with the same members share a group.
type group struct {
	backends []*Backend // in the order of the table
	strategy Strategy
	table    *Table
	flips    *atomic.Uint64  // of table
	orders   map[int][]order // fallback, by Index of the primary
	common   Surfaces        // what every backend serves

	now atomic.Pointer[view]
	mu  sync.Mutex // one rebuild of now at a time

	partsMu sync.Mutex
	parts   map[string]*group // of Serving, by members
}

// order is one fallback entry, its backends reduced to members of the group.
type order struct {
	models []string
	then   []*Backend
}

func (o *order) holds(model string) bool {
	return len(o.models) == 0 || slices.ContainsFunc(o.models, func(glob string) bool { return match(glob, model) })
}

func (t *Table) newGroup(members []*Backend) *group {
	g := &group{
		backends: members, strategy: t.strategy, table: t, flips: t.flips,
		orders: map[int][]order{}, parts: map[string]*group{}, common: ^Surfaces(0),
	}
	byURL := map[string]*Backend{}
	for _, b := range members {
		byURL[b.URL] = b
		g.common &= b.surfaces()
	}
	for _, f := range t.fallback {
		primary := byURL[f.Primary]
		if primary == nil {
			continue
		}
		o := order{models: f.Models}
		for _, url := range f.Fallback {
			if b := byURL[url]; b != nil {
				o.then = append(o.then, b)
			}
		}
		g.orders[primary.Index] = append(g.orders[primary.Index], o)
	}
	// A flip behind, for the first pick to renew it: only a pick tells the time,
	// which backends that came back are waiting for.
	flips := t.flips.Load() - 1
	g.now.Store(&view{flips: flips, roster: newRoster(members, g.roles(), t.seed)})
	return g
}

// current is the view for one pick: brought up to date first when any backend
// flipped since, unless another request is at it.
func (g *group) current(now time.Time) *view {
	v := g.now.Load()
	if v.flips == g.flips.Load() || !g.mu.TryLock() {
		return v
	}
	defer g.mu.Unlock()
	// Read before the states are: a flip after this makes the view stale again.
	flips := g.flips.Load()
	roles, roster := g.roles(), g.now.Load().roster
	if !slices.Equal(roles, roster.roles) {
		roster = newRoster(g.backends, roles, roster.all.cursor.Load())
	}
	v = &view{flips: flips, roster: roster, ramps: g.rampsUntil(now.UnixNano())}
	g.now.Store(v)
	return v
}

// role is what a backend does in a group at the moment.
type role byte

const (
	out      role = iota // unhealthy
	draining             // by configuration or by SetDrain
	resting              // ejected: gets a probe when its time is over
	spared               // ejected, but the pool cannot do without: in use, after the others
	inUse
)

// roles gives each backend its role. Ejection never takes more than half of the
// healthy backends, so never the only one: beyond that it is void and all of
// them are in use. With no healthy backend at all, every one is in use. Those
// that drain are not among the backends any of this is about.
func (g *group) roles() []role {
	roles := make([]role, len(g.backends))
	healthy, ejected := 0, 0
	for i, b := range g.backends {
		switch {
		case b.Drained():
			roles[i] = draining
			continue
		case !b.Healthy():
			continue
		case b.Ejected():
			roles[i] = resting
			ejected++
		default:
			roles[i] = inUse
		}
		healthy++
	}
	for i := range roles {
		switch {
		case roles[i] == draining:
		case healthy == 0:
			roles[i] = inUse
		case 2*ejected > healthy && roles[i] == resting:
			roles[i] = spared
		}
	}
	return roles
}

// view is a roster and the count of flips it is true for.
type view struct {
	flips uint64
	ramps int64 // until when a backend is in slow start, Unix ns; 0: none is
	*roster
}

// roster is who of a group is in use: all of them, and those in each region.
type roster struct {
	roles  []role
	spared []*Backend // while others are sound
	turn   atomic.Uint64
	all    tier
	near   map[string]*tier
}

func newRoster(members []*Backend, roles []role, start uint64) *roster {
	r := &roster{roles: roles, near: map[string]*tier{}}
	if slices.Contains(roles, inUse) {
		for i, b := range members {
			if roles[i] == spared {
				r.spared = append(r.spared, b)
			}
		}
	}
	r.all.fill(members, roles, start, func(*Backend) bool { return true })
	for _, b := range members {
		if b.Region != "" && r.near[b.Region] == nil {
			t := &tier{}
			t.fill(members, roles, start, func(m *Backend) bool { return m.Region == b.Region })
			r.near[b.Region] = t
		}
	}
	return r
}

// pick tries the region before all, and all who are not busy before those who
// are.
func (r *roster) pick(q *query, region string) (*Backend, PickErr) {
	full := false
	for _, busy := range [...]bool{false, true} {
		q.busy = busy
		for _, t := range [...]*tier{r.near[region], &r.all} {
			if t == nil {
				continue
			}
			b, blocked := t.pick(q)
			if b != nil {
				q.tried.Add(b)
				return b, Picked
			}
			full = full || blocked
		}
	}
	if full {
		return nil, Full
	}
	return nil, None
}

// sparedShare is how many first attempts come to one that a spared backend
// gets. They fail quickly and so look idle: given their full share they would
// fail most requests once, and use up the retry budget.
const sparedShare = 8

// pickSpared enters a spared backend when it is time for one, each in turn, so
// that those that have recovered come back.
func (r *roster) pickSpared(q *query, region string) *Backend {
	turn := r.turn.Add(1)
	if turn%sparedShare != 0 {
		return nil
	}
	b := r.spared[turn/sparedShare%uint64(len(r.spared))]
	if (region != "" && b.Region != region) || !q.usable(b) || !b.Enter() {
		return nil
	}
	q.tried.Add(b)
	return b
}

// pickResting enters an ejected backend that this request has not tried,
// whether its time is over or not.
func (r *roster) pickResting(q *query) *Backend {
	for _, b := range r.all.resting {
		if q.usable(b) && b.Enter() {
			q.tried.Add(b)
			return b
		}
	}
	return nil
}

// uses reports whether b is in use.
func (r *roster) uses(b *Backend) bool { return slices.Contains(r.all.backends, b) }
