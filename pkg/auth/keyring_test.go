package auth_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func ring(t testing.TB, d auth.Defaults, keys ...*auth.Key) *auth.Keyring {
	t.Helper()
	r, err := auth.NewKeyring(keys, d)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func key(secret string) *auth.Key { return &auth.Key{Name: "of " + secret, Hash: auth.Hash(secret)} }

func TestFind(t *testing.T) {
	made := mint(t)
	slip := made[:20] + string(base62[(strings.IndexByte(base62, made[20])+1)%62]) + made[21:]
	written := prefix + strings.Repeat("x", 36) // an operator's, of the form of a made one
	const team = "sk-llmproxy-dev-team-001"
	disabled, past, future, now := key("disabled"), key("past"), key("future"), key("now")
	disabled.Disabled, disabled.Expires = true, auth.At(noon.Add(-time.Hour))
	past.Expires, future.Expires, now.Expires = auth.At(time.Unix(0, 0)), auth.At(noon.Add(time.Second)), auth.At(noon)
	r := ring(t, auth.Defaults{}, key(made), key(written), key(team), key("ключ"), key(" padded "), key("nul\x00nul"),
		disabled, past, future, now)
	for _, c := range []struct {
		guards, token string
		want          auth.Verdict
	}{
		{"made", made, auth.Known},
		{"written", team, auth.Known},
		{"an operator's key that looks mistyped", written, auth.Known},
		{"no ASCII", "ключ", auth.Known},
		{"with a NUL", "nul\x00nul", auth.Known},
		{"with spaces", " padded ", auth.Known},
		{"expires later", "future", auth.Known},
		{"expires at this moment", "now", auth.Expired},
		{"expired in 1970", "past", auth.Expired},
		{"disabled, and expired too", "disabled", auth.Disabled},
		{"a slip", slip, auth.Mistyped},
		{"empty", "", auth.Unknown},
		{"the made prefix alone", prefix, auth.Unknown},
		{"prefix of a made key", made[:len(made)-1], auth.Unknown},
		{"prefix of a written key", team[:len(team)-1], auth.Unknown},
		{"a suffix", team + "1", auth.Unknown},
		{"a NUL behind", team + "\x00", auth.Unknown},
		{"a NUL within", team[:5] + "\x00" + team[5:], auth.Unknown},
		{"cut at a NUL", "nul", auth.Unknown},
		{"a space behind", team + " ", auth.Unknown},
		{"trimmed", "padded", auth.Unknown},
		{"other case", strings.ToUpper(team), auth.Unknown},
		{"other case of a letter that is not ASCII", "Ключ", auth.Unknown},
		{"letters that look alike", strings.ReplaceAll(team, "e", "е"), auth.Unknown},
		{"invalid UTF-8", "\xff\xfe", auth.Unknown},
		{"the hash for the key", fmt.Sprintf("%x", auth.Hash(team)), auth.Unknown},
		{"twice", team + team, auth.Unknown},
		{"a megabyte", strings.Repeat("a", 1<<20), auth.Unknown},
		{"a megabyte that begins as a key", team + strings.Repeat("\x00", 1<<20), auth.Unknown},
	} {
		k, verdict := r.Find([]byte(c.token), noon)
		if verdict != c.want {
			t.Errorf("%s: verdict %d, want %d", c.guards, verdict, c.want)
		}
		if found := verdict == auth.Known || verdict == auth.Disabled || verdict == auth.Expired; found != (k != nil) {
			t.Errorf("%s: verdict %d and key %v", c.guards, verdict, k)
		}
		if k != nil && k.Hash != auth.Hash(c.token) {
			t.Errorf("%s: the key %s", c.guards, k.Name)
		}
	}
}

// A token that is not hashed cannot be Known, so one that is has to be hashed whole.
func TestFindTakesKeysOf64KiB(t *testing.T) {
	long := bytes.Repeat([]byte("k"), 64<<10)
	over := append(slices.Clone(long), 'k')
	r := ring(t, auth.Defaults{}, key(string(long)), key(string(over)))
	if _, v := r.Find(long, noon); v != auth.Known {
		t.Errorf("64 KiB: %d", v)
	}
	if _, v := r.Find(over, noon); v != auth.Unknown {
		t.Errorf("one more: %d", v)
	}
}

// An ID is 64 bits of the hash: two hashes may agree in it, one by intent.
func TestFindComparesTheWholeHash(t *testing.T) {
	k := key("secret")
	k.Hash[31] ^= 1
	if _, v := ring(t, auth.Defaults{}, k).Find([]byte("secret"), noon); v != auth.Unknown {
		t.Fatalf("verdict %d", v)
	}
}

func TestEmptyRing(t *testing.T) {
	r := ring(t, auth.Defaults{})
	if _, v := r.Find([]byte("x"), noon); v != auth.Unknown || r.Len() != 0 || len(r.All()) != 0 {
		t.Fatalf("verdict %d", v)
	}
	if _, ok := r.Get(auth.ID{}); ok {
		t.Fatal("has a key")
	}
}

func TestRingHasAllKeysInOrder(t *testing.T) {
	var keys []*auth.Key
	for i := range 1000 {
		keys = append(keys, key(fmt.Sprint(i)))
	}
	r := ring(t, auth.Defaults{}, keys...)
	given := slices.Clone(keys)
	keys[0] = nil
	if !slices.Equal(r.All(), given) || r.Len() != len(given) {
		t.Fatal("other keys, or in another order")
	}
	for i, k := range given {
		found, v := r.Find([]byte(fmt.Sprint(i)), noon)
		if got, ok := r.Get(k.ID()); !ok || got != k || found != k || v != auth.Known {
			t.Fatalf("key %d is lost", i)
		}
		if _, ok := r.Get(auth.ID(k.Hash[8:16])); ok {
			t.Fatalf("a key for no id, beside key %d", i)
		}
	}
}

// IDs that begin alike meet in one place of the table, at its end too.
func TestRingWithCrowdedIDs(t *testing.T) {
	var keys []*auth.Key
	for _, first := range []byte{0x00, 0xff} {
		for i := range 20 {
			k := &auth.Key{}
			for j := range k.Hash {
				k.Hash[j] = first
			}
			k.Hash[7] = byte(i + 1)
			keys = append(keys, k)
		}
	}
	r := ring(t, auth.Defaults{}, keys...)
	for i, k := range keys {
		if got, ok := r.Get(k.ID()); !ok || got != k {
			t.Fatalf("key %d is lost", i)
		}
	}
	absent := *keys[0]
	absent.Hash[7] = 99
	if _, ok := r.Get(absent.ID()); ok {
		t.Fatal("a key that was not given")
	}
}

func TestNewKeyringRefuses(t *testing.T) {
	stored := key("twice")
	stored.Name, stored.Source = "stored", auth.Stored
	alike := key("twice")
	alike.Hash[20] ^= 1
	for _, c := range []struct {
		guards string
		keys   []*auth.Key
		want   string
	}{
		{
			"one secret in two places",
			[]*auth.Key{key("a"), key("twice"), stored},
			`key "of twice" of the configuration (id dc8ffdbf2736dbdf) and key "stored" of the keys file (id dc8ffdbf2736dbdf) have the same secret`,
		},
		{"one account for two keys", []*auth.Key{key("twice"), alike}, "have the same secret"},
		{"no hash", []*auth.Key{{Name: "forgotten"}}, `key "forgotten" of the configuration (id 0000000000000000) has no secret`},
		{"the hash of nothing", []*auth.Key{{Name: "empty", Hash: auth.Hash("")}}, "has no secret"},
	} {
		r, err := auth.NewKeyring(c.keys, auth.Defaults{})
		if err == nil || r != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.guards, err, c.want)
		}
	}
}

func TestLimits(t *testing.T) {
	defaults := auth.Own{RequestsPerSecond: 10, BurstSize: 30, RequestsPerMinute: 100, TokensPerMinute: 5000, MaxConcurrent: 5}
	rps, rpm := limit.PerSecond, limit.PerMinute
	for _, c := range []struct {
		guards   string
		own      *auth.Own
		defaults auth.Own
		want     limit.Limits
	}{
		{"no limits at all", nil, auth.Own{}, limit.Limits{}},
		{"says nothing", &auth.Own{}, defaults, limit.Limits{PerSecond: rps(10, 30), PerMinute: rpm(100), Tokens: rpm(5000), Concurrent: 5}},
		{"defaults alone", nil, defaults, limit.Limits{PerSecond: rps(10, 30), PerMinute: rpm(100), Tokens: rpm(5000), Concurrent: 5}},
		{"own alone, when rate_limit is off", &auth.Own{RequestsPerSecond: 2, TokensPerMinute: 7}, auth.Own{}, limit.Limits{PerSecond: rps(2, 2), Tokens: rpm(7)}},
		{"a default burst on another rate", &auth.Own{RequestsPerSecond: 2}, defaults, limit.Limits{PerSecond: rps(2, 2), PerMinute: rpm(100), Tokens: rpm(5000), Concurrent: 5}},
		{"own burst on the default rate", &auth.Own{BurstSize: 4}, defaults, limit.Limits{PerSecond: rps(10, 4), PerMinute: rpm(100), Tokens: rpm(5000), Concurrent: 5}},
		{"a burst of no rate", &auth.Own{BurstSize: 4}, auth.Own{}, limit.Limits{}},
		{
			"all its own", &auth.Own{RequestsPerSecond: 1, BurstSize: 2, RequestsPerMinute: 3, TokensPerMinute: 4, MaxConcurrent: 6}, defaults,
			limit.Limits{PerSecond: rps(1, 2), PerMinute: rpm(3), Tokens: rpm(4), Concurrent: 6},
		},
	} {
		k := key("k")
		k.Limits = c.own
		if got := *ring(t, auth.Defaults{Limits: c.defaults}, key("other"), k).Limits(k); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.guards, got, c.want)
		}
	}
}

func TestLimitsAreShared(t *testing.T) {
	a, b, c := key("a"), key("b"), key("c")
	a.Limits, b.Limits, c.Limits = &auth.Own{MaxConcurrent: 3}, &auth.Own{MaxConcurrent: 3}, &auth.Own{MaxConcurrent: 4}
	r := ring(t, auth.Defaults{}, a, b, c)
	if r.Limits(a) != r.Limits(b) || r.Limits(a) == r.Limits(c) {
		t.Fatal("equal limits are two, or different ones are one")
	}
}

func TestQuota(t *testing.T) {
	monthly := auth.Defaults{Quota: 1000, Period: quota.Monthly}
	for _, c := range []struct {
		guards   string
		key      auth.Key
		defaults auth.Defaults
		tokens   int64
		period   quota.Period
	}{
		{"nothing said is daily, unlimited", auth.Key{}, auth.Defaults{}, 0, quota.Daily},
		{"defaults", auth.Key{}, monthly, 1000, quota.Monthly},
		{"own number, default period", auth.Key{Quota: 5}, monthly, 5, quota.Monthly},
		{"own period, which is the zero one", auth.Key{HasPeriod: true}, monthly, 1000, quota.Daily},
		{"own both", auth.Key{Quota: 5, Period: quota.Never, HasPeriod: true}, monthly, 5, quota.Never},
	} {
		k := c.key
		k.Hash = auth.Hash("k")
		if tokens, period := ring(t, c.defaults, &k).Quota(&k); tokens != c.tokens || period != c.period {
			t.Errorf("%s: %d %v", c.guards, tokens, period)
		}
	}
}

func TestKeyOfAnotherRing(t *testing.T) {
	defer func() {
		if p := fmt.Sprint(recover()); !strings.HasPrefix(p, "BUG: ") {
			t.Fatalf("recovered %s", p)
		}
	}()
	ring(t, auth.Defaults{}, key("a")).Limits(key("b"))
}
