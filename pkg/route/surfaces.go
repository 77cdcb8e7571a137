package route

import "slices"

// Surfaces is a set of API surfaces, one bit each. What a bit means is up to
// the caller.
type Surfaces uint64

// surfaces is what the backend serves, everything written out.
func (b *Backend) surfaces() Surfaces {
	if b.Surfaces == 0 {
		return ^Surfaces(0)
	}
	return b.Surfaces
}

// part is what Serving answered for one set of surfaces.
type part struct {
	surfaces Surfaces
	pool     *Pool
}

// Serving is the pool of those backends of p that serve all of s, draining ones
// included: p itself when all do, nil when none does. Otherwise it has the Label of p and a retry budget
// of its own, and is the same each time. One is remembered for each s ever asked
// for, so s must come from code and not from clients.
func (p *Pool) Serving(s Surfaces) *Pool {
	if s&^p.common == 0 {
		return p
	}
	if known := p.parts.Load(); known != nil {
		for i := range *known {
			if (*known)[i].surfaces == s {
				return (*known)[i].pool
			}
		}
	}
	return p.addPart(s)
}

func (p *Pool) addPart(s Surfaces) *Pool {
	p.partsMu.Lock()
	defer p.partsMu.Unlock()
	var known []part
	if list := p.parts.Load(); list != nil {
		known = *list
	}
	for _, k := range known {
		if k.surfaces == s {
			return k.pool // another request was faster
		}
	}
	fresh := part{surfaces: s}
	if g := p.serving(s); g != nil {
		fresh.pool = &Pool{Label: p.Label, literals: p.literals, group: g}
		for _, k := range known {
			if k.pool != nil && k.pool.group == g {
				fresh.pool = k.pool
			}
		}
	}
	known = append(slices.Clip(known), fresh)
	p.parts.Store(&known)
	return fresh.pool
}

// serving is the group of the members that serve s, which pools of this group
// share; nil when there are none. The caller holds partsMu.
func (g *group) serving(s Surfaces) *group {
	var members []*Backend
	for _, b := range g.backends {
		if s&^b.surfaces() == 0 {
			members = append(members, b)
		}
	}
	if members == nil {
		return nil
	}
	key := memberKey(members)
	if g.parts[key] == nil {
		g.parts[key] = g.table.newGroup(members)
	}
	return g.parts[key]
}
