package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// The slot of a stream that broke, and of a stored response, was back only after the
// client had the end.
func TestTheSlotIsBackBeforeABrokenAnswerEnds(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, limitConfig(t, "", ", max_concurrent: 1", ", max_concurrent: 1"), e)
	stored := limitKeyOf(g, 1).say("POST", responsesURL, `{"model":"mock-model","input":"hi","max_output_tokens":2000}`)
	var response struct{ ID string }
	if err := json.Unmarshal([]byte(stored.body), &response); err != nil || response.ID == "" {
		t.Fatalf("%d %s", stored.status, stored.body)
	}
	for i := range 300 {
		if a := limitKeyOf(g, 0).say("POST", chatPath, fmt.Sprintf(limitChat, `"stream":true,"mock_fault":"fin=2"`)); a.status != http.StatusOK {
			t.Fatalf("broken stream %d: %d %s", i, a.status, a.body)
		}
	}
	for i := range 300 {
		if a := limitKeyOf(g, 1).say("GET", responsesURL+"/"+response.ID, ""); a.status != http.StatusOK {
			t.Fatalf("stored response %d: %d %s", i, a.status, a.body)
		}
	}
}
