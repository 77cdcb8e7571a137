package main

import (
	"bytes"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/perf/benchfmt"
	"golang.org/x/perf/benchmath"
	"golang.org/x/perf/benchunit"
)

// stamp is the line that the script of `make bench` writes before each run.
var stamp = regexp.MustCompile(`(?m)^# (\d{4}-\d\d-\d\dT\S+) (.*)$`)

// procs is the GOMAXPROCS at the end of a benchmark's name.
var procs = regexp.MustCompile(`-\d+$`)

// micro is what the newest file of `go test -bench` output that has a package
// says of it.
type micro struct {
	Package       string // without the module
	File, Machine string
	date          string
	names         []string // in the order of the file
	values        map[string]map[string][]float64
}

// microbenchmarks returns each package's newest results, by package. A run of
// one package does not hide an older run of the others.
func microbenchmarks(root string) (map[string]*micro, error) {
	paths, err := filepath.Glob(filepath.Join(root, resultsDir, "*.txt"))
	if err != nil {
		return nil, err
	}
	all := map[string]*micro{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		for name, m := range parseMicro(text, filepath.Base(path)) {
			if old := all[name]; old == nil || m.date >= old.date {
				all[name] = m
			}
		}
	}
	return all, nil
}

// parseMicro reads one file. Lines that are no results are left out, as `go
// test` prints others too.
func parseMicro(text []byte, name string) map[string]*micro {
	var date, machine string
	if all := stamp.FindAllSubmatch(text, -1); len(all) > 0 {
		last := all[len(all)-1]
		date, machine = string(last[1]), string(last[2])
	}
	packages := map[string]*micro{}
	for lines := benchfmt.NewReader(bytes.NewReader(text), name); lines.Scan(); {
		r, ok := lines.Result().(*benchfmt.Result)
		if !ok {
			continue
		}
		pkg := strings.TrimPrefix(r.GetConfig("pkg"), "github.com/llmproxy/llmproxy/")
		m := packages[pkg]
		if m == nil {
			m = &micro{
				Package: pkg, File: path.Join(resultsDir, name), Machine: r.GetConfig("cpu") + ", " + machine,
				date: date, values: map[string]map[string][]float64{},
			}
			packages[pkg] = m
		}
		m.add(string(r.Name.Full()), r)
	}
	return packages
}

func (m *micro) add(name string, r *benchfmt.Result) {
	name = procs.ReplaceAllString(name, "")
	if m.values[name] == nil {
		m.names = append(m.names, name)
		m.values[name] = map[string][]float64{}
	}
	for _, v := range r.Values {
		m.values[name][v.Unit] = append(m.values[name][v.Unit], v.Value)
	}
}

// median returns the middle of a benchmark's runs, and its 95 % confidence
// interval as "± 2%", which is "" where the runs are too few for one.
func (m *micro) median(name, unit string) (v float64, spread string, ok bool) {
	values := m.values[name][unit]
	if len(values) == 0 {
		return 0, "", false
	}
	s := benchmath.AssumeNothing.Summary(benchmath.NewSample(values, &benchmath.DefaultThresholds), 0.95)
	if pct := s.PctRangeString(); pct != "∞" && pct != "?" {
		spread = " ± " + pct
	}
	return s.Center, spread, true
}

// Table has a row for each benchmark. Where one has a twin called "direct",
// which is the same without anything between client and engine, a column tells
// what is added to it.
func (m *micro) Table() table {
	t := table{Head: []string{"benchmark", "time", "memory", "allocations", "more than direct"}}
	twins := false
	for _, name := range m.names {
		row := []string{name, "–", "–", "–", "–"}
		took, spread, ok := m.median(name, "sec/op")
		if ok {
			row[1] = scaled(took, benchunit.Decimal, "s") + spread
		}
		if bytes, _, ok := m.median(name, "B/op"); ok {
			row[2] = scaled(bytes, benchunit.Binary, "B")
		}
		if allocs, _, ok := m.median(name, "allocs/op"); ok {
			row[3] = number(allocs)
		}
		twin := path.Join(path.Dir(name), "direct")
		if direct, _, ok := m.median(twin, "sec/op"); ok && name != twin {
			twins = true
			row[4] = scaled(took-direct, benchunit.Decimal, "s")
		}
		t.Rows = append(t.Rows, row)
	}
	if !twins {
		t.Head = t.Head[:4]
		for i := range t.Rows {
			t.Rows[i] = t.Rows[i][:4]
		}
	}
	return t
}

// scaled tells v in a unit with the prefix that fits it.
func scaled(v float64, class benchunit.Class, unit string) string {
	s := benchunit.CommonScale([]float64{v}, class)
	return number(v/s.Factor) + " " + s.Prefix + unit
}
