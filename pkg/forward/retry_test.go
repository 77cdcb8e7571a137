package forward

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/llmproxy/llmproxy/pkg/openai"
	"github.com/llmproxy/llmproxy/pkg/route"
	"github.com/llmproxy/llmproxy/pkg/stats"
)

func newPool(t *testing.T) *route.Pool {
	t.Helper()
	table, err := route.Build(route.TableConfig{Backends: []route.BackendConfig{{Name: "a", URL: "http://a"}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, ok := table.Resolve("m")
	if !ok {
		t.Fatal("no pool")
	}
	return r.Pool
}

// TestBackOff: the wait is cut by chance to a half at most, and by an
// interruption; one beyond the request's deadline, which would leave no time for
// an attempt, is not begun.
func TestBackOff(t *testing.T) {
	for _, w := range []struct {
		name     string
		jitter   float64
		wait     time.Duration
		deadline time.Duration // from the start; 0: none
		leaves   time.Duration // when the client leaves; 0: never
		took     time.Duration
		goesOn   bool
	}{
		{"without chance", 0, 10 * time.Second, 0, 0, 10 * time.Second, true},
		{"with half of it", 0.5, 10 * time.Second, 0, 0, 7500 * time.Millisecond, true},
		{"with all of it", 0.999999, 10 * time.Second, 0, 0, 5 * time.Second, true},
		{"a deadline after", 0, 10 * time.Second, 11 * time.Second, 0, 10 * time.Second, true},
		{"a deadline before", 0, 10 * time.Second, 3 * time.Second, 0, 0, false},
		{"a deadline long over", 0, 10 * time.Second, -time.Second, 0, 0, false},
		{"the client leaves", 0, 10 * time.Second, 0, 2 * time.Second, 2 * time.Second, false},
	} {
		t.Run(w.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &Forwarder{Jitter: func() float64 { return w.jitter }}
				c := NewCall()
				start := time.Now()
				if w.deadline != 0 {
					c.deadline = start.Add(w.deadline)
				}
				if w.leaves > 0 {
					time.AfterFunc(w.leaves, func() { c.Interrupt(ClientLeft) })
				}
				goesOn := f.backOff(c, w.wait)
				if took := time.Since(start).Round(time.Millisecond); took != w.took || goesOn != w.goesOn {
					t.Errorf("took %v and went on: %v", took, goesOn)
				}
			})
		})
	}
}

// TestAgain is the table of what may be tried again, and what it costs.
func TestAgain(t *testing.T) {
	for _, w := range []struct {
		name     string
		failure  retry
		retry    Retry
		attempts int
		deadline time.Duration // from now; 0: none
		spent    int           // shares of the budget that others hold
		replayed bool
		want     bool
		share    bool // whether the call holds a share afterwards
		denied   uint64
	}{
		{"never", never, Retry{Enabled: true, MaxRetries: 2}, 1, 0, 0, false, false, false, 0},
		{"an answer", budget, Retry{Enabled: true, MaxRetries: 2}, 1, 0, 0, false, true, true, 0},
		{"an answer, retries off", budget, Retry{MaxRetries: 2}, 1, 0, 0, false, false, false, 0},
		{"an answer, the budget spent", budget, Retry{Enabled: true, MaxRetries: 2}, 1, 0, 3, false, false, false, 1},
		{"the last attempt", budget, Retry{Enabled: true, MaxRetries: 2}, 3, 0, 0, false, false, false, 0},
		{"no answer", outside, Retry{Enabled: true, MaxRetries: 2}, 1, 0, 0, false, true, false, 0},
		{"no answer, the budget spent", outside, Retry{Enabled: true, MaxRetries: 2}, 1, 0, 3, false, true, false, 0},
		{"no answer a second time", outside, Retry{Enabled: true, MaxRetries: 2}, 2, 0, 0, true, true, true, 0},
		{"no answer a second time, the budget spent", outside, Retry{Enabled: true, MaxRetries: 2}, 2, 0, 3, true, false, false, 1},
		{"no answer, no further attempts", outside, Retry{Enabled: true}, 1, 0, 0, false, false, false, 0},
		{"no answer, retries off", outside, Retry{MaxRetries: 2}, 1, 0, 0, false, false, false, 0},
		{"no time left", budget, Retry{Enabled: true, MaxRetries: 2}, 1, -time.Second, 0, false, false, false, 0},
		{"time left", budget, Retry{Enabled: true, MaxRetries: 2}, 1, time.Hour, 0, false, true, true, 0},
	} {
		t.Run(w.name, func(t *testing.T) {
			f := &Forwarder{Retry: w.retry, Stats: stats.New("", "")}
			c := NewCall()
			c.Pool, c.Attempts = newPool(t), w.attempts
			if w.deadline != 0 {
				c.deadline = time.Now().Add(w.deadline)
			}
			for range w.spent {
				c.Pool.TryRetry()
			}
			replayed := w.replayed
			got := f.again(c, &Failure{Err: openai.BadGateway(), retry: w.failure}, &replayed)
			if got != w.want || c.retrying != w.share || f.Stats.RetriesDenied.Get() != w.denied {
				t.Errorf("%v, holds a share: %v, denied %d", got, c.retrying, f.Stats.RetriesDenied.Get())
			}
			if got != (f.Stats.Retries.Get() == 1) {
				t.Errorf("counted %d retries", f.Stats.Retries.Get())
			}
			if c.retryDone(); w.share {
				for i := range 3 {
					if !c.Pool.TryRetry() {
						t.Fatalf("the share was not given back: %d are left", i)
					}
				}
			}
		})
	}
}
