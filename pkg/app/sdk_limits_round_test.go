package app_test

import (
	"sync"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// A wait of less than a millisecond was told as "0", at which the libraries look at
// Retry-After instead, a whole second, or wait as they like.
func TestShortWaitsAreNotToldAsNone(t *testing.T) {
	leavesNothing(t)
	g := apptest.Start(t, limitConfig(t, "", ", requests_per_second: 1001, burst_size: 1"), apptest.StartEngine(t, mockvllm.Options{}))
	k := limitKeyOf(g, 0)
	refused := 0
	for refused < 20 {
		answers := make(chan limitAnswer, 8)
		var all sync.WaitGroup
		for range cap(answers) {
			all.Go(func() { answers <- k.say("POST", chatPath, wholeChat) })
		}
		all.Wait()
		close(answers)
		for a := range answers {
			if a.status != 429 {
				continue
			}
			refused++
			if ms := a.header.Get("Retry-After-Ms"); ms == "0" || ms == "" {
				t.Fatalf("told to wait %q ms: %s", ms, a.body)
			}
		}
	}
}
