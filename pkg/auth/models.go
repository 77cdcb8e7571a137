package auth

import (
	"encoding/binary"
	"slices"
	"strings"
	"unicode/utf8"
)

// allowed is what one list of models allows.
type allowed struct {
	names []string // sorted
	globs []string
}

// allow prepares a list. An alias that the list allows allows what it leads to, but
// not when that name is an alias of something else: whoever asks for it would get
// that other model.
func allow(patterns []string, mapping map[string]string) allowed {
	var a allowed
	for _, p := range patterns {
		if strings.ContainsAny(p, "*?") {
			a.globs = append(a.globs, p)
		} else {
			a.names = append(a.names, p)
		}
	}
	listed := a
	listed.names = slices.Sorted(slices.Values(a.names))
	for alias, target := range mapping {
		if further, isAlias := mapping[target]; isAlias && further != target {
			continue
		}
		if listed.has(alias) {
			a.names = append(a.names, target)
		}
	}
	slices.Sort(a.names)
	a.names = slices.Compact(a.names)
	return a
}

// has takes at most the length of model times that of a pattern, for each.
func (a *allowed) has(model string) bool {
	if _, ok := slices.BinarySearch(a.names, model); ok {
		return true
	}
	for _, g := range a.globs {
		if match(g, model) {
			return true
		}
	}
	return false
}

// appendList is the list as one text; lists that differ give different texts.
func appendList(text []byte, list []string) []byte {
	for _, s := range list {
		text = binary.AppendUvarint(text, uint64(len(s)))
		text = append(text, s...)
	}
	return text
}

// match reports whether name matches pattern: * stands for any run of characters,
// also none, ? for exactly one, all else for itself. Only the last * is ever tried
// again: the time is at most the length of name times that of the longest piece
// between two of them.
func match(pattern, name string) bool {
	again, from := -1, 0 // behind the last * seen, and what of name comes after its run
	p, n := 0, 0
	for n < len(name) {
		if p < len(pattern) && pattern[p] == '*' {
			p++
			again, from = p, n
			continue
		}
		if p < len(pattern) && (pattern[p] == name[n] || pattern[p] == '?') {
			n += width(pattern[p], name[n:])
			p++
			continue
		}
		if again < 0 {
			return false
		}
		from += width('?', name[from:])
		p, n = again, from
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// width is how many bytes of name the byte c of a pattern takes.
func width(c byte, name string) int {
	if c != '?' {
		return 1
	}
	_, size := utf8.DecodeRuneInString(name)
	return size
}
