package app_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// unretried is a gateway's configuration in which an engine's failure is seen.
const unretried = "health_check: {enabled: false}\nrouting: {retry: {enabled: false}}\n"

// inOrder is one in which e0 is asked before e1, and retries are fast.
func inOrder(urls ...string) string {
	yaml := "region: here\nload_balance_strategy: round_robin\nhealth_check: {enabled: false}\n" +
		"routing: {retry: {initial_wait: 1ms, max_wait: 2ms}}\nbackends:\n"
	for i, url := range urls {
		yaml += fmt.Sprintf("  - {url: %q, name: e%d, region: %s}\n", url, i, []string{"here", "there"}[min(i, 1)])
	}
	return yaml
}

// TestLateHeaders: SGLang holds the head of a stream back until the first
// token is there. The time limit, the metric and the end of a client that
// leaves are those of an engine that sends it at once.
func TestLateHeaders(t *testing.T) {
	leavesNothing(t)
	const wait = 80 * time.Millisecond
	for _, dialect := range []string{mockvllm.DialectSGLang, mockvllm.DialectVLLM} {
		late := dialect == mockvllm.DialectSGLang
		t.Run(dialect+"/first_byte", func(t *testing.T) {
			slow := apptest.StartEngine(t, mockvllm.Options{Dialect: dialect, PrefillDelay: time.Hour})
			fast := apptest.StartEngine(t, mockvllm.Options{Dialect: dialect})
			g := apptest.Start(t, inOrder(slow.URL, fast.URL)+"timeouts: {first_byte: 250ms}\n")
			if status, body := g.Post(t, chatPath, streamChat); status != 200 || !strings.HasSuffix(body, "data: [DONE]\n\n") {
				t.Errorf("%d %s", status, body)
			}
			if n := g.Metric(`llmproxy_attempts_total{backend="e0",outcome="timeout"}`); n != 1 {
				t.Errorf("%v attempts at e0 timed out, want 1", n)
			}
			quiet(t, g)
		})
		t.Run(dialect+"/time to first token", func(t *testing.T) {
			e := apptest.StartEngine(t, mockvllm.Options{Dialect: dialect, PrefillDelay: wait, StepBase: 50 * time.Millisecond})
			g := apptest.Start(t, "health_check: {enabled: false}\n", e)
			g.Post(t, chatPath, streamChat)
			quiet(t, g)
			got := g.Metric(`llmproxy_time_to_first_token_seconds_sum{model="*",backend="e0"}`)
			row := posts(e)[0]
			if most := row.Done.Sub(row.Arrived).Seconds(); got < wait.Seconds() || got >= most {
				t.Errorf("time to first token %v, want %v up to %v", got, wait.Seconds(), most)
			}
		})
		t.Run(dialect+"/client leaves", func(t *testing.T) {
			s := startSite(t, transport{}, mockvllm.Options{Dialect: dialect, PrefillDelay: time.Hour})
			c, tag := s.dial(), s.tag()
			c.send(surfaces[0].request(4, tag, ""))
			s.await(tag, "in prefill", func(r *mockvllm.Entry) bool {
				return r.State == mockvllm.StatePrefill && (late || r.Status == 200)
			})
			left := time.Now()
			c.Close()
			s.gone++
			row := s.await(tag, "to its end", (*mockvllm.Entry).Ended)
			if row.State != mockvllm.StateAborted || row.Aborted.Sub(left) > time.Second || late && row.Status != 0 {
				t.Errorf("the engine saw %+v", row)
			}
			s.nothingLeft()
			s.notBlamed()
		})
	}
}

// TestErrorsIn200: engines that are full say so in a stream whose status is 200.
// The client gets the status it should have had, or another engine's answer.
func TestErrorsIn200(t *testing.T) {
	leavesNothing(t)
	const (
		inputs = `{"inputs":"hi","parameters":{"max_new_tokens":4}}`
		text   = `{"text":"hi","sampling_params":{"max_new_tokens":4},"stream":true}`
	)
	for _, w := range []struct {
		name, dialect, path, body string
		fault                     string // "" is a full queue
		status                    int
		shape                     string
	}{
		{"TGI's own stream, overloaded", mockvllm.DialectTGI, "/generate_stream", inputs, "429", 429, "TGI"},
		{"TGI's OpenAI stream, overloaded", mockvllm.DialectTGI, chatPath, streamChat, "429", 429, "OpenAI"},
		{"TGI's own stream, generation failed", mockvllm.DialectTGI, "/generate_stream", inputs, "error-event-first", 424, "TGI"},
		{"TGI's OpenAI stream, generation failed", mockvllm.DialectTGI, chatPath, streamChat, "error-event-first", 424, "OpenAI"},
		{"SGLang's OpenAI stream, queue full", mockvllm.DialectSGLang, chatPath, streamChat, "", 503, "OpenAI"},
		{"SGLang's own stream, queue full", mockvllm.DialectSGLang, "/generate", text, "", 503, "OpenAI"},
		{"vLLM's stream, engine failed", mockvllm.DialectVLLM, chatPath, streamChat, "error-event-first", 500, "OpenAI"},
		{"vLLM's Rust stream, engine failed", mockvllm.DialectVLLMRust, chatPath, streamChat, "error-event-first", 500, "OpenAI"},
		{"llama.cpp's stream, engine failed", mockvllm.DialectLlamaCPP, chatPath, streamChat, "error-event-first", 500, "OpenAI"},
	} {
		t.Run(w.name, func(t *testing.T) {
			a := apptest.StartEngine(t, mockvllm.Options{Dialect: w.dialect, MaxNumSeqs: 1, MaxQueued: 1})
			b := apptest.StartEngine(t, mockvllm.Options{Dialect: w.dialect})
			if w.fault != "" {
				if err := a.Fault(mockvllm.FaultRule{Fault: w.fault, Path: w.path}); err != nil {
					t.Fatal(err)
				}
			} else {
				fill(t, a)
			}
			before := len(posts(a))
			alone := apptest.Start(t, inOrder(a.URL)+"timeouts: {first_byte: 5s}\n")
			if status, body := alone.Post(t, w.path, w.body); status != w.status || errorShape(body) != w.shape {
				t.Errorf("%d %s", status, body)
			}
			rows := posts(a)[before:]
			if len(rows) == 0 || rows[0].Status != 200 {
				t.Errorf("the engine was to answer 200: %+v", rows)
			}
			two := apptest.Start(t, inOrder(a.URL, b.URL))
			if status, body := two.Post(t, w.path, w.body); status != 200 || len(posts(b)) != 1 {
				t.Errorf("with another engine %d %s, which was asked %d times", status, body, len(posts(b)))
			}
			quiet(t, alone)
			quiet(t, two)
		})
	}
}

// fill takes an engine's only place and its queue until the test ends.
func fill(t *testing.T, e *apptest.Engine) {
	t.Helper()
	for i := range 2 {
		c := dialRaw(t, e.Addr)
		c.send(post(chatPath, wholeChat[:len(wholeChat)-1]+`,"mock_prefill_ms":3600000}`))
		apptest.Eventually(t, "the place is taken", func() bool {
			running, waiting, _ := e.Load()
			return running+waiting == i+1
		})
	}
}

// rawEngine answers each request with what answer returns, and closes.
func rawEngine(t *testing.T, answer func(req *http.Request, c net.Conn)) (url string) {
	t.Helper()
	return serveTCP(t, func(c net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, req.Body); err == nil {
			answer(req, c)
		}
	})
}

// say writes to a connection whose other end may have gone.
func say(c net.Conn, text string) { _, _ = io.WriteString(c, text) }

// whole is an answer that is no stream.
func whole(status int, kind, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d x\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", status, kind, len(body), body)
}

// TestErrorBodies: whatever an engine's version calls an error, a client reads
// OpenAI's nested object.
func TestErrorBodies(t *testing.T) {
	leavesNothing(t)
	const nested = `{"error":{"message":"no such thing","type":"NotFoundError","param":"model","code":404}}`
	for _, w := range []struct {
		name, kind, body string
		status           int
		want             string
	}{
		{"vLLM's new body is passed on as it is", "application/json", nested, 404, nested},
		{
			"vLLM's old flat body", "application/json", `{"object":"error","message":"no such thing","type":"NotFoundError","param":"model","code":404}`, 404,
			`{"error":{"message":"no such thing","type":"NotFoundError","param":"model","code":null}}`,
		},
		{
			"a string code of the Rust front end", "application/json",
			`{"error":{"message":"no such thing","type":"invalid_request_error","param":"model","code":"model_not_found"}}`, 404,
			`{"error":{"message":"no such thing","type":"invalid_request_error","param":"model","code":"model_not_found"}}`,
		},
		{"a string for an error", "application/json", `{"error":"too long"}`, 400, `{"error":{"message":"too long","type":"invalid_request_error","param":null,"code":null}}`},
		{"FastAPI's detail", "application/json", `{"detail":"Not Found"}`, 404, `{"error":{"message":"Not Found","type":"invalid_request_error","param":null,"code":null}}`},
		{"a line of text", "text/plain", "Internal Server Error", 500, `{"error":{"message":"Internal Server Error","type":"server_error","param":null,"code":null}}`},
		{"nothing", "text/plain", "", 500, `{"error":{"message":"The inference server answered with status 500.","type":"server_error","param":null,"code":null}}`},
	} {
		for kind, body := range map[string]string{"whole": wholeChat, "stream": streamChat} {
			t.Run(w.name+"/"+kind, func(t *testing.T) {
				url := rawEngine(t, func(_ *http.Request, c net.Conn) {
					say(c, whole(w.status, w.kind, w.body))
				})
				g := apptest.Start(t, "backends: [{url: "+url+", name: e0}]\n"+unretried)
				if status, got := g.Post(t, chatPath, body); status != w.status || got != w.want {
					t.Errorf("%d %s\nwant %d %s", status, got, w.status, w.want)
				}
				quiet(t, g)
			})
		}
	}
}

const keepAlive = ": keep-alive\n\n"

// TestComments: an engine's SSE comments reach the client, before the first
// token and between tokens, and are no answer.
func TestComments(t *testing.T) {
	leavesNothing(t)
	t.Run("they pass", func(t *testing.T) {
		e := apptest.StartEngine(t, mockvllm.Options{PrefillDelay: 60 * time.Millisecond, StepBase: 40 * time.Millisecond, Comments: 10 * time.Millisecond})
		g := apptest.Start(t, "health_check: {enabled: false}\n", e)
		status, body := g.Post(t, chatPath, streamChat)
		first := strings.Index(body, "data:")
		if status != 200 || !strings.HasPrefix(body, keepAlive) || !strings.Contains(body[first:], keepAlive) || !strings.HasSuffix(body, "data: [DONE]\n\n") {
			t.Errorf("%d %q", status, body)
		}
		quiet(t, g)
		if got := g.Metric(`llmproxy_time_to_first_token_seconds_sum{model="*",backend="e0"}`); got < 0.06 {
			t.Errorf("time to first token %v: a comment counts as one", got)
		}
	})
	fast := apptest.StartEngine(t, mockvllm.Options{})
	for name, end := range map[string]string{
		"an engine that is lost after one is made good":    "",
		"an engine that fails after one is made good":      "data: {\"error\":{\"message\":\"failed\",\"type\":\"InternalServerError\",\"param\":null,\"code\":500}}\n\ndata: [DONE]\n\n",
		"an engine that is overloaded after one is spared": "data: {\"error\":{\"message\":\"Model is overloaded\",\"http_status_code\":422}}\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			url := rawEngine(t, func(_ *http.Request, c net.Conn) {
				say(c, chunkedHead+chunk(keepAlive).wire)
				if say(c, chunk(keepAlive).wire); end != "" {
					say(c, chunk(end).wire+lastChunk.wire)
				}
			})
			g := apptest.Start(t, inOrder(url, fast.URL))
			before := len(posts(fast))
			status, body := g.Post(t, chatPath, streamChat)
			if status != 200 || !strings.HasSuffix(body, "data: [DONE]\n\n") || strings.Contains(body, "error") || len(posts(fast)) != before+1 {
				t.Errorf("%d %q", status, body)
			}
			quiet(t, g)
		})
	}
}
