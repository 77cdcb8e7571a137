package bench

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/events"
	"github.com/llmproxy/llmproxy/pkg/journal"
)

// BenchmarkEnd is how long the last bytes of answers wait until their record is
// in the kernel's hands, with sync always on the disk of the temporary directory.
// One operation is a request's START and its END, of which only the END is timed
// for the percentiles; as many requests are under way as there are goroutines,
// and each begins when the one before it ends.
func BenchmarkEnd(b *testing.B) {
	for _, mode := range []string{"interval", "always", "os"} {
		for _, goroutines := range []int{1, 64} {
			b.Run(fmt.Sprintf("sync=%s/goroutines=%d", mode, goroutines), func(b *testing.B) {
				l := openLog(b, mode)
				b.ReportAllocs()
				b.ResetTimer()
				waits := endAll(l, b.N, goroutines)
				b.StopTimer()
				slices.Sort(waits)
				b.ReportMetric(float64(waits[len(waits)/2]), "p50-ns")
				b.ReportMetric(float64(waits[len(waits)*99/100]), "p99-ns")
			})
		}
	}
}

func openLog(b *testing.B, mode string) *events.Log {
	sync, err := journal.ParseSync(mode)
	if err != nil {
		b.Fatal(err)
	}
	l, err := events.Open(b.TempDir(), journal.Options{Sync: sync}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	return l
}

// endAll begins and ends n requests, and returns how long each END took.
func endAll(l *events.Log, n, goroutines int) []time.Duration {
	waits := make([]time.Duration, n)
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			r := &events.Record{
				ID: [16]byte{byte(g)}, KeyID: "8ceddca8a73b101a", Asked: "chat", Served: "chat", Backend: "engine-1",
				Endpoint: "/v1/chat/completions", Status: 200, Attempts: 1, Prompt: 212, Completion: 21, Total: 233, Started: time.Now(),
			}
			for i := g; i < n; i += goroutines {
				l.Start(r)
				begun := time.Now()
				l.End(r)
				waits[i] = time.Since(begun)
			}
		})
	}
	all.Wait()
	return waits
}
