package app_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// quotaCrowd is how many clients share a key.
const quotaCrowd = 50

// quotaSeen is a request that was let in, as its client saw it.
type quotaSeen struct {
	sent, ended time.Time
	tokens      int // of prompt and answer
}

// crowdOn has all clients ask, as fast as they can, until each was told that the
// quota is used up. ask makes the body of a request.
func crowdOn(t *testing.T, k limitKey, ask func() string) (seen []quotaSeen) {
	t.Helper()
	var mu sync.Mutex
	var work sync.WaitGroup
	for range quotaCrowd {
		work.Go(func() {
			for {
				r := quotaSeen{sent: time.Now()}
				a := k.say("POST", chatPath, ask())
				r.ended = time.Now()
				switch {
				case a.status == http.StatusOK:
					r.tokens = atoi(t, between(a.body, `"total_tokens":`, `,`))
					mu.Lock()
					seen = append(seen, r)
					mu.Unlock()
				case a.status != http.StatusTooManyRequests:
					t.Errorf("%d %s: %v", a.status, a.body, a.err)
					return
				case strings.Contains(a.body, "insufficient_quota"):
					return
				}
			}
		})
	}
	work.Wait()
	return seen
}

// TestQuotaOfACrowd: many clients of one key use what they may, at the same time as
// one after the other.
func TestQuotaOfACrowd(t *testing.T) {
	leavesNothing(t)
	const limit = 10_000
	for _, w := range []struct {
		name string
		ask  func() string
		most int // by how much the quota may be exceeded
		left int // what may be left of it: too little for the least request
	}{
		{"with max_tokens", func() string {
			return fmt.Sprintf(limitChat, fmt.Sprintf(`"max_tokens":%d`, 1+rand.IntN(60)))
		}, 0, 100},
		{"most of the answers shorter than max_tokens", func() string {
			return fmt.Sprintf(limitChat, fmt.Sprintf(`"max_tokens":200,"mock_tokens":%d`, 1+rand.IntN(40)))
		}, 0, 260},
		// An answer is expected to be what the others were; of those under way at the
		// end each may be longer.
		{"without max_tokens", func() string {
			return fmt.Sprintf(limitChat, fmt.Sprintf(`"mock_tokens":%d`, 1+rand.IntN(60)))
		}, quotaCrowd * 60, 400},
	} {
		t.Run(w.name, func(t *testing.T) {
			e := apptest.StartEngine(t, mockvllm.Options{StepBase: time.Millisecond, MaxModelLen: 4096})
			g := apptest.Start(t, limitConfig(t, fmt.Sprintf("auth: {timezone: %s}\n", quotaZone()), fmt.Sprintf(", total_quota: %d", limit)), e)
			k := limitKeyOf(g, 0)
			seen := crowdOn(t, k, w.ask)
			rows := quotaRows(t, e)
			used, got := 0, 0
			for _, row := range rows {
				used += row.PromptTokens + row.Tokens
			}
			for _, r := range seen {
				got += r.tokens
			}
			if u := k.use(t).Quota; u.Used != int64(used) || u.Reserved != 0 || len(seen) != len(rows) || got != used {
				t.Errorf("%d tokens in %d answers came from the engine, %d in %d to clients, the key is told of %+v", used, len(rows), got, len(seen), u)
			}
			t.Logf("%d of %d tokens were used in %d requests", used, limit, len(rows))
			if used > limit+w.most || used < limit-w.left {
				t.Errorf("%d of %d tokens were used", used, limit)
			}
			for _, r := range seen {
				before := 0 // used by those whose end somebody had seen when r was sent
				for _, other := range seen {
					if other.ended.Before(r.sent) {
						before += other.tokens
					}
				}
				if before >= limit {
					t.Errorf("a request was let in when %d tokens were used", before)
				}
			}
		})
	}
}

// TestQuotaAfterTinyPrompts: prompts that are hardly more than their JSON taught that
// a byte has next to no token, and large ones then went through on nothing.
func TestQuotaAfterTinyPrompts(t *testing.T) {
	leavesNothing(t)
	const limit, large = 10_000, 400
	e := apptest.StartEngine(t, mockvllm.Options{StepBase: time.Millisecond})
	g := apptest.Start(t, limitConfig(t, fmt.Sprintf("auth: {timezone: %s}\n", quotaZone()), fmt.Sprintf(", total_quota: %d", limit)), e)
	k := limitKeyOf(g, 0)
	for range 30 { // short prompts, of which most of the body is no text
		if a := k.say("POST", chatPath, fmt.Sprintf(limitChat, `"max_tokens":1`)); a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	body := fmt.Sprintf(`{"model":"mock-model","max_tokens":1,"messages":[{"role":"user","content":%q}]}`, strings.Repeat("word", large))
	seen := crowdOn(t, k, func() string { return body })
	u := k.use(t).Quota
	t.Logf("%d of %d tokens were used, by %d requests with large prompts", u.Used, limit, len(seen))
	if u.Used > limit || u.Reserved != 0 {
		t.Errorf("%+v", u)
	}
	if a := k.say("POST", chatPath, body); a.status != http.StatusTooManyRequests || !strings.Contains(a.body, "insufficient_quota") {
		t.Errorf("%d %s", a.status, a.body)
	}
}
