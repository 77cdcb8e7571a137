package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// bill is what an event says of a request, but for its times.
type bill struct {
	Model      string
	Served     string `json:"served_model"`
	Backend    string
	Endpoint   string
	Stream     bool
	Status     int
	Outcome    string
	Attempts   int
	Prompt     int     `json:"prompt_tokens"`
	Cached     int     `json:"cached_tokens"`
	Completion int     `json:"completion_tokens"`
	Reasoning  int     `json:"reasoning_tokens"`
	Total      int     `json:"total_tokens"`
	Seconds    float64 `json:"audio_seconds"`
	Estimated  bool
}

// ledgerHook is a billing system that remembers what it was told of each request.
type ledgerHook struct {
	url string

	mu    sync.Mutex // guards bills
	bills map[string][]bill
}

func startLedgerHook(t *testing.T) *ledgerHook {
	t.Helper()
	h := &ledgerHook{bills: map[string][]bill{}}
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var batch []struct {
			ID   string
			Data bill
		}
		if err := json.NewDecoder(r.Body).Decode(&batch); err != nil {
			t.Errorf("a batch that is no JSON: %v", err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, e := range batch {
			h.bills[e.ID] = append(h.bills[e.ID], e.Data)
		}
	}))
	t.Cleanup(srv.Close)
	h.url = srv.URL
	return h
}

// of returns the events of a request.
func (h *ledgerHook) of(id string) []bill {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bills[id]
}

func (h *ledgerHook) requests() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.bills)
}

// dueBill is what is to be billed for a request. most is how much the completion
// may be where it cannot be known; an estimated prompt is not compared.
type dueBill struct {
	name, id string
	want     bill
	most     int
}

// wrong is what is wrong with what was billed.
func (d *dueBill) wrong(got []bill) string {
	if len(got) != 1 {
		return fmt.Sprintf("%d events of it, want 1: %+v", len(got), got)
	}
	b, want := got[0], d.want
	if d.most > 0 && b.Completion >= want.Completion && b.Completion <= d.most {
		want.Completion = b.Completion
	}
	if want.Estimated && want.Prompt == 0 {
		want.Prompt = b.Prompt
	}
	want.Total = want.Prompt + want.Completion
	if b != want {
		return fmt.Sprintf("billed\n%+v, want (completion up to %d)\n%+v", b, d.most, want)
	}
	return ""
}

// countSite is two engines of a kind behind a gateway that bills what they do and
// asks e0 first.
type countSite struct {
	*apiSite
	t          *testing.T
	continuous bool
	hook       *ledgerHook
	yaml       string
	due        []dueBill
}

func startCountSite(t *testing.T, dialect string, continuous bool, more string) *countSite {
	t.Helper()
	s := &apiSite{outer: t, dialect: dialect, engine: dialect}
	backends := ""
	for i := range s.engines {
		s.engines[i] = apptest.StartEngine(t, mockvllm.Options{Dialect: dialect, StepBase: apiStep / 4, PromptTokenDetails: true})
		backends += fmt.Sprintf("  - {url: %q, name: e%d, region: %s, engine: %s, continuous_usage: %v}\n",
			s.engines[i].URL, i, []string{"here", "there"}[i], dialect, continuous)
	}
	c := startBilled(t, s, more, backends)
	c.continuous = continuous
	return c
}

// startBilled runs the gateway of a site over backends.
func startBilled(t *testing.T, s *apiSite, more, backends string) *countSite {
	t.Helper()
	c := &countSite{apiSite: s, t: t, hook: startLedgerHook(t)}
	c.yaml = hookConfig(t.TempDir(), c.hook.url, ", sync: os") + more +
		"region: here\nload_balance_strategy: round_robin\nhealth_check: {enabled: false}\n" +
		"routing: {retry: {initial_wait: 1ms, max_wait: 2ms}, model_mapping: {alias: mock-model}}\nbackends:\n" + backends
	s.gateway = apptest.Start(t, c.yaml)
	return c
}

// countSites runs try for every dialect, and for those that can with and without
// usage in every event.
func countSites(t *testing.T, more string, try func(t *testing.T, s *countSite)) {
	for _, dialect := range mockvllm.Dialects() {
		for _, continuous := range []bool{false, true} {
			if continuous && !canContinuous(dialect) {
				continue
			}
			t.Run(fmt.Sprintf("%s/continuous=%v", dialect, continuous), func(t *testing.T) {
				t.Parallel()
				s := startCountSite(t, dialect, continuous, more)
				try(t, s)
				s.settle()
			})
		}
	}
}

// canContinuous tells whether engines of a kind can tell the usage in every event.
func canContinuous(dialect string) bool {
	return dialect != mockvllm.DialectTGI && dialect != mockvllm.DialectLlamaCPP
}

// expect notes what is to be billed for a request.
func (s *countSite) expect(t *testing.T, id string, want bill) { s.expectUpTo(t, id, want, 0) }

func (s *countSite) expectUpTo(t *testing.T, id string, want bill, most int) {
	t.Helper()
	if id == "" {
		t.Fatal("the request has no id")
	}
	s.due = append(s.due, dueBill{strings.TrimPrefix(t.Name(), s.t.Name()), id, want, most})
}

// settle waits for the events of all requests, also those that the gateway tells
// of when it ends, and compares them: one for each request, none beside.
func (s *countSite) settle() {
	s.t.Helper()
	quiet(s.t, s.gateway)
	s.gateway.Close()
	if s.hook.requests() < len(s.due) { // those that its end has cut off
		s.gateway = apptest.Start(s.t, s.yaml)
		apptest.Eventually(s.t, "all events are delivered", func() bool { return s.hook.requests() >= len(s.due) })
	}
	for _, d := range s.due {
		if wrong := d.wrong(s.hook.of(d.id)); wrong != "" {
			s.t.Errorf("%s: %s", d.name, wrong)
		}
	}
	if n := s.hook.requests(); n != len(s.due) {
		s.t.Errorf("%d requests were billed, want %d", n, len(s.due))
	}
}

// lastOf returns the last of the requests that came to engines, and what the
// gateway calls it; "" if there is none.
func lastOf(rows []mockvllm.Entry) (id string, last mockvllm.Entry) {
	if len(rows) == 0 {
		return "", last
	}
	last = rows[len(rows)-1]
	id, _, _ = strings.Cut(last.XRequestID, "-")
	return id, last
}
