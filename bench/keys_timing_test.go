package bench

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/bench/tenants"
	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/keystore"
)

// BenchmarkLoad is the start of a gateway with many keys: their file is read and
// made ready. B/key is what of it stays in memory.
func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{10, 100_000} {
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			dir := b.TempDir()
			if err := tenants.Write(dir, tenants.Used{Secret: secret, Models: []string{"m"}}, n-1); err != nil {
				b.Fatal(err)
			}
			before := heap()
			ring, store := load(b, dir)
			stays := float64(heap() - before)
			runtime.KeepAlive(ring)
			runtime.KeepAlive(store)
			for b.Loop() {
				load(b, dir)
			}
			b.ReportMetric(stays/float64(n), "B/key")
		})
	}
}

func load(b *testing.B, dir string) (*auth.Keyring, *keystore.File) {
	store, err := keystore.OpenFile(dir, time.Now)
	if err != nil {
		b.Fatal(err)
	}
	ring, err := auth.NewKeyring(store.Keys(), auth.Defaults{})
	if err != nil {
		b.Fatal(err)
	}
	return ring, store
}

// heap is what is in use of it. What is pooled goes with the second collection.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
