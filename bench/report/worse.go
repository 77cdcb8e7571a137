package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/llmproxy/llmproxy/bench/results"
)

// lag is a figure in which a peer beats us.
type lag struct {
	what, peer string
	ours, its  float64 // medians
	ratio      float64 // how many times worse ours is; 0: the peer's is not above zero
}

// lags returns every figure in which a rival's median beats ours, the worst
// first; what has no ratio comes last.
func lags(r *results.Run) []lag {
	var all []lag
	for _, f := range figures {
		ours, ok := f.median(r, results.Ours)
		if !ok {
			continue
		}
		for _, p := range rivals(r) {
			its, ok := f.median(r, p)
			if !ok || !f.better(its, ours) {
				continue
			}
			l := lag{what: f.title(r), peer: p + failed(r, p, f.measure), ours: ours, its: its}
			switch {
			case f.higher:
				l.ratio = its / ours
			case its > 0:
				l.ratio = ours / its
			}
			all = append(all, l)
		}
	}
	slices.SortStableFunc(all, func(a, b lag) int { return cmp.Compare(b.ratio, a.ratio) })
	return all
}

// worse is the table of lags: one row a figure, with the best of the peers that
// beat us, and the others after it.
func worse(r *results.Run) table {
	t := table{Head: []string{"measure", "ours", "best peer", "ours is worse by", "also better than ours"}}
	rows := map[string]int{}
	for _, l := range lags(r) {
		times := "no ratio"
		switch {
		case math.IsInf(l.ratio, 1):
			times = "∞"
		case l.ratio > 0:
			times = number(l.ratio) + " ×"
		}
		if i, ok := rows[l.what]; ok {
			also := &t.Rows[i][4]
			*also = strings.TrimPrefix(*also+", ", ", ") + fmt.Sprintf("%s %s (%s)", l.peer, number(l.its), times)
			continue
		}
		rows[l.what] = len(t.Rows)
		t.Rows = append(t.Rows, []string{l.what, number(l.ours), l.peer + " " + number(l.its), times, ""})
	}
	return t
}

// title names the figure with its unit, and tells when ours may be the
// generator's and not our own.
func (f figure) title(r *results.Run) string {
	title := f.name
	if f.unit != "" && f.unit != "/s" {
		title += ", " + f.unit
	}
	if f.bound(r, results.Ours) {
		title += " (ours generator-bound)"
	}
	return title
}

// rivals returns the names of the peers that are not ours and not the engine.
func rivals(r *results.Run) []string {
	var names []string
	for _, p := range r.Peers {
		if p.Name != results.Direct && !results.IsOurs(p.Name) {
			names = append(names, p.Name)
		}
	}
	return names
}

// failed tells how many of a peer's requests failed in a measure, "" for none.
func failed(r *results.Run, peer, measure string) string {
	if n := failures(r, peer, measure); n > 0 {
		return fmt.Sprintf(" (%d failed)", n)
	}
	return ""
}
