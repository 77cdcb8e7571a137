package app_test

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// Two of three engines answer 503: quick failures look like the least loaded
// backends, the half rule keeps them in use, and retries that counted against
// the budget for as long as their stream lasted left nothing for the others.
func TestOneSoundEngineIsEnough(t *testing.T) {
	var engines []*apptest.Engine
	for range 3 {
		engines = append(engines, apptest.StartEngine(t, mockvllm.Options{StepBase: 2 * time.Millisecond}))
	}
	for _, e := range engines[:2] {
		if err := e.Fault(mockvllm.FaultRule{Fault: "503", Path: "/v1/chat/completions"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, strategy := range []string{"least_connections", "round_robin", "latency_based"} {
		t.Run(strategy, func(t *testing.T) {
			g := apptest.Start(t, "load_balance_strategy: "+strategy+"\n", engines...)
			for range 40 { // until both are ejected
				streams(g.URL)
			}
			const clients, requests = 20, 15
			var failed atomic.Int64
			var wg sync.WaitGroup
			for range clients {
				wg.Go(func() {
					for range requests {
						if !streams(g.URL) {
							failed.Add(1)
						}
					}
				})
			}
			wg.Wait()
			if n := failed.Load(); n > clients*requests/50 {
				t.Errorf("%d of %d requests failed; retries denied: %v", n, clients*requests, g.Metric("llmproxy_retries_denied_total"))
			}
		})
	}
}

// streams tells whether a chat streams to its end.
func streams(url string) bool {
	const body = `{"model":"mock-model","stream":true,"max_tokens":10,"messages":[{"role":"user","content":"hi"}]}`
	resp, err := http.Post(url+"/v1/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return err == nil && strings.HasSuffix(string(b), "[DONE]\n\n")
}
