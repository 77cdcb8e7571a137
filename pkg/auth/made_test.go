package auth_test

import (
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

const (
	prefix = "sk-llmproxy-"
	base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

func mint(t testing.TB) string {
	t.Helper()
	key, err := auth.Mint()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// The bound on chi-square, with 61 degrees of freedom, is exceeded by chance once in
// 10^9 runs; taking bytes modulo 62 exceeds it by thousands.
func TestMintIsUniqueAndUniform(t *testing.T) {
	const keys, random = 10_000, 30
	seen := make(map[string]bool, keys)
	var count [256]int
	for range keys {
		key := mint(t)
		if len(key) != len(prefix)+random+6 || !strings.HasPrefix(key, prefix) {
			t.Fatalf("a key of %d characters beginning with %s", len(key), key[:len(prefix)])
		}
		if seen[key] || auth.LooksMistyped([]byte(key)) {
			t.Fatal("made twice, or made wrong")
		}
		seen[key] = true
		for _, c := range []byte(key[len(prefix) : len(prefix)+random]) {
			count[c]++
		}
	}
	expected := float64(keys*random) / float64(len(base62))
	chi2, total := 0.0, 0
	for _, c := range []byte(base62) {
		d := float64(count[c]) - expected
		chi2 += d * d / expected
		total += count[c]
	}
	if total != keys*random || chi2 > 155 {
		t.Fatalf("chi-square %.1f over %d of %d digits", chi2, total, keys*random)
	}
	t.Logf("chi-square %.1f, 61 degrees of freedom", chi2)
}

func TestChecksumFindsEverySlip(t *testing.T) {
	for range 50 {
		key := []byte(mint(t))
		for i := len(prefix); i < len(key); i++ {
			right := key[i]
			for _, wrong := range []byte(base62) {
				key[i] = wrong
				if auth.LooksMistyped(key) != (wrong != right) {
					t.Fatalf("%c for %c at %d: not found", wrong, right, i)
				}
			}
			key[i] = right
			if i+1 == len(key) || key[i] == key[i+1] {
				continue
			}
			key[i], key[i+1] = key[i+1], key[i]
			if !auth.LooksMistyped(key) {
				t.Fatalf("swapped at %d: not found", i)
			}
			key[i], key[i+1] = key[i+1], key[i]
		}
		if auth.LooksMistyped(key) {
			t.Fatal("a right key is mistyped")
		}
	}
}

// The checksum is part of the format: keys made by one version hold in the next.
func TestMadeKeyOfBefore(t *testing.T) {
	const key = "sk-llmproxy-" + "0Aa1Bb2Cc3Dd4Ee5Ff6Gg7Hh8Ii9Jj" + "01FHM0"
	if auth.LooksMistyped([]byte(key)) {
		t.Fatal("mistyped")
	}
}

func TestOnlyMadeKeysLookMistyped(t *testing.T) {
	wrong := prefix + strings.Repeat("a", 36)
	for _, c := range []struct {
		guards, key string
		want        bool
	}{
		{"wrong checksum", wrong, true},
		{"empty", "", false},
		{"the prefix alone", prefix, false},
		{"an operator's key", "sk-llmproxy-dev-team-001", false},
		{"one short", wrong[:len(wrong)-1], false},
		{"one over", wrong + "a", false},
		{"a hyphen within", wrong[:20] + "-" + wrong[21:], false},
		{"a NUL at the end", wrong[:len(wrong)-1] + "\x00", false},
		{"no ASCII", wrong[:len(wrong)-2] + "é", false},
		{"a prefix in capitals", "SK-LLMPROXY-" + wrong[12:], false},
		{"another prefix", "sk-llmpr0xy-" + wrong[12:], false},
	} {
		if got := auth.LooksMistyped([]byte(c.key)); got != c.want {
			t.Errorf("%s: %t", c.guards, got)
		}
	}
}
