package app_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

const chatPath = "/v1/chat/completions"

// fail makes every chat of an engine fail in that way.
func fail(t *testing.T, e *apptest.Engine, fault string) {
	t.Helper()
	if err := e.Fault(mockvllm.FaultRule{Fault: fault, Path: chatPath}); err != nil {
		t.Fatal(err)
	}
}

// TestRetryLimits: how many attempts a request gets.
func TestRetryLimits(t *testing.T) {
	leavesNothing(t)
	for _, w := range []struct {
		name, retry, fault string
		status             int
		attempts           [2]int
	}{
		{"off", "enabled: false", "503", 503, [2]int{1, 0}},
		{"off, a lost connection", "enabled: false", "fin", 502, [2]int{1, 0}},
		{"none", "max_retries: 0", "503", 503, [2]int{1, 0}},
		{"none, a lost connection", "max_retries: 0", "fin", 502, [2]int{1, 0}},
		{"one", "max_retries: 1", "503", 503, [2]int{1, 1}},
		{"four", "max_retries: 4", "500-empty", 500, [2]int{3, 2}},
		{"a client's error", "max_retries: 4", "404", 404, [2]int{1, 0}},
		{"the gateway's key is refused", "max_retries: 4", "401", 502, [2]int{1, 0}},
	} {
		t.Run(w.name, func(t *testing.T) {
			a, b := apptest.StartEngine(t, mockvllm.Options{}), apptest.StartEngine(t, mockvllm.Options{})
			fail(t, a, w.fault)
			fail(t, b, w.fault)
			for _, body := range []string{wholeChat, streamChat} {
				g := apptest.Start(t, fmt.Sprintf(`
region: here
backends: [{url: %q, name: a, region: here}, {url: %q, name: b}]
health_check: {enabled: false}
routing: {retry: {initial_wait: 1ms, max_wait: 1ms, %s}}
`, a.URL, b.URL, w.retry))
				before := [2]int{len(posts(a)), len(posts(b))}
				status, answer := g.Post(t, chatPath, body)
				got := [2]int{len(posts(a)) - before[0], len(posts(b)) - before[1]}
				if status != w.status || got != w.attempts {
					t.Errorf("%d after attempts %v, want %d after %v: %s", status, got, w.status, w.attempts, answer)
				}
				quiet(t, g)
			}
		})
	}
}

// TestRetryBudget: three requests that wait for their second attempt are all
// that a quiet pool allows; the next one gets its engine's answer at once. That
// they wait at all, with one engine only, is part of the test.
func TestRetryBudget(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	fail(t, e, "503")
	g := apptest.Start(t, "health_check: {enabled: false}\nrouting: {retry: {initial_wait: 1h, max_wait: 1h}}\n", e)
	waiting := make([]*rawClient, 3)
	for i := range waiting {
		waiting[i] = dialRaw(t, g.Addr)
		waiting[i].send(post(chatPath, wholeChat))
	}
	apptest.Eventually(t, "three requests wait", func() bool { return g.Metric("llmproxy_retries_total") == 3 })
	fourth := dialRaw(t, g.Addr)
	fourth.send(post(chatPath, wholeChat))
	if resp, answer := fourth.answer("POST"); resp.StatusCode != 503 || !strings.Contains(answer, "currently scaling") {
		t.Errorf("%d %s", resp.StatusCode, answer)
	}
	fourth.Close()
	if n := g.Metric("llmproxy_retries_denied_total"); n != 1 {
		t.Errorf("%v retries were denied, want 1", n)
	}
	if n := len(posts(e)); n != 4 {
		t.Errorf("%d attempts, want 4: a backend already tried is waited for", n)
	}
	e.ClearFaults()
	for _, c := range waiting {
		c.Close()
	}
	quiet(t, g)
	apptest.Eventually(t, "the clients that left are counted", func() bool {
		return g.Metric(`llmproxy_client_aborts_total{phase="waiting"}`) == 3
	})
	fail(t, e, "503") // their shares are free again
	c := dialRaw(t, g.Addr)
	c.send(post(chatPath, wholeChat))
	apptest.Eventually(t, "another request may wait", func() bool { return g.Metric("llmproxy_retries_total") == 4 })
	c.Close()
	quiet(t, g)
}

// TestFallbackOrder: fallback orders what follows a failure of its primary, for
// the models it names as engines know them, and never the first pick.
func TestFallbackOrder(t *testing.T) {
	leavesNothing(t)
	models := mockvllm.Options{Models: []string{"big", "small"}}
	a, b, c := apptest.StartEngine(t, models), apptest.StartEngine(t, models), apptest.StartEngine(t, models)
	g := apptest.Start(t, fmt.Sprintf(`
region: here
load_balance_strategy: round_robin
backends: [{url: %q, name: a, region: here}, {url: %q, name: b, weight: 1000}, {url: %q, name: c}]
health_check: {enabled: false}
routing:
  model_mapping: {alias: big}
  fallback: [{primary: %q, fallback: [%q], models: [big]}, {primary: %q, fallback: [%q], models: [small]}]
`, a.URL, b.URL, c.URL, a.URL, c.URL, a.URL, b.URL))
	send := func(model string) (asked string) {
		before := [3]int{len(posts(a)), len(posts(b)), len(posts(c))}
		status, answer := g.Post(t, chatPath, strings.Replace(wholeChat, "mock-model", model, 1))
		if status != 200 {
			t.Errorf("%s: %d %s", model, status, answer)
		}
		for i, e := range []*apptest.Engine{a, b, c} {
			asked += strings.Repeat(string("abc"[i]), len(posts(e))-before[i])
		}
		return asked
	}
	for range 2 {
		if asked := send("big"); asked != "a" {
			t.Errorf("without a failure %s was asked", asked)
		}
	}
	fail(t, a, "503")
	for model, want := range map[string]string{"big": "ac", "alias": "ac", "small": "ab"} {
		if asked := send(model); asked != want {
			t.Errorf("%s: %s were asked, want %s", model, asked, want)
		}
	}
	fail(t, c, "503") // the rest of the pool follows
	if asked := send("big"); asked != "abc" {
		t.Errorf("%s were asked, want all three", asked)
	}
	quiet(t, g)
}

// TestStaleKeepAlive: an engine closes idle connections sooner than the
// gateway expects; no request fails for it and none counts as a failure.
func TestStaleKeepAlive(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, "backends: [{url: "+e.URL+", name: e0, keep_alive: 1h}]\nhealth_check: {enabled: false}\nrouting: {retry: {enabled: false}}\n")
	for _, fault := range []string{"close-idle", "close-on-reuse"} {
		fail(t, e, fault)
		for i := range 20 {
			body := []string{wholeChat, streamChat}[i%2]
			if status, answer := g.Post(t, chatPath, body); status != 200 {
				t.Fatalf("%s: %d %s", fault, status, answer)
			}
		}
		e.ClearFaults()
	}
	for _, outcome := range []string{"lost", "dial_failed", "broken", "server_error"} {
		if n := g.Metric(fmt.Sprintf(`llmproxy_attempts_total{backend="e0",outcome=%q}`, outcome)); n != 0 {
			t.Errorf("%v attempts %s", n, outcome)
		}
	}
	if n := g.Metric(`llmproxy_attempts_total{backend="e0",outcome="ok"}`); n != 40 {
		t.Errorf("%v attempts ok, want 40", n)
	}
	quiet(t, g)
}
