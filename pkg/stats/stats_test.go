package stats_test

import (
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/stats"
)

// Seconds that are rounded hide the fsyncs of a fast disk, and a scrape must not add
// what an earlier one has seen.
func TestFloatCounterIsWhatItMirrors(t *testing.T) {
	s := stats.New("v", "go")
	taken := 1500 * time.Millisecond
	s.FloatCounterFunc("x_seconds_total", func() float64 { return taken.Seconds() })
	for _, want := range []string{"x_seconds_total 1.5\n", "x_seconds_total 1.75\n"} {
		var page strings.Builder
		s.WritePrometheus(&page)
		if !strings.Contains(page.String(), want) {
			t.Errorf("no %q in\n%s", want, page.String())
		}
		taken += 250 * time.Millisecond
	}
}
