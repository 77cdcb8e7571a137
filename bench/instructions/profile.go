package main

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

// profile is what callgrind counted: instructions executed in each function
// itself, without those it calls.
type profile struct {
	functions map[string]uint64
	total     uint64
}

// monitor is the runtime's thread that looks after the others, at intervals:
// what it does depends on how long things take.
const monitor = "runtime.sysmon"

// byChance tells of the functions that a type assertion calls until its cache
// holds the type. One call in 1,024, at random, puts it there: what they cost
// becomes nothing in the end, but nobody knows when.
func byChance(function string) bool {
	switch function {
	case "runtime.typeAssert", "runtime.interfaceSwitch", "runtime.getitab", "runtime.(*itabTableType).find":
		return true
	}
	return false
}

// readProfile adds up the files of all threads but the monitor's.
func readProfile(names []string) (*profile, error) {
	sum := &profile{functions: map[string]uint64{}}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		functions, err := parse(bytes.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", name, err)
		}
		if _, ok := functions[monitor]; ok {
			continue
		}
		for f, n := range functions {
			if byChance(f) {
				continue
			}
			sum.functions[f] += n
			sum.total += n
		}
	}
	if sum.total == 0 {
		return nil, errors.New("cannot find a count in what callgrind wrote")
	}
	return sum, nil
}

// parse reads callgrind's format, as far as the cost of functions themselves
// goes: https://valgrind.org/docs/manual/cl-format.html
func parse(r io.Reader) (map[string]uint64, error) {
	costs, names := map[string]uint64{}, map[string]string{}
	var current string
	called := false // the next line of costs is that of a call
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		key, value, isField := strings.Cut(line, "=")
		switch {
		case isField && key == "fn":
			current = function(names, value)
		case isField && key == "cfn": // may be where the name is first told
			function(names, value)
		case isField && key == "calls":
			called = true
		case line != "" && strings.IndexByte("0123456789+-*", line[0]) >= 0:
			if called {
				called = false
				continue
			}
			_, cost, _ := strings.Cut(line, " ") // after the position
			n, err := strconv.ParseUint(cost, 10, 64)
			if err != nil || current == "" {
				return nil, fmt.Errorf("cannot understand %q", line)
			}
			costs[current] += n
		}
	}
	return costs, lines.Err()
}

// function resolves a name: "(3) main.main" the first time, then "(3)". What
// follows an apostrophe is the depth of a recursion.
func function(names map[string]string, value string) string {
	id, name, ok := strings.Cut(value, " ")
	if ok {
		names[id], _, _ = strings.Cut(name, "'")
	}
	return names[id]
}

// top writes the n functions with most instructions, for one step.
func (p *profile) top(w io.Writer, n int) {
	names := slices.SortedFunc(maps.Keys(p.functions), func(a, b string) int {
		return cmp.Or(cmp.Compare(p.functions[b], p.functions[a]), strings.Compare(a, b))
	})
	for _, f := range names[:min(n, len(names))] {
		cost := float64(p.functions[f])
		fmt.Fprintf(w, "%8.0f %5.1f %%  %s\n", cost/batch, 100*cost/float64(p.total), f)
	}
}
