package keystore_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/keystore"
)

const manyKeys = 100_000

// writeMany makes a file of as many keys, as a store would have written it.
func writeMany(t testing.TB, path string, n int) {
	t.Helper()
	var b strings.Builder
	b.WriteString("{\n  \"version\": 1,\n  \"keys\": [")
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `
    {
      "key_hash": "sha256:%x",
      "last4": "%04d",
      "name": "customer %06d production",
      "user_id": "customer_%06d",
      "status": "active",
      "total_quota": 10000000,
      "quota_reset_period": "monthly",
      "allowed_models": [
        "llama-3-70b",
        "llama-3-8b"
      ],
      "allowed_ips": [
        "10.0.1.0/24"
      ],
      "requests_per_minute": %d,
      "created_at": "2026-11-23T12:00:00Z"
    }`, auth.Hash(fmt.Sprint("sk-", i)), i%10000, i, i, 1+i%5)
	}
	b.WriteString("\n  ]\n}\n")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

func manyIn(b *testing.B) *keystore.File {
	dir := b.TempDir()
	s := open(b, dir)
	writeMany(b, s.Path(), manyKeys)
	reload(b, s, true)
	return s
}

func BenchmarkOpen100000(b *testing.B) {
	s := manyIn(b)
	info, err := os.Stat(s.Path())
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(info.Size())
	dir := strings.TrimSuffix(s.Path(), "/keys.json")
	for b.Loop() {
		if n := len(open(b, dir).Keys()); n != manyKeys {
			b.Fatal(n)
		}
	}
}

func BenchmarkAddTo100000(b *testing.B) {
	s := manyIn(b)
	for n := 0; b.Loop(); n++ {
		add(b, s, key(fmt.Sprintf("sk-more-%04d", n), ""))
	}
}

func BenchmarkAdd(b *testing.B) {
	dir := b.TempDir()
	s := open(b, dir)
	for n := 0; b.Loop(); n++ {
		k := key(fmt.Sprintf("sk-more-%04d", n), "")
		add(b, s, k)
		if _, err := s.Remove(k.ID()); err != nil {
			b.Fatal(err)
		}
	}
}
