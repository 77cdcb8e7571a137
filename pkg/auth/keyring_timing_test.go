package auth_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/limit"
)

// crowd is n keys as a provider has them: each with a name of 24 characters and a user
// id of 12, all with one of a few lists.
func crowd(n int) []*auth.Key {
	models := [][]string{{"llama-3-70b", "llama-3-8b"}, {"qwen-*"}, {"llama-3-70b", "mistral-7b", "qwen-*"}}
	addresses := [][]netip.Prefix{
		{netip.MustParsePrefix("10.0.1.0/24")}, {netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")},
	}
	own := []*auth.Own{nil, {RequestsPerSecond: 50, TokensPerMinute: 100_000}, {MaxConcurrent: 50}}
	keys := make([]*auth.Key, n)
	for i := range keys {
		token := secret(i)
		keys[i] = &auth.Key{
			Hash: auth.Hash(token), Last4: strings.Clone(string(token[len(token)-4:])),
			Name: fmt.Sprintf("customer %08d, tests", i)[:24], UserID: fmt.Sprintf("user_%07d", i),
			Models: models[i%len(models)], Addresses: addresses[i%len(addresses)], Limits: own[i%len(own)],
			Quota: 10_000_000, Expires: auth.At(noon.AddDate(1, 0, 0)), Created: auth.At(noon), Source: auth.Stored,
		}
	}
	return keys
}

// secret has the length of a made key.
func secret(i int) []byte { return fmt.Appendf(nil, "sk-llmproxy-%036d", i) }

func BenchmarkNewKeyring(b *testing.B) {
	for _, n := range []int{10, 100_000} {
		keys := crowd(n)
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ring(b, auth.Defaults{}, keys...)
			}
		})
	}
}

// BenchmarkFind looks for one key again and again, for a thousand in turn, which is
// how many are busy at a time, and for all of them in turn, which no cache holds.
func BenchmarkFind(b *testing.B) {
	for _, n := range []int{10, 100_000} {
		r := ring(b, auth.Defaults{}, crowd(n)...)
		for _, busy := range []int{1, 10, 1000, 100_000} {
			if busy > n {
				break
			}
			tokens := make([][]byte, busy)
			for i := range tokens {
				tokens[i] = secret(i * (n / busy))
			}
			b.Run(fmt.Sprintf("keys=%d/busy=%d", n, busy), func(b *testing.B) {
				b.ReportAllocs()
				at := 0
				for b.Loop() {
					if _, v := r.Find(tokens[at], noon); v != auth.Known {
						b.Fatal(v)
					}
					if at++; at == len(tokens) {
						at = 0
					}
				}
			})
		}
	}
}

// BenchmarkRefuse is what each refusal takes.
func BenchmarkRefuse(b *testing.B) {
	keys := crowd(100_000)
	keys[1].Disabled, keys[2].Expires = true, auth.At(noon)
	r := ring(b, auth.Defaults{}, keys...)
	for _, c := range []struct {
		name  string
		token []byte
	}{
		{"unknown", []byte("sk-llmproxy-a-key-of-another-one-of-the-like-sort")[:48]},
		{"mistyped", secret(100_001)},
		{"disabled", secret(1)},
		{"expired", secret(2)},
		{"megabyte", make([]byte, 1<<20)},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, v := r.Find(c.token, noon); v == auth.Known {
					b.Fatal(v)
				}
			}
		})
	}
}

// BenchmarkIdentify is all that a request asks of the ring.
func BenchmarkIdentify(b *testing.B) {
	mapping := map[string]string{"llama-3-70b": "llama-3-70b-instruct"}
	r := ring(b, auth.Defaults{Mapping: mapping}, crowd(100_000)...)
	ip := netip.MustParseAddr("::ffff:10.0.1.7")
	for _, busy := range []int{1, 1000} {
		tokens := make([][]byte, busy)
		for i := range tokens {
			tokens[i] = secret(6 * i)
		}
		b.Run(fmt.Sprintf("busy=%d", busy), func(b *testing.B) {
			b.ReportAllocs()
			at := 0
			for b.Loop() {
				if !identify(r, tokens[at], ip, "llama-3-70b-instruct") {
					b.Fatal("refused")
				}
				if at++; at == len(tokens) {
					at = 0
				}
			}
		})
	}
}

// identify takes the steps of a request in their order.
func identify(r *auth.Keyring, token []byte, ip netip.Addr, model string) bool {
	k, v := r.Find(token, noon)
	if v != auth.Known || !r.Allows(k, ip) || !r.MayUse(k, model) {
		return false
	}
	tokens, _ := r.Quota(k)
	return tokens > 0 && *r.Limits(k) == limit.Limits{}
}

func BenchmarkFailures(b *testing.B) {
	f := auth.NewFailures()
	b.ReportAllocs()
	now := int64(0)
	for b.Loop() {
		now++
		f.Add(now, source)
	}
}
