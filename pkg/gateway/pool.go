package gateway

import (
	"sync/atomic"

	"github.com/llmproxy/llmproxy/pkg/route"
	"github.com/llmproxy/llmproxy/pkg/stats"
)

// poolInfo is what a view knows of a pool.
type poolInfo struct {
	label      string
	backends   int    // of the view
	engine     string // of all its backends, "" when they differ
	continuous bool   // all of them can tell the usage in every chunk

	series atomic.Pointer[stats.Table]
}

// maxPools bounds the pools remembered: which models match which globs at once
// is up to clients, and beyond route's own bound each such request has a pool
// to itself.
const maxPools = 4096

// about returns what there is to know of a pool, found when it is first asked for.
func (v *View) about(p *route.Pool) *poolInfo {
	if i, ok := v.pools.Load(p); ok {
		return i.(*poolInfo)
	}
	fresh := &poolInfo{label: p.Label, backends: len(v.Table.Backends()), continuous: true}
	for i, b := range p.Backends() {
		u := v.Forwarder.Upstreams[b.Index]
		if fresh.continuous = fresh.continuous && u.Continuous; i == 0 {
			fresh.engine = u.Engine
		} else if fresh.engine != u.Engine {
			fresh.engine = ""
		}
	}
	if v.npools.Load() >= maxPools {
		return fresh
	}
	i, known := v.pools.LoadOrStore(p, fresh)
	if !known {
		v.npools.Add(1)
	}
	return i.(*poolInfo)
}

// table returns the series of the pool, which are found by name when they are
// first asked for.
func (i *poolInfo) table(set *stats.Set) *stats.Table {
	t := i.series.Load()
	if t == nil {
		t = set.Table(i.label, i.backends)
		if !i.series.CompareAndSwap(nil, t) {
			t = i.series.Load()
		}
	}
	return t
}
