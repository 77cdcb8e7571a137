package route

import (
	"strings"
	"unicode/utf8"
)

// glob is one pattern with wildcards and the backends that list it.
type glob struct {
	text     string
	tail     string     // what follows the literal prefix
	members  []*Backend // in the order of the table
	literals int        // characters that are no wildcard: how specific it is
	pool     *Pool      // of a model that matches no other glob
}

// isGlob reports whether a model pattern has a wildcard.
func isGlob(pattern string) bool { return strings.ContainsAny(pattern, "*?") }

func newGlob(pattern string) *glob {
	wild := strings.Count(pattern, "*") + strings.Count(pattern, "?")
	return &glob{
		text:     pattern,
		tail:     pattern[strings.IndexAny(pattern, "*?"):],
		literals: len(pattern) - wild,
	}
}

// prefix is the literal text before the first wildcard.
func (g *glob) prefix() string { return g.text[:len(g.text)-len(g.tail)] }

// match reports whether name matches pattern: * stands for any run of
// characters, also none, ? for exactly one, all else for itself. The time is at
// most the product of the lengths.
func match(pattern, name string) bool {
	star, mark := -1, 0 // the last * seen, and where in name its run ends
	p, n := 0, 0
	for n < len(name) {
		_, width := utf8.DecodeRuneInString(name[n:])
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && pattern[p] == '?':
			p++
			n += width
		case p < len(pattern) && pattern[p] == name[n]:
			p++
			n++
		case star >= 0:
			_, width = utf8.DecodeRuneInString(name[mark:])
			mark += width
			p, n = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
