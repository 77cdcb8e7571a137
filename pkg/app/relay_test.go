package app_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// TestAnswersAreByteEqual compares what an engine said with what the client
// got, across APIs, dialects and odd ways to write a stream.
func TestAnswersAreByteEqual(t *testing.T) {
	leavesNothing(t)
	const (
		inputs  = `{"inputs":"hi","parameters":{"max_new_tokens":4,"details":true}}`
		chat    = "/v1/chat/completions"
		usage   = `{"model":"mock-model","messages":[{"role":"user","content":"hi"}],"max_tokens":4,"stream":true,"stream_options":{"include_usage":true}}`
		n       = `{"model":"mock-model","messages":[{"role":"user","content":"hi"}],"max_tokens":40,"stream":true,"n":3}`
		prompt  = `{"model":"mock-model","prompt":"hi","logprobs":1}`
		prompts = `{"model":"mock-model","prompt":["hi","there"],"stream":true}`
		embed   = `{"model":"mock-model","input":["hi","there"]}`
		base64  = `{"model":"mock-model","input":"hi","encoding_format":"base64"}`
	)
	for _, dialect := range []string{mockvllm.DialectVLLM, mockvllm.DialectTGI} {
		e := apptest.StartEngine(t, mockvllm.Options{Dialect: dialect})
		p := startTap(t, e.Addr)
		g := apptest.Start(t, "backends: [{url: "+p.url+", name: e0, keep_alive: 1ns}]\nhealth_check: {enabled: false}\nrouting: {retry: {enabled: false}}\n")
		for _, w := range []struct {
			dialect, path, body, fault string
			status                     int
		}{
			{"", chat, wholeChat, "", 200},
			{"", chat, streamChat, "", 200},
			{"", chat, usage, "", 200},
			{"", chat, streamChat, "comment", 200},
			{"", chat, streamChat, "crlf", 200},
			{"", chat, streamChat, "no-space", 200},
			{"", chat, streamChat, "split-bytes", 200},
			{"", chat, streamChat, "giant-event", 200},
			{"", chat, streamChat, "malformed-event=1", 200},
			{"", chat, streamChat, "malformed-event=0", 200},
			{"", chat, streamChat, "no-done", 200},
			{"", chat, streamChat, "wrong-model", 200},
			{"", chat, streamChat, "1xx", 200},
			{"", chat, streamChat, "gzip", 200},
			{"", chat, wholeChat, "gzip", 200},
			{"", chat, wholeChat, "1xx", 200},
			{"", chat, wholeChat, "wrong-model", 200},
			{"", chat, wholeChat, "huge-header=30000", 200},
			{"", chat, streamChat, "error-event=2", 200},
			{"vllm", chat, n, "", 200},
			{"vllm", chat, n, "split-bytes", 200},
			{"vllm", "/v1/completions", prompt, "", 200},
			{"vllm", "/v1/completions", prompts, "", 200},
			{"vllm", "/v1/embeddings", embed, "", 200},
			{"vllm", "/v1/embeddings", base64, "", 200},
			{"vllm", chat, `{"model":"none","messages":[]}`, "", 400},
			{"vllm", chat, `{"model":"none","messages":[{"role":"user","content":"hi"}]}`, "", 404},
			{"vllm", chat, `{"model":"mock-model","messages":[{"role":"user","content":"hi"}],"max_tokens":0}`, "", 400},
			{"vllm", chat, `{"model":"mock-model","messages":[{"role":"user","content":"hi"}],"n":"x"}`, "", 400},
			{"vllm", chat, wholeChat, "404", 404},
			{"vllm", chat, streamChat, "404", 404},
			{"tgi", "/generate", inputs, "", 200},
			{"tgi", "/generate_stream", inputs, "", 200},
			{"tgi", "/generate_stream", inputs, "crlf", 200},
			{"tgi", "/generate_stream", inputs, "split-bytes", 200},
			{"tgi", "/generate_stream", inputs, "error-event=2", 200},
			{"tgi", "/generate", `{"inputs":"hi","parameters":{"max_new_tokens":0}}`, "", 422},
			{"tgi", "/generate", `{"nothing":1}`, "", 422},
			{"tgi", "/v1/completions", prompt, "", 200},
			{"tgi", "/generate", inputs, "500-text", 500},
			{"tgi", "/generate", inputs, "429", 429},
			{"vllm", chat, wholeChat, "500-json", 500},
			{"vllm", chat, wholeChat, "429", 429},
		} {
			if w.dialect != "" && w.dialect != dialect {
				continue
			}
			t.Run(dialect+" "+w.path+" "+w.fault, func(t *testing.T) {
				if w.fault != "" {
					if err := e.Fault(mockvllm.FaultRule{Fault: w.fault, Path: w.path, Count: 1}); err != nil {
						t.Fatal(err)
					}
					defer e.ClearFaults()
				}
				c := dialRaw(t, g.Addr)
				defer c.Close()
				c.send(post(w.path, w.body))
				resp, got := c.answer("POST")
				engine, want := p.last(t)
				if resp.StatusCode != w.status || got != want || want == "" {
					t.Errorf("%d, %d bytes\n%.500s\nthe engine said %d bytes\n%.500s", resp.StatusCode, len(got), got, len(want), want)
				}
				if said := engine.Header.Get("Content-Type"); resp.Header.Get("Content-Type") != said {
					t.Errorf("Content-Type %q, the engine said %q", resp.Header.Get("Content-Type"), said)
				}
				if resp.Header.Get("Content-Encoding") != map[bool]string{true: "gzip"}[w.fault == "gzip"] {
					t.Errorf("Content-Encoding %q", resp.Header.Get("Content-Encoding"))
				}
			})
		}
		quiet(t, g)
	}
}

// TestRequestBodies: an engine gets a client's body byte for byte, but for the
// model's name where a mapping replaces it; and answers keep its own name.
func TestRequestBodies(t *testing.T) {
	leavesNothing(t)
	a := apptest.StartEngine(t, mockvllm.Options{Models: []string{"Qwen/qwen-72b", "plain"}})
	b := apptest.StartEngine(t, mockvllm.Options{Models: []string{"other"}})
	g := apptest.Start(t, fmt.Sprintf(`
backends:
  - {url: %q, name: a, models: ["Qwen/*", plain]}
  - {url: %q, name: b, models: [other]}
routing: {model_mapping: {qwen: Qwen/qwen-72b, "ünï\"code": Qwen/qwen-72b}}
`, a.URL, b.URL))
	const rest = `"messages":[{"role":"user","content":"hi","x_unknown":{"model":"no"}}],"mystery":[1,2.50e3,{"a":null}],"max_tokens" : 2 }`
	for _, w := range []struct {
		name, body, upstream, model string
		status                      int
	}{
		{"unknown fields", `{ "model":"plain" , ` + rest, "", "plain", 200},
		{"a mapped name", `{ "model":"qwen" , ` + rest, `{ "model":"Qwen/qwen-72b" , ` + rest, "Qwen/qwen-72b", 200},
		{
			"a mapped name, last and spaced", strings.TrimSuffix(`{`+rest, " }") + `, "model"` + "\t:\n" + `"qwen" }`,
			strings.TrimSuffix(`{`+rest, " }") + `, "model"` + "\t:\n" + `"Qwen/qwen-72b" }`, "Qwen/qwen-72b", 200,
		},
		{"an escaped name", `{"model":"\u0071wen",` + rest, `{"model":"Qwen/qwen-72b",` + rest, "Qwen/qwen-72b", 200},
		{"a name outside ASCII", `{"model":"ünï\"code",` + rest, `{"model":"Qwen/qwen-72b",` + rest, "Qwen/qwen-72b", 200},
		{"no model", `{` + rest, "", "", 400},
		{"an unknown model", `{"model":"nobody",` + rest, "", "", 404},
		{"two models", `{"model":"plain","model":"other",` + rest, "", "", 400},
		{"two models, one escaped", `{"model":"plain","mod\u0065l":"other",` + rest, "", "", 400},
		{"two streams", `{"model":"plain","stream":false,"stream":true,` + rest, "", "", 400},
		{"a stream that is a number", `{"model":"plain","stream":1,` + rest, "", "", 400},
		{"invalid UTF-8", "{\"model\":\"plain\",\"x\":\"\xff\"," + rest, "", "", 400},
		{"absurd nesting", `{"model":"plain","x":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `,` + rest, "", "", 400},
		{"no JSON", `model=plain`, "", "", 400},
		{"nothing", ``, "", "", 400},
	} {
		t.Run(w.name, func(t *testing.T) {
			before := len(posts(a)) + len(posts(b))
			status, answer := g.Post(t, "/v1/chat/completions", w.body)
			if status != w.status {
				t.Fatalf("%d %s", status, answer)
			}
			if status != 200 {
				if n := len(posts(a)) + len(posts(b)) - before; n != 0 || !strings.HasPrefix(answer, `{"error":{"message":`) {
					t.Errorf("an engine was asked %d times; %s", n, answer)
				}
				return
			}
			if w.upstream == "" {
				w.upstream = w.body
			}
			row := a.Ledger()[len(a.Ledger())-1]
			sum := sha256.Sum256([]byte(w.upstream))
			if row.Model != w.model || row.BodySHA256 != hex.EncodeToString(sum[:]) || row.BodyBytes != len(w.upstream) {
				t.Errorf("the engine got another body: %+v", row)
			}
			if !strings.Contains(answer, `"model":"`+w.model+`"`) {
				t.Errorf("the answer's model was changed: %s", answer)
			}
		})
	}
	t.Run("no model and one pool", func(t *testing.T) {
		g := apptest.Start(t, "", a)
		if status, answer := g.Post(t, "/v1/chat/completions", `{`+rest); status != 200 {
			t.Errorf("%d %s", status, answer)
		}
		if status, answer := g.Post(t, "/generate", `{"inputs":"hi"}`); status != 404 { // the engine's own: it is no TGI
			t.Errorf("%d %s", status, answer)
		}
	})
	quiet(t, g)
}

// TestHeaders: which headers pass, in both directions.
func TestHeaders(t *testing.T) {
	leavesNothing(t)
	a := apptest.StartEngine(t, mockvllm.Options{APIKey: "engine-key", RequestIDHeaders: true})
	b := apptest.StartEngine(t, mockvllm.Options{APIKey: "engine-key", RequestIDHeaders: true})
	g := apptest.Start(t, fmt.Sprintf(`
load_balance_strategy: round_robin
backends:
  - {url: %q, name: a, api_key: engine-key}
  - {url: %q, name: b, api_key: engine-key}
`, a.URL, b.URL))
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	sent := []string{
		"Authorization: Bearer client-key", "Cookie: session=1", "X-Api-Key: client-key", "Api-Key: k", "Proxy-Authorization: Basic eDp5",
		"X-Custom: 1", "X-Forwarded-For: 9.9.9.9", "X-Real-IP: 9.9.9.9", "Forwarded: for=9.9.9.9", "X-Mock-Fault: 503", "X-Request-Id: mine",
		"OpenAI-Organization: org", "User-Agent: sdk/1", "Accept-Encoding: gzip", "Accept: application/json", "TE: trailers", "Keep-Alive: 5",
		"Traceparent: " + trace, "Tracestate: a=b", "Origin: https://x.example", "Referer: https://x.example/secret", "Via: 1.1 x",
	}
	up := []string{"Accept", "Authorization", "Content-Length", "Content-Type", "Traceparent", "Tracestate", "X-Request-Id"}
	id := regexp.MustCompile(`^[0-9a-f]{32}$`)
	seen := map[string]bool{}
	for name, body := range map[string]string{"whole": wholeChat, "stream": streamChat} {
		t.Run(name, func(t *testing.T) {
			for _, e := range []*apptest.Engine{a, b} { // whoever is asked first fails
				if err := e.Fault(mockvllm.FaultRule{Fault: "503", Count: 1}); err != nil {
					t.Fatal(err)
				}
			}
			before := len(posts(a)) + len(posts(b))
			c := dialRaw(t, g.Addr)
			defer c.Close()
			c.send(post("/v1/chat/completions", body, sent...))
			resp, answer := c.answer("POST")
			if resp.StatusCode != 200 {
				t.Fatalf("%d %s", resp.StatusCode, answer)
			}
			want := []string{"Content-Type", "Date", "X-Request-Id"}
			if name == "stream" {
				want = []string{"Cache-Control", "Content-Type", "Date", "X-Accel-Buffering", "X-Request-Id"}
			} else {
				resp.Header.Del("Content-Length")
			}
			if got := slices.Sorted(maps.Keys(resp.Header)); !slices.Equal(got, want) {
				t.Errorf("the client got %v, want %v", got, want)
			}
			mine := resp.Header.Get("X-Request-Id")
			if !id.MatchString(mine) || seen[mine] {
				t.Errorf("request id %q", mine)
			}
			seen[mine] = true
			rows := append(posts(a), posts(b)...)
			slices.SortFunc(rows, func(x, y mockvllm.Entry) int { return x.Arrived.Compare(y.Arrived) })
			rows = rows[before:]
			if len(rows) != 3 {
				t.Fatalf("%d attempts, want 3", len(rows))
			}
			for i, r := range rows {
				if got := slices.Sorted(maps.Keys(r.Header)); !slices.Equal(got, up) {
					t.Errorf("the engine got %v, want %v", got, up)
				}
				if r.Header.Get("Authorization") != "Bearer engine-key" || r.Header.Get("Traceparent") != trace || r.Header.Get("Tracestate") != "a=b" || r.Header.Get("Accept") != "application/json" {
					t.Errorf("the engine got %v", r.Header)
				}
				if r.XRequestID != mine+"-"+itoa(i+1) {
					t.Errorf("attempt %d has the id %q", i+1, r.XRequestID)
				}
			}
		})
	}
	quiet(t, g)
}

// TestCompressedRequest: a body that would have to be unpacked is refused.
func TestCompressedRequest(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, "", e)
	for _, encoding := range []string{"gzip", "br", "gzip, identity"} {
		c := dialRaw(t, g.Addr)
		c.send(post("/v1/chat/completions", "\x1f\x8b\x08\x00", "Content-Encoding: "+encoding))
		if resp, body := c.answer("POST"); resp.StatusCode != 415 || !strings.Contains(body, "unsupported_media_type") {
			t.Errorf("%s: %d %s", encoding, resp.StatusCode, body)
		}
		c.Close()
	}
	if n := len(posts(e)); n != 0 {
		t.Errorf("the engine was asked %d times", n)
	}
	quiet(t, g)
}

// TestLargeBody: ten megabytes of image arrive whole, and the gateway does not
// keep them, neither while the answer streams nor with the idle connection.
func TestLargeBody(t *testing.T) {
	leavesNothing(t)
	const size, clients = 10 << 20, 6
	sums := make(chan [sha256.Size]byte, clients)
	url := serveTCP(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			if req.Method == "POST" {
				h := sha256.New()
				if _, err := io.Copy(h, req.Body); err != nil {
					return
				}
				sums <- [sha256.Size]byte(h.Sum(nil))
			}
			answer := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
			if req.URL.Path == "/v1/completions" { // begins and does not end
				answer = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\na\r\ndata: {}\n\n\r\n"
			}
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
		}
	})
	g := apptest.Start(t, "backends: [{url: "+url+", name: e0}]\nrouting: {model_mapping: {m: mapped}}\n")
	const head, tail = `{"model":"`, `","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,`
	image := strings.Repeat("iVBORw0KGgo+/", size/13) + `"}}]}]}`
	want := sha256.Sum256([]byte(head + "mapped" + tail + image))
	body := head + "m" + tail + image
	requests := [2]string{post("/v1/chat/completions", body), post("/v1/completions", body)}
	before := heap()
	open := make([]*rawClient, clients)
	for i := range open {
		open[i] = dialRaw(t, g.Addr)
		defer open[i].Close()
		open[i].send(requests[i%2])
		resp, err := http.ReadResponse(open[i].br, nil)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%v %+v", err, resp)
		}
		if _, err := io.ReadFull(resp.Body, make([]byte, []int{2, 10}[i%2])); err != nil {
			t.Fatal(err)
		}
		if got := <-sums; got != want {
			t.Fatal("the engine got another body")
		}
	}
	if grown := heap() - before; grown > size {
		t.Errorf("%d connections hold %d bytes after large requests", clients, grown)
	}
	for _, c := range open {
		c.Close()
	}
	quiet(t, g)
}

// heap is what is in use once the pools have been emptied.
func heap() int64 {
	for range 3 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
