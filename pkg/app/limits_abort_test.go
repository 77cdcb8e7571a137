package app_test

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// Whoever left before the answer had used nothing by the engine's count, and could
// have the engine work for ever without coming to a limit.
func TestLeavingEarlyIsNotFree(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{StepBase: time.Minute})
	g := apptest.Start(t, limitConfig(t, "", ", tokens_per_minute: 10000, total_quota: 100000"), e)
	k := limitKeyOf(g, 0)
	body := fmt.Sprintf(`{"model":"mock-model","max_tokens":10,"messages":[{"role":"user","content":%q}]}`, strings.Repeat("word ", 800))
	c := dialRaw(t, g.Addr)
	if _, err := io.WriteString(c, k.request("POST", chatPath, body)); err != nil {
		t.Fatal(err)
	}
	apptest.Eventually(t, "the engine works", func() bool { return len(e.Ledger()) == 1 })
	c.Close()
	apptest.Eventually(t, "the gateway notices", func() bool { return k.use(t).InFlight == 0 })
	u := k.use(t)
	if u.Quota.Used != 0 || u.Quota.Reserved != 0 {
		t.Errorf("nothing is billed for it: %+v", u.Quota)
	}
	for _, l := range u.Limits {
		if l.Name == "tokens_per_minute" && l.Remaining > 9_500 {
			t.Errorf("%d of 10000 tokens are left behind a prompt of 800", l.Remaining)
		}
	}
}
