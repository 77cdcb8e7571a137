package webhook

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// BenchmarkDelivery sends events of a usual size to a receiver in this process,
// whose work is in the figure. To see one core: -cpu 1.
func BenchmarkDelivery(b *testing.B) {
	for _, size := range []int{1, 50, 500} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
			}))
			defer server.Close()
			s := newBench(b, server.URL, func(c *Config) { c.MaxEvents, c.MaxBytes = size, 1<<20 })
			events := someEvents(b.N)
			for i := range events {
				events[i].Data = []byte(`{"data":"` + strings.Repeat("a", 590) + `"}`)
			}
			b.ReportAllocs()
			b.ResetTimer()
			s.sendAll(b, events)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
