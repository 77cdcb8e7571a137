package app_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/config"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// countedBody is a request for a stream; the fields go with those of apiBodies.
type countedBody struct {
	name, fields string
	fronts       bool // tried on every way to the gateway
	texts        bool // for completions only
}

var countedBodies = []countedBody{
	{"nothing is asked", ``, true, false},
	{"options are empty", `"stream_options":{}`, true, false},
	{"options are null", `"stream_options":null`, false, false},
	{"usage is asked for", `"stream_options":{"include_usage":true}`, true, false},
	{"usage is not wanted", `"stream_options":{"include_usage":false}`, false, false},
	{"usage is null", `"stream_options":{"include_usage":null}`, false, false},
	{"usage everywhere is asked for", `"stream_options":{"include_usage":true,"continuous_usage_stats":true}`, true, false},
	{"usage everywhere, and not at the end", `"stream_options":{"include_usage":false,"continuous_usage_stats":true}`, false, false},
	{"usage everywhere alone", `"stream_options":{"continuous_usage_stats":true}`, false, false},
	{"two answers", `"n":2`, true, false},
	{"two answers, usage everywhere", `"n":2,"stream_options":{"include_usage":true,"continuous_usage_stats":true}`, false, false},
	{"two prompts", `"prompt":["a","some longer one"]`, true, true},
	{"two answers to two prompts", `"prompt":["a","some longer one"],"n":2`, false, true},
	{"tokens for a prompt", `"prompt":[[1,2],[3]]`, false, true},
	{"probabilities", `"logprobs":1`, false, true},
	{"thoughts", `"mock_reasoning":2`, false, false},
	{"a byte at a time", `"mock_fault":"split-bytes"`, true, false},
	{"CRLF", `"mock_fault":"crlf"`, true, false},
	{"no space behind the colon", `"mock_fault":"no-space"`, false, false},
	{"data in several lines", `"mock_fault":"multi-line"`, false, false},
	{"a comment first", `"mock_fault":"comment"`, false, false},
	{"no [DONE]", `"mock_fault":"no-done"`, true, false},
	{"broken JSON", `"mock_fault":"malformed-event=1"`, false, false},
	{"an event too long to edit", `"prompt":"hi","mock_fault":"giant-event=66000"`, false, true},
	{"an error after two events", `"mock_fault":"error-event=2"`, true, false},
	{"no usage comes", `"mock_fault":"usage-missing"`, false, false},
	{"usage is all zeros", `"mock_fault":"usage-zero"`, false, false},
}

// body is the request to one of OpenAI's two text APIs.
func (b *countedBody) body(path string) string {
	fields := b.fields
	if b.texts {
		fields += `,"max_tokens":4`
	} else {
		fields += "," + strings.ReplaceAll(apiBodies[path], ":N", ":4")
	}
	if !strings.Contains(fields, `"prompt"`) && path == "/v1/completions" {
		fields += `,"prompt":"hi"`
	}
	return `{"stream":true,"model":"mock-model",` + strings.TrimPrefix(fields, ",") + `}`
}

// A client that did not ask for usage gets the bytes that it would get from the
// engine, in whatever pieces they come and whichever way it has come itself; and
// what it gets is billed.
func TestCountLeavesNoTrace(t *testing.T) {
	leavesNothing(t)
	t.Run("all", func(t *testing.T) {
		for _, f := range pingFronts {
			t.Run(f.name, func(t *testing.T) {
				countSites(t, f.yaml(t), func(t *testing.T, s *countSite) {
					if f.name != "HTTP/1.1" && !s.continuous && canContinuous(s.dialect) && os.Getenv("LLMPROXY_LONG") == "" {
						return // the hardest of what an engine can do will do
					}
					s.pinging(t)
					for _, path := range []string{chatPath, "/v1/completions"} {
						for _, b := range countedBodies {
							if f.name != "HTTP/1.1" && !b.fronts || b.texts && path == chatPath {
								continue
							}
							t.Run(path+"/"+b.name, func(t *testing.T) { s.untouched(t, &f, path, &b) })
						}
					}
				})
			})
		}
	})
}

// pinging has the gateway ping silent streams.
func (s *countSite) pinging(t *testing.T) {
	t.Helper()
	c := apptest.Config(t, s.yaml)
	c.Server.SSEPingInterval = config.Duration(pingEvery)
	if err := s.gateway.Reload(c); err != nil {
		t.Fatal(err)
	}
}

func (s *countSite) untouched(t *testing.T, f *pingFront, path string, b *countedBody) {
	body := b.body(path)
	if strings.Contains(body, "malformed") && (s.continuous || s.dialect == mockvllm.DialectLlamaCPP) {
		t.Skip("the fake engine breaks an event in its middle, which is elsewhere then, or in its id")
	}
	asked := strings.Repeat("d", 34) // as long as the gateway's own
	direct := apiAnswer{ids: []string{asked}}
	c := dialRaw(t, s.engines[0].Addr)
	c.send(post(path, body, "X-Request-Id: "+asked))
	_, direct.body = c.answer("POST")
	c.Close()

	y := s.apiTry(t, &apiRow{method: "POST", path: path})
	y.mark()
	stream := f.ask(t, s.gateway, path, body)
	got := apiAnswer{body: strings.ReplaceAll(stream.rest(), keepAlive, "")}
	stream.Close()
	id, e := lastOf(y.answered())
	got.ids = []string{e.XRequestID}
	direct.body = strings.ReplaceAll(direct.body, keepAlive, "")
	if got.normal() != direct.normal() {
		t.Errorf("the client got\n%.3000s\nthe engine says\n%.3000s", got.normal(), direct.normal())
	}

	want := s.countedOf(y.row, e, true)
	switch {
	case strings.Contains(b.fields, "usage-"):
		if !s.tellsAnyway(path, strings.Contains(b.fields, "usage-zero")) {
			want.Prompt, want.Estimated = 0, true
		}
	case strings.Contains(b.fields, "error-event"):
		want = s.cutOf(y.row, e, len(pieceOfText.FindAllString(got.body, -1)))
		want.Outcome, want.Status = "upstream_failed", 200
	case strings.Contains(b.fields, "mock_reasoning") && s.dialect == mockvllm.DialectSGLang:
		want.Reasoning = 2
	}
	s.expect(t, id, want)
}

// tellsAnyway tells whether an engine's fault leaves another place that tells the
// usage: timings, an earlier event, or one of a surface that the fault spares.
func (s *countSite) tellsAnyway(path string, zero bool) bool {
	switch s.dialect {
	case mockvllm.DialectLlamaCPP:
		return zero || path == chatPath
	case mockvllm.DialectTGI:
		return zero || path != chatPath
	case mockvllm.DialectSGLang, mockvllm.DialectVLLMRust:
		return zero && s.continuous
	}
	return false
}

// What the fake engine never does, and engines do: usage that is null, repeated,
// with each choice and in a last event of several.
func TestCountOddStreams(t *testing.T) {
	leavesNothing(t)
	const (
		piece = `data: {"choices":[{"index":0,"text":"a","delta":{"content":"a"}}]%s}` + "\n\n"
		last  = `data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}` + "\n\n"
		some  = `,"usage":{"prompt_tokens":7,"completion_tokens":%d,"total_tokens":%d}`
	)
	plain, null := fmt.Sprintf(piece, ""), fmt.Sprintf(piece, `,"usage":null`)
	with := func(n int) string { return fmt.Sprintf(piece, fmt.Sprintf(some, n, 7+n)) }
	three := bill{Prompt: 7, Completion: 3, Total: 10, Outcome: "complete"}
	for _, w := range []struct {
		name, path, stream, client string
		want                       bill
	}{
		{"usage comes twice", chatPath, strings.Repeat(plain, 3) + last + last + doneEvent, strings.Repeat(plain, 3) + doneEvent, three},
		{"nulls before it", "/v1/completions", strings.Repeat(null, 3) + last + doneEvent, strings.Repeat(null, 3) + doneEvent, three},
		{"in every event, unasked", "/v1/completions", with(1) + with(2) + with(3) + doneEvent, with(1) + with(2) + with(3) + doneEvent, three},
		{"it grows twice by as much", "/v1/completions", with(2) + with(3) + last + doneEvent, with(2) + with(3) + doneEvent, three},
		{"the last event has no end", chatPath, strings.Repeat(plain, 3) + last + "data: {}", strings.Repeat(plain, 3) + "data: {}", three},
		{"nothing is said of it", chatPath, strings.Repeat(plain, 3) + doneEvent, strings.Repeat(plain, 3) + doneEvent, bill{Completion: 3, Estimated: true, Outcome: "complete"}},
	} {
		t.Run(w.name, func(t *testing.T) {
			url, goOn := pausing(t, chunkedHead+chunk(w.stream).wire, lastChunk.wire)
			s := startBilled(t, &apiSite{}, "", "  - {url: "+url+", name: e0, engine: vllm}\n")
			resp, err := http.Post(s.gateway.URL+w.path, "application/json", strings.NewReader((&countedBody{}).body(w.path)))
			if err != nil {
				t.Fatal(err)
			}
			close(goOn) // the end comes after the beginning was read
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || string(body) != w.client {
				t.Errorf("%v: got\n%s\nwant\n%s", err, body, w.client)
			}
			w.want.Model, w.want.Served, w.want.Endpoint, w.want.Backend = "mock-model", "mock-model", w.path, "e0"
			w.want.Stream, w.want.Status, w.want.Attempts = true, 200, 1
			s.expect(t, resp.Header.Get("X-Request-Id"), w.want)
			s.settle()
		})
	}
}

// A client that goes at [DONE] has it all, also when the engine's answer ends later.
func TestCountLeftBeforeTheEnd(t *testing.T) {
	leavesNothing(t)
	const last = `data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8}}` + "\n\n"
	url, goOn := pausing(t, chunkedHead+chunk(pingFirst+last+doneEvent).wire, lastChunk.wire)
	defer close(goOn)
	s := startBilled(t, &apiSite{}, "", "  - {url: "+url+", name: e0, engine: vllm}\n")
	raw := dialRaw(t, s.gateway.Addr)
	raw.send(post(chatPath, streamChat))
	c := raw.counted("POST")
	c.read(allEvents)
	c.Close()
	s.expect(t, c.id, bill{
		Model: "mock-model", Served: "mock-model", Backend: "e0", Endpoint: chatPath,
		Stream: true, Status: 200, Outcome: "complete", Attempts: 1, Prompt: 7, Completion: 1,
	})
	s.settle()
}
