package keystore_test

import (
	"bufio"
	"fmt"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// fill makes a store of as many keys, as gateways would have written it.
func fill(t testing.TB, s *redistest.Server, n int) {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w := bufio.NewWriterSize(c, 1<<20)
	command := func(args ...string) {
		fmt.Fprintf(w, "*%d\r\n", len(args))
		for _, a := range args {
			fmt.Fprintf(w, "$%d\r\n%s\r\n", len(a), a)
		}
	}
	command("CLIENT", "REPLY", "OFF")
	for i := range n {
		hash := auth.Hash(fmt.Sprint("sk-", i))
		command("HSET", "llmproxy:{keys}:keys", auth.ID(hash[:8]).String(), fmt.Sprintf(
			`{"rev":%d,"key_hash":"sha256:%x","last4":"%04d","name":"customer %06d production","user_id":"customer_%06d","status":"active","total_quota":10000000,"quota_reset_period":"monthly","allowed_models":["llama-3-70b","llama-3-8b"],"allowed_ips":["10.0.1.0/24"],"requests_per_minute":%d,"created_at":"2026-11-23T12:00:00Z"}`,
			1+i, hash, i%10000, i, i, 1+i%5))
	}
	command("SET", "llmproxy:{keys}:epoch", "filled")
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the store is filled", func() bool { return s.Must("EXISTS", "llmproxy:{keys}:epoch") == "1" })
}

// spread is how long it takes from Remove on one gateway until the others have it.
func spread(t testing.TB, rounds int, first *gate, others ...*gate) []time.Duration {
	t.Helper()
	var all []time.Duration
	for n := range rounds {
		k := at(n, fmt.Sprint("spread ", n))
		add(t, first, k)
		lacks := func() bool {
			return !slices.ContainsFunc(others, func(g *gate) bool {
				return slices.ContainsFunc(g.Keys(), func(o *auth.Key) bool { return o.Hash == k.Hash })
			})
		}
		has := func() bool {
			return !slices.ContainsFunc(others, func(g *gate) bool {
				return !slices.ContainsFunc(g.Keys(), func(o *auth.Key) bool { return o.Hash == k.Hash })
			})
		}
		eventually(t, "it is everywhere", has)
		began := time.Now()
		remove(t, first, k)
		for !lacks() {
			runtime.Gosched()
		}
		all = append(all, time.Since(began))
	}
	slices.Sort(all)
	return all
}

func TestARevocationIsEverywhereInASecond(t *testing.T) {
	s := redistest.Start(t)
	all := spread(t, 100, runs(t, s), runs(t, s), runs(t, s))
	t.Logf("p50 %v, p99 %v", all[len(all)/2], all[len(all)*99/100])
	if slow := all[len(all)*99/100]; slow > time.Second {
		t.Errorf("p99 is %v", slow)
	}
}

func BenchmarkRevocation100000(b *testing.B) {
	s := redistest.Start(b)
	fill(b, s, manyKeys)
	first, second := runs(b, s), runs(b, s)
	b.ResetTimer()
	all := spread(b, b.N, first, second)
	b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
}
