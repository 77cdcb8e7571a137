package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/events"
	"github.com/llmproxy/llmproxy/pkg/journal"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// heard is an answer as its client got it, with the request's id.
type heard struct {
	status   int
	id, body string
}

// hear sends a JSON body from any goroutine.
func hear(t *testing.T, url, body string) (h heard) {
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return h
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("after %q: %v", b, err)
	}
	return heard{resp.StatusCode, resp.Header.Get("X-Request-Id"), string(b)}
}

// startParrot serves an engine that repeats a chat's first message, and tells the
// usage when it is asked to, in any of the ways in which pydantic reads true. Each
// request has a connection to itself.
func startParrot(t *testing.T) (url string) {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var ask struct {
			Messages []struct{ Content string }
			Options  struct {
				Usage any `json:"include_usage"`
			} `json:"stream_options"`
		}
		if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
			t.Errorf("the engine was sent no JSON: %v", err)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = fmt.Fprintf(w, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":%q}}]}\n\n", ask.Messages[0].Content)
		if slices.Contains([]any{true, 1.0, "1", "true", "yes", "on"}, ask.Options.Usage) {
			_, _ = fmt.Fprint(w, `data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8}}`, "\n\n")
		}
		_, _ = fmt.Fprint(w, doneEvent)
	}))
	srv.Config.SetKeepAlivesEnabled(false)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.URL
}

func parrotChat(text, fields string) string {
	return fmt.Sprintf(`{"model":"mock-model","stream":true,"messages":[{"role":"user","content":%q}]%s}`, text, fields)
}

// fillJournal leaves no room in a journal of 1 MiB.
func fillJournal(t *testing.T, dir string) {
	t.Helper()
	l, err := events.Open(dir, journal.Options{MaxSize: 1 << 20, Sync: journal.SyncOS}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for n := byte(0); ; n++ {
		r := events.Record{ID: [16]byte{n}, Asked: strings.Repeat("m", 500), Outcome: events.Complete}
		if !l.Start(&r) {
			break
		}
		l.End(&r)
	}
	_ = l.Close() // what has no room is missed by nobody
}

// With on_journal_error allow the bodies of requests that nobody records were
// edited in memory that the next request had already: each got the answer to
// another's prompt, and usage that nobody took out.
func TestUnrecordedRequestsKeepTheirPrompts(t *testing.T) {
	leavesNothing(t)
	const crowd = 16
	var holding atomic.Bool
	var dialing atomic.Int64
	release := make(chan struct{})
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if holding.Load() {
			dialing.Add(1)
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}
	dir := t.TempDir()
	fillJournal(t, dir)
	yaml := hookConfig(dir, "http://127.0.0.1:1", ", max_size: 1MiB, on_journal_error: allow")
	g := apptest.StartWith(t, app.Options{Dial: dial}, yaml+unretried+"backends: [{url: "+startParrot(t)+", name: e0, engine: vllm}]\n")
	apptest.Eventually(t, "the journal cannot be written", func() bool {
		hear(t, g.URL+chatPath, parrotChat("hi", ""))
		return g.Metric("llmproxy_usage_journal_failing") == 1
	})

	holding.Store(true) // until all are between the edit and the engine
	var work sync.WaitGroup
	for i := range crowd {
		work.Go(func() {
			tag := fmt.Sprintf("prompt %d.", i)
			if got := hear(t, g.URL+chatPath, parrotChat(tag, "")); !strings.Contains(got.body, tag) || strings.Contains(got.body, "usage") {
				t.Errorf("%q was answered %d %q", tag, got.status, got.body)
			}
		})
	}
	apptest.Eventually(t, "all wait for the engine", func() bool { return dialing.Load() == crowd })
	close(release)
	work.Wait()
	if n := g.Metric("llmproxy_usage_unrecorded_requests_total"); n < crowd {
		t.Errorf("%v requests are counted as unrecorded, want %d or more", n, crowd)
	}
}

// What pydantic reads as false went to the engine as it was, which told no usage:
// the stream was billed by a guess.
func TestUsageThatIsDeclinedLaxlyIsCounted(t *testing.T) {
	leavesNothing(t)
	engine := startParrot(t)
	s := startBilled(t, &apiSite{}, "", "  - {url: "+engine+", name: e0, engine: vllm}\n")
	for _, no := range []string{`0`, `0.0`, `"0"`, `"no"`, `"false"`, `"off"`, `"False"`} {
		t.Run(no, func(t *testing.T) {
			body := parrotChat("hi", `,"stream_options":{"include_usage":`+no+`}`)
			direct, got := hear(t, engine+chatPath, body), hear(t, s.gateway.URL+chatPath, body)
			if got.body != direct.body || strings.Contains(direct.body, "usage") {
				t.Errorf("got\n%s\nthe engine says\n%s", got.body, direct.body)
			}
			s.expect(t, got.id, bill{
				Model: "mock-model", Served: "mock-model", Backend: "e0", Endpoint: chatPath,
				Stream: true, Status: 200, Outcome: "complete", Attempts: 1, Prompt: 7, Completion: 1,
			})
		})
	}
	s.settle()
}

// A picture of 1 MB was billed as 260,000 tokens of text when its stream was cut.
func TestPicturesAreNotCountedAsText(t *testing.T) {
	leavesNothing(t)
	s := startCountSite(t, mockvllm.DialectVLLM, false, "")
	picture := "data:image/png;base64," + strings.Repeat("iVBORw0K", 1<<17)
	part := `{"type":"image_url","image_url":{"url":"` + picture + `"}}`
	for name, w := range map[string]struct{ path, field string }{
		"two in a chat": {chatPath, `"max_tokens":30,"messages":[{"role":"user","content":[` + part + `,{"type":"text","text":"what is this?"},` + part + `]}]`},
		"in Responses":  {responsesURL, `"max_output_tokens":30,"input":[{"role":"user","content":[{"type":"input_image","image_url":"` + picture + `"},{"type":"input_text","text":"what is this?"}]}]`},
	} {
		t.Run(name, func(t *testing.T) {
			row := &apiRow{method: "POST", path: w.path}
			y, c := s.openBody(t, row, `{"model":"mock-model","stream":true,"mock_fault":"stall=8",`+w.field+`}`)
			if !c.read(8) {
				t.Fatal("the stream has ended")
			}
			c.Close()
			y.ended(8)
			apptest.Eventually(t, "the event is delivered", func() bool { return len(s.hook.of(c.id)) == 1 })
			got := s.hook.of(c.id)[0]
			if !got.Estimated || got.Prompt < 4 || got.Prompt > 3000 {
				t.Errorf("%+v, want an estimated prompt of some tokens", got)
			}
			s.expect(t, c.id, got)
		})
	}
	s.settle()
}

// An engine that computes a prompt works for a client that does not wait for it:
// such an event looked exact, with no tokens at all.
func TestCutBeforeTheAnswerIsEstimated(t *testing.T) {
	leavesNothing(t)
	s := startCountSite(t, mockvllm.DialectVLLM, true, "server: {shutdown_timeout: 1ms}\n")
	for _, w := range []struct {
		name    string
		stream  bool
		cut     func(c *rawClient)
		outcome string
		status  int
	}{
		{"the client leaves", false, func(c *rawClient) { c.Close() }, "client_aborted", 499},
		{"the client leaves a stream", true, func(c *rawClient) { c.Close() }, "client_aborted", 499},
		{"the gateway ends", false, func(*rawClient) { s.gateway.Close() }, "interrupted", 503},
	} {
		t.Run(w.name, func(t *testing.T) {
			y := s.apiTry(t, &apiRow{method: "POST", path: chatPath})
			y.mark()
			c := dialRaw(t, s.gateway.Addr)
			c.send(post(chatPath, fmt.Sprintf(`{"model":"mock-model","messages":[{"role":"user","content":"hi"}],"mock_prefill_ms":3600000,"stream":%v}`, w.stream)))
			e := y.awaitRow("in prefill", func(r *mockvllm.Entry) bool { return r.State == mockvllm.StatePrefill })
			w.cut(c)
			y.ended(0)
			id, _ := lastOf([]mockvllm.Entry{e})
			s.expect(t, id, bill{
				Model: "mock-model", Served: "mock-model", Backend: "e0", Endpoint: chatPath, Stream: w.stream,
				Status: w.status, Outcome: w.outcome, Attempts: 1, Estimated: true,
			})
			c.Close()
		})
	}
	s.settle()
}

// Engines that are all too busy were said to have completed the request.
func TestBusyEnginesHaveFailed(t *testing.T) {
	leavesNothing(t)
	s := startCountSite(t, mockvllm.DialectVLLM, false, "")
	for _, stream := range []bool{false, true} {
		before := len(posts(s.engines[0])) + len(posts(s.engines[1]))
		got := hear(t, s.gateway.URL+chatPath, fmt.Sprintf(`{"model":"mock-model","messages":[{"role":"user","content":"hi"}],"mock_fault":"429","stream":%v}`, stream))
		if got.status != http.StatusTooManyRequests {
			t.Errorf("%d %s", got.status, got.body)
		}
		s.expect(t, got.id, bill{
			Model: "mock-model", Served: "mock-model", Backend: "e0", Endpoint: chatPath, Stream: stream, Status: 429,
			Outcome: "upstream_failed", Attempts: len(posts(s.engines[0])) + len(posts(s.engines[1])) - before,
		})
	}
	s.settle()
}

// A panic behind an attempt was reported as a client that left, with status 499.
func TestPanicIsNotTheClientsFault(t *testing.T) {
	leavesNothing(t)
	hook := startLedgerHook(t)
	var id atomic.Value
	busy := rawEngine(t, func(req *http.Request, c net.Conn) {
		id.Store(strings.TrimSuffix(req.Header.Get("X-Request-Id"), "-1"))
		say(c, whole(503, "application/json", "{}"))
	})
	var dials atomic.Int64
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if dials.Add(1) == 2 {
			panic("the second dial")
		}
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}
	g := apptest.StartWith(t, app.Options{Dial: dial}, hookConfig(t.TempDir(), hook.url, "")+inOrder(busy, busy+"/other"))
	got := hear(t, g.URL+chatPath, wholeChat)
	if got.status != http.StatusInternalServerError {
		t.Errorf("%d %s", got.status, got.body)
	}
	apptest.Eventually(t, "the event is delivered", func() bool { return hook.requests() == 1 })
	due := dueBill{want: bill{
		Model: "mock-model", Served: "mock-model", Backend: "e1", Endpoint: chatPath,
		Status: 500, Outcome: "upstream_failed", Attempts: 2,
	}}
	if wrong := due.wrong(hook.of(id.Load().(string))); wrong != "" {
		t.Error(wrong)
	}
}
