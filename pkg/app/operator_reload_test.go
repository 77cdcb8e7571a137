package app_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/config"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// A reload that an operator asked for during a shutdown waited for its end, and the
// end for the reload's connection.
func TestAReloadDoesNotHoldUpTheShutdown(t *testing.T) {
	leavesNothing(t)
	yaml := fmt.Sprintf("data_dir: %q\nadmin: {token: %s}\nserver: {shutdown_delay: 1s, shutdown_timeout: 60s}\n", t.TempDir(), adminToken)
	e := apptest.StartEngine(t, mockvllm.Options{})
	c := apptest.Config(t, yaml, e)
	g := apptest.StartWith(t, app.Options{Load: func() (*config.Config, error) { return c, nil }}, yaml, e)
	closed := make(chan struct{})
	go func() { g.Close(); close(closed) }()
	apptest.Eventually(t, "the shutdown has begun", func() bool { return strings.Contains(g.Logs.String(), "not ready") })
	answered := make(chan limitAnswer, 1)
	go func() { answered <- limitKey{g.Addr, adminToken}.say("POST", "/admin/reload", "") }()
	select {
	case a := <-answered:
		if a.status != 503 || !hasCode(a.body, "shutting_down") {
			t.Errorf("%d %s %v", a.status, a.body, a.err)
		}
	case <-time.After(patience):
		t.Error("the reload has no answer")
	}
	<-closed
	if strings.Contains(g.Logs.String(), "interrupting") {
		t.Errorf("the shutdown waited for the reload:\n%s", g.Logs)
	}
}

// A file that was read slowly was put in force over a newer one.
func TestASlowReloadUndoesNoNewerOne(t *testing.T) {
	leavesNothing(t)
	const yaml = "admin: {token: " + adminToken + "}\nhealth_check: {enabled: false}\n"
	e := apptest.StartEngine(t, mockvllm.Options{Models: []string{"m"}})
	dir := fmt.Sprintf("data_dir: %q\n", t.TempDir())
	versions := []*config.Config{}
	for _, alias := range []string{"older", "newer"} {
		versions = append(versions, apptest.Config(t, dir+yaml+"routing: {model_mapping: {"+alias+": m}}\n", e))
	}
	reading, done := make(chan struct{}), make(chan struct{})
	load := func() (*config.Config, error) {
		close(reading)
		select {
		case <-done:
		case <-time.After(300 * time.Millisecond): // the other one waits for this
		}
		return versions[0], nil
	}
	g := apptest.StartWith(t, app.Options{Load: load}, dir+yaml, e)
	answer := make(chan limitAnswer)
	go func() { answer <- limitKey{g.Addr, adminToken}.say("POST", "/admin/reload", "") }()
	<-reading
	if err := g.Reload(versions[1]); err != nil {
		t.Error(err)
	}
	close(done)
	if a := <-answer; a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	for alias, want := range map[string]int{"older": 404, "newer": 200} {
		if status, body := g.Post(t, chatPath, strings.Replace(wholeChat, "mock-model", alias, 1)); status != want {
			t.Errorf("%s: %d, want %d: %s", alias, status, want, body)
		}
	}
}

// The clock of the slowing began anew with each reload, its past did not: the first
// slip of the pen after a reload waited for two seconds.
func TestAReloadSlowsNoOperator(t *testing.T) {
	leavesNothing(t)
	var later atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	yaml := fmt.Sprintf("data_dir: %q\nadmin: {token: %s}\n", t.TempDir(), adminToken)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.StartWith(t, app.Options{Now: now}, yaml, e)
	slip := func() time.Duration {
		t.Helper()
		began := time.Now()
		if a := (limitKey{g.Addr, "slip"}).say("GET", "/admin/config", ""); a.status != 401 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		return time.Since(began)
	}
	fastest := time.Hour
	for n := range 3 {
		later.Store(int64(n+1) * int64(time.Hour))
		slip()
		if err := g.Reload(apptest.Config(t, yaml, e)); err != nil {
			t.Fatal(err)
		}
		fastest = min(fastest, slip())
	}
	if fastest >= auth.MaxWait {
		t.Errorf("a slip of the pen is answered after %v", fastest)
	}
}

// Where the data is, and how it is written, is fixed while keys or quotas use it,
// not only with the usage hook.
func TestAReloadTellsWhatTakesARestart(t *testing.T) {
	leavesNothing(t)
	const hook = "usage_hook: {sync: always, max_size: 2GiB, retention: 48h, on_journal_error: allow}\n"
	all := []string{"data_dir", "usage_hook.sync", "usage_hook.max_size", "usage_hook.retention", "usage_hook.on_journal_error"}
	e := apptest.StartEngine(t, mockvllm.Options{})
	for _, w := range []struct {
		name, yaml string
		want       []string
	}{
		{"with keys", "api_keys: [{key: sk-one}]\n", all},
		{"with an admin API", "admin: {token: " + adminToken + "}\n", all[:1]},
		{"with neither", "", nil},
	} {
		t.Run(w.name, func(t *testing.T) {
			first, next := fmt.Sprintf("data_dir: %q\n", t.TempDir()), fmt.Sprintf("data_dir: %q\n", t.TempDir())
			g := apptest.Start(t, first+w.yaml, e)
			if err := g.Reload(apptest.Config(t, next+w.yaml+hook, e)); err != nil {
				t.Fatal(err)
			}
			said := g.Logs.String()
			for _, key := range w.want {
				if !strings.Contains(said, `restart" key=`+key+"\n") {
					t.Errorf("it does not say that %s takes a restart", key)
				}
			}
			if n := strings.Count(said, "takes effect after a restart"); n != len(w.want) {
				t.Errorf("%d settings, want %v:\n%s", n, w.want, said)
			}
		})
	}
}
