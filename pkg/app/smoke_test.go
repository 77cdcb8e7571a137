package app_test

import (
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

func TestForwardsWholeAndStreamed(t *testing.T) {
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, "", e)
	for _, body := range []string{
		`{"model":"mock-model","messages":[{"role":"user","content":"hi"}]}`,
		`{"model":"mock-model","messages":[{"role":"user","content":"hi"}],"stream":true}`,
	} {
		status, answer := g.Post(t, "/v1/chat/completions", body)
		if status != 200 || len(answer) < 100 {
			t.Errorf("%s: %d %s", body, status, answer)
		}
	}
	apptest.Eventually(t, "every request left the backend", func() bool {
		return g.Metric(`llmproxy_requests_in_flight{backend="e0"}`) == 0
	})
	if n := g.Metric(`llmproxy_requests_total{model="*",backend="e0",status="200"}`); n != 2 {
		t.Errorf("counted %v requests, want 2\n%s", n, g.Metrics())
	}
}
