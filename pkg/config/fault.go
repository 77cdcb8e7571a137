package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Fault is one thing that is wrong, and where.
type Fault struct {
	// File is the file, or "environment NAME" for an environment variable.
	File string
	// Line counts from 1; 0 is unknown (an environment variable, a whole file).
	Line int
	// Key is the path of the key, as in backends[0].weight; empty if the fault
	// is of no key.
	Key string
	// Message never holds a secret.
	Message string
}

// String is file:line: key: message, without what is unknown.
func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(place{f.File, f.Line}.String())
	b.WriteString(": ")
	if f.Key != "" {
		b.WriteString(f.Key)
		b.WriteString(": ")
	}
	b.WriteString(f.Message)
	return b.String()
}

// Error is every fault of a configuration, in the order of the lines; those of
// the environment come last.
type Error struct {
	Faults []Fault
}

// Error is one line a fault.
func (e *Error) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// place is where a value stands.
type place struct {
	file string
	line int
}

func (p place) String() string {
	if p.line == 0 {
		return p.file
	}
	return fmt.Sprintf("%s:%d", p.file, p.line)
}

// report collects the faults of one configuration and remembers where its keys
// stand, so that a rule checked on the finished Config can still name a line.
type report struct {
	file   string
	faults []Fault
	places map[string]place
	// faulty holds the keys that have a fault. Further faults of them, or of
	// what lies below, would be consequences and are not reported.
	faulty map[string]bool
}

func newReport(file string) *report {
	return &report{file: file, places: map[string]place{}, faulty: map[string]bool{}}
}

// has tells whether the operator set key, in the file or the environment.
func (r *report) has(key string) bool {
	_, ok := r.places[key]
	return ok
}

// where is the place of key or, if it is absent, of what encloses it.
func (r *report) where(key string) place {
	for ; key != ""; key = parent(key) {
		if p, ok := r.places[key]; ok {
			return p
		}
	}
	return place{file: r.file}
}

// fault records that key breaks a rule.
func (r *report) fault(key, format string, args ...any) {
	r.faultAt(r.where(key), key, format, args...)
}

func (r *report) faultAt(at place, key, format string, args ...any) {
	for k := key; k != ""; k = parent(k) {
		if r.faulty[k] {
			return
		}
	}
	if key != "" {
		r.faulty[key] = true
	}
	r.add(at, key, fmt.Sprintf(format, args...))
}

func (r *report) add(at place, key, message string) {
	r.faults = append(r.faults, Fault{at.file, at.line, key, message})
}

// err is nil if there is no fault.
func (r *report) err() error {
	if len(r.faults) == 0 {
		return nil
	}
	slices.SortStableFunc(r.faults, func(a, b Fault) int {
		if a.File != b.File {
			return cmp.Compare(r.rank(a.File), r.rank(b.File))
		}
		return cmp.Compare(a.Line, b.Line)
	})
	return &Error{Faults: r.faults}
}

func (r *report) rank(file string) int {
	if file == r.file {
		return 0
	}
	return 1
}

// parent is the key that encloses key, "" for a key of the top level.
func parent(key string) string {
	return key[:max(0, strings.LastIndexAny(key, ".["))]
}

// child is the path of name within key. A name that is not a plain word, such
// as a model in model_mapping, is quoted.
func child(key, name string) string {
	switch plain := isWord(name); {
	case !plain:
		return key + "[" + quote(name) + "]"
	case key == "":
		return name
	default:
		return key + "." + name
	}
}

func isWord(s string) bool {
	for _, c := range s {
		if !(c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z') {
			return false
		}
	}
	return s != "" && len(s) <= 80
}
