package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// walker checks a YAML tree against the Go type that is to hold it and turns
// it into plain maps, lists and typed values. The decoder of the YAML package
// would stop at the first fault of some kinds, has no line for others, and
// takes 010 for eight.
type walker struct {
	*report
	source string // the file or the environment variable
	lines  bool   // whether the line numbers of nodes mean anything
}

func (w *walker) at(n *yaml.Node) place {
	if !w.lines {
		return place{file: w.source}
	}
	return place{w.source, n.Line}
}

// value is what n means as a t. A value with a fault becomes the zero of t, so
// that the places in a list do not shift.
func (w *walker) value(n *yaml.Node, t reflect.Type, key string) any {
	if key != "" {
		w.places[key] = w.at(n)
	}
	if n.Kind == yaml.AliasNode {
		w.faultAt(w.at(n), key, "aliases are not supported: write the value out")
		return zero(t)
	}
	if t == reflect.TypeFor[any]() {
		t = anyType(n)
	}
	switch kind := shape(t); {
	case kind != n.Kind:
		w.faultAt(w.at(n), key, "%s", mismatch(n, t))
		return zero(t)
	case kind == yaml.ScalarNode:
		v, err := scalar(n, t)
		if err != nil {
			w.faultAt(w.at(n), key, "%v", err)
			return zero(t)
		}
		return portable(v)
	case kind == yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, e := range n.Content {
			list[i] = w.value(e, t.Elem(), fmt.Sprintf("%s[%d]", key, i))
		}
		return list
	default:
		return w.mapping(n, t, key)
	}
}

// anyType is what n means where everything may stand that JSON has.
func anyType(n *yaml.Node) reflect.Type {
	switch n.Kind {
	case yaml.MappingNode:
		return reflect.TypeFor[map[string]any]()
	case yaml.SequenceNode:
		return reflect.TypeFor[[]any]()
	default:
		return reflect.TypeFor[any]()
	}
}

// mapping reads a section (a struct) or a table of names (a map).
func (w *walker) mapping(n *yaml.Node, t reflect.Type, key string) any {
	out := map[string]any{}
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			w.add(w.at(k), key, "a key must be a plain word")
			continue
		}
		if k.Tag == "!!merge" {
			w.add(w.at(k), key, "merge keys (<<) are not supported: write the keys out")
			continue
		}
		if line, ok := first[k.Value]; ok {
			message := "duplicate key"
			if w.lines {
				message += fmt.Sprintf(": already set on line %d", line)
			}
			w.add(w.at(k), child(key, k.Value), message)
			continue
		}
		first[k.Value] = k.Line
		if et, ok := w.element(k, n, t, key); ok {
			path := child(key, k.Value)
			out[k.Value] = w.value(v, et, path)
			w.places[path] = w.at(k)
		}
	}
	return out
}

// element is the type that the key k has in t.
func (w *walker) element(k, n *yaml.Node, t reflect.Type, key string) (reflect.Type, bool) {
	if t.Kind() == reflect.Map {
		switch {
		case k.ShortTag() != "!!str":
			w.add(w.at(k), child(key, k.Value), "a name must be a string: put it in quotes")
		case k.Value == "":
			w.add(w.at(k), key, "a name must not be empty")
		case hasControl(k.Value):
			w.add(w.at(k), key, "a name must not hold control characters")
		default:
			return t.Elem(), true
		}
		return nil, false
	}
	for _, f := range reflect.VisibleFields(t) {
		if tag := f.Tag.Get("yaml"); tag != "" && tag == k.Value {
			return f.Type, true
		}
	}
	w.unknown(k, n, t, key)
	return nil, false
}

// unknown reports a key that t does not have.
func (w *walker) unknown(k, n *yaml.Node, t reflect.Type, key string) {
	// "{key:sk-1}" and "key:sk-1: x" are keys to YAML: what follows the colon
	// may be a secret.
	if word, _, colon := strings.Cut(k.Value, ":"); colon {
		w.add(w.at(k), child(key, word), "unknown key: a space is missing after the colon")
		return
	}
	message := "unknown key"
	if near := nearest(k.Value, tags(t)); near != "" {
		message += fmt.Sprintf("; did you mean %q?", near)
		if !holds(n, near) {
			w.faulty[child(key, near)] = true // "must be set" would be said twice
		}
	} else if home := sectionOf(k.Value); home != "" {
		message += fmt.Sprintf("; it belongs under %s", home)
	}
	w.add(w.at(k), child(key, k.Value), message)
}

func holds(n *yaml.Node, name string) bool {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return true
		}
	}
	return false
}

func zero(t reflect.Type) any {
	switch shape(t) {
	case yaml.MappingNode:
		return map[string]any{}
	case yaml.SequenceNode:
		return []any{}
	default:
		return portable(reflect.Zero(t).Interface())
	}
}

// portable is v in a form that survives koanf, which copies trees field by
// field and drops what is not exported; decode turns the text back.
func portable(v any) any {
	switch v := v.(type) {
	case netip.Prefix:
		if !v.IsValid() {
			return ""
		}
		return v.String()
	case time.Time:
		return v.Format(time.RFC3339Nano)
	default:
		return v
	}
}

// scalar is what n means as a t.
func scalar(n *yaml.Node, t reflect.Type) (any, error) {
	tag := n.ShortTag()
	if tag == "!!null" {
		return nil, errors.New("has no value")
	}
	isText := tag == "!!str"
	isNumber := tag == "!!int" || tag == "!!float"
	switch {
	case t == reflect.TypeFor[Duration]() && (isText || isNumber):
		return parseDuration(n.Value)
	case t == reflect.TypeFor[Size]() && (isText || isNumber):
		return parseSize(n.Value)
	case t == reflect.TypeFor[fs.FileMode]() && isText:
		return parseMode(n.Value)
	case t == reflect.TypeFor[netip.Prefix]() && isText:
		return parsePrefix(n.Value)
	case t == reflect.TypeFor[time.Time]() && (isText || tag == "!!timestamp"):
		return parseTime(n.Value)
	case t.Kind() == reflect.String && isText:
		if hasControl(n.Value) {
			return nil, errors.New("must not hold control characters or line breaks")
		}
		return reflect.ValueOf(n.Value).Convert(t).Interface(), nil
	case t.Kind() == reflect.Bool && tag == "!!bool" && (n.Value == "true" || n.Value == "false"):
		return n.Value == "true", nil
	case t == reflect.TypeFor[any]():
		return free(n, tag)
	case (t == reflect.TypeFor[int]() || t == reflect.TypeFor[int64]()) && tag == "!!int":
		return integer(n.Value, t)
	default:
		return nil, errors.New(mismatch(n, t))
	}
}

// free is a scalar of any type that JSON has too.
func free(n *yaml.Node, tag string) (any, error) {
	switch {
	case tag == "!!bool" && (n.Value == "true" || n.Value == "false"):
		return n.Value == "true", nil
	case tag == "!!int":
		return parseInteger(n.Value)
	case tag == "!!float":
		if f, err := strconv.ParseFloat(n.Value, 64); err == nil && json.Valid([]byte(n.Value)) {
			return f, nil
		}
		return nil, errors.New("write it as a plain decimal number")
	case tag != "!!str" && tag != "!!timestamp":
		return nil, errors.New(mismatch(n, reflect.TypeFor[string]()))
	case hasControl(n.Value):
		return nil, errors.New("must not hold control characters or line breaks")
	default:
		return n.Value, nil
	}
}

func integer(s string, t reflect.Type) (any, error) {
	i, err := parseInteger(s)
	switch {
	case err != nil:
		return nil, err
	case i < 0:
		return nil, errors.New("must not be negative")
	case t.OverflowInt(i):
		return nil, errors.New("too large")
	}
	return reflect.ValueOf(i).Convert(t).Interface(), nil
}

// mismatch says that n is not what t wants. It shows the value only where no
// secret can stand: not where a list or a section is expected either, because
// "password:x" without the space is a string.
func mismatch(n *yaml.Node, t reflect.Type) string {
	found := ""
	switch tag := n.ShortTag(); {
	case n.Kind == yaml.SequenceNode:
		found = "a list"
	case n.Kind == yaml.MappingNode:
		found = "a section"
	case tag == "!!null":
		return "has no value"
	case tag == "!!str":
		found = "a string"
	case tag == "!!int", tag == "!!float":
		found = "a number"
	case tag == "!!bool":
		found = "a boolean"
	case tag == "!!timestamp":
		found = "a date"
	default:
		found = "a value with a tag of its own"
	}
	message := fmt.Sprintf("wants %s, not %s", wants(t), found)
	switch {
	case n.Kind != yaml.ScalarNode || shape(t) != yaml.ScalarNode:
		return message
	case isQuoted(t):
		return message + ": put it in quotes"
	default:
		return message + ": " + quote(n.Value)
	}
}

func wants(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[Duration]():
		return "a duration such as 500ms or 3s"
	case t == reflect.TypeFor[Size]():
		return "a size such as 64MiB"
	case t == reflect.TypeFor[fs.FileMode]():
		return "a file mode"
	case t == reflect.TypeFor[netip.Prefix]():
		return "an address or a CIDR range"
	case t == reflect.TypeFor[time.Time]():
		return "a time such as 2026-12-31T23:59:59Z"
	case t.Kind() == reflect.String:
		return "a string"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Slice:
		return "a list"
	case t.Kind() == reflect.Int, t.Kind() == reflect.Int64:
		return "an integer"
	default:
		return "a section"
	}
}

func hasControl(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }
