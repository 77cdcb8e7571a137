package mockvllm

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	responsesPath = "/v1/responses"
	messagesPath  = "/v1/messages"
	speechPath    = "/v1/audio/transcriptions"
)

// responsesBody is a Responses request with further fields.
func responsesBody(more string) string {
	if more != "" {
		more = "," + more
	}
	return `{"model":"mock-model","input":"hello"` + more + `}`
}

// messagesBody is a Messages request with further fields.
func messagesBody(more string) string {
	if more != "" {
		more = "," + more
	}
	return `{"model":"mock-model","system":"be brief","messages":[{"role":"user","content":[{"type":"text","text":"hello"}]}]` + more + `}`
}

// formRequest is a POST of a form: the file first, then the fields in turn,
// names and values alternating.
func formRequest(path, file string, headers []string, fields ...string) string {
	var b strings.Builder
	if file != "" {
		fmt.Fprintf(&b, "--frontier\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n%s\r\n", file)
	}
	for i := 0; i < len(fields); i += 2 {
		fmt.Fprintf(&b, "--frontier\r\nContent-Disposition: form-data; name=%q\r\n\r\n%s\r\n", fields[i], fields[i+1])
	}
	b.WriteString("--frontier--\r\n")
	raw := request(path, b.String(), headers...)
	return strings.Replace(raw, "application/json", "multipart/form-data; boundary=frontier", 1)
}

// TestGoldenSurfaces holds every byte of the answers beside chat and completions.
func TestGoldenSurfaces(t *testing.T) {
	const (
		responseTools = `"tools":[{"type":"function","name":"weather","parameters":{"properties":{"city":{}}}}]`
		messageTools  = `"tools":[{"name":"weather","input_schema":{"properties":{"city":{}}}}]`
	)
	file := strings.Repeat("wave", 20000) // 2.5 s
	post := func(path, body string) string { return request(path, body, closing, requestR) }
	speech := func(path string, fields ...string) string {
		return formRequest(path, file, []string{closing, requestR}, fields...)
	}
	cases := []struct {
		name, raw string
		opt       Options
	}{
		{"responses", post(responsesPath, responsesBody(`"mock_tokens":3,"instructions":"be brief","metadata":{"a":"b"}`)), Options{}},
		{"responses-incomplete", post(responsesPath, responsesBody(`"max_output_tokens":2`)), Options{}},
		{"responses-tool", post(responsesPath, responsesBody(`"tool_choice":{"type":"function","name":"weather"},`+responseTools)), Options{}},
		{"responses-stream", post(responsesPath, responsesBody(`"stream":true,"mock_tokens":3`)), Options{}},
		{"responses-stream-reasoning", post(responsesPath, responsesBody(`"stream":true,"mock_reasoning":1,"max_output_tokens":2`)), Options{}},
		{"responses-stream-tool", post(responsesPath, responsesBody(`"stream":true,"tool_choice":"required",`+responseTools)), Options{}},
		{"responses-stream-failed", post(responsesPath, responsesBody(`"stream":true,"mock_fault":"error-event=5"`)), Options{}},
		{"responses-of-another-engine", post(responsesPath, responsesBody(`"previous_response_id":"resp_x"`)), Options{}},
		{"messages", post(messagesPath, messagesBody(`"max_tokens":3`)), Options{}},
		{"messages-thinking", post(messagesPath, messagesBody(`"max_tokens":100,"mock_tokens":3,"mock_reasoning":1`)), Options{PromptTokenDetails: true}},
		{"messages-stop-sequence", post(messagesPath, messagesBody(`"max_tokens":9,"stop_sequences":["line"]`)), Options{}},
		{"messages-tool", post(messagesPath, messagesBody(`"max_tokens":100,"tool_choice":{"type":"any"},`+messageTools)), Options{}},
		{"messages-stream", post(messagesPath, messagesBody(`"max_tokens":3,"stream":true`)), Options{}},
		{"messages-stream-thinking", post(messagesPath, messagesBody(`"max_tokens":2,"stream":true,"mock_reasoning":1`)), Options{}},
		{"messages-stream-tool", post(messagesPath, messagesBody(`"max_tokens":100,"stream":true,"tool_choice":{"type":"tool","name":"weather"},`+messageTools)), Options{}},
		{"messages-stream-error", post(messagesPath, messagesBody(`"max_tokens":5,"stream":true,"mock_fault":"error-event=3"`)), Options{}},
		{"messages-unknown-model", post(messagesPath, `{"model":"x","max_tokens":1,"messages":[{"role":"user","content":"a"}]}`), Options{}},
		{"messages-without-max-tokens", post(messagesPath, messagesBody("")), Options{}},
		{"messages-count", post(messagesPath+"/count_tokens", messagesBody("")), Options{}},
		{"rerank", post("/v1/rerank", `{"query":"a","documents":["b","c",{"content":"d"}],"top_n":2}`), Options{}},
		{"score", post("/score", `{"text_1":"a","text_2":["b","c"]}`), Options{}},
		{"score-pairs", post("/v1/score", `{"queries":["a","b"],"documents":["b","b"]}`), Options{}},
		{"classify", post("/classify", `{"input":["a","b"]}`), Options{}},
		{"pooling", post("/pooling", `{"messages":[{"role":"user","content":"a"}],"dimensions":2}`), Options{}},
		{"tokenize", post("/tokenize", `{"prompt":"hello"}`), Options{}},
		{"tokenize-messages", post("/tokenize", `{"messages":[{"role":"user","content":"a"}],"return_token_strs":true}`), Options{}},
		{"detokenize", post("/detokenize", `{"tokens":[1819043176,111]}`), Options{}},
		{"transcription", speech(speechPath, "model", "mock-model", "mock_tokens", "3"), Options{}},
		{"transcription-verbose", speech(speechPath, "response_format", "verbose_json", "mock_tokens", "2"), Options{}},
		{"transcription-stream", speech(speechPath, "stream", "true", "stream_include_usage", "true", "mock_tokens", "2"), Options{}},
		{"transcription-stream-continuous", speech(speechPath, "stream", "true", "stream_include_usage", "true",
			"stream_continuous_usage_stats", "true", "max_completion_tokens", "2"), Options{}},
		{"translation", speech("/v1/audio/translations", "mock_tokens", "2"), Options{}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, dial := pipeEngine(c.opt)
				defer e.Close()
				conn := dial()
				go func() { _, _ = io.WriteString(conn, c.raw) }()
				got, err := io.ReadAll(conn)
				if err != nil {
					t.Fatal(err)
				}
				golden(t, filepath.Join("testdata", "vllm-"+c.name+".http"), got)
			})
		})
	}
}

// TestSurfacesRefuse: what these APIs refuse, with the status and in the shape
// that their clients expect.
func TestSurfacesRefuse(t *testing.T) {
	_, addr := tcpEngine(t, Options{MaxModelLen: 3000, APIKey: "k"})
	const auth = "Authorization: Bearer k"
	post := func(path, body string) string { return request(path, body, closing, auth) }
	bare := func(method, path string) string {
		return method + " " + path + " HTTP/1.1\r\nHost: e\r\n" + closing + "\r\n" + auth + "\r\n\r\n"
	}
	speech := func(file string, fields ...string) string {
		return formRequest(speechPath, file, []string{closing, auth}, fields...)
	}
	long := strings.Repeat("a", 20000)
	cases := []struct{ name, raw, status, part string }{
		{"the key guards /v2", request("/v2/rerank", "{}", closing), "401", `{"error":"Unauthorized"}`},
		{"the key does not guard /tokenize", request("/tokenize", `{"prompt":"a"}`, closing), "200", `"count":1`},
		{"no input", post(responsesPath, `{}`), "400", `"param":"body.input"`},
		{"input is a number", post(responsesPath, `{"input":1}`), "400", `"param":"body.input"`},
		{"background without store", post(responsesPath, responsesBody(`"background":true,"store":false`)), "400", "background can only be used when `store` is true"},
		{"no response to read", bare("GET", responsesPath+"/resp_x"), "404", `{"error":{"message":"Response with id 'resp_x' not found.","type":"invalid_request_error","param":"response_id","code":404}}`},
		{"no response to cancel", post(responsesPath+"/resp_x/cancel", ""), "404", "Response with id 'resp_x' not found."},
		{"vLLM deletes no response", bare("DELETE", responsesPath+"/resp_x"), "405", "allow: GET"},
		{"vLLM has no input items", bare("GET", responsesPath+"/resp_x/input_items"), "404", `"message":"Not Found"`},
		{"too long for messages", post(messagesPath, `{"model":"mock-model","max_tokens":1,"messages":[{"role":"user","content":"`+long+`"}]}`), "400", `{"type":"error","error":{"type":"BadRequestError","message":"This model's maximum`},
		{"a failing engine in messages", post(messagesPath, messagesBody(`"max_tokens":1,"mock_fault":"500-json"`)), "500", `{"type":"error","error":{"type":"InternalServerError","message":"Internal server error"}}`},
		{"messages need a model", post(messagesPath, `{"max_tokens":1,"messages":[{"role":"user","content":"a"}]}`), "400", `"param":"body.model"`},
		{"max_tokens of 0", post(messagesPath, messagesBody(`"max_tokens":0`)), "400", "max_tokens must be positive"},
		{"count without messages", post(messagesPath+"/count_tokens", `{"model":"mock-model"}`), "400", `"param":"body.messages"`},
		{"rerank without documents", post("/rerank", `{"query":"a"}`), "400", `"param":"body.documents"`},
		{"rerank for an unknown model", post("/rerank", `{"model":"x","query":"a","documents":[]}`), "404", "The model `x` does not exist."},
		{"a document longer than the context", post("/rerank", `{"query":"a","documents":["`+long+`"]}`), "400", "maximum context length is 3000 tokens"},
		{"two queries for three documents", post("/score", `{"queries":["a","b"],"documents":["a","b","c"]}`), "400", "Input lengths must be either 1:1, 1:N or N:N"},
		{"classify nothing", post("/classify", `{}`), "400", `"param":"body.input"`},
		{"pooling to no dimension", post("/pooling", `{"input":"a","dimensions":0}`), "400", `"param":"dimensions"`},
		{"tokenize nothing", post("/tokenize", `{}`), "400", `"param":"body.prompt"`},
		{"detokenize text", post("/detokenize", `{"tokens":"a"}`), "400", `"param":"body.tokens"`},
		{"no file", speech("", "model", "mock-model"), "400", `"param":"body.file"`},
		{"a file that is no form", post(speechPath, `{}`), "400", `"param":"body.file"`},
		{"a model that comes after the file", speech("wave", "model", "x"), "404", "The model `x` does not exist."},
		{"subtitles are not vLLM's", speech("wave", "response_format", "srt"), "400", "Currently only support response_format"},
		{"an unknown format", speech("wave", "response_format", "xml"), "400", `"param":"body.response_format"`},
		{"a verbose stream", speech("wave", "response_format", "verbose_json", "stream", "true"), "400", "streaming case"},
		{"usage options without a stream", speech("wave", "stream_include_usage", "true"), "400", "Stream options can only"},
		{"a field of 2 MB", speech("wave", "prompt", strings.Repeat("p", 2<<20)), "400", "Part exceeded maximum size"},
		{"a broken form", strings.Replace(speech("wave"), "--frontier--", "--frontend--", 1), "400", "There was an error parsing the body"},
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

// TestSurfacesFaults: the faults strike these streams and answers as they strike
// a chat.
func TestSurfacesFaults(t *testing.T) {
	e, addr := tcpEngine(t, Options{})
	surfaces := []struct {
		name string
		raw  func(stream bool, tag, fault string) string
		last string // the end of a stream
		fail string // the end of a stream whose generation fails
	}{
		{"responses", func(stream bool, tag, fault string) string {
			return request(responsesPath, responsesBody(fmt.Sprintf(`"stream":%v,"mock_tag":%q,"mock_fault":%q`, stream, tag, fault)), closing)
		}, "response.completed", "event: response.failed\ndata: {"},
		{"messages", func(stream bool, tag, fault string) string {
			return request(messagesPath, messagesBody(fmt.Sprintf(`"max_tokens":9,"stream":%v,"mock_tag":%q,"mock_fault":%q`, stream, tag, fault)), closing)
		}, "message_stop", "event: error\ndata: {\"type\":\"error\","},
		{"audio", func(stream bool, tag, fault string) string {
			headers := []string{closing, "X-Mock-Tag: " + tag, "X-Mock-Fault: " + fault, "X-Mock-Tokens: 9"}
			return formRequest(speechPath, "wave", headers, "stream", fmt.Sprint(stream))
		}, "[DONE]", "data: {\"error\":{"},
	}
	cases := []struct {
		fault  string
		stream bool
		state  string
		ends   bool // as a stream should
		part   string
	}{
		{"reset=3", true, StateFaulted, false, "data: "},
		{"fin=3", true, StateFaulted, false, "data: "},
		{"stall=3,1ms", true, StateDone, true, "data: "},
		{"no-done", true, StateDone, false, "\r\n0\r\n\r\n"},
		{"crlf", true, StateDone, true, "\r\n\r\n\r\n"},
		{"split-bytes", true, StateDone, false, "\r\n1\r\n{\r\n"},
		{"malformed-event=2", true, StateDone, true, "data: "},
		{"comment", true, StateDone, true, ": keep-alive\n\n"},
		{"wrong-model", true, StateDone, true, "another-model"},
		{"503", true, StateFaulted, false, "503 Service Unavailable"},
		{"error-event", false, StateFaulted, false, "500 Internal"},
		{"truncated-json", false, StateFaulted, false, "200 OK"},
		{"usage-missing", false, StateDone, false, "200 OK"},
	}
	for _, s := range surfaces {
		for _, fault := range []string{"error-event-first", "error-event=3"} {
			t.Run(s.name+"/"+fault, func(t *testing.T) {
				got := exchange(t, addr, s.raw(true, s.name, fault))
				if strings.Count(got, s.fail) != 1 || !strings.HasSuffix(got, "\r\n0\r\n\r\n") || s.name != "audio" && strings.Contains(got, s.last) {
					t.Errorf("got %q", got)
				}
			})
		}
		for _, c := range cases {
			tag := s.name + "/" + c.fault
			t.Run(tag, func(t *testing.T) {
				got := exchange(t, addr, s.raw(c.stream, tag, c.fault))
				row := await(t, e, "ended", func(r Entry) bool { return r.Tag == tag && r.Ended() })
				if row.State != c.state || row.Fault != c.fault {
					t.Errorf("row %+v", row)
				}
				if strings.Contains(got, s.last) != c.ends || !strings.Contains(got, c.part) {
					t.Errorf("got %q", got)
				}
				if usage := strings.ReplaceAll(got, `"usage":null`, ""); c.fault == "usage-missing" && strings.Contains(usage, `"usage"`) {
					t.Errorf("usage in %q", got)
				}
			})
		}
	}
}

// TestMessagesCountTheCacheApart: Anthropic's input_tokens are without what the
// cache had; adding both up twice would bill it twice.
func TestMessagesCountTheCacheApart(t *testing.T) {
	_, addr := tcpEngine(t, Options{PromptTokenDetails: true})
	raw := request(messagesPath, messagesBody(`"max_tokens":1,"system":"`+strings.Repeat("long ", 100)+`"`), closing)
	var input, cached [2]int
	for i := range input {
		_, usage, _ := strings.Cut(exchange(t, addr, raw), `"usage":`)
		if _, err := fmt.Sscanf(usage, `{"input_tokens":%d,"output_tokens":1,"cache_read_input_tokens":%d}`, &input[i], &cached[i]); err != nil {
			t.Fatalf("%v in %q", err, usage)
		}
	}
	if cached[0] != 0 || cached[1] == 0 || input[1]+cached[1] != input[0] {
		t.Errorf("input %v, cached %v", input, cached)
	}
}

// TestSurfacesAbort: a client that leaves ends the generation at once, whatever
// it asked for.
func TestSurfacesAbort(t *testing.T) {
	for _, stream := range []string{"true", "false"} {
		for name, raw := range map[string]string{
			"responses": request(responsesPath, responsesBody(`"stream":`+stream+`,"max_output_tokens":100000`)),
			"messages":  request(messagesPath, messagesBody(`"stream":`+stream+`,"max_tokens":100000`)),
			"audio":     formRequest(speechPath, "wave", nil, "stream", stream, "max_completion_tokens", "100000"),
		} {
			t.Run(name+"/"+stream, func(t *testing.T) {
				e, addr := tcpEngine(t, Options{StepBase: time.Millisecond})
				c := dial(t, addr)
				write(t, c, raw)
				await(t, e, "decoding", func(r Entry) bool { return r.State == StateDecode })
				_ = c.Close()
				row := await(t, e, "ended", func(r Entry) bool { return r.Ended() })
				if row.State != StateAborted || row.AbortPhase == "queue" || row.Tokens == 0 || row.Tokens > 50000 {
					t.Errorf("row %+v", row)
				}
				if running, waiting, _ := e.Load(); running+waiting != 0 {
					t.Errorf("running %d, waiting %d", running, waiting)
				}
			})
		}
	}
}
