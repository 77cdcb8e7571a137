package app_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

// A reset that could not be written was told as none, and was not written before the
// next request of any key.
func TestAResetThatCannotBeWrittenIsWrittenLater(t *testing.T) {
	leavesNothing(t)
	dir := t.TempDir()
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, "data_dir: "+dir+"\nhealth_check: {enabled: false}\nadmin: {token: "+adminToken+"}\napi_keys: [{key: sk-one, total_quota: 1000}]\n", e)
	client, id := limitKey{g.Addr, "sk-one"}, quotaID("sk-one")
	if a := client.say("POST", chatPath, quotaChat); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	file := filepath.Join(dir, "quota")
	onDisk := func() (start, used int64) {
		totals, err := quota.LoadTotals(file)
		if err != nil {
			t.Error(err)
			return 0, 0
		}
		start, used, _ = totals.Get(id)
		return start, used
	}
	apptest.Eventually(t, "the use is on the disk", func() bool { _, used := onDisk(); return used > 0 })
	before, _ := onDisk()
	obstacle := filepath.Join(dir, "new.quota", "in the way")
	if err := os.MkdirAll(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	a := limitKey{g.Addr, adminToken}.say("POST", "/admin/api-keys/"+id.String()+"/reset-quota", "")
	if a.status != 503 || !hasCode(a.body, "quota_reset_not_kept") || !strings.Contains(a.body, "in force") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if u := quotaOf(t, client); u.Used != 0 || u.StartedAt.UnixNano() <= before {
		t.Errorf("the operator was told that the quota is reset: %+v", u)
	}
	told := strings.Count(g.Logs.String(), "cannot be kept up to date")
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for over := time.After(1500 * time.Millisecond); over != nil; { // the events are added up each second
		select {
		case <-tick.C:
			if f := g.Metric("llmproxy_quota_checkpoint_failing"); f != 1 {
				t.Errorf("the metric is %v while the file cannot be written", f)
				over = nil
			}
		case <-over:
			over = nil
		}
	}
	if err := os.Remove(obstacle); err != nil {
		t.Fatal(err)
	}
	apptest.Eventually(t, "the reset is on the disk", func() bool { start, used := onDisk(); return start > before && used == 0 })
	apptest.Eventually(t, "nothing fails any more", func() bool { return g.Metric("llmproxy_quota_checkpoint_failing") == 0 })
	if now := strings.Count(g.Logs.String(), "cannot be kept up to date"); told != 1 || now != 1 {
		t.Errorf("told %d times at first, %d times at last:\n%s", told, now, g.Logs)
	}
}
