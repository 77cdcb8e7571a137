package app_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// usageEvent is what the tests look at of an event.
type usageEvent struct {
	ID, Source, Type, Sequence string
	Data                       struct {
		Model, Backend, Endpoint, Outcome string
		Stream, Estimated                 bool
		Status                            int
		Prompt                            int `json:"prompt_tokens"`
		Completion                        int `json:"completion_tokens"`
		Total                             int `json:"total_tokens"`
	}
}

// biller is a billing system: it keeps what it answers 200 to.
type biller struct {
	URL string

	mu        sync.Mutex // guards what follows
	status    int
	attempts  int
	signature string // of the last attempt
	events    []usageEvent
}

func startBiller(t *testing.T, status int) *biller {
	t.Helper()
	b := &biller{status: status}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var batch []usageEvent
		if err := json.NewDecoder(r.Body).Decode(&batch); err != nil {
			t.Errorf("a batch that is no JSON: %v", err)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.attempts++
		b.signature = r.Header.Get("Webhook-Signature")
		if b.status == http.StatusOK {
			b.events = append(b.events, batch...)
		}
		w.WriteHeader(b.status)
	}))
	t.Cleanup(srv.Close)
	b.URL = srv.URL
	return b
}

func (b *biller) answer(status int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status = status
}

// got returns the number of attempts and the events that were accepted.
func (b *biller) got() (attempts int, events []usageEvent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.attempts, slices.Clone(b.events)
}

func (b *biller) lastSignature() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.signature
}

func (b *biller) has(n int) func() bool {
	return func() bool {
		_, events := b.got()
		return len(events) >= n
	}
}

func (b *biller) asked() bool {
	attempts, _ := b.got()
	return attempts > 0
}

func hookConfig(dir, url, more string) string {
	return fmt.Sprintf("data_dir: %q\nusage_hook: {enabled: true, url: %q, max_age: 10ms, retry: 0%s}\n", dir, url, more)
}

func ask(t *testing.T, g *apptest.Gateway, stream bool) {
	t.Helper()
	status, answer := g.Post(t, "/v1/chat/completions", fmt.Sprintf(`{"model":"mock-model","messages":[{"role":"user","content":"hi"}],"mock_tokens":5,"stream":%v}`, stream))
	if status != http.StatusOK {
		t.Fatalf("%d: %s", status, answer)
	}
}

// Nothing of what was generated may be missing from the bill, or be there twice.
func TestUsageIsReported(t *testing.T) {
	engine := apptest.StartEngine(t, mockvllm.Options{})
	b := startBiller(t, http.StatusOK)
	dir := filepath.Join(t.TempDir(), "data")
	g := apptest.Start(t, hookConfig(dir, b.URL, ", secret: at least 16 bytes"), engine)
	ask(t, g, false)
	ask(t, g, true)
	apptest.Eventually(t, "both events are delivered", b.has(2))
	_, got := b.got()
	for i, e := range got {
		entry := engine.Ledger()[i]
		d := e.Data
		if e.ID+"-1" != entry.XRequestID || e.Sequence != fmt.Sprintf("%020d", i+1) || e.Type != "llmproxy.usage" {
			t.Errorf("event %+v of request %s", e, entry.XRequestID)
		}
		if d.Prompt != entry.PromptTokens || d.Completion != entry.Tokens || d.Total != d.Prompt+d.Completion || d.Estimated {
			t.Errorf("event %+v, the engine generated %d after %d", d, entry.Tokens, entry.PromptTokens)
		}
		if d.Stream != (i == 1) || d.Outcome != "complete" || d.Status != 200 || d.Backend != "e0" || d.Endpoint != "/v1/chat/completions" {
			t.Errorf("event %+v", d)
		}
	}
	if signature := b.lastSignature(); !strings.HasPrefix(signature, "v1,") {
		t.Errorf("signature %q", signature)
	}
	apptest.Eventually(t, "the metrics tell of it", func() bool {
		return g.Metric("llmproxy_usage_events_total") == 2 && g.Metric("llmproxy_usage_delivered_total") == 2 &&
			g.Metric("llmproxy_usage_backlog_events") == 0 && g.Metric(`llmproxy_usage_delivery_attempts_total{result="delivered"}`) > 0
	})
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the data directory: %v %v", info, err)
	}
}

// What a billing system has not taken yet, another gateway process delivers.
func TestUsageOutlivesTheProcess(t *testing.T) {
	engine := apptest.StartEngine(t, mockvllm.Options{})
	b := startBiller(t, http.StatusServiceUnavailable)
	yaml := hookConfig(t.TempDir(), b.URL, "")
	g := apptest.Start(t, yaml, engine)
	for range 3 {
		ask(t, g, false)
	}
	apptest.Eventually(t, "the biller has refused", b.asked)
	if n := g.Metric("llmproxy_usage_backlog_events"); n != 3 {
		t.Errorf("%v events wait, want 3", n)
	}
	o := app.Options{Log: slog.New(slog.DiscardHandler)}
	if second, err := app.New(apptest.Config(t, yaml+"listen: 127.0.0.1:0\n", engine), o); err == nil {
		second.Close()
		t.Error("two gateways share a data directory")
	} else if !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("who has the data directory? %v", err)
	}
	g.Close()
	b.answer(http.StatusOK)
	g = apptest.Start(t, yaml, engine)
	ask(t, g, false)
	apptest.Eventually(t, "all events are delivered", b.has(4))
	_, got := b.got()
	for i, e := range got {
		if want := fmt.Sprintf("%020d", i+1); e.Sequence != want || e.Source != got[0].Source {
			t.Errorf("event %s of %s is number %s of what was delivered", e.Sequence, e.Source, want)
		}
	}
}

// A change of the hook must lose nothing, and begin where the sender before it
// has ended.
func TestReloadMovesTheHook(t *testing.T) {
	engine := apptest.StartEngine(t, mockvllm.Options{})
	dir := t.TempDir()
	for _, c := range []struct {
		name   string
		status int // of the first biller
	}{
		{"the old address is tried for ever", http.StatusServiceUnavailable},
		{"a receiver that wanted no more is the end of all", http.StatusGone},
		{"delivered once more", http.StatusOK},
	} {
		t.Run(c.name, func(t *testing.T) {
			first, second := startBiller(t, c.status), startBiller(t, http.StatusOK)
			dir := filepath.Join(dir, fmt.Sprint(c.status))
			g := apptest.Start(t, hookConfig(dir, first.URL, ""), engine)
			ask(t, g, false)
			apptest.Eventually(t, "the first biller has answered", first.asked)
			apptest.Eventually(t, "that is known", func() bool {
				return c.status != http.StatusGone || g.Metric("llmproxy_usage_delivery_stopped") == 1
			})
			if err := g.Reload(apptest.Config(t, hookConfig(dir, second.URL, ""), engine)); err != nil {
				t.Fatal(err)
			}
			ask(t, g, false)
			_, early := first.got()
			apptest.Eventually(t, "the second biller has the rest", second.has(2-len(early)))
			_, late := second.got()
			all := slices.Concat(early, late)
			if len(all) != 2 || all[0].Sequence >= all[1].Sequence {
				t.Errorf("delivered %+v", all)
			}
			apptest.Eventually(t, "both senders are counted", func() bool { return g.Metric("llmproxy_usage_delivered_total") == 2 })
			if n := g.Metric("llmproxy_usage_delivery_stopped"); n != 0 {
				t.Errorf("delivery_stopped is %v", n)
			}
		})
	}
}

// A receiver that was repaired after a 410 needs a signal, and no other address.
func TestReloadRevivesTheHook(t *testing.T) {
	engine := apptest.StartEngine(t, mockvllm.Options{})
	b := startBiller(t, http.StatusGone)
	yaml := hookConfig(t.TempDir(), b.URL, "")
	g := apptest.Start(t, yaml, engine)
	ask(t, g, false)
	apptest.Eventually(t, "delivery has stopped", func() bool { return g.Metric("llmproxy_usage_delivery_stopped") == 1 })
	b.answer(http.StatusOK)
	if err := g.Reload(apptest.Config(t, yaml, engine)); err != nil {
		t.Fatal(err)
	}
	apptest.Eventually(t, "the event is delivered", b.has(1))
}

func TestWithoutTheHookThereIsNoData(t *testing.T) {
	engine := apptest.StartEngine(t, mockvllm.Options{})
	dir := filepath.Join(t.TempDir(), "data")
	g := apptest.Start(t, fmt.Sprintf("data_dir: %q\n", dir), engine)
	ask(t, g, false)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the data directory was made: %v", err)
	}
	if strings.Contains(g.Metrics(), "llmproxy_usage_events_total") {
		t.Error("metrics of a hook that is off")
	}
	if err := g.Reload(apptest.Config(t, hookConfig(dir, "http://127.0.0.1:1", ""), engine)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(g.Logs.String(), "key=usage_hook.enabled") {
		t.Errorf("nobody was told that the hook needs a restart:\n%s", g.Logs)
	}
}
