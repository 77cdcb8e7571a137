package mockvllm

import (
	"net/http"
	"strings"
	"time"
)

// sglangVersion is the SGLang that is imitated.
const sglangVersion = "0.5.20"

// sglangTable is what SGLang serves, less Ollama's API and what takes files.
var sglangTable = table{
	post: map[string]func(*call) error{
		"/generate":                 (*call).sglangGenerate,
		"/v1/chat/completions":      func(x *call) error { return x.chatAs(&sglangChat) },
		"/v1/completions":           func(x *call) error { return x.completionAs(&sglangCompletion) },
		"/v1/embeddings":            (*call).sglangEmbedding,
		"/v1/responses":             (*call).responses,
		"/v1/messages":              (*call).messages,
		"/v1/messages/count_tokens": (*call).countTokens,
		"/v1/rerank":                (*call).sglangRerank,
		"/v1/score":                 (*call).sglangScore,
		"/v1/classify":              (*call).classify,
		"/classify":                 (*call).sglangClassify,
		"/v1/tokenize":              (*call).tokenize,
		"/tokenize":                 (*call).tokenize,
		"/v1/detokenize":            (*call).sglangDetokenize,
		"/detokenize":               (*call).sglangDetokenize,
		"/v1/audio/transcriptions":  (*call).transcribe,
	},
	get: map[string]func(*call) error{
		"/v1/models":       (*call).sglangModels,
		"/health":          (*call).sglangHealth,
		"/health_generate": (*call).sglangHealth,
		"/ping":            (*call).sglangHealth,
		"/get_model_info":  (*call).sglangModelInfo,
		"/model_info":      (*call).sglangModelInfo,
		"/get_server_info": (*call).sglangServerInfo,
		"/server_info":     (*call).sglangServerInfo,
		"/v1/loads":        (*call).sglangLoads,
		"/get_load":        (*call).sglangLoad,
		"/metrics":         (*call).metrics,
	},
	admin: map[string]bool{
		"/flush_cache": true, "/abort_request": true, "/pause_generation": true, "/continue_generation": true,
		"/slow_down": true, "/release_memory_occupation": true, "/resume_memory_occupation": true,
		"/load_lora_adapter": true, "/unload_lora_adapter": true, "/open_session": true, "/close_session": true,
		"/update_weights_from_disk": true, "/update_weights_from_tensor": true, "/update_weights_from_distributed": true,
		"/init_weights_update_group": true, "/start_profile": true, "/stop_profile": true,
		"/set_internal_state": true, "/configure_logging": true,
	},
}

func (x *call) routeSGLang() error {
	path := x.req.URL.Path
	if open := strings.HasPrefix(path, "/health") || path == "/metrics"; !open && x.guarded("/") {
		return x.refuse(&apiError{401, `{"error":"Unauthorized"}`})
	}
	method := x.req.Method
	if path == "/generate" && method == http.MethodPut {
		method = http.MethodPost
	}
	answer, allow := sglangTable.look(method, path)
	switch {
	case strings.HasPrefix(path, "/v1/responses/"):
		return x.storedResponse()
	case sglangTable.post[path] != nil && allow == "" && x.form == nil && !x.isJSON():
		return x.refuse(badRequest("", "Unsupported Media Type: Only 'application/json' is allowed"))
	case answer != nil:
		return answer(x)
	case allow != "":
		return x.sglangDetail(405, "Method Not Allowed", [2]string{"allow", allow})
	}
	return x.sglangDetail(404, "Not Found")
}

// sglangDetail is an error that FastAPI writes by itself.
func (x *call) sglangDetail(status int, text string, extra ...[2]string) error {
	h := jsonHead
	h.status, h.extra = status, extra
	return x.whole(&h, encode(object{"detail", text}))
}

func sglangRefusal(x *call, status int, f flaw) (int, []byte) {
	switch {
	case status == 401:
		return status, []byte(`{"error":"Unauthorized"}`)
	case x.native && status == 400:
		return status, encode(object{"error", object{"message", f.Message}})
	case status == 503:
		f.Type = "503"
	}
	return status, encode(sglangError(f.Message, f.Type, f.Param, status))
}

func sglangError(message, kind string, param *string, code int) object {
	return object{"object", "error", "message", message, "type", kind, "param", param, "code", code}
}

func sglangFailure(x *call) ([]byte, bool) {
	const text = "Internal server error"
	if x.native {
		return encode(object{"error", object{"message", text}}), true
	}
	return encode(object{"error", sglangError(text, "InternalServerError", nil, 500)}), true
}

// sglangFull answers a stream that finds the queue full: the refusal comes as
// the first event of a 200, but for the APIs whose events have names.
func (x *call) sglangFull() error {
	if path := x.req.URL.Path; strings.HasPrefix(path, "/v1/messages") || path == "/v1/responses" {
		return x.refuse(queueFull())
	}
	h := sseHead
	out, err := x.open(&h)
	if err != nil {
		return err
	}
	event := object{"error", sglangError("The request queue is full.", "SERVICE_UNAVAILABLE", nil, 503)}
	if x.native {
		end := object{"type", "abort", "message", "The request queue is full.", "status_code", 503, "err_type", nil}
		event = object{"text", "", "meta_info", object{"id", x.id, "finish_reason", end, "prompt_tokens", 0, "completion_tokens", 0}}
	}
	if err := out.event(encode(event)); err != nil {
		return err
	}
	return out.close(true)
}

// sglangChat is SGLang's chat, whose chunks always have reasoning_content.
var sglangChat = wording{
	role: func(g *generation, i int) object {
		delta := object{"reasoning_content", nil, "role", "assistant", "content", ""}
		return g.envelope("chat.completion.chunk", g.sglangDelta(i, delta, nil))
	},
	piece: func(g *generation, i, j int) object {
		p := g.choices[i].pieces[j]
		var delta object
		switch p.kind {
		case pieceEnd:
			return nil
		case pieceReasoning:
			delta = object{"reasoning_content", p.text}
		case pieceTool, pieceArgs:
			delta = object{"role", nil, "content", nil, "reasoning_content", nil, "tool_calls", g.toolDelta(i, p)}
		default:
			delta = object{"reasoning_content", nil, "content", p.text}
		}
		o := g.envelope("chat.completion.chunk", g.sglangDelta(i, delta, nil))
		if g.continuous && !g.x.fault.is("usage-missing") {
			o = append(o, "usage", g.sglangCount(g.promptTokens(), j+1, thought(g.choices[i].pieces[:j+1])))
		}
		return o
	},
	finish: func(g *generation, i int) object {
		return g.envelope("chat.completion.chunk", g.sglangDelta(i, object{"reasoning_content", nil}, g.choices[i].finish))
	},
	usage: func(g *generation) object {
		return append(g.envelope("chat.completion.chunk"), "usage", g.sglangUsage())
	},
	whole: func(g *generation) object {
		return g.sglangWhole("chat.completion", g.each(func(i int) object {
			c := &g.choices[i]
			message := object{
				"role", "assistant", "content", c.text(pieceText),
				"reasoning_content", optional(c.text(pieceReasoning)), "tool_calls", g.toolCalls(i),
			}
			return object{
				"index", i, "message", message, "logprobs", nil, "finish_reason", c.finish, "matched_stop", c.matched(),
			}
		}))
	},
}

func (g *generation) sglangDelta(i int, delta object, finish any) object {
	var matched any
	if finish != nil {
		matched = g.choices[i].matched()
	}
	return object{"index", i, "delta", delta, "logprobs", nil, "finish_reason", finish, "matched_stop", matched}
}

// sglangCompletion says with the last piece why it is the last.
var sglangCompletion = wording{
	piece: func(g *generation, i, j int) object {
		var finish, matched, usage any
		if c := &g.choices[i]; g.lastPiece(i, j) {
			finish, matched = c.finish, c.matched()
		}
		if g.continuous && !g.x.fault.is("usage-missing") {
			usage = g.sglangCount(g.prompts[i/g.n].tokens, j+1, 0)
		}
		choice := object{
			"index", i, "text", g.choices[i].pieces[j].text, "logprobs", nil, "finish_reason", finish, "matched_stop", matched,
		}
		return append(g.envelope("text_completion", choice), "usage", usage)
	},
	usage: func(g *generation) object { return append(g.envelope("text_completion"), "usage", g.sglangUsage()) },
	whole: func(g *generation) object {
		return g.sglangWhole("text_completion", g.each(func(i int) object {
			c := &g.choices[i]
			return object{
				"index", i, "text", c.text(pieceText), "logprobs", nil, "finish_reason", c.finish, "matched_stop", c.matched(),
			}
		}))
	},
}

// matched is what ended an answer: the stop string, the number of the
// end-of-sequence token, or nothing.
func (c *choice) matched() any {
	switch {
	case c.stop != "":
		return c.stop
	case c.finish == "length":
		return nil
	}
	return 2
}

func (g *generation) sglangWhole(kind string, choices []any) object {
	o := g.envelope(kind, choices...)
	if !g.x.fault.is("usage-missing") {
		o = append(o, "usage", g.sglangUsage())
	}
	return append(o, "metadata", object{"weight_version", "default"})
}

func (g *generation) sglangUsage() object {
	prompt, tokens := g.used()
	reasoning := 0
	for i := range g.choices {
		reasoning += thought(g.choices[i].pieces)
	}
	return g.sglangCount(prompt, tokens, reasoning)
}

// sglangCount is a usage: cached tokens are told on a flag, reasoning tokens
// always.
func (g *generation) sglangCount(prompt, tokens, reasoning int) object {
	var details any
	if n := g.cached(); n > 0 && g.x.e.opt.PromptTokenDetails {
		details = object{"cached_tokens", n}
	}
	return object{
		"prompt_tokens", prompt, "total_tokens", prompt + tokens, "completion_tokens", tokens,
		"prompt_tokens_details", details, "reasoning_tokens", reasoning,
	}
}

// thought counts the tokens that are reasoning.
func thought(pieces []piece) int {
	sum := 0
	for _, p := range pieces {
		if p.kind == pieceReasoning {
			sum++
		}
	}
	return sum
}

// sglangHealth is also /health_generate, which generates a token in SGLang.
func (x *call) sglangHealth() error {
	if x.e.loading() {
		return x.whole(&head{status: 503}, nil)
	}
	return x.ok()
}

func (x *call) sglangModels() error { return x.modelCards("sglang") }

func (x *call) modelCards(owner string) error {
	var data []object
	for _, name := range x.e.opt.Models {
		data = append(data, object{
			"id", name, "object", "model", "created", x.e.started.Unix(), "owned_by", owner, "root", name,
			"parent", nil, "max_model_len", x.e.opt.MaxModelLen,
		})
	}
	return x.json(object{"object", "list", "data", data})
}

func (x *call) sglangModelInfo() error {
	name := x.e.opt.Models[0]
	return x.json(object{
		"model_path", name, "tokenizer_path", name, "is_generation", true, "preferred_sampling_params", nil, "weight_version", "default",
	})
}

func (x *call) sglangServerInfo() error {
	o := &x.e.opt
	return x.json(object{
		"model_path", o.Models[0], "served_model_name", o.Models[0], "context_length", o.MaxModelLen,
		"max_running_requests", o.MaxNumSeqs, "max_total_num_tokens", o.KVBlocks * blockTokens, "version", sglangVersion,
	})
}

func (x *call) sglangLoads() error {
	running, waiting, kv := x.e.sched.load()
	total := x.e.opt.KVBlocks * blockTokens
	load := object{
		"dp_rank", 0, "num_running_reqs", running, "num_waiting_reqs", waiting, "num_total_reqs", running + waiting,
		"num_used_tokens", int(kv * float64(total)), "max_total_num_tokens", total, "token_usage", kv,
		"max_running_requests", x.e.opt.MaxNumSeqs,
	}
	if x.req.URL.Query().Get("format") != "prometheus" {
		now := time.Now().UTC().Format(time.RFC3339)
		return x.json(object{
			"timestamp", now, "version", sglangVersion, "accelerator", nil, "num_accelerators", 1, "loads", []object{load},
		})
	}
	var b strings.Builder
	for i := 2; i < len(load); i += 2 {
		name, _ := load[i].(string)
		b.WriteString("# TYPE sglang_" + name + " gauge\nsglang_" + name + `{dp_rank="0"} ` + string(encode(load[i+1])) + "\n")
	}
	return x.whole(&head{status: 200, contentType: "text/plain; version=0.0.4; charset=utf-8"}, []byte(b.String()))
}

// sglangLoad is the older form of /v1/loads.
func (x *call) sglangLoad() error {
	running, waiting, kv := x.e.sched.load()
	tokens := int(kv * float64(x.e.opt.KVBlocks*blockTokens))
	return x.json([]object{{"dp_rank", 0, "num_reqs", running + waiting, "num_waiting_reqs", waiting, "num_tokens", tokens}})
}
