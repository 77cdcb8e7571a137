package auth_test

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

// FuzzFind holds the ring against a list that is compared character by character.
func FuzzFind(f *testing.F) {
	secrets := []string{"sk-llmproxy-dev-team-001", "a", "nul\x00", "ключ", prefix + strings.Repeat("x", 36), mint(f)}
	var keys []*auth.Key
	for _, s := range secrets {
		f.Add([]byte(s))
		f.Add([]byte(s + "\x00"))
		keys = append(keys, key(s))
	}
	r := ring(f, auth.Defaults{}, keys...)
	f.Fuzz(func(t *testing.T, token []byte) {
		before := bytes.Clone(token)
		k, verdict := r.Find(token, noon)
		want := auth.Unknown
		if auth.LooksMistyped(token) {
			want = auth.Mistyped
		}
		for i, s := range secrets {
			if s == string(token) {
				want = auth.Known
				if k != keys[i] {
					t.Fatalf("%q is %v", token, k)
				}
			}
		}
		if verdict != want || verdict != auth.Known && k != nil || !bytes.Equal(token, before) {
			t.Fatalf("%q: verdict %d, want %d", token, verdict, want)
		}
	})
}

// FuzzLooksMistyped: what is mistyped has the form of a made key, and one checksum of all
// is right for what comes before it.
func FuzzLooksMistyped(f *testing.F) {
	f.Add([]byte(mint(f)))
	f.Add([]byte(prefix + strings.Repeat("a", 36)))
	f.Add([]byte("sk-llmproxy-dev-team-001"))
	form := regexp.MustCompile(`\A` + prefix + `[0-9A-Za-z]{36}\z`)
	f.Fuzz(func(t *testing.T, key []byte) {
		mistyped := auth.LooksMistyped(key)
		if !form.Match(key) {
			if mistyped {
				t.Fatalf("%q has no form of a made key", key)
			}
			return
		}
		if mistyped {
			return
		}
		for i := len(prefix); i < len(key); i++ {
			slip := bytes.Clone(key)
			if slip[i]++; form.Match(slip) && !auth.LooksMistyped(slip) {
				t.Fatalf("%q and %q are both right", key, slip)
			}
		}
	})
}

func FuzzParseID(f *testing.F) {
	f.Add("00ff2c26b46b68aa")
	f.Add("00FF2C26B46B68A")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := auth.ParseID(text)
		if err != nil {
			if err.Error() != "a key's id has 16 hexadecimal digits" {
				t.Fatal(err)
			}
			return
		}
		if id.String() != strings.ToLower(text) {
			t.Fatalf("%q is %s", text, id)
		}
	})
}

// FuzzMayUse holds a pattern against the regular expression of the same meaning.
func FuzzMayUse(f *testing.F) {
	f.Add("llama-*-?b", "llama-3-8b")
	f.Add("*a*?b**", "xxaYb")
	f.Add("?*世", "a世世")
	f.Add("a", "a")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern) > 40 || len(name) > 80 || name == "" || !utf8.ValidString(pattern) || !utf8.ValidString(name) {
			t.Skip()
		}
		like := regexp.QuoteMeta(pattern)
		like = strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(like)
		want := regexp.MustCompile(`(?s)\A` + like + `\z`).MatchString(name)
		k := confined("k", pattern)
		if got := ring(t, auth.Defaults{}, k).MayUse(k, name); got != want {
			t.Fatalf("%q for %q: %t", name, pattern, got)
		}
	})
}
