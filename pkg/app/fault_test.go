package app_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// faultDoc is the table that TestFaults holds the gateway to. Written anew
// with LLMPROXY_WRITE=1.
const faultDoc = "../../docs/faults.md"

// A faultRequest is one kind of request that the faults are tried with.
type faultRequest struct {
	name, dialect, path, body string
}

var faultRequests = []faultRequest{
	{"vLLM, whole", "vllm", "/v1/chat/completions", wholeChat},
	{"vLLM, stream", "vllm", "/v1/chat/completions", streamChat},
	{"TGI, whole", "tgi", "/generate", `{"inputs":"hi","parameters":{"max_new_tokens":4}}`},
	{"TGI, stream", "tgi", "/generate_stream", `{"inputs":"hi","parameters":{"max_new_tokens":4}}`},
	{"TGI as OpenAI, stream", "tgi", "/v1/chat/completions", streamChat},
}

// injected are the faults with their arguments, in the order of the table.
var injected = []string{
	"refuse=10m", "hang", "die", "reset", "reset=2", "fin", "fin=2", "close-idle", "close-on-reuse",
	"503", "429", "429=7", "401", "404", "500-empty", "500-text", "500-json", "500-engine-dead",
	"slow-headers=20ms", "slow-first-token=20ms", "stall=1", "stall=1,20ms", "no-done",
	"error-event-first", "error-event=2", "malformed-event=1", "truncated-json", "wrong-length=10", "wrong-length=-10",
	"split-bytes", "crlf", "no-space", "multi-line", "giant-event=100000", "comment", "huge-header=30000", "huge-header=70000",
	"1xx", "gzip", "usage-missing", "usage-zero", "wrong-model",
}

// TestFaults makes one engine of two, and both, misbehave in every way they
// can, and compares what the client got and what was counted with the table in
// docs/faults.md.
func TestFaults(t *testing.T) {
	leavesNothing(t)
	missing := mockvllm.FaultNames()
	for _, f := range injected {
		name, _, _ := strings.Cut(f, "=")
		delete(missing, name)
	}
	if len(missing) > 0 {
		t.Errorf("not in the table: %v", slices.Sorted(maps.Keys(missing)))
	}
	var doc strings.Builder
	doc.WriteString(faultIntro)
	for _, r := range faultRequests {
		fmt.Fprintf(&doc, "\n## %s\n\n`POST %s`\n\n| fault | first engine only | both engines |\n|---|---|---|\n", r.name, r.path)
		for _, f := range injected {
			if !r.concerns(f) {
				continue
			}
			var cells [2]string
			t.Run(r.name+"/"+f, func(inner *testing.T) {
				for i := range cells {
					cells[i] = tryFault(t, inner, r, f, i+1)
				}
			})
			fmt.Fprintf(&doc, "| `%s` | %s | %s |\n", f, cells[0], cells[1])
		}
	}
	if os.Getenv("LLMPROXY_WRITE") != "" {
		if err := os.WriteFile(faultDoc, []byte(doc.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(faultDoc)
	if err != nil {
		t.Fatal(err)
	}
	wanted := strings.Split(string(want), "\n")
	for i, line := range strings.Split(doc.String(), "\n") {
		if i >= len(wanted) || line != wanted[i] {
			t.Errorf("%s line %d is not what happens\n%s", faultDoc, i+1, line)
		}
	}
}

const faultIntro = `# Every fault of an engine, and what comes of it

Written by ` + "`LLMPROXY_WRITE=1 go test ./pkg/app -run TestFaults`" + `; the same test fails when the gateway behaves differently.

Two engines, e0 is asked first. The faults are those of ` + "`mockvllm -h`" + `. A cell says what the client got; then, after
the arrow, the attempts by backend and outcome as ` + "`llmproxy_attempts_total`" + ` counts them (and the passive ejections), in brackets
how many requests came to each engine. Retries are on with their defaults, but for shorter waits; health checks are off;
` + "`timeouts.first_byte` and `timeouts.between_chunks`" + ` are set for the faults that need them (hang, stall).
"cut" is an answer that ends early, "error event" the last event of a stream that broke, in the shape of its API. close-idle
and close-on-reuse show the second request on the connection, which the fault meets.
`

// concerns tells whether a fault changes anything for the request: some are of
// streams, some of whole answers, some of vLLM's answers.
func (r *faultRequest) concerns(fault string) bool {
	name, _, _ := strings.Cut(fault, "=")
	switch name {
	case "no-done", "malformed-event", "split-bytes", "crlf", "no-space", "multi-line", "giant-event", "comment":
		return strings.Contains(r.name, "stream")
	case "truncated-json", "wrong-length":
		return strings.Contains(r.name, "whole")
	case "usage-missing", "usage-zero", "wrong-model":
		return r.dialect == mockvllm.DialectVLLM
	}
	return true
}

// tryFault runs one request against two engines of which the first n have the
// fault. What it starts ends with the outer test, because a gateway takes its
// time to stop.
func tryFault(outer, t *testing.T, r faultRequest, fault string, n int) string {
	engines := make([]*apptest.Engine, 2)
	yaml := "region: here\nload_balance_strategy: round_robin\nhealth_check: {enabled: false}\nrouting: {retry: {initial_wait: 1ms, max_wait: 2ms}}\n"
	if fault == "hang" || fault == "stall=1" {
		yaml += "timeouts: {first_byte: 200ms, between_chunks: 200ms}\n"
	}
	yaml += "backends:\n"
	for i := range engines {
		engines[i] = apptest.StartEngine(outer, mockvllm.Options{Dialect: r.dialect})
		yaml += fmt.Sprintf("  - {url: %q, name: e%d, region: %s}\n", engines[i].URL, i, []string{"here", "there"}[i])
		if i < n {
			if err := engines[i].Fault(mockvllm.FaultRule{Fault: fault, Path: r.path}); err != nil {
				t.Fatal(err)
			}
		}
	}
	g := apptest.Start(outer, yaml)
	c := dialRaw(t, g.Addr)
	c.send(post(r.path, r.body))
	if fault == "close-idle" || fault == "close-on-reuse" {
		_, _ = c.answer("POST")
		c.send(post(r.path, r.body))
	}
	got := c.describe(strings.Contains(r.name, "stream"))
	c.Close()
	quiet(t, g)
	got += " → " + counted(g)
	got += fmt.Sprintf(" [%d, %d]", len(posts(engines[0])), len(posts(engines[1])))
	go func() {
		g.Close()
		for _, e := range engines {
			_ = e.Close()
		}
	}()
	return got
}

// describe reads an answer and tells what a client sees of it.
func (c *rawClient) describe(stream bool) string {
	resp, err := http.ReadResponse(c.br, &http.Request{Method: "POST"})
	if err != nil {
		return "no answer"
	}
	body, cut := readAll(resp.Body)
	s := itoa(resp.StatusCode)
	switch {
	case resp.StatusCode != 200:
		s += " " + errorWords(body)
	case resp.Header.Get("Content-Encoding") != "":
		s += " in " + resp.Header.Get("Content-Encoding")
	case stream:
		s += describeEvents(body)
	case json.Valid(body):
		s += " whole"
	default:
		s += " no JSON"
	}
	if after := resp.Header.Get("Retry-After"); after != "" {
		s += ", Retry-After " + after
	}
	if cut {
		s += ", cut"
	}
	return s
}

// describeEvents tells how a stream ended.
func describeEvents(body []byte) string {
	events, failed, done := 0, "", false
	for line := range strings.Lines(string(body)) {
		data, ok := strings.CutPrefix(line, "data:")
		data = strings.TrimSpace(data)
		switch {
		case !ok:
		case data == "[DONE]":
			done = true
		case strings.HasPrefix(data, `{"error":`):
			failed = errorWords([]byte(data))
		default:
			events++
		}
	}
	s := fmt.Sprintf(", %d events", events)
	if failed != "" {
		s += ", error event " + failed
	}
	if done {
		s += ", [DONE]"
	}
	return s
}

// errorWords is the type and the code of an error body.
func errorWords(body []byte) string {
	var openai struct {
		Error struct {
			Type string `json:"type"`
			Code any    `json:"code"`
			HTTP any    `json:"http_status_code"`
		} `json:"error"`
	}
	var tgi struct {
		Error     string `json:"error"`
		ErrorType string `json:"error_type"`
	}
	switch {
	case json.Unmarshal(body, &tgi) == nil && tgi.ErrorType != "":
		return tgi.ErrorType
	case json.Unmarshal(body, &tgi) == nil && tgi.Error != "":
		return fmt.Sprintf("%q", tgi.Error)
	case json.Unmarshal(body, &openai) != nil:
		return fmt.Sprintf("%q", body)
	case openai.Error.HTTP != nil:
		return fmt.Sprintf("http_status_code %v", openai.Error.HTTP)
	case openai.Error.Code == nil:
		return openai.Error.Type
	}
	return fmt.Sprintf("%s/%v", openai.Error.Type, openai.Error.Code)
}

// counted reads the attempts, the ejections and the request from the metrics
// of a gateway that had one request or two.
func counted(g *apptest.Gateway) string {
	var words []string
	for line := range strings.Lines(g.Metrics()) {
		name, labels, _ := strings.Cut(line, "{")
		_, value, _ := strings.Cut(strings.TrimSpace(labels), "} ")
		backend := between(labels, `backend="`, `"`)
		switch {
		case value == "0":
		case name == "llmproxy_attempts_total" && value == "1":
			words = append(words, backend+" "+between(labels, `outcome="`, `"`))
		case name == "llmproxy_attempts_total":
			words = append(words, backend+" "+between(labels, `outcome="`, `"`)+" ×"+value)
		case name == "llmproxy_backend_ejections_total":
			words = append(words, backend+" ejected")
		case name == "llmproxy_requests_total":
			words = append(words, "status "+between(labels, `status="`, `"`)+" of "+backend)
		}
	}
	return strings.Join(words, ", ")
}

func between(s, before, after string) string {
	_, s, _ = strings.Cut(s, before)
	s, _, _ = strings.Cut(s, after)
	return s
}
