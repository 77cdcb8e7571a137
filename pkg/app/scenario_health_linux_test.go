package app_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// What the files say under 健康检查. These tests mostly wait, so they are apart
// from the others, and run beside each other.
const healthSentence = "健康检查"

func TestScenario1Health(t *testing.T) {
	healthChecks(t, service(0), [3]string{gpu1, gpu2, gpu3}, 5*time.Second, 3*time.Second)
}

func TestScenario3Health(t *testing.T) {
	qwen := provided["qwen-72b-chat"]
	healthChecks(t, provider(), [3]string(qwen[:3]), 10*time.Second, 5*time.Second)
}

func TestScenario5Health(t *testing.T) {
	healthChecks(t, edge(0), [3]string{beijing, shanghai, chengdu}, 5*time.Second, 3*time.Second)
}

// healthChecks: at the interval, less up to a tenth by chance, an engine that lives
// is asked at /health; one that is silent is let go at the timeout; and one that is
// dead is known to be.
func healthChecks(t *testing.T, c *scene, engines [3]string, interval, timeout time.Duration) {
	t.Parallel()
	play := func(t *testing.T) {
		s := c.open(t)
		alive, silent, dead := s.engines[engines[0]], s.engines[engines[1]], s.engines[engines[2]]
		dead.Close()
		if err := silent.Fault(mockvllm.FaultRule{Fault: "hang", Path: "/health"}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*interval+timeout+patience)
		defer cancel()
		check := func(e *apptest.Engine, is func(r mockvllm.Entry) bool) mockvllm.Entry {
			row, err := e.WaitEntry(ctx, func(r mockvllm.Entry) bool {
				return r.Method == http.MethodGet && r.Path == "/health" && is(r)
			})
			if err != nil {
				t.Fatalf("no such check: %v", err)
			}
			return row
		}
		first := check(alive, func(mockvllm.Entry) bool { return true })
		second := check(alive, func(r mockvllm.Entry) bool { return r.Seq > first.Seq })
		if gap := second.Arrived.Sub(first.Arrived); gap < interval*85/100 || gap > interval+2*time.Second {
			t.Errorf("two checks came %v apart, want %v", gap, interval)
		}
		gone := check(silent, func(r mockvllm.Entry) bool { return !r.Aborted.IsZero() })
		if took := gone.Aborted.Sub(gone.Arrived); took < timeout-100*time.Millisecond || took > timeout+2*time.Second {
			t.Errorf("a silent check was let go after %v, want %v", took, timeout)
		}
		for addr, healthy := range map[string]float64{engines[0]: 1, engines[2]: 0} {
			s.until(fmt.Sprintf("llmproxy_backend_healthy{backend=%q}", addr), is(healthy))
		}
	}
	c.play(t, []sentence{{healthSentence, play}})
}
