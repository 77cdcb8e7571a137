package main

import (
	"cmp"
	"path/filepath"
	"slices"
	"strings"

	"github.com/llmproxy/llmproxy/bench/results"
)

// cost is what a run of our gateway without something and with it says. Each
// column of its table is one of ours, and its ratio to another.
type cost struct {
	Run    *results.Run
	File   string
	Table  table
	Faults []string
	Notes  string // written by hand
}

// twin is our gateway in one of the ways that are compared, how the table calls it,
// and which one it is compared with, "" for one that others are.
type twin struct{ peer, title, with string }

var (
	without      = twin{results.Ours, "without", ""}
	withMetering = []twin{without, {results.OursMetered, "with", results.Ours}}
	withLimits   = []twin{
		without,
		{results.OursLimited, "with, 10 keys", results.Ours},
		{results.OursQuota, "and a quota", results.Ours},
		{results.OursManyKeys, "100,000 keys, no quota", results.Ours},
	}
	withRedis = []twin{
		{results.OursLimited, "in memory", ""},
		{results.OursRedis, "in Redis", results.OursLimited},
		{results.OursQuota, "in memory, a quota", ""},
		{results.OursRedisQuota, "in Redis, a quota", results.OursQuota},
		{results.OursThree, "three gateways, a quota", results.OursQuota},
	}
)

// costFigures are those in which a cost would show, in the order of the table.
var costFigures = slices.Concat(
	[]figure{requestRate, requestCPU, requestP50, requestP99, openCPU, openP50, openP99, slowCPU, slowP50, slowP99},
	streams, []figure{floodRate, floodCPU, idle, memory, memoryMany},
	redisFigures(results.Closed, "64 connections"), redisFigures(results.Open, "1,000/s"), redisFigures(results.OpenSlow, "200/s"),
)

// readCost returns nil when there is no run of that kind. What is said of it is
// in the file notes.
func readCost(root, kind, notes string, twins []twin) (*cost, error) {
	r, file, err := newestRun(root, kind)
	if err != nil || r == nil {
		return nil, err
	}
	text, err := readIfThere(filepath.Join(root, notes))
	if err != nil {
		return nil, err
	}
	c := &cost{Run: r, File: file, Notes: strings.TrimSpace(string(text))}
	_, c.Faults = faults(r)
	c.fill(twins)
	return c, nil
}

// fill makes the table, of the figures that any of the twins has.
func (c *cost) fill(twins []twin) {
	titles := map[string]string{}
	c.Table.Head = []string{"measure"}
	for _, t := range twins {
		titles[t.peer] = t.title
		c.Table.Head = append(c.Table.Head, t.title)
		if t.with != "" {
			c.Table.Head = append(c.Table.Head, "× "+titles[t.with])
		}
	}
	for _, f := range costFigures {
		row, known := []string{f.title(c.Run)}, false
		for _, t := range twins {
			text := f.tell(c.Run, t.peer)
			known = known || text != ""
			row = append(row, cmp.Or(text, "–"))
			if t.with != "" {
				row = append(row, f.over(c.Run, t.peer, f, t.with).String())
			}
		}
		if known {
			c.Table.Rows = append(c.Table.Rows, row)
		}
	}
}
