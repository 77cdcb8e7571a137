package gateway

import (
	"sync/atomic"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/route"
	"github.com/llmproxy/llmproxy/pkg/stats"
	"github.com/llmproxy/llmproxy/pkg/usage"
)

// poolInfo is what a view knows of a pool.
type poolInfo struct {
	label      string
	backends   int  // of the view
	continuous bool // all of them are to tell the usage in every chunk
	// How they speak of usage, OpenAI's way when they differ.
	chat, completions usage.Style

	series  atomic.Pointer[stats.Table]
	prompts atomic.Pointer[admit.Model]
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
		fresh.continuous = fresh.continuous && u.Continuous
		for kind, style := range map[usage.Kind]*usage.Style{usage.KindChat: &fresh.chat, usage.KindCompletions: &fresh.completions} {
			if s := usage.StyleOf(u.Engine, kind); i == 0 {
				*style = s
			} else if *style != s {
				*style = usage.StyleOf("", kind)
			}
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

// model returns what is learnt of the prompts of the pool's model.
func (i *poolInfo) model(g *admit.Gate) *admit.Model {
	m := i.prompts.Load()
	if m == nil {
		m = g.Model(i.label)
		i.prompts.Store(m)
	}
	return m
}
