package mockvllm

import (
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestDialectGolden holds every byte of what a dialect writes in its own words.
func TestDialectGolden(t *testing.T) {
	const (
		usage      = `,"stream_options":{"include_usage":true}`
		continuous = `,"stream_options":{"include_usage":true,"continuous_usage_stats":true}`
		tools      = `"tool_choice":"required","tools":[{"function":{"name":"weather","parameters":{"properties":{"city":{}}}}}]`
	)
	cases := []struct{ dialect, name, path, body string }{
		{DialectSGLang, "generate", "/generate", `{"text":"hello","sampling_params":{"max_new_tokens":2}}`},
		{DialectSGLang, "generate-list", "/generate", `{"input_ids":[[1,2],[3]],"sampling_params":{"max_new_tokens":1}}`},
		{DialectSGLang, "generate-stream-is-cumulative", "/generate", `{"text":"hello","stream":true,"mock_tokens":3}`},
		{DialectSGLang, "chat", chatPath, chatBody(`"max_tokens":2,"mock_reasoning":1`)},
		{DialectSGLang, "chat-stream-usage", chatPath, chatBody(`"stream":true,"mock_tokens":3,"mock_reasoning":1` + usage)},
		{DialectSGLang, "completion-stream", "/v1/completions", `{"prompt":"a","stream":true,"max_tokens":2` + usage + `}`},
		{DialectSGLang, "rerank-is-a-list", "/v1/rerank", `{"query":"q","documents":["a","b"]}`},
		{DialectSGLang, "chat-stream-continuous", chatPath, chatBody(`"stream":true,"n":2,"max_tokens":1,"mock_reasoning":1` + continuous)},
		{DialectSGLang, "chat-stream-tool", chatPath, chatBody(`"stream":true,` + tools)},
		{DialectSGLang, "completion-stop", "/v1/completions", `{"prompt":"a","stop":" stone"}`},
		{DialectSGLang, "error-event", chatPath, chatBody(`"stream":true,"mock_fault":"error-event=1"`)},
		{DialectLlamaCPP, "chat", chatPath, chatBody(`"max_tokens":2`)},
		{DialectLlamaCPP, "chat-stream-timings", chatPath, chatBody(`"stream":true,"mock_tokens":2`)},
		{DialectLlamaCPP, "chat-stream-usage", chatPath, chatBody(`"stream":true,"mock_tokens":2` + usage)},
		{DialectLlamaCPP, "completion-stream-usage-unasked", "/v1/completions", `{"prompt":"a","stream":true,"max_tokens":1}`},
		{DialectLlamaCPP, "chat-tool", chatPath, chatBody(tools)},
		{DialectLlamaCPP, "chat-stream-tool-cut", chatPath, chatBody(`"stream":true,"max_tokens":2,` + tools)},
		{DialectLlamaCPP, "chat-stream-reasoning", chatPath, chatBody(`"stream":true,"mock_tokens":3,"mock_reasoning":1`)},
		{DialectLlamaCPP, "error-event-has-no-done", chatPath, chatBody(`"stream":true,"mock_fault":"error-event=1"`)},
		{DialectVLLMRust, "chat", chatPath, chatBody(`"max_tokens":2`)},
		{DialectVLLMRust, "chat-stream-usage", chatPath, chatBody(`"stream":true,"mock_tokens":2` + usage)},
		{DialectVLLMRust, "completion-stream", "/v1/completions", `{"prompt":"a","stream":true,"max_tokens":2}`},
		{DialectVLLMRust, "chat-stream-continuous-stop", chatPath, chatBody(`"stream":true,"stop":"gateway"` + continuous)},
		{DialectVLLMRust, "chat-tool", chatPath, chatBody(tools)},
		{DialectVLLMRust, "chat-stream-tool", chatPath, chatBody(`"stream":true,` + tools)},
		{DialectVLLMRust, "completion", "/v1/completions", `{"prompt":["a","b"],"max_tokens":1}`},
		{DialectVLLMRust, "error-event", chatPath, chatBody(`"stream":true,"mock_fault":"error-event=1"`)},
		{DialectVLLMRust, "unknown-model", chatPath, `{"model":"x","messages":[{"role":"user","content":"a"}]}`},
	}
	for _, c := range cases {
		t.Run(c.dialect+"-"+c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, dial := pipeEngine(Options{Dialect: c.dialect, StepBase: time.Second})
				defer e.Close()
				conn := dial()
				go func() { _, _ = io.WriteString(conn, request(c.path, c.body, closing, requestR)) }()
				got, err := io.ReadAll(conn)
				if err != nil {
					t.Fatal(err)
				}
				golden(t, filepath.Join("testdata", c.dialect+"-"+c.name+".http"), got)
			})
		})
	}
}

// dialectCase is one request to an engine of a dialect.
type dialectCase struct {
	dialect, name, raw string
	status             int
	part               string // of the answer
}

func put(path, body string) string { return strings.Replace(post(path, body), "POST", "PUT", 1) }

func post(path, body string) string { return request(path, body, closing) }

// errorCases: a client's SDK sees each dialect's own errors.
func errorCases() []dialectCase {
	fault := func(name string) string { return post(chatPath, chatBody(`"mock_fault":"`+name+`"`)) }
	long := post(chatPath, `{"model":"mock-model","messages":[{"content":"`+strings.Repeat("a", 500)+`"}]}`)
	return []dialectCase{
		{DialectSGLang, "bad JSON is flat", post(chatPath, "{"), 400, `{"object":"error","message":"`},
		{DialectSGLang, "too long", long, 400, `"param":"input_tokens","code":400}`},
		{DialectSGLang, "native errors are short", post("/generate", `{}`), 400, `{"error":{"message":"Either text`},
		{DialectSGLang, "no JSON type", strings.Replace(post(chatPath, chatBody("")), "application/json", "text/plain", 1), 400, "Unsupported Media Type"},
		{DialectSGLang, "unknown path", get("/nothing"), 404, `{"detail":"Not Found"}`},
		{DialectSGLang, "wrong method", get(chatPath), 405, `{"detail":"Method Not Allowed"}`},
		{DialectSGLang, "internal", fault("500-json"), 500, `{"object":"error","message":"Internal server error"`},
		{DialectSGLang, "key", fault("401"), 401, `{"error":"Unauthorized"}`},
		{DialectSGLang, "Messages keeps Anthropic's shape", post("/v1/messages", `{"model":"m","max_tokens":9,"messages":[]}`), 400, `{"type":"error","error":{"type":`},
		{DialectSGLang, "stored response of another engine", get("/v1/responses/resp_x"), 404, `{"object":"error","message":"Response with id`},
		{DialectLlamaCPP, "bad JSON is a 500", post(chatPath, "{"), 500, `{"error":{"code":500,"message":`},
		{DialectLlamaCPP, "no messages", post(chatPath, "{}"), 400, `"type":"invalid_request_error"}}`},
		{DialectLlamaCPP, "too long", long, 400, `"type":"exceed_context_size_error","n_ctx":100}}`},
		{DialectLlamaCPP, "unknown path", get("/nothing"), 404, `{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}`},
		{DialectLlamaCPP, "loading again", fault("503"), 503, `{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}`},
		{DialectLlamaCPP, "no stored responses", post("/v1/responses", `{"input":"a","previous_response_id":"x"}`), 400, "does not support"},
		{DialectLlamaCPP, "Messages has no shape of its own", post("/v1/messages", "{}"), 400, `{"error":{"code":400,`},
		{DialectVLLMRust, "bad JSON", post(chatPath, "{"), 400, `"type":"invalid_request_error","param":null,"code":"json_parse_error"}}`},
		{DialectVLLMRust, "bad value", post(chatPath, chatBody(`"max_tokens":0`)), 400, `"param":null,"code":"invalid_request_error"}}`},
		{DialectVLLMRust, "wrong type", post(chatPath, chatBody(`"max_tokens":"x"`)), 400, `"code":"json_parse_error"}}`},
		{DialectVLLMRust, "internal", fault("500-json"), 500, `"type":"server_error","param":null,"code":"server_error"}}`},
		{DialectVLLMRust, "unknown path is empty", get("/nothing"), 404, "content-length: 0\r\n"},
		{DialectVLLMRust, "wrong method is empty", get(chatPath), 405, "allow: POST\r\n"},
		{DialectVLLMRust, "fewer endpoints", post("/v1/rerank", `{"query":"q","documents":["a"]}`), 404, "content-length: 0\r\n"},
		{DialectVLLMRust, "not HTTP is a bare 400", "nonsense\r\n\r\n", 400, "content-length: 0\r\n"},
	}
}

// answerCases: what is served beside the golden answers, whatever the model.
func answerCases() []dialectCase {
	const unknown = `{"model":"x","messages":[{"role":"user","content":"a"}]}`
	return []dialectCase{
		{DialectSGLang, "unknown models are served", post(chatPath, unknown), 200, `"model":"x"`},
		{DialectSGLang, "PUT", put("/generate", `{"text":"a"}`), 200, `"meta_info":{`},
		{DialectSGLang, "a single list of ids is one prompt", post("/generate", `{"input_ids":[1,2,3]}`), 200, "\r\n\r\n" + `{"text":`},
		{DialectSGLang, "several answers are a list", post("/generate", `{"text":"a","sampling_params":{"n":2}}`), 200, "\r\n\r\n" + `[{"text":`},
		{DialectSGLang, "unsaid usage is none", post(chatPath, chatBody(`"stream":true,"stream_options":{}`)), 200, "}]}\n\n\r\ne\r\ndata: [DONE]"},
		{DialectSGLang, "embeddings", post("/v1/embeddings", `{"input":"a"}`), 200, `"reasoning_tokens":0}}`},
		{DialectSGLang, "score", post("/v1/score", `{"query":"q","items":["a","b"],"label_token_ids":[1,2]}`), 200, `"object":"scoring"}`},
		{DialectSGLang, "reward", post("/classify", `{"text":"a"}`), 200, "\r\n\r\n" + `{"embedding":[`},
		{DialectSGLang, "classify", post("/v1/classify", `{"input":"a"}`), 200, `"probs":`},
		{DialectSGLang, "tokenize", post("/v1/tokenize", `{"prompt":"abcde"}`), 200, `"count":2`},
		{DialectSGLang, "detokenize", post("/detokenize", `{"tokens":[1684234849]}`), 200, `{"text":"abcd"}`},
		{DialectSGLang, "responses", post("/v1/responses", `{"input":"a"}`), 200, `"object":"response"`},
		{DialectSGLang, "messages", post("/v1/messages", `{"model":"x","max_tokens":2,"messages":[{"role":"user","content":"a"}]}`), 200, `"type":"message"`},
		{DialectSGLang, "models", get("/v1/models"), 200, `"owned_by":"sglang"`},
		{DialectSGLang, "model info", get("/get_model_info"), 200, `"model_path":"mock-model"`},
		{DialectSGLang, "server info", get("/get_server_info"), 200, `"max_running_requests":4`},
		{DialectSGLang, "loads", get("/v1/loads"), 200, `"loads":[{"dp_rank":0,"num_running_reqs":0`},
		{DialectSGLang, "loads for Prometheus", get("/v1/loads?format=prometheus"), 200, `sglang_num_waiting_reqs{dp_rank="0"} 0`},
		{DialectSGLang, "older load", get("/get_load"), 200, `"num_waiting_reqs":0`},
		{DialectSGLang, "health", get("/health_generate"), 200, "content-length: 0\r\n"},
		{DialectSGLang, "admin endpoints are open", get("/flush_cache"), 200, "{}"},
		{DialectLlamaCPP, "unknown models are served", post("/chat/completions", unknown), 200, `"model":"x"`},
		{DialectLlamaCPP, "embeddings", post("/v1/embeddings", `{"input":"a"}`), 200, `"object":"list","usage":{"prompt_tokens":1,`},
		{DialectLlamaCPP, "rerank as Jina", post("/reranking", `{"query":"q","documents":["a","b"],"top_n":1}`), 200, `"relevance_score":`},
		{DialectLlamaCPP, "rerank as TEI", post("/rerank", `{"query":"q","texts":["a","b"]}`), 200, "\r\n\r\n" + `[{"index":`},
		{DialectLlamaCPP, "tokenize", post("/tokenize", `{"content":"abcd"}`), 200, `{"tokens":[1684234849]}`},
		{DialectLlamaCPP, "detokenize", post("/detokenize", `{"tokens":[1684234849]}`), 200, `{"content":"abcd"}`},
		{DialectLlamaCPP, "responses", post("/v1/responses", `{"input":"a"}`), 200, `"object":"response"`},
		{DialectLlamaCPP, "messages", post("/v1/messages", `{"model":"x","max_tokens":2,"messages":[{"role":"user","content":"a"}]}`), 200, `"type":"message"`},
		{DialectLlamaCPP, "count", post("/v1/messages/count_tokens", unknown), 200, `"input_tokens":`},
		{DialectLlamaCPP, "health", get("/v1/health"), 200, `{"status":"ok"}`},
		{DialectLlamaCPP, "models", get("/v1/models"), 200, `"owned_by":"llamacpp"`},
		{DialectLlamaCPP, "props", get("/props"), 200, `"total_slots":4`},
		{DialectLlamaCPP, "slots", get("/slots?fail_on_no_slot=1"), 200, `"is_processing":false}]`},
		{DialectLlamaCPP, "server", get("/health"), 200, "Server: llama.cpp\r\n"},
		{DialectLlamaCPP, "CORS", strings.Replace(get("/health"), "Host", "Origin: o\r\nHost", 1), 200, "Access-Control-Allow-Origin: o\r\n"},
		{DialectVLLMRust, "tokenize", post("/tokenize", `{"prompt":"abcd"}`), 200, `"count":1`},
		{DialectVLLMRust, "models", get("/v1/models"), 200, `"owned_by":"vllm"`},
		{DialectVLLMRust, "health", get("/health"), 200, "content-length: 0\r\n"},
	}
}

func TestDialectAnswers(t *testing.T) {
	addrs := map[string]string{}
	for _, d := range []string{DialectSGLang, DialectLlamaCPP, DialectVLLMRust} {
		_, addrs[d] = tcpEngine(t, Options{Dialect: d, MaxModelLen: 100, MaxNumSeqs: 4})
	}
	for _, c := range append(errorCases(), answerCases()...) {
		t.Run(c.dialect+" "+c.name, func(t *testing.T) {
			got := exchange(t, addrs[c.dialect], c.raw)
			if !strings.HasPrefix(got, "HTTP/1.1 "+strconv.Itoa(c.status)+" ") || !strings.Contains(got, c.part) {
				t.Errorf("got %q", got)
			}
		})
	}
}

// TestDialectKey: which paths want the key differs.
func TestDialectKey(t *testing.T) {
	cases := []dialectCase{
		{DialectSGLang, "all but health", get("/get_model_info"), 401, `{"error":"Unauthorized"}`},
		{DialectSGLang, "health", get("/health"), 200, ""},
		{DialectLlamaCPP, "chat", post(chatPath, chatBody("")), 401, `"type":"authentication_error"`},
		{DialectLlamaCPP, "Anthropic's header", request(chatPath, chatBody(""), closing, "X-Api-Key: k"), 200, ""},
		{DialectLlamaCPP, "the list of models is public", get("/v1/models"), 200, ""},
		{DialectVLLMRust, "v1", get("/v1/models"), 401, `{"error":"Unauthorized"}`},
		{DialectVLLMRust, "bearer", request(chatPath, chatBody(""), closing, "Authorization: Bearer k"), 200, ""},
		{DialectVLLMRust, "tokenize is open", post("/tokenize", `{"prompt":"a"}`), 200, ""},
	}
	for _, c := range cases {
		t.Run(c.dialect+" "+c.name, func(t *testing.T) {
			_, addr := tcpEngine(t, Options{Dialect: c.dialect, APIKey: "k"})
			got := exchange(t, addr, c.raw)
			if !strings.HasPrefix(got, "HTTP/1.1 "+strconv.Itoa(c.status)+" ") || !strings.Contains(got, c.part) {
				t.Errorf("got %q", got)
			}
		})
	}
}

// TestDialectMetrics: the names a scraper looks for, and that they move.
func TestDialectMetrics(t *testing.T) {
	for dialect, want := range map[string][]string{
		DialectSGLang: {
			`sglang:num_running_reqs{`, `sglang:num_queue_reqs{`, `sglang:token_usage{`, `sglang:cache_hit_rate{`,
			`sglang:generation_tokens_total{engine_type="unified",model_name="mock-model",tp_rank="0",pp_rank="0"} 5`,
			`sglang:time_to_first_token_seconds_count{`, `sglang:cache_config_info{`,
		},
		DialectLlamaCPP: {
			"\nllamacpp:requests_processing 0\n", "\nllamacpp:requests_deferred 0\n", "\nllamacpp:tokens_predicted_total 5\n",
			"\nllamacpp:prompt_tokens_total ", "\nllamacpp:n_busy_slots_per_decode ",
		},
		DialectTGI: {
			"\ntgi_batch_current_size 0\n", "\ntgi_queue_size 0\n", "\ntgi_request_success 1\n", `tgi_request_duration_bucket{le="+Inf"} 1`,
		},
		DialectVLLMRust: {`vllm:num_requests_running{`, `vllm:generation_tokens_total{engine="0",model_name="mock-model"} 5`},
	} {
		t.Run(dialect, func(t *testing.T) {
			_, addr := tcpEngine(t, Options{Dialect: dialect})
			exchange(t, addr, post(chatPath, chatBody(`"max_tokens":5`)))
			got := exchange(t, addr, get("/metrics"))
			for _, part := range want {
				if !strings.Contains(got, part) {
					t.Errorf("no %q in %q", part, got)
				}
			}
		})
	}
}

// TestDialectFaults: the faults that concern usage and streams strike every
// wording.
func TestDialectFaults(t *testing.T) {
	const stream = `"stream":true,"stream_options":{"include_usage":true},`
	generate := func(more string) string {
		return post("/generate", `{"text":"a",`+more+`}`)
	}
	completion := func(more string) string {
		return post("/v1/completions", `{"prompt":"a",`+more+`}`)
	}
	chat := func(more string) string { return post(chatPath, chatBody(more)) }
	cases := []struct{ dialect, raw, with, without string }{
		{DialectSGLang, chat(stream + `"mock_fault":"usage-missing"`), "[DONE]", "usage"},
		{DialectSGLang, chat(`"mock_fault":"usage-missing"`), "choices", "usage"},
		{DialectSGLang, chat(`"mock_fault":"usage-zero"`), `"total_tokens":0`, "[DONE]"},
		{DialectSGLang, chat(stream + `"mock_fault":"no-done"`), "usage", "[DONE]"},
		{DialectSGLang, chat(stream + `"mock_fault":"fin=1"`), "assistant", "finish_reason\":\"stop"},
		{DialectSGLang, chat(stream + `"mock_fault":"error-event-first"`), `data: {"error":{"object":"error"`, "delta"},
		{DialectSGLang, generate(`"mock_fault":"usage-missing"`), "meta_info", "prompt_tokens"},
		{DialectSGLang, generate(`"stream":true,"mock_fault":"usage-zero"`), `"prompt_tokens":0,"completion_tokens":0`, `"prompt_tokens":1`},
		{DialectSGLang, generate(`"stream":true,"mock_fault":"error-event=2"`), `data: {"error":{"message":"Internal server error"}}`, `"type":"stop"`},
		{DialectLlamaCPP, chat(`"mock_fault":"usage-missing"`), "timings", "usage"},
		{DialectLlamaCPP, completion(`"stream":true,"mock_fault":"usage-missing"`), "[DONE]", "usage"},
		{DialectLlamaCPP, chat(stream + `"mock_fault":"wrong-model"`), "another-model", "mock-model"},
		{DialectVLLMRust, chat(stream + `"mock_fault":"usage-missing"`), "[DONE]", "usage"},
		{DialectVLLMRust, completion(`"mock_fault":"usage-zero"`), `"total_tokens":0`, "[DONE]"},
	}
	for _, c := range cases {
		_, addr := tcpEngine(t, Options{Dialect: c.dialect})
		_, body, _ := strings.Cut(c.raw, "\r\n\r\n")
		t.Run(c.dialect+" "+body, func(t *testing.T) {
			if got := exchange(t, addr, c.raw); !strings.Contains(got, c.with) || strings.Contains(got, c.without) {
				t.Errorf("got %q", got)
			}
		})
	}
}
