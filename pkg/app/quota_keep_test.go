package app_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// quotaKeep is a gateway whose configuration the test changes.
type quotaKeep struct {
	*apptest.Gateway
	limitKey
	engine *apptest.Engine
	dir    string
	clock  quotaClock
}

// config has one key with these fields, and one that is only there to be another; ""
// is without the first one.
func (k *quotaKeep) config(fields, zone string) string {
	c := fmt.Sprintf("data_dir: %q\nauth: {timezone: %s}\nadmin: {token: %s}\nhealth_check: {enabled: false}\napi_keys:\n  - {key: sk-other}\n", k.dir, zone, adminToken)
	if fields != "" {
		c += fmt.Sprintf("  - {key: sk-kept, name: kept%s}\n", fields)
	}
	return c
}

func (k *quotaKeep) start(t *testing.T, yaml string) {
	t.Helper()
	k.Gateway = apptest.StartWith(t, app.Options{Now: k.clock.now}, yaml, k.engine)
	k.limitKey = limitKey{k.Addr, "sk-kept"}
}

// become puts another configuration in force.
func (k *quotaKeep) become(t *testing.T, how, yaml string) {
	t.Helper()
	if how == "restart" {
		k.Close()
		k.start(t, yaml)
		return
	}
	if err := k.Reload(apptest.Config(t, yaml, k.engine)); err != nil {
		t.Fatal(err)
	}
}

// TestQuotaIsKept: whatever an operator does to a key, what it has used in its
// period stays, and the quota that is written holds from then on.
func TestQuotaIsKept(t *testing.T) {
	leavesNothing(t)
	const berlin, shanghai = "Europe/Berlin", "Asia/Shanghai"
	const first = ", total_quota: 1000"
	for _, w := range []struct {
		name   string
		fields []string // of the key, one configuration after the other
		zone   string   // of all but the first
		limit  int64
		period string
		resets string // in UTC
	}{
		{"nothing changes", []string{first}, berlin, 1000, "daily", "2026-11-24T23:00:00Z"},
		{"more", []string{", total_quota: 5000"}, berlin, 5000, "daily", "2026-11-24T23:00:00Z"},
		{"less", []string{", total_quota: 500"}, berlin, 500, "daily", "2026-11-24T23:00:00Z"},
		{"less than was used", []string{", total_quota: 10"}, berlin, 10, "daily", "2026-11-24T23:00:00Z"},
		{"less and more again", []string{", total_quota: 10", first}, berlin, 1000, "daily", "2026-11-24T23:00:00Z"},
		{"no quota and one again", []string{" ", first}, berlin, 1000, "daily", "2026-11-24T23:00:00Z"},
		{"weekly", []string{first + ", quota_reset_period: weekly"}, berlin, 1000, "weekly", "2026-11-29T23:00:00Z"},
		{"monthly", []string{first + ", quota_reset_period: monthly"}, berlin, 1000, "monthly", "2026-11-30T23:00:00Z"},
		{"never", []string{first + ", quota_reset_period: never"}, berlin, 1000, "never", ""},
		{"never and daily again", []string{first + ", quota_reset_period: never", first}, berlin, 1000, "daily", "2026-11-24T23:00:00Z"},
		{"monthly and daily again", []string{first + ", quota_reset_period: monthly", first}, berlin, 1000, "daily", "2026-11-24T23:00:00Z"},
		{"another zone", []string{first}, shanghai, 1000, "daily", "2026-11-24T16:00:00Z"},
		{"disabled and enabled", []string{first + ", status: disabled", first}, berlin, 1000, "daily", "2026-11-24T23:00:00Z"},
		{"removed and put back", []string{"", first}, berlin, 1000, "daily", "2026-11-24T23:00:00Z"},
		{"expired and prolonged", []string{first + ", expires_at: 2026-11-01T00:00:00Z", first}, berlin, 1000, "daily", "2026-11-24T23:00:00Z"},
		{"another name, other limits", []string{first + ", user_id: u, tokens_per_minute: 100000"}, berlin, 1000, "daily", "2026-11-24T23:00:00Z"},
	} {
		for _, how := range []string{"reload", "restart"} {
			t.Run(w.name+" by "+how, func(t *testing.T) {
				k := &quotaKeep{engine: apptest.StartEngine(t, mockvllm.Options{}), dir: t.TempDir()}
				now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC) // a Tuesday
				k.clock.at.Store(&now)
				k.start(t, k.config(first, berlin))
				if a := k.say("POST", chatPath, quotaChat); a.status != http.StatusOK {
					t.Fatalf("%d %s", a.status, a.body)
				}
				before := quotaOf(t, k.limitKey)
				for _, fields := range w.fields {
					k.become(t, how, k.config(fields, w.zone))
				}
				u := quotaOf(t, k.limitKey)
				resets := ""
				if u.ResetsAt != nil {
					resets = u.ResetsAt.Format(time.RFC3339)
				}
				if u.Used != before.Used || u.Used == 0 || u.Limit == nil || *u.Limit != w.limit || u.Period != w.period || resets != w.resets {
					t.Errorf("%+v, before %+v", u, before)
				}
				k.holds(t, w.limit, u.Used)
			})
		}
	}
}

// holds wants what is left to be let in, and no more.
func (k *quotaKeep) holds(t *testing.T, limit, used int64) {
	t.Helper()
	body := func(tokens int64) string {
		return fmt.Sprintf(limitChat, fmt.Sprintf(`"max_tokens":%d,"mock_tokens":1`, tokens))
	}
	if a := k.say("POST", chatPath, body(limit)); a.status != 429 || !strings.Contains(a.body, "insufficient_quota") {
		t.Errorf("more than what is left: %d %s", a.status, a.body)
	}
	const prompt = 100
	if left := limit - used - prompt; left > 0 {
		if a := k.say("POST", chatPath, body(left)); a.status != http.StatusOK {
			t.Errorf("%d of %d tokens: %d %s", left, limit, a.status, a.body)
		}
	}
}

// TestQuotaOfAKeyWithoutOneIsNotCounted: without the hook nothing is recorded for a
// key without a quota. A count that a restart forgets would be one in which the same
// key is told two numbers; so it is told none, and begins when it gets a quota.
func TestQuotaOfAKeyWithoutOneIsNotCounted(t *testing.T) {
	leavesNothing(t)
	k := &quotaKeep{engine: apptest.StartEngine(t, mockvllm.Options{}), dir: t.TempDir()}
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	k.clock.at.Store(&now)
	k.start(t, k.config(" ", "UTC"))
	one := func() int64 {
		a := k.say("POST", chatPath, quotaChat)
		if a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.body)
		}
		return int64(atoi(t, between(a.body, `"total_tokens":`, `,`)))
	}
	one()
	if u := useOf(t, k.limitKey); u.Quota != nil {
		t.Errorf("it is told of %+v", u.Quota)
	}
	k.become(t, "reload", k.config(", total_quota: 1000", "UTC"))
	used := one()
	for range 2 {
		if u := quotaOf(t, k.limitKey); u.Used != used {
			t.Errorf("%d tokens were used since there is a quota, it is told of %+v", used, u)
		}
		k.become(t, "restart", k.config(", total_quota: 1000", "UTC"))
	}
}
