package mockvllm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestRefused: what vLLM refuses, with its status, and a part of its body.
func TestRefused(t *testing.T) {
	_, addr := tcpEngine(t, Options{MaxModelLen: 100, APIKey: "k"})
	const auth = "Authorization: Bearer k"
	post := func(path, body string) string { return request(path, body, closing, auth) }
	cases := []struct{ name, raw, status, part string }{
		{"no key", request(chatPath, chatBody(""), closing), "401", `{"error":"Unauthorized"}`},
		{"the key guards only /v1", get("/health"), "200", ""},
		{"not JSON", post(chatPath, "{"), "400", `"type":"Bad Request","param":"body","code":400`},
		{"null is no request", post(chatPath, "null"), "400", `"code":400`},
		{"wrong type", post(chatPath, chatBody(`"max_tokens":"x"`)), "400", `"type":"Bad Request","param":"body.max_tokens"`},
		{"no messages", post(chatPath, `{}`), "400", `"param":"body.messages"`},
		{"no tokens wanted", post(chatPath, chatBody(`"max_tokens":0`)), "400", "max_tokens must be at least 1"},
		{"priority without priority scheduling", post(chatPath, chatBody(`"priority":1`)), "400", `"param":"priority"`},
		{"options without a stream", post(chatPath, chatBody(`"stream_options":{"include_usage":true}`)), "400", `"param":"stream_options"`},
		{"empty options without a stream pass", post(chatPath, chatBody(`"stream_options":{}`)), "200", ""},
		{"unknown model", post(chatPath, `{"model":"x","messages":[{"content":"a"}]}`), "404", "The model `x` does not exist."},
		{"no model means the first", post(chatPath, `{"messages":[{"content":"a"}]}`), "200", `"model":"mock-model"`},
		{"keys are exact", post(chatPath, chatBody(`"Model":"x","MAX_TOKENS":0`)), "200", ""},
		{"the last of two keys wins", post(chatPath, chatBody(`"model":"x"`)), "404", ""},
		{"prompt longer than the context", post(chatPath, `{"messages":[{"content":"`+strings.Repeat("a", 500)+`"}]}`), "400", "maximum context length is 100 tokens"},
		{"answer longer than the context", post(chatPath, chatBody(`"max_tokens":100`)), "400", "maximum context length is 100 tokens"},
		{"no prompt", post("/v1/completions", `{}`), "400", "Either prompt"},
		{"mixed prompt", post("/v1/completions", `{"prompt":["a",{}]}`), "400", `"param":"body.prompt"`},
		{"no input", post("/v1/embeddings", `{}`), "400", `"param":"body.input"`},
		{"unknown path", get("/nothing"), "404", `"message":"Not Found"`},
		{"wrong method", "GET " + chatPath + " HTTP/1.1\r\nHost: e\r\nConnection: close\r\n" + auth + "\r\n\r\n", "405", "allow: POST"},
		{"form", strings.Replace(post(chatPath, chatBody("")), "application/json", "text/plain", 1), "400", "Only 'application/json' is allowed"},
		{"not HTTP", "nonsense\r\n\r\n", "400", "Invalid HTTP request received."},
		{"admin endpoints are open", request("/sleep?level=1", "{}", closing), "200", "{}"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := exchange(t, addr, c.raw)
			if !strings.HasPrefix(got, "HTTP/1.1 "+c.status+" ") || !strings.Contains(got, c.part) {
				t.Errorf("got %q", got)
			}
		})
	}
}

// TestHTTP: details of HTTP/1.1 that proxies rely on.
func TestHTTP(t *testing.T) {
	e, addr := tcpEngine(t, Options{})
	t.Run("1.0 gets no chunks", func(t *testing.T) {
		raw := strings.Replace(request(chatPath, chatBody(`"stream":true`)), "HTTP/1.1", "HTTP/1.0", 1)
		if got := exchange(t, addr, raw); strings.Contains(got, "chunked") || !strings.HasSuffix(got, "data: [DONE]\n\n") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("HEAD has no body", func(t *testing.T) {
		if got := exchange(t, addr, strings.Replace(get("/health"), "GET", "HEAD", 1)); !strings.HasSuffix(got, "\r\n\r\n") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("a body is asked for", func(t *testing.T) {
		got := exchange(t, addr, request(chatPath, chatBody(""), closing, "Expect: 100-continue"))
		if !strings.HasPrefix(got, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("a chunked body", func(t *testing.T) {
		body := chatBody(`"mock_tag":"chunked"`)
		raw := "POST " + chatPath + " HTTP/1.1\r\nHost: e\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" +
			strconv.FormatInt(int64(len(body)), 16) + "\r\n" + body + "\r\n0\r\n\r\n"
		if got := exchange(t, addr, raw); !strings.HasPrefix(got, "HTTP/1.1 200") {
			t.Errorf("got %q", got)
		}
		if r := await(t, e, "done", func(r Entry) bool { return r.Tag == "chunked" }); !r.Chunked || r.BodyBytes != len(body) {
			t.Errorf("row %+v", r)
		}
	})
}

// TestAnswers: the text is the same for the same request, carries its tag in
// every token, and ends where the request says.
func TestAnswers(t *testing.T) {
	_, addr := tcpEngine(t, Options{})
	content := func(more string) (text, finish string, tokens int) {
		t.Helper()
		got := exchange(t, addr, request(chatPath, chatBody(more), closing))
		_, body, _ := strings.Cut(got, "\r\n\r\n")
		var a struct {
			Choices []struct {
				Message struct{ Content string }
				Finish  string `json:"finish_reason"`
			}
			Usage struct {
				Tokens int `json:"completion_tokens"`
			}
		}
		if err := json.Unmarshal([]byte(body), &a); err != nil {
			t.Fatalf("%v in %q", err, got)
		}
		return a.Choices[0].Message.Content, a.Choices[0].Finish, a.Usage.Tokens
	}
	first, finish, tokens := content(`"max_tokens":40`)
	if finish != "length" || tokens != 40 {
		t.Errorf("%s after %d tokens", finish, tokens)
	}
	if again, _, _ := content(`"max_tokens":40`); again != first {
		t.Error("another answer to the same request")
	}
	if other, _, _ := content(`"max_tokens":40,"seed":1`); other == first {
		t.Error("the same answer to another seed")
	}
	tagged, _, _ := content(`"max_tokens":40,"mock_tag":"T7"`)
	if n := strings.Count(tagged, "[T7]"); n != 40 {
		t.Errorf("%d tags in %q", n, tagged)
	}
	stop := strings.Fields(first)[5]
	at := strings.Index(first, stop)
	quoted, _ := json.Marshal(stop)
	if got, finish, tokens := content(`"max_tokens":40,"stop":["never said",` + string(quoted) + `]`); got != first[:at] || finish != "stop" || tokens > 6 {
		t.Errorf("stopped at %q by %q: %q, %s, %d tokens", stop, first, got, finish, tokens)
	}
}

// TestQueueFull: --max-num-queued-reqs answers 503 instead of waiting.
func TestQueueFull(t *testing.T) {
	e, addr := tcpEngine(t, Options{MaxNumSeqs: 1, MaxQueued: 1, StepBase: time.Millisecond})
	for i, state := range []string{StateDecode, StateQueued} {
		write(t, dial(t, addr), request(chatPath, chatBody(`"max_tokens":100000`)))
		await(t, e, state, func(r Entry) bool { return r.Seq == uint64(i+1) && r.State == state })
		if state == StateQueued {
			eventually(t, "waiting", func() bool { _, w, _ := e.Load(); return w == 1 })
		}
	}
	if got := exchange(t, addr, request(chatPath, chatBody(`"stream":true`), closing)); !strings.HasPrefix(got, "HTTP/1.1 503 ") {
		t.Errorf("got %q", got)
	}
}

// TestTGIOverload: the permits of TGI are counted in requests.
func TestTGIOverload(t *testing.T) {
	e, addr := tcpEngine(t, Options{Dialect: DialectTGI, MaxConcurrent: 1, StepBase: time.Millisecond})
	first := dial(t, addr)
	write(t, first, request("/generate_stream", `{"inputs":"a","parameters":{"max_new_tokens":100000}}`))
	await(t, e, "decoding", func(r Entry) bool { return r.State == StateDecode })
	if got := exchange(t, addr, request("/generate", `{"inputs":"a"}`, closing)); !strings.HasPrefix(got, "HTTP/1.1 429 ") {
		t.Errorf("got %q", got)
	}
	_ = first.Close()
	eventually(t, "the permit is back", func() bool { return e.open.Load() == 0 })
	if got := exchange(t, addr, request("/generate", `{"inputs":"a"}`, closing)); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("got %q", got)
	}
}

// TestMetrics: every line parses, and the numbers agree with the ledger.
func TestMetrics(t *testing.T) {
	e, addr := tcpEngine(t, Options{})
	for range 3 {
		exchange(t, addr, request(chatPath, chatBody(`"max_tokens":5`), closing))
	}
	got := exchange(t, addr, get("/metrics"))
	_, body, _ := strings.Cut(got, "\r\n\r\n")
	line := regexp.MustCompile(`^([a-z_]+:[a-z0-9_]+)\{([a-z_]+="[^"]*",?)+\} ([0-9.e+-]+)$`)
	values := map[string]string{}
	for l := range strings.Lines(body) {
		l = strings.TrimSuffix(l, "\n")
		if strings.HasPrefix(l, "# ") {
			continue
		}
		m := line.FindStringSubmatch(l)
		if m == nil {
			t.Fatalf("line %q", l)
		}
		values[m[1]] = m[3]
	}
	prompt := 0
	for _, r := range e.Ledger() {
		prompt += r.PromptTokens
	}
	for name, want := range map[string]int{
		"vllm:prompt_tokens_total": prompt, "vllm:generation_tokens_total": 15, "vllm:prefix_cache_queries_total": prompt,
		"vllm:time_to_first_token_seconds_count": 3, "vllm:inter_token_latency_seconds_count": 12,
		"vllm:num_requests_running": 0, "vllm:num_requests_waiting": 0,
	} {
		if values[name] != strconv.Itoa(want) {
			t.Errorf("%s is %q, want %d", name, values[name], want)
		}
	}
}

// TestAdmin: the second port tells the ledger and takes faults.
func TestAdmin(t *testing.T) {
	e, addr := tcpEngine(t, Options{Name: "a"})
	do := func(method, path, body string) (int, string) {
		w := httptest.NewRecorder()
		e.Admin().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body)))
		return w.Code, w.Body.String()
	}
	if code, _ := do("POST", "/fault", `{"fault":"503","count":1,"for":"1h","path":"/v1/chat/completions"}`); code != http.StatusNoContent {
		t.Errorf("POST /fault: %d", code)
	}
	for _, bad := range []string{`{"fault":"x"}`, `{"fault":"503","for":"soon"}`, `{`} {
		if code, _ := do("POST", "/fault", bad); code != http.StatusBadRequest {
			t.Errorf("POST /fault %s: %d", bad, code)
		}
	}
	exchange(t, addr, request(chatPath, chatBody(`"mock_tag":"one"`), closing))
	exchange(t, addr, request(chatPath, chatBody(`"mock_tag":"two"`), closing))
	var rows []Entry
	if _, body := do("GET", "/ledger?tag=one&state=faulted", ""); json.Unmarshal([]byte(body), &rows) != nil || len(rows) != 1 || rows[0].Status != 503 {
		t.Errorf("rows %+v", rows)
	}
	if _, body := do("GET", "/ledger?since=2", ""); body != "[]\n" {
		t.Errorf("since 2: %s", body)
	}
	for body, want := range map[string]int{`{"factor":2}`: 204, `{"factor":0}`: 400, `{`: 400} {
		if status, _ := do("POST", "/slow", body); status != want {
			t.Errorf("slow %s: %d, want %d", body, status, want)
		}
	}
	if _, body := do("GET", "/state", ""); !strings.Contains(body, `"name":"a"`) {
		t.Errorf("state %s", body)
	}
	if code, _ := do("DELETE", "/ledger", ""); code != http.StatusNoContent || len(e.Ledger()) != 0 {
		t.Error("ledger not cleared")
	}
}

// TestLedgerIsBounded: the oldest rows go, order and numbers stay.
func TestLedgerIsBounded(t *testing.T) {
	l := newLedger(3)
	check := func(want ...uint64) {
		t.Helper()
		var got []uint64
		for _, r := range l.all() {
			got = append(got, r.Seq)
		}
		if !bytes.Equal(asBytes(got), asBytes(want)) {
			t.Errorf("rows %v, want %v", got, want)
		}
	}
	for range 5 {
		l.add(&Entry{})
	}
	check(3, 4, 5)
	l.clear()
	check()
	for range 4 {
		l.add(&Entry{})
	}
	check(7, 8, 9)
}

func asBytes(v []uint64) []byte {
	b, _ := json.Marshal(append([]uint64{}, v...))
	return b
}

// TestShutdown: a stream in progress is finished, idle connections are not kept.
func TestShutdown(t *testing.T) {
	e, addr := tcpEngine(t, Options{StepBase: time.Millisecond})
	idle, busy := dial(t, addr), dial(t, addr)
	write(t, busy, request(chatPath, chatBody(`"stream":true,"max_tokens":50`)))
	await(t, e, "decoding", func(r Entry) bool { return r.State == StateDecode })
	var work sync.WaitGroup
	work.Go(func() {
		if err := e.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if got, _ := io.ReadAll(busy); !strings.HasSuffix(string(got), "data: [DONE]\n\n\r\n0\r\n\r\n") {
		t.Errorf("cut off: %q", got)
	}
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("idle connection: %v", err)
	}
	work.Wait()
}

// TestShutdownDeadline: what does not end in time is cut off.
func TestShutdownDeadline(t *testing.T) {
	e, addr := tcpEngine(t, Options{})
	write(t, dial(t, addr), request(chatPath, chatBody(`"mock_fault":"hang"`)))
	await(t, e, "hanging", func(r Entry) bool { return r.Fault == "hang" })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if r := e.Ledger()[0]; r.State != StateAborted {
		t.Errorf("row %+v", r)
	}
}

func BenchmarkChat(b *testing.B) {
	for name, more := range map[string]string{"whole": "", "stream": `"stream":true`} {
		b.Run(name, func(b *testing.B) {
			_, addr := tcpEngine(b, Options{})
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					resp, err := client.Post("http://"+addr+chatPath, "application/json", strings.NewReader(chatBody(more)))
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			})
		})
	}
}
