package route

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzMatch holds the glob matcher against the regular expression of the same
// meaning.
func FuzzMatch(f *testing.F) {
	f.Add("llama-*-?b", "llama-3-8b")
	f.Add("*a*?b**", "xxaYb")
	f.Add("?*世", "a世世")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern) > 40 || len(name) > 80 || !utf8.ValidString(pattern) || !utf8.ValidString(name) {
			t.Skip()
		}
		like := regexp.QuoteMeta(pattern)
		like = strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(like)
		want := regexp.MustCompile(`(?s)\A` + like + `\z`).MatchString(name)
		if got := match(pattern, name); got != want {
			t.Fatalf("match(%q, %q) = %t", pattern, name, got)
		}
	})
}
