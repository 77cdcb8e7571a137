package main

import (
	"cmp"
	"path/filepath"
	"slices"
	"strings"

	"github.com/llmproxy/llmproxy/bench/results"
)

// metering is what a run of our gateway with metering and without it says.
type metering struct {
	Run    *results.Run
	File   string
	Table  table
	Faults []string
	Notes  string // written by hand
}

// meteringFigures are those that metering bears upon, in the order of the table.
var meteringFigures = slices.Concat(
	[]figure{requestRate, requestCPU, requestP50, requestP99, openCPU, openP50, openP99},
	streams, []figure{floodRate, floodCPU, idle, memory, memoryMany},
)

// readMetering returns nil when there is no such run.
func readMetering(root string) (*metering, error) {
	r, file, err := newestRun(root, "usage")
	if err != nil || r == nil {
		return nil, err
	}
	notes, err := readIfThere(filepath.Join(root, meterFile))
	if err != nil {
		return nil, err
	}
	m := &metering{Run: r, File: file, Notes: strings.TrimSpace(string(notes))}
	_, m.Faults = faults(r)
	m.Table.Head = []string{"measure", "without", "with", "× without"}
	for _, f := range meteringFigures {
		off, on := f.tell(r, results.Ours), f.tell(r, results.OursMetered)
		if off == "" && on == "" {
			continue
		}
		m.Table.Rows = append(m.Table.Rows, []string{
			f.title(r), cmp.Or(off, "–"), cmp.Or(on, "–"), f.over(r, results.OursMetered, f, results.Ours).String(),
		})
	}
	return m, nil
}
