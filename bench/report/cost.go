package main

import (
	"cmp"
	"path/filepath"
	"slices"
	"strings"

	"github.com/llmproxy/llmproxy/bench/results"
)

// cost is what a run of our gateway without something and with it says.
type cost struct {
	Run    *results.Run
	File   string
	Table  table
	Faults []string
	Notes  string // written by hand
}

// twin is our gateway with what is measured, and how the table calls it.
type twin struct{ peer, title string }

// What is compared with ours as it is.
var (
	withMetering = []twin{{results.OursMetered, "with"}}
	withLimits   = []twin{
		{results.OursLimited, "with, 10 keys"},
		{results.OursQuota, "and a quota"},
		{results.OursManyKeys, "100,000 keys, no quota"},
	}
)

// costFigures are those in which a cost would show, in the order of the table.
var costFigures = slices.Concat(
	[]figure{requestRate, requestCPU, requestP50, requestP99, openCPU, openP50, openP99},
	streams, []figure{floodRate, floodCPU, idle, memory, memoryMany},
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
	c.Table.Head = []string{"measure", "without"}
	for _, t := range twins {
		c.Table.Head = append(c.Table.Head, t.title, "× without")
	}
	for _, f := range costFigures {
		off := f.tell(r, results.Ours)
		known := off != ""
		row := []string{f.title(r), cmp.Or(off, "–")}
		for _, t := range twins {
			on := f.tell(r, t.peer)
			known = known || on != ""
			row = append(row, cmp.Or(on, "–"), f.over(r, t.peer, f, results.Ours).String())
		}
		if known {
			c.Table.Rows = append(c.Table.Rows, row)
		}
	}
	return c, nil
}
