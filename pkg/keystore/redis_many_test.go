//go:build !race

package keystore_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/redistest"
)

func heapNow() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// As many keys as a large provider has must neither take long nor much.
func TestManyKeysInRedis(t *testing.T) {
	const (
		n       = manyKeys
		most    = 400 // bytes a key, of which about 70 are its name and user
		slowest = 10  // times what it takes on an idle machine
	)
	s := redistest.Start(t)
	fill(t, s, n)
	before := heapNow()
	a := gateOf(t, s.Addr(), t.TempDir())
	began := time.Now()
	a.run().synced()
	load := time.Since(began)
	b := runs(t, s)
	eventually(t, "all is loaded", func() bool { return len(a.Keys()) == n && len(b.Keys()) == n })
	k := at(1, "one more")
	began = time.Now()
	add(t, a, k)
	made := time.Since(began)
	eventually(t, "it is everywhere", func() bool { return len(b.Keys()) == n+1 })
	there := time.Since(began)
	began = time.Now()
	s.Must("FLUSHALL")
	eventually(t, "both have seen it", func() bool { return a.State().Losses == 1 && b.State().Losses == 1 })
	a.synced()
	b.synced()
	again := time.Since(began)
	a.stop()
	b.stop()
	each := (heapNow() - before) / (2 * n)
	began = time.Now()
	c := gateOf(t, s.Addr(), a.dir)
	open := time.Since(began)
	t.Logf("loaded in %v, %d bytes a key; a change is made in %v and everywhere in %v; an emptied store is filled by two in %v; a snapshot is read in %v",
		load, each, made, there, again, open)
	if load > slowest*2*time.Second || there > slowest*50*time.Millisecond || each > most || len(c.Keys()) != n+1 {
		t.Errorf("%d keys in the snapshot", len(c.Keys()))
	}
	runtime.KeepAlive(b)
	runtime.KeepAlive(a)
}
