package main

import (
	"bytes"
	"cmp"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
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
	t := table{Head: []string{"benchmark", "time", "memory", "allocations", "also", "more than direct"}}
	twins, others := false, false
	for _, name := range m.names {
		row := []string{name, "–", "–", "–", cmp.Or(m.others(name), "–"), "–"}
		others = others || row[4] != "–"
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
			row[5] = scaled(took-direct, benchunit.Decimal, "s")
		}
		t.Rows = append(t.Rows, row)
	}
	if !twins {
		t.drop(5)
	}
	if !others {
		t.drop(4)
	}
	return t
}

// drop takes a column out.
func (t *table) drop(i int) {
	t.Head = slices.Delete(t.Head, i, i+1)
	for j := range t.Rows {
		t.Rows[j] = slices.Delete(t.Rows[j], i, i+1)
	}
}

// others tells what a benchmark reports beyond what all do, such as "p99-ns" and
// "records/s".
func (m *micro) others(name string) string {
	var texts []string
	for _, unit := range slices.Sorted(maps.Keys(m.values[name])) {
		if slices.Contains([]string{"sec/op", "B/op", "allocs/op"}, unit) {
			continue
		}
		v, _, _ := m.median(name, unit)
		if of, per, ok := strings.Cut(unit, "-sec"); ok {
			texts = append(texts, of+" "+scaled(v, benchunit.Decimal, "s")+per)
			continue
		}
		texts = append(texts, number(v)+" "+unit)
	}
	return strings.Join(texts, ", ")
}

// scaled tells v in a unit with the prefix that fits it.
func scaled(v float64, class benchunit.Class, unit string) string {
	s := benchunit.CommonScale([]float64{v}, class)
	return number(v/s.Factor) + " " + s.Prefix + unit
}
