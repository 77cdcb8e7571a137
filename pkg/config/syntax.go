package config

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// document is the one mapping that data must be, or nil after a fault.
func (w *walker) document(data []byte) *yaml.Node {
	if i := strangeByte(data); i >= 0 {
		w.broken(place{w.source, lineAt(data, i)}, "not UTF-8 text, or a control character")
		return nil
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		w.broken(place{file: w.source}, "the file is empty")
		return nil
	case err != nil:
		w.syntax(err, data)
		return nil
	}
	switch err := d.Decode(&second); {
	case err == nil:
		w.add(w.at(&second), "", "a second document begins here; one file is one document")
	case !errors.Is(err, io.EOF):
		w.syntax(err, data)
		return nil
	}
	root := doc.Content[0]
	switch {
	case root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null":
		w.broken(place{file: w.source}, "the file is empty")
	case root.Kind != yaml.MappingNode:
		w.broken(w.at(root), mismatch(root, reflect.TypeFor[Config]()))
	default:
		return root
	}
	return nil
}

// broken records that the file says nothing, so that nothing else is said of it.
func (w *walker) broken(at place, message string) {
	w.add(at, "", message)
	w.faulty[""] = true
}

// syntax records an error of the YAML package, "yaml: line 3: ...".
func (w *walker) syntax(err error, data []byte) {
	parts := regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`).FindStringSubmatch(err.Error())
	if parts == nil {
		w.broken(place{file: w.source}, "cannot parse YAML")
		return
	}
	line, _ := strconv.Atoi(parts[1])
	message := parts[2]
	switch name, isAnchor := strings.CutPrefix(message, "unknown anchor '"); {
	case isAnchor:
		// The name may be a secret that begins with a star: it is not shown.
		name = strings.TrimSuffix(name, "' referenced")
		line = lineAt(data, bytes.Index(data, []byte("*"+name)))
		message = "unknown anchor: a value that begins with * must be in quotes"
	case slices.Contains(parserProblems(), message):
		line++ // the package counts these from 0
	}
	// A missing bracket is missed behind the last line.
	line = min(max(1, line), lineAt(data, len(data)-1))
	w.broken(place{w.source, line}, "cannot parse YAML: "+message)
}

// parserProblems are the messages of the grammar, as opposed to those of the
// scanner below it.
func parserProblems() []string {
	return []string{
		"did not find expected key", "did not find expected '-' indicator",
		"did not find expected ',' or '}'", "did not find expected ',' or ']'",
		"did not find expected node content", "did not find expected <document start>",
		"found undefined tag handle", "found incompatible YAML document",
		"found duplicate %YAML directive", "found duplicate %TAG directive",
	}
}

// strangeByte is the index of what YAML does not allow (YAML 1.2, section 5.1)
// or -1. UTF-16, which YAML does allow, counts as strange.
func strangeByte(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		isControl := r < ' ' && r != '\t' && r != '\n' && r != '\r' || r >= 0x7f && r < 0xa0 && r != 0x85
		if r == utf8.RuneError && size == 1 || isControl {
			return i
		}
		i += size
	}
	return -1
}

// lineAt is the number of the line that holds data[i].
func lineAt(data []byte, i int) int {
	return 1 + bytes.Count(data[:max(0, i)], []byte("\n"))
}
