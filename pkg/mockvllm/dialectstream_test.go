package mockvllm

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// readHead sends a request through a pipe and waits for the head of its answer.
func readHead(t *testing.T, w io.Writer, br *bufio.Reader, raw string) {
	t.Helper()
	go func() { _, _ = io.WriteString(w, raw) }()
	for line := ""; line != "\r\n"; {
		var err error
		if line, err = br.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLateHeaders: SGLang's head comes with the first event, the others' at
// once; a gateway that gives up on late headers fails with one of them.
func TestLateHeaders(t *testing.T) {
	for dialect, want := range map[string]time.Duration{
		DialectVLLM: 0, DialectVLLMRust: 0, DialectLlamaCPP: 0, DialectTGI: 0, DialectSGLang: time.Minute,
	} {
		t.Run(dialect, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, dial := pipeEngine(Options{Dialect: dialect, PrefillDelay: time.Minute})
				defer e.Close()
				c, start := dial(), time.Now()
				readHead(t, c, bufio.NewReader(c), request(chatPath, chatBody(`"stream":true`), closing))
				if got := time.Since(start); got != want {
					t.Errorf("head after %v, want %v", got, want)
				}
				_ = c.Close()
			})
		})
	}
}

// TestComments: a silent stream gets comments, before the first token and
// between tokens, but none before its head.
func TestComments(t *testing.T) {
	cases := []struct {
		dialect, comment string
		want             int
	}{
		{DialectVLLM, ": keep-alive\n\n", 5},
		{DialectVLLMRust, ": keep-alive\n\n", 5},
		{DialectTGI, ":\n\n", 5},
		{DialectLlamaCPP, ":\n\n", 5},
		{DialectSGLang, ": keep-alive\n\n", 2},
	}
	for _, c := range cases {
		t.Run(c.dialect, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// Ten seconds to the first token, seven more to the second.
				e, dial := pipeEngine(Options{
					Dialect: c.dialect, Comments: 3 * time.Second, StepBase: 7 * time.Second, PrefillDelay: 3 * time.Second,
				})
				defer e.Close()
				conn := dial()
				go func() {
					_, _ = io.WriteString(conn, request(chatPath, chatBody(`"stream":true,"max_tokens":2`), closing))
				}()
				got, err := io.ReadAll(conn)
				if n := strings.Count(string(got), "\n"+c.comment); err != nil || n != c.want {
					t.Errorf("%d comments, want %d; %v in %q", n, c.want, err, got)
				}
			})
		})
	}
}

// TestCommentsOfStalledStream: comments go on when no token comes any more; a
// gateway that takes them for progress waits for ever.
func TestCommentsOfStalledStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, dial := pipeEngine(Options{Dialect: DialectVLLMRust, Comments: time.Second})
		defer e.Close()
		conn := dial()
		go func() {
			_, _ = io.WriteString(conn, request(chatPath, chatBody(`"stream":true,"mock_fault":"stall=2,10500ms"`), closing))
		}()
		got, err := io.ReadAll(conn)
		before, after, _ := strings.Cut(string(got), ": keep-alive\n\n")
		if err != nil || strings.Count(before, "data: ") != 2 || strings.Count(after, ": keep-alive\n\n") != 9 || !strings.Contains(after, "[DONE]") {
			t.Errorf("%v in %q", err, got)
		}
	})
}

// TestLoading: while its model loads, llama.cpp refuses everything and SGLang
// only says that it is not healthy.
func TestLoading(t *testing.T) {
	cases := []dialectCase{
		{DialectLlamaCPP, "health", get("/health"), 503, "Loading model"},
		{DialectLlamaCPP, "chat", post(chatPath, chatBody("")), 503, "Loading model"},
		{DialectLlamaCPP, "unknown path", get("/nothing"), 503, "Loading model"},
		{DialectSGLang, "health", get("/health"), 503, ""},
		{DialectSGLang, "chat", post(chatPath, chatBody("")), 200, ""},
		{DialectVLLM, "health", get("/health"), 200, ""},
	}
	for _, c := range cases {
		t.Run(c.dialect+" "+c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, dial := pipeEngine(Options{Dialect: c.dialect, Loading: time.Minute})
				defer e.Close()
				ask := func(raw string) string {
					conn := dial()
					go func() { _, _ = io.WriteString(conn, raw) }()
					got, _ := io.ReadAll(conn)
					return string(got)
				}
				if got := ask(c.raw); !strings.HasPrefix(got, "HTTP/1.1 "+strconv.Itoa(c.status)+" ") || !strings.Contains(got, c.part) {
					t.Errorf("loading: %q", got)
				}
				<-time.After(time.Minute)
				if got := ask(get("/health")); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
					t.Errorf("loaded: %q", got)
				}
			})
		})
	}
}

// TestDialectQueueFull: a stream that SGLang has no room for is a 200 whose
// first event is the refusal; a gateway must look at it to try elsewhere.
func TestDialectQueueFull(t *testing.T) {
	const stream = `"stream":true`
	cases := []dialectCase{
		{DialectSGLang, "whole", post(chatPath, chatBody("")), 503, `"type":"503","param":null,"code":503}`},
		{DialectSGLang, "stream", post(chatPath, chatBody(stream)), 200, `data: {"error":{"object":"error","message":"The request queue is full.`},
		{DialectSGLang, "native", post("/generate", `{"text":"a"}`), 503, `"code":503}`},
		{DialectSGLang, "native stream", post("/generate", `{"text":"a","stream":true}`), 200, `"finish_reason":{"type":"abort"`},
		{DialectSGLang, "named events", post("/v1/responses", `{"input":"a","stream":true}`), 503, `"code":503}`},
		{DialectVLLMRust, "stream", post(chatPath, chatBody(stream)), 503, `"code":"server_error"}}`},
	}
	for _, c := range cases {
		t.Run(c.dialect+" "+c.name, func(t *testing.T) {
			e, addr := tcpEngine(t, Options{Dialect: c.dialect, MaxNumSeqs: 1, MaxQueued: 1, StepBase: time.Millisecond})
			for i, want := range []string{StateDecode, StateQueued} {
				write(t, dial(t, addr), request(chatPath, chatBody(`"max_tokens":100000`)))
				await(t, e, want, func(r Entry) bool { return r.Seq == uint64(i+1) && r.State == want })
			}
			eventually(t, "waiting", func() bool { _, w, _ := e.Load(); return w == 1 })
			got := exchange(t, addr, c.raw)
			if !strings.HasPrefix(got, "HTTP/1.1 "+strconv.Itoa(c.status)+" ") || !strings.Contains(got, c.part) {
				t.Errorf("got %q", got)
			}
			if c.status == 200 && !strings.Contains(got, "data: [DONE]") {
				t.Errorf("no [DONE] in %q", got)
			}
		})
	}
}

// TestDialectAbort: a client that goes frees its slot in every dialect, waiting
// or generating, with a stream or without.
func TestDialectAbort(t *testing.T) {
	cases := []struct{ dialect, path, body string }{
		{DialectSGLang, chatPath, chatBody(`"max_tokens":100000`)},
		{DialectSGLang, "/generate", `{"text":"a","sampling_params":{"max_new_tokens":100000}}`},
		{DialectSGLang, "/v1/completions", `{"prompt":"a","max_tokens":100000}`},
		{DialectLlamaCPP, chatPath, chatBody(`"max_tokens":100000`)},
		{DialectLlamaCPP, "/v1/messages", `{"model":"m","max_tokens":100000,"messages":[{"role":"user","content":"a"}]}`},
		{DialectVLLMRust, chatPath, chatBody(`"max_tokens":100000`)},
	}
	for _, c := range cases {
		for _, phase := range []string{"queue", "decode"} {
			for _, stream := range []string{"false", "true"} {
				t.Run(strings.Join([]string{c.dialect, c.path, phase, "stream", stream}, " "), func(t *testing.T) {
					e, addr := tcpEngine(t, Options{Dialect: c.dialect, MaxNumSeqs: 1, StepBase: time.Millisecond})
					first := uint64(1)
					if phase == "queue" {
						write(t, dial(t, addr), request(chatPath, chatBody(`"max_tokens":100000`)))
						await(t, e, "decoding", func(r Entry) bool { return r.State == StateDecode })
						first = 2
					}
					conn := dial(t, addr)
					write(t, conn, request(c.path, c.body[:len(c.body)-1]+`,"stream":`+stream+"}"))
					if phase == "queue" {
						eventually(t, "waiting", func() bool { _, w, _ := e.Load(); return w == 1 })
					} else {
						await(t, e, "decoding", func(r Entry) bool { return r.State == StateDecode && (stream == "false" || r.Events > 0) })
					}
					_ = conn.Close()
					row := await(t, e, "ended", func(r Entry) bool { return r.Seq == first && r.Ended() })
					if row.State != StateAborted || row.AbortPhase != phase {
						t.Errorf("row %+v", row)
					}
					if running, waiting, _ := e.Load(); waiting != 0 || running != int(first)-1 {
						t.Errorf("running %d, waiting %d", running, waiting)
					}
				})
			}
		}
	}
}

// TestCachedTokensOfSGLang: usage tells cached tokens on a flag only.
func TestCachedTokensOfSGLang(t *testing.T) {
	for _, flag := range []bool{false, true} {
		_, addr := tcpEngine(t, Options{Dialect: DialectSGLang, PromptTokenDetails: flag})
		body := `{"messages":[{"role":"user","content":"` + strings.Repeat("a", 400) + `"}]}`
		exchange(t, addr, post(chatPath, body))
		_, answer, _ := strings.Cut(exchange(t, addr, post(chatPath, body)), "\r\n\r\n")
		var a struct {
			Usage struct {
				Details *struct {
					Cached int `json:"cached_tokens"`
				} `json:"prompt_tokens_details"`
			}
		}
		if err := json.Unmarshal([]byte(answer), &a); err != nil {
			t.Fatalf("%v in %q", err, answer)
		}
		if d := a.Usage.Details; (d != nil) != flag || flag && d.Cached == 0 {
			t.Errorf("flag %v: %q", flag, answer)
		}
	}
}

// TestCumulative: the last event of /generate has the whole answer, equal to the
// one without a stream; a meter that adds up events counts too much.
func TestCumulative(t *testing.T) {
	_, addr := tcpEngine(t, Options{Dialect: DialectSGLang})
	type output struct {
		Text string
		Meta struct {
			Prompt int `json:"prompt_tokens"`
			Tokens int `json:"completion_tokens"`
			Finish any `json:"finish_reason"`
		} `json:"meta_info"`
	}
	ask := func(stream string) string {
		resp, err := http.Post("http://"+addr+"/generate", "application/json", strings.NewReader(`{"text":"hello","mock_tokens":9,"stream":`+stream+`}`))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	var whole, event output
	if err := json.Unmarshal([]byte(ask("false")), &whole); err != nil {
		t.Fatal(err)
	}
	events := strings.Split(strings.TrimSuffix(ask("true"), "data: [DONE]\n\n"), "\n\n")
	text := ""
	for i, e := range events[:len(events)-1] {
		event = output{}
		if err := json.Unmarshal([]byte(strings.TrimPrefix(e, "data: ")), &event); err != nil {
			t.Fatalf("%v in %q", err, e)
		}
		if !strings.HasPrefix(event.Text, text) || event.Meta.Tokens != i+1 || (event.Meta.Finish != nil) != (i == 8) {
			t.Errorf("event %d: %+v after %q", i, event, text)
		}
		text = event.Text
	}
	if event.Text != whole.Text || event.Meta.Tokens != 9 || event.Meta.Prompt != whole.Meta.Prompt {
		t.Errorf("last %+v, whole %+v", event, whole)
	}
}
