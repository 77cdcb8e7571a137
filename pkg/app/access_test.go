package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// askRaw sends one request with the extra header lines on a connection of its own.
func askRaw(t *testing.T, addr, method, path string, lines ...string) (*http.Response, string) {
	t.Helper()
	c := dialRaw(t, addr)
	defer c.Close()
	c.send(method + " " + path + " HTTP/1.1\r\nHost: gateway\r\n" + strings.Join(append(lines, "", ""), "\r\n"))
	return c.answer(method)
}

func TestCORS(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	off := apptest.Start(t, "", e)
	on := apptest.Start(t, "cors: {enabled: true, allowed_origins: [https://a.example], allowed_headers: [Authorization, Content-Type], max_age: 10m}\n", e)
	any := apptest.Start(t, "cors: {enabled: true, allowed_origins: [\"*\"]}\n", e)
	const (
		chat      = "/v1/chat/completions"
		good, bad = "Origin: https://a.example", "Origin: https://b.example"
		ask4post  = "Access-Control-Request-Method: POST"
	)
	for _, w := range []struct {
		name         string
		g            *apptest.Gateway
		method, path string
		lines        []string
		status       int
		origin       string
	}{
		{"off: a preflight is an OPTIONS", off, "OPTIONS", chat, []string{good, ask4post}, 204, ""},
		{"off: no header", off, "GET", "/v1/models", []string{good}, 200, ""},
		{"a preflight", on, "OPTIONS", chat, []string{good, ask4post}, 204, "https://a.example"},
		{"a preflight to nowhere", on, "OPTIONS", "/nowhere", []string{good, ask4post}, 204, "https://a.example"},
		{"a preflight of another origin", on, "OPTIONS", chat, []string{bad, ask4post}, 403, ""},
		{"a request", on, "GET", "/v1/models", []string{good}, 200, "https://a.example"},
		{"a request of another origin", on, "GET", "/v1/models", []string{bad}, 200, ""},
		{"an error", on, "GET", "/nowhere", []string{good}, 404, "https://a.example"},
		{"an origin that looks alike", on, "GET", "/v1/models", []string{"Origin: https://a.example.evil"}, 200, ""},
		{"no origin", on, "GET", "/v1/models", nil, 200, ""},
		{"a preflight that proxies read differently", on, "OPTIONS", chat, []string{good, ask4post, "Content-Length: 5", "Transfer-Encoding: chunked", "", "0"}, 400, ""},
		{"any origin", any, "GET", "/v1/models", []string{bad}, 200, "*"},
	} {
		t.Run(w.name, func(t *testing.T) {
			resp, body := askRaw(t, w.g.Addr, w.method, w.path, w.lines...)
			h := resp.Header
			if resp.StatusCode != w.status || h.Get("Access-Control-Allow-Origin") != w.origin || h.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%d %v %s", resp.StatusCode, h, body)
			}
			preflight := w.method == "OPTIONS" && w.origin != ""
			if preflight != (h.Get("Access-Control-Allow-Methods") != "") || preflight && (h.Get("Access-Control-Allow-Headers") != "Authorization, Content-Type" || h.Get("Access-Control-Max-Age") != "600") {
				t.Errorf("%v", h)
			}
			if w.g != off && len(w.lines) > 0 && w.status != 400 && h.Get("Vary") != "Origin" {
				t.Errorf("a cache could mix origins: Vary %q", h.Get("Vary"))
			}
		})
	}
	for _, g := range []*apptest.Gateway{off, on, any} {
		quiet(t, g)
	}
}

func TestMetricsAccess(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	own := freeAddr(t)
	usual := apptest.Start(t, "", e)
	public := apptest.Start(t, "metrics: {public: true}\n", e)
	apart := apptest.Start(t, "metrics: {listen: "+own+", path: /m}\n", e)
	none := apptest.Start(t, "metrics: {enabled: false}\n", e)
	for _, w := range []struct {
		name, addr, method, path string
		lines                    []string
		status                   int
	}{
		{"loopback", usual.Addr, "GET", "/metrics", nil, 200},
		{"a query", usual.Addr, "GET", "/metrics?x=y", nil, 200},
		{"behind a proxy", usual.Addr, "GET", "/metrics", []string{"X-Forwarded-For: 127.0.0.1"}, 404},
		{"behind a proxy that says nothing", usual.Addr, "GET", "/metrics", []string{"x-forwarded-for:"}, 404},
		{"behind a proxy of RFC 7239", usual.Addr, "GET", "/metrics", []string{"Forwarded: for=127.0.0.1"}, 404},
		{"a POST", usual.Addr, "POST", "/metrics", nil, 404},
		{"public behind a proxy", public.Addr, "GET", "/metrics", []string{"X-Forwarded-For: 9.9.9.9"}, 200},
		{"elsewhere, asked here", apart.Addr, "GET", "/m", nil, 404},
		{"elsewhere", own, "GET", "/m", nil, 200},
		{"elsewhere, another path", own, "GET", "/metrics", nil, 404},
		{"elsewhere, a chat", own, "POST", "/v1/chat/completions", nil, 404},
		{"off", none.Addr, "GET", "/metrics", nil, 404},
	} {
		t.Run(w.name, func(t *testing.T) {
			resp, body := askRaw(t, w.addr, w.method, w.path, w.lines...)
			if resp.StatusCode != w.status || strings.Contains(body, "llmproxy_build_info") != (w.status == 200) {
				t.Errorf("%d %.200s", resp.StatusCode, body)
			}
		})
	}
	for _, g := range []*apptest.Gateway{usual, public, apart, none} {
		quiet(t, g)
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// TestPanicCostsOneRequest: a panic in the middle of a request is answered, told
// in the log and counted; its connection ends and nothing stays in flight.
func TestPanicCostsOneRequest(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	var panics atomic.Bool
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if panics.Swap(false) {
			panic("a test's")
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	g := apptest.StartWith(t, app.Options{Dial: dial}, "health_check: {enabled: false}\n", e)
	panics.Store(true)
	c := dialRaw(t, g.Addr)
	c.send(post("/v1/chat/completions", wholeChat))
	resp, body := c.answer("POST")
	if resp.StatusCode != 500 || !strings.Contains(body, `"code":"internal_error"`) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if rest := c.ended(); rest != "" {
		t.Errorf("went on with %q", rest)
	}
	if n := g.Metric("llmproxy_panics_total"); n != 1 {
		t.Errorf("counted %v panics", n)
	}
	if n, left := g.Metric(`llmproxy_requests_total{model="*",backend="e0",status="500"}`), g.Metric(`llmproxy_client_aborts_total{phase="waiting"}`); n != 1 || left != 0 {
		t.Errorf("counted %v requests as failed, and %v clients as gone", n, left)
	}
	if log := g.Logs.String(); !strings.Contains(log, "a test's") || !strings.Contains(log, "access_test.go") {
		t.Errorf("the log does not say where: %s", log)
	}
	for _, body := range []string{wholeChat, streamChat} {
		if status, answer := g.Post(t, "/v1/chat/completions", body); status != 200 {
			t.Errorf("afterwards: %d %s", status, answer)
		}
	}
	quiet(t, g)
}

// TestRegionHeader: who may say where a client is.
func TestRegionHeader(t *testing.T) {
	leavesNothing(t)
	north := apptest.StartEngine(t, mockvllm.Options{})
	south := apptest.StartEngine(t, mockvllm.Options{})
	config := fmt.Sprintf(`
region: south
backends:
  - {url: %q, name: north, region: north}
  - {url: %q, name: south, region: south}
`, north.URL, south.URL)
	trusting := apptest.Start(t, config+"trusted_proxies: [127.0.0.0/8]\n")
	wary := apptest.Start(t, config+"trusted_proxies: [10.0.0.0/8]\n")
	for _, w := range []struct {
		name, region string
		g            *apptest.Gateway
		want         *apptest.Engine
	}{
		{"a trusted proxy names the other region", "north", trusting, north},
		{"a trusted proxy names none", "", trusting, south},
		{"anybody names the other region", "north", wary, south},
	} {
		t.Run(w.name, func(t *testing.T) {
			before := len(posts(w.want))
			for range 4 {
				c := dialRaw(t, w.g.Addr)
				c.send(post("/v1/chat/completions", wholeChat, "X-Region: "+w.region))
				if resp, body := c.answer("POST"); resp.StatusCode != 200 {
					t.Fatalf("%d %s", resp.StatusCode, body)
				}
				c.Close()
			}
			if n := len(posts(w.want)) - before; n != 4 {
				t.Errorf("%d of 4 requests went there", n)
			}
		})
	}
	quiet(t, trusting)
	quiet(t, wary)
}

// TestAccessLog checks the fields of a line for each way a request can go.
func TestAccessLog(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	out, err := os.Create(filepath.Join(t.TempDir(), "access.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	g := apptest.StartWith(t, app.Options{AccessLog: out}, "log: {access: true}\ntrusted_proxies: [127.0.0.1]\nrouting: {retry: {initial_wait: 1ms}}\n", e)
	for _, w := range []struct {
		name, body, fault string
		status            int
		stream            bool
		attempts          float64
		outcome, backend  string
		model             string
	}{
		{"whole", wholeChat, "", 200, false, 1, "ok", "e0", "mock-model"},
		{"stream", streamChat, "", 200, true, 1, "ok", "e0", "mock-model"},
		{"bad request", `{"model":1}`, "", 400, false, 0, "", "", ""},
		{"engine's 404", wholeChat, "404", 404, false, 1, "ok", "e0", "mock-model"},
		{"all fail", streamChat, "503", 503, true, 3, "server_error", "e0", "mock-model"},
		{"broken", streamChat, "reset=2", 200, true, 1, "broken", "e0", "mock-model"},
		{"an odd model", "{\"model\":\"x\\n\\u0007\\\"}\"," + wholeChat[len(`{"model":"mock-model",`):], "", 404, false, 1, "ok", "e0", "x\n\a\"}"},
	} {
		t.Run(w.name, func(t *testing.T) {
			if w.fault != "" {
				if err := e.Fault(mockvllm.FaultRule{Fault: w.fault, Path: "/v1/chat/completions"}); err != nil {
					t.Fatal(err)
				}
				defer e.ClearFaults()
			}
			c := dialRaw(t, g.Addr)
			defer c.Close()
			c.send(post("/v1/chat/completions?key=query-canary", w.body, "X-Request-Id: theirs", "X-Forwarded-For: 9.9.9.9, 8.8.8.8"))
			resp, body := c.answer("POST")
			var line map[string]any
			apptest.Eventually(t, "the line is written", func() bool {
				b, err := os.ReadFile(out.Name())
				if err != nil {
					t.Fatal(err)
				}
				i := strings.Index(string(b), `"request_id":"`+resp.Header.Get("X-Request-Id"))
				if i < 0 || !strings.HasSuffix(string(b), "}\n") {
					return false
				}
				from := strings.LastIndexByte(string(b[:i]), '\n') + 1
				first, _, _ := strings.Cut(string(b[from:]), "\n")
				return json.Unmarshal([]byte(first), &line) == nil
			})
			want := map[string]any{
				"client": "8.8.8.8", "client_request_id": "theirs", "method": "POST", "path": "/v1/chat/completions", "model": w.model, "backend": w.backend,
				"status": float64(w.status), "stream": w.stream, "attempts": w.attempts, "outcome": w.outcome,
			}
			for k, v := range want {
				if line[k] != v {
					t.Errorf("%s is %v, want %v", k, line[k], v)
				}
			}
			keys := []string{"attempts", "backend", "bytes", "client", "client_request_id", "duration_ms", "events", "method", "model", "outcome", "path", "request_id", "status", "stream", "time"}
			if w.stream && w.status == 200 {
				keys = append(keys, "ttft_ms")
				if line["events"].(float64) < 2 || line["bytes"].(float64) != float64(len(body)) {
					t.Errorf("events %v, bytes %v of %d", line["events"], line["bytes"], len(body))
				}
			}
			if got := slices.Sorted(maps.Keys(line)); !slices.Equal(got, keys) {
				t.Errorf("fields %v, want %v", got, keys)
			}
			if resp.StatusCode != w.status {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		})
	}
	quiet(t, g)
}

// TestSecretsStayInside: neither keys nor prompts show in an answer of the
// gateway's own, in a log or in the metrics, whatever goes wrong.
func TestSecretsStayInside(t *testing.T) {
	leavesNothing(t)
	const engineKey, clientKey, prompt, query = "engine-canary-1", "client-canary-2", "prompt-canary-3", "query-canary-4"
	e := apptest.StartEngine(t, mockvllm.Options{})
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	logged := make(chan string)
	go func() {
		b, _ := io.ReadAll(read) // ends when the writer is closed
		logged <- string(b)
	}()
	g := apptest.StartWith(t, app.Options{AccessLog: write}, fmt.Sprintf(`
backends: [{url: %q, name: e0, api_key: %s}, {url: "http://127.0.0.1:1/prefix", name: e1, api_key: %s}]
log: {access: true, level: debug}
routing: {retry: {initial_wait: 1ms, max_wait: 1ms}}
`, e.URL, engineKey, engineKey))
	said := ""
	for fault := range mockvllm.FaultNames() {
		if slices.Contains([]string{"hang", "die", "refuse", "stall", "slow-headers", "slow-first-token"}, fault) {
			continue
		}
		for _, stream := range []string{"false", "true"} {
			body := `{"model":"mock-model","max_tokens":2,"stream":` + stream + `,"messages":[{"role":"user","content":"` + prompt + `"}],"mock_fault":"` + fault + `"}`
			c := dialRaw(t, g.Addr)
			c.send(post("/v1/chat/completions?key="+query, body, "Authorization: Bearer "+clientKey))
			said += c.rest()
		}
	}
	for _, raw := range []string{
		post("/v1/"+"nowhere", prompt, "Authorization: Bearer "+clientKey),
		post("/v1/chat/completions", `{"model":"`+prompt, "Authorization: Bearer "+clientKey),
		post("/v1/chat/completions", prompt, "Authorization: Bearer "+clientKey, "Authorization: Bearer "+clientKey),
		"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + clientKey + "\r\n" + clientKey + "\r\n\r\n",
	} {
		c := dialRaw(t, g.Addr)
		c.send(raw)
		said += c.rest()
	}
	quiet(t, g)
	metrics := g.Metrics()
	g.Close()
	write.Close()
	access := <-logged
	for where, text := range map[string]string{"answers": said, "metrics": metrics, "log": g.Logs.String(), "access log": access} {
		if text == "" {
			t.Errorf("the %s are empty", where)
		}
		for _, canary := range []string{engineKey, clientKey, prompt, query} {
			if i := strings.Index(text, canary); i >= 0 {
				t.Errorf("%s in the %s: …%s…", canary, where, text[max(0, i-100):min(len(text), i+100)])
			}
		}
	}
}

// rest ends the requests of the connection and returns all that comes.
func (c *rawClient) rest() string {
	c.t.Helper()
	defer c.Close()
	c.send("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	return c.ended()
}
