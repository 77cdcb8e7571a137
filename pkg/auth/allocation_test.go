//go:build !race

package auth_test

import (
	"net/netip"
	"runtime"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

// The race detector allocates on its own; these run without it.
func TestAllocations(t *testing.T) {
	keys := crowd(1000)
	keys[1].Disabled = true
	r := ring(t, auth.Defaults{Mapping: map[string]string{"llama-3-70b": "llama-3-70b-instruct"}}, keys...)
	known, disabled, mistyped := secret(0), secret(1), secret(1001)
	ip := netip.MustParseAddr("::ffff:10.0.1.7")
	linked := netip.MustParseAddr("fe80::1%eth0")
	f := auth.NewFailures()
	for name, step := range map[string]func(){
		"a request": func() {
			if !identify(r, known, ip, "llama-3-70b-instruct") {
				t.Fatal("refused")
			}
		},
		"a refused address": func() { identify(r, known, linked, "llama-3-70b") },
		"a refused model":   func() { identify(r, known, ip, "qwen-72b") },
		"a disabled key":    func() { identify(r, disabled, ip, "qwen-72b") },
		"an unknown key":    func() { identify(r, mistyped, ip, "qwen-72b") },
		"a failure":         func() { f.Add(1, linked) },
	} {
		if n := testing.AllocsPerRun(100, step); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

// A hundred thousand keys cost a gateway 30 MB, the ring, names and all.
func TestAllocatedBytesOfAKey(t *testing.T) {
	const n, most = 100_000, 300
	before := heap()
	r := ring(t, auth.Defaults{}, crowd(n)...)
	each := float64(heap()-before) / n
	if each > most || r.Len() != n {
		t.Fatalf("%.1f bytes a key, want at most %d", each, most)
	}
	t.Logf("%.1f bytes a key", each)
	runtime.KeepAlive(r)
}

// heap is what lives, in bytes.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
