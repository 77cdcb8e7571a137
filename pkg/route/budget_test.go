package route

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestRetryBudget(t *testing.T) {
	for _, c := range []struct{ active, want int64 }{
		{0, 3}, {3, 3}, {15, 3}, {19, 3}, {20, 4}, {100, 20},
	} {
		p := poolOf(t, LeastConnections, "a", "b")
		for range c.active {
			mustPick(t, p, noon, "")
		}
		var granted atomic.Int64
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 50 {
					if p.TryRetry() {
						granted.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if got := granted.Load(); got > c.want {
			t.Errorf("%d of %d requests in flight are on a retry, want at most %d", got, c.active, c.want)
		}
		for p.TryRetry() {
			granted.Add(1)
		}
		if got := granted.Load(); got != c.want {
			t.Errorf("with %d in flight %d retries are granted, want %d", c.active, got, c.want)
		}
		for range c.want {
			p.RetryDone()
		}
		if got := p.retries.Load(); got != 0 {
			t.Errorf("%d shares are still taken after all were given back", got)
		}
	}
}
