package app_test

import (
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// longPrompt is one that a prefix cache keeps blocks of.
var longPrompt = strings.Repeat("the quick brown fox jumps over the lazy dog ", 10)

// countDetails are requests that use what a plain one does not. LONG stands for a
// long prompt; each is made twice, so that the second one finds it cached.
var countDetails = []struct {
	name, path, fields string
	dialects           string // "": all
	reasoning          int    // tokens told as such
}{
	{"cached", chatPath, `"messages":[{"role":"user","content":"LONG"}]`, "", 0},
	{"cached", "/v1/completions", `"prompt":"LONG"`, "", 0},
	{"cached", responsesURL, `"input":"LONG"`, "vllm vllm-rust sglang llamacpp", 0},
	{"cached", "/v1/messages", `"messages":[{"role":"user","content":"LONG"}],"max_tokens":4`, "vllm vllm-rust sglang llamacpp", 0},
	{"cached", "/generate", `"text":"LONG"`, "sglang", 0},
	{"thoughts", responsesURL, `"input":"hi","mock_reasoning":2`, "vllm vllm-rust sglang llamacpp", 2},
	{"thoughts", chatPath, `"messages":[{"role":"user","content":"hi"}],"mock_reasoning":2`, "sglang", 2},
	{"thoughts", "/generate", `"text":"hi","mock_reasoning":2`, "sglang", 2},
	{"thoughts that nobody tells", "/v1/messages", `"messages":[{"role":"user","content":"hi"}],"max_tokens":9,"mock_reasoning":2`, "vllm sglang", 0},
	{"a tool", chatPath, `"messages":[{"role":"user","content":"hi"}],"tool_choice":"required","tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{"usage":{}}}}}]`, "", 0},
	{"a tool", responsesURL, `"input":"hi","tool_choice":"required","tools":[{"type":"function","name":"f","parameters":{"properties":{"usage":{}}}}]`, "vllm sglang", 0},
	{"two answers", chatPath, `"messages":[{"role":"user","content":"hi"}],"n":2`, "vllm vllm-rust sglang", 0},
	{"two answers to two prompts", "/v1/completions", `"prompt":["hi","a longer one"],"n":2`, "vllm vllm-rust sglang", 0},
	{"two answers", "/generate", `"text":"a longer one","sampling_params":{"n":2,"max_new_tokens":3}`, "sglang", 0},
	{"two prompts", "/generate", `"text":["hi","a longer one"]`, "sglang", 0},
	{"two answers to two prompts", "/generate", `"text":["hi","a longer one"],"sampling_params":{"n":2}`, "sglang", 0},
	{"two inputs", "/v1/embeddings", `"input":["hi","a longer one"]`, "vllm sglang llamacpp", 0},
	{"a large answer", "/v1/embeddings", `"dimensions":2048,"input":["` + strings.Repeat(`hi","`, 7) + `a"]`, "vllm", 0},
}

// What is cached, thought, asked for several times or told in several pieces is
// billed as the engine tells it.
func TestCountDetails(t *testing.T) {
	leavesNothing(t)
	t.Run("all", func(t *testing.T) {
		countSites(t, "", func(t *testing.T, s *countSite) {
			for _, d := range countDetails {
				if d.dialects != "" && !strings.Contains(" "+d.dialects+" ", " "+s.dialect+" ") {
					continue
				}
				for _, more := range []string{"", `,"stream":true`} {
					if more != "" && strings.HasSuffix(d.path, "embeddings") {
						continue
					}
					t.Run(d.path+"/"+d.name+more, func(t *testing.T) {
						for range 2 {
							s.detail(t, d.path, d.fields+more, d.reasoning)
						}
					})
				}
			}
		})
	})
}

func (s *countSite) detail(t *testing.T, path, fields string, reasoning int) {
	y := s.apiTry(t, &apiRow{method: "POST", path: path})
	if y.row.hasModel() {
		fields = `"model":"mock-model",` + fields
	}
	y.mark()
	status, answer := s.gateway.Post(t, path, "{"+strings.ReplaceAll(fields, "LONG", longPrompt)+"}")
	if status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	id, e := lastOf(y.answered())
	want := s.countedOf(y.row, e, strings.Contains(fields, `"stream"`))
	want.Reasoning = reasoning
	s.expect(t, id, want)
}

// The answers to one prompt have one prompt, also in a stream that is cut.
func TestCountCutChoices(t *testing.T) {
	leavesNothing(t)
	for _, w := range []struct {
		name, dialect, path, fields string
		events                      int // so many that each choice has one
	}{
		{"two answers", "vllm", chatPath, `"messages":[{"role":"user","content":"a longer one"}],"n":2`, 8},
		{"two answers", "vllm", "/v1/completions", `"prompt":"a longer one","n":2`, 8},
		{"two answers to two prompts", "vllm", "/v1/completions", `"prompt":["hi","a longer one"],"n":2`, 8},
		{"two answers", "vllm-rust", "/v1/completions", `"prompt":"a longer one","n":2`, 8},
		{"two answers to two prompts", "sglang", "/v1/completions", `"prompt":["hi","a longer one"],"n":2`, 8},
		{"two answers to two prompts", "sglang", "/generate", `"text":["hi","a longer one"],"sampling_params":{"n":2,"max_new_tokens":30}`, 8},
	} {
		t.Run(w.dialect+w.path+"/"+w.name, func(t *testing.T) {
			s := startCountSite(t, w.dialect, true, "")
			row := &apiRow{method: "POST", path: w.path}
			fields := w.fields + `,"stream":true,"max_tokens":30,"mock_fault":"stall=` + itoa(w.events) + `"`
			if row.hasModel() {
				fields = `"model":"mock-model",` + fields
			}
			y, c := s.openBody(t, row, "{"+fields+"}")
			c.read(w.events)
			c.Close()
			want := s.cutOf(row, y.ended(c.events), c.pieces)
			want.Outcome, want.Status = "client_aborted", 499
			s.expect(t, c.id, want)
			s.settle()
		})
	}
}

// Where the engine tells less, a surface is billed by what there is.
func TestCountWithoutDetails(t *testing.T) {
	leavesNothing(t)
	t.Run("TGI tells the usage of a whole answer in its head, and of a stream nothing", func(t *testing.T) {
		s := startCountSite(t, mockvllm.DialectTGI, false, "")
		for _, path := range []string{"/generate", "/generate_stream"} {
			y := s.apiTry(t, &apiRow{method: "POST", path: path, api: "apiTGI"})
			y.mark()
			if status, answer := s.gateway.Post(t, path, `{"inputs":"hi","parameters":{"max_new_tokens":3}}`); status != 200 {
				t.Fatalf("%d %s", status, answer)
			}
			id, e := lastOf(y.answered())
			want := s.countedOf(y.row, e, y.row.streams(false))
			if want.Stream {
				want.Prompt, want.Estimated = 0, true
			}
			s.expect(t, id, want)
		}
		s.settle()
	})
	t.Run("a whole answer without usage is estimated", func(t *testing.T) {
		s := startCountSite(t, mockvllm.DialectVLLM, false, "")
		y := s.apiTry(t, &apiRow{method: "POST", path: chatPath})
		body := strings.TrimSuffix(wholeChat, "}") + `,"mock_fault":"usage-missing"}`
		s.gateway.Post(t, chatPath, body)
		id, e := lastOf(y.answered())
		want := s.countedOf(y.row, e, false)
		want.Prompt, want.Completion, want.Estimated = (len(body)+3)/4, 0, true
		s.expect(t, id, want)
		s.settle()
	})
	t.Run("a form that asks for the usage of its stream", func(t *testing.T) {
		s := startCountSite(t, mockvllm.DialectVLLM, false, "")
		y := s.apiTry(t, &apiRow{method: "POST", path: "/v1/audio/transcriptions", form: true})
		_, body := y.row.request(t, s.dialect, apiAsk{model: "mock-model", stream: true})
		body = strings.TrimSuffix(body, "--frontier--\r\n") + "--frontier\r\nContent-Disposition: form-data; name=\"stream_include_usage\"\r\n\r\ntrue\r\n--frontier--\r\n"
		c := dialRaw(t, s.gateway.Addr)
		c.send(strings.Replace(post(y.row.path, body), "application/json", "multipart/form-data; boundary=frontier", 1))
		c.answer("POST")
		c.Close()
		id, e := lastOf(y.answered())
		want := s.countedOf(y.row, e, true)
		want.Prompt, want.Estimated = e.PromptTokens, false
		s.expect(t, id, want)
		s.settle()
	})
}

// A client that was pinged has a 200; an engine that then fails is no success.
func TestCountPingedFailure(t *testing.T) {
	leavesNothing(t)
	url, goOn := pausing(t, "", whole(503, "application/json", "{}"))
	s := startBilled(t, &apiSite{}, "", "  - {url: "+url+", name: e0, engine: vllm}\n")
	s.pinging(t)
	raw := dialRaw(t, s.gateway.Addr)
	raw.send(post(chatPath, streamChat))
	c := raw.counted("POST")
	if line, err := c.lines.ReadString('\n'); line+"\n" != keepAlive {
		t.Fatalf("%q %v", line, err)
	}
	close(goOn)
	if c.read(allEvents); c.events != 0 {
		t.Errorf("%d events of a stream that never was", c.events)
	}
	c.Close()
	s.expect(t, c.id, bill{
		Model: "mock-model", Served: "mock-model", Backend: "e0", Endpoint: chatPath,
		Stream: true, Status: 200, Outcome: "upstream_failed", Attempts: 3,
	})
	s.settle()
}
