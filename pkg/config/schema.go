package config

import (
	"io/fs"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// The schema of the file is the Go types with their yaml tags; there is no other.

// tags are the keys of the section t.
func tags(t reflect.Type) []string {
	var out []string
	for _, f := range reflect.VisibleFields(t) {
		if tag := f.Tag.Get("yaml"); tag != "" {
			out = append(out, tag)
		}
	}
	return out
}

// words are what a key may hold, nil for anything. A list that begins with a
// comma has the empty word, which is what an absent key means.
func words(f reflect.StructField) []string {
	list, ok := f.Tag.Lookup("oneof")
	if !ok {
		return nil
	}
	return strings.Split(list, ",")
}

// limitOf is the largest number that a limit can be, 0 if the key is no limit. A
// limit that is not written is 0 in its section; one that is must not be.
func limitOf(f reflect.StructField) int64 {
	most, err := strconv.ParseInt(f.Tag.Get("most"), 10, 64)
	if err != nil {
		return 0
	}
	return most
}

// leaves are the paths of all keys that hold a value, a list or a table: what
// an environment variable can set.
func leaves(t reflect.Type, key string) []string {
	var out []string
	for _, f := range reflect.VisibleFields(t) {
		tag := f.Tag.Get("yaml")
		if tag == "" {
			continue
		}
		if path := child(key, tag); isSection(f.Type) {
			out = append(out, leaves(f.Type, path)...)
		} else {
			out = append(out, path)
		}
	}
	return out
}

// sectionOf is the section that has a key of this name, if there is just one:
// the usual slip is a wrong indentation.
func sectionOf(name string) string {
	home := ""
	for _, path := range leaves(reflect.TypeFor[Config](), "") {
		if section := parent(path); section != "" && path == child(section, name) {
			if home != "" {
				return ""
			}
			home = section
		}
	}
	return home
}

func isSection(t reflect.Type) bool {
	return shape(t) == yaml.MappingNode && t.Kind() == reflect.Struct
}

// shape is the kind of node that holds a t.
func shape(t reflect.Type) yaml.Kind {
	switch {
	case t == reflect.TypeFor[netip.Prefix](), t == reflect.TypeFor[time.Time]():
		return yaml.ScalarNode
	case t.Kind() == reflect.Struct, t.Kind() == reflect.Map:
		return yaml.MappingNode
	case t.Kind() == reflect.Slice:
		return yaml.SequenceNode
	default:
		return yaml.ScalarNode
	}
}

// isQuoted tells whether a t is text also where YAML would see a number.
func isQuoted(t reflect.Type) bool {
	return t.Kind() == reflect.String || t == reflect.TypeFor[fs.FileMode]()
}

// typeOf is the type at a path through sections.
func typeOf(path []string) (reflect.Type, bool) {
	t := reflect.TypeFor[Config]()
	for _, name := range path {
		if !isSection(t) {
			return nil, false
		}
		next := t
		for _, f := range reflect.VisibleFields(t) {
			if f.Tag.Get("yaml") == name && name != "" {
				next = f.Type
			}
		}
		if next == t {
			return nil, false
		}
		t = next
	}
	return t, true
}
