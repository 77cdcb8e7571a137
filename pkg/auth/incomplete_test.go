package auth_test

import (
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

// While not all keys are there, a token that is of none of them may be a good one: it
// was refused as if it were none. What cannot be a key, and what is known of those that
// are there, does not change.
func TestAnIncompleteRing(t *testing.T) {
	made := mint(t)
	slip := made[:20] + string(base62[(strings.IndexByte(base62, made[20])+1)%62]) + made[21:]
	disabled, past := key("disabled"), key("past")
	disabled.Disabled, past.Expires = true, auth.At(noon.Add(-time.Hour))
	near := key("near")
	near.Hash[31] ^= 1 // a key with the same id
	keys := []*auth.Key{key("known"), disabled, past, near}
	for _, c := range []struct {
		name, token string
		whole, some auth.Verdict
		found       bool
	}{
		{"a key", "known", auth.Known, auth.Known, true},
		{"a disabled one", "disabled", auth.Disabled, auth.Disabled, true},
		{"an expired one", "past", auth.Expired, auth.Expired, true},
		{"a made one that is not there", made, auth.Unknown, auth.Unjudged, false},
		{"another that is not there", "other", auth.Unknown, auth.Unjudged, false},
		{"one of the same id", "near", auth.Unknown, auth.Unjudged, false},
		{"a slip: no store has made it", slip, auth.Mistyped, auth.Mistyped, false},
		{"no token", "", auth.Unknown, auth.Unknown, false},
		{"longer than any key", strings.Repeat("k", 64<<10+1), auth.Unknown, auth.Unknown, false},
		{"the longest", strings.Repeat("k", 64<<10), auth.Unknown, auth.Unjudged, false},
	} {
		for _, r := range []struct {
			incomplete bool
			want       auth.Verdict
		}{{false, c.whole}, {true, c.some}} {
			k, verdict := ring(t, auth.Defaults{Incomplete: r.incomplete}, keys...).Find([]byte(c.token), noon)
			if verdict != r.want || (k != nil) != c.found {
				t.Errorf("%s, incomplete %v: verdict %d, key %v; want %d, %v", c.name, r.incomplete, verdict, k != nil, r.want, c.found)
			}
		}
	}
}

// A ring of no keys at all, as at a start without the store, judges nobody.
func TestAnIncompleteRingWithoutKeys(t *testing.T) {
	r := ring(t, auth.Defaults{Incomplete: true})
	if _, v := r.Find([]byte("anything"), noon); v != auth.Unjudged {
		t.Errorf("verdict %d", v)
	}
	if _, v := r.Find(nil, noon); v != auth.Unknown {
		t.Errorf("no token: verdict %d", v)
	}
}
