package mockvllm

import (
	"strconv"
	"time"
)

// llamaBuild is the build of llama.cpp that is imitated.
const llamaBuild = "b7000-mock"

// llamaTable is what llama.cpp's server serves in single-model mode, less its
// own completion API.
var llamaTable = table{
	post: map[string]func(*call) error{
		"/v1/chat/completions":      llamaChatPath,
		"/chat/completions":         llamaChatPath,
		"/v1/completions":           func(x *call) error { return x.completionAs(&llamaCompletion) },
		"/v1/embeddings":            (*call).llamaEmbedding,
		"/v1/responses":             (*call).llamaResponses,
		"/v1/messages":              (*call).messages,
		"/v1/messages/count_tokens": (*call).countTokens,
		"/v1/rerank":                (*call).llamaRerank,
		"/rerank":                   (*call).llamaRerank,
		"/v1/reranking":             (*call).llamaRerank,
		"/reranking":                (*call).llamaRerank,
		"/tokenize":                 (*call).llamaTokenize,
		"/detokenize":               (*call).llamaDetokenize,
		"/v1/audio/transcriptions":  (*call).transcribe,
	},
	get: map[string]func(*call) error{
		"/health":    (*call).llamaHealth,
		"/v1/health": (*call).llamaHealth,
		"/v1/models": (*call).llamaModels,
		"/models":    (*call).llamaModels,
		"/props":     (*call).llamaProps,
		"/slots":     (*call).llamaSlots,
		"/metrics":   (*call).metrics,
	},
	admin: map[string]bool{
		"/lora-adapters": true, "/models/load": true, "/models/unload": true, "/tools": true, "/cors-proxy": true,
	},
}

// llamaOpen are the paths that want no key.
var llamaOpen = map[string]bool{"/health": true, "/v1/health": true, "/models": true, "/v1/models": true}

func llamaChatPath(x *call) error { return x.chatAs(&llamaChat) }

func (x *call) routeLlama() error {
	if x.e.loading() {
		return x.refuse(&apiError{503, vllmError("Loading model", "", "", 503)})
	}
	key := x.e.opt.APIKey
	if key != "" && !llamaOpen[x.req.URL.Path] && !x.authorized(key) && x.req.Header.Get("X-Api-Key") != key {
		return x.refuse(&apiError{401, vllmError("Invalid API Key", "", "", 401)})
	}
	if answer, _ := llamaTable.look(x.req.Method, x.req.URL.Path); answer != nil {
		return answer(x)
	}
	return x.refuse(&apiError{404, vllmError("File Not Found", "", "", 404)})
}

// llamaTypes are the types of an error by its status.
var llamaTypes = map[int]string{
	400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error",
	500: "server_error", 501: "not_supported_error", 503: "unavailable_error",
}

func llamaRefusal(x *call, status int, f flaw) (int, []byte) {
	switch {
	case f.about("input_tokens"):
		return status, encode(object{"error", object{
			"code", status, "message", f.Message, "type", "exceed_context_size_error", "n_ctx", x.e.opt.MaxModelLen,
		}})
	case f.about("body"):
		// nlohmann's parse error is no std::invalid_argument.
		status = 500
	case status == 503 && f.Type == "":
		f.Message = "Loading model" // the fault 503
	}
	return status, llamaError(status, f.Message)
}

func llamaError(status int, message string) []byte {
	kind := llamaTypes[status]
	if kind == "" {
		kind = "server_error"
	}
	return encode(object{"error", object{"code", status, "message", message, "type", kind}})
}

// llamaFailure ends a stream without [DONE].
func llamaFailure(*call) ([]byte, bool) { return llamaError(500, "Compute error."), false }

var llamaChat = wording{
	role: func(g *generation, i int) object {
		return g.llamaChunk(object{"finish_reason", nil, "index", i, "delta", object{"role", "assistant", "content", nil}})
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
			delta = object{"tool_calls", g.toolDelta(i, p)}
		default:
			delta = object{"content", p.text}
		}
		return g.llamaChunk(object{"finish_reason", nil, "index", i, "delta", delta})
	},
	finish: func(g *generation, i int) object {
		o := g.llamaChunk(object{"finish_reason", g.choices[i].finish, "index", i, "delta", object{}})
		if !g.include && i == len(g.choices)-1 {
			o = append(o, "timings", g.llamaTimings())
		}
		return o
	},
	usage: func(g *generation) object {
		return append(g.llamaChunk(), "usage", g.llamaUsage(), "timings", g.llamaTimings())
	},
	whole: func(g *generation) object {
		return g.llamaWhole("chat.completion", g.each(func(i int) object {
			c := &g.choices[i]
			message := object{"role", "assistant", "content", c.text(pieceText)}
			if thought := c.text(pieceReasoning); thought != "" {
				message = append(message, "reasoning_content", thought)
			}
			if calls := g.toolCalls(i); calls != nil {
				message = append(message, "tool_calls", calls)
			}
			return object{"finish_reason", c.finish, "index", i, "message", message}
		}))
	},
}

// llamaCompletion tells the usage in its last chunk by itself, asked or not.
var llamaCompletion = wording{
	piece: func(g *generation, i, j int) object {
		p := g.choices[i].pieces[j]
		if p.kind == pieceEnd {
			return nil
		}
		return g.llamaText(llamaTextChoice(i, p.text, nil))
	},
	finish: func(g *generation, i int) object {
		o := g.llamaText(llamaTextChoice(i, "", g.choices[i].finish))
		if i < len(g.choices)-1 || g.x.fault.is("usage-missing") {
			return o
		}
		return append(o, "usage", g.llamaUsage(), "timings", g.llamaTimings())
	},
	usage: func(*generation) object { return nil },
	whole: func(g *generation) object {
		return g.llamaWhole("text_completion", g.each(func(i int) object {
			return llamaTextChoice(i, g.choices[i].text(pieceText), g.choices[i].finish)
		}))
	},
}

func llamaTextChoice(i int, text string, finish any) object {
	return object{"text", text, "index", i, "logprobs", nil, "finish_reason", finish}
}

func (g *generation) llamaText(choice object) object {
	o := object{"choices", []any{choice}, "created", g.created, "model", g.model}
	return append(o, "system_fingerprint", llamaBuild, "object", "text_completion", "id", g.id)
}

func (g *generation) llamaChunk(choices ...any) object {
	if choices == nil {
		choices = []any{}
	}
	return object{
		"choices", choices, "created", g.created, "id", g.id, "model", g.model,
		"system_fingerprint", llamaBuild, "object", "chat.completion.chunk",
	}
}

func (g *generation) llamaWhole(kind string, choices []any) object {
	o := object{"choices", choices, "created", g.created, "model", g.model, "system_fingerprint", llamaBuild, "object", kind}
	if !g.x.fault.is("usage-missing") {
		o = append(o, "usage", g.llamaUsage())
	}
	return append(o, "id", g.id, "timings", g.llamaTimings())
}

func (g *generation) llamaUsage() object {
	prompt, tokens := g.used()
	return object{"completion_tokens", tokens, "prompt_tokens", prompt, "total_tokens", prompt + tokens}
}

// llamaTimings say what was computed: cache_n and prompt_n make the prompt.
func (g *generation) llamaTimings() object {
	p := g.x.e.sched.progress(g.x.seqs)
	fresh, tokens := float64(g.promptTokens()-p.cached), float64(g.tokens())
	ms := func(from, to time.Time) float64 { return float64(to.Sub(from)) / float64(time.Millisecond) }
	prompt, predicted := ms(p.scheduled, p.first), ms(p.first, p.last)
	return object{
		"cache_n", p.cached, "prompt_n", fresh, "prompt_ms", prompt,
		"prompt_per_token_ms", ratio(prompt, fresh), "prompt_per_second", ratio(1000*fresh, prompt),
		"predicted_n", tokens, "predicted_ms", predicted,
		"predicted_per_token_ms", ratio(predicted, tokens), "predicted_per_second", ratio(1000*tokens, predicted),
	}
}

// llamaResponses keeps no response.
func (x *call) llamaResponses() error {
	if p, bad := parseParams(x.body); bad == nil && p.has("previous_response_id") {
		return x.refuse(badRequest("previous_response_id", "llama.cpp does not support 'previous_response_id'."))
	}
	return x.responses()
}

func (x *call) llamaHealth() error { return x.json(object{"status", "ok"}) }

func (x *call) llamaModels() error {
	name := x.e.opt.Models[0]
	meta := object{"vocab_type", 2, "n_vocab", 32000, "n_ctx_train", x.e.opt.MaxModelLen, "n_embd", embeddingSize}
	old := object{"name", name, "model", name, "type", "model", "capabilities", []string{"completion"}}
	card := object{"id", name, "object", "model", "created", x.e.started.Unix(), "owned_by", "llamacpp", "meta", meta}
	return x.json(object{"models", []object{old}, "object", "list", "data", []object{card}})
}

func (x *call) llamaProps() error {
	name, settings, hears := x.e.opt.Models[0], object{"n_ctx", x.e.opt.MaxModelLen}, object{"vision", false, "audio", true}
	return x.json(object{
		"default_generation_settings", settings, "total_slots", x.e.opt.MaxNumSeqs, "model_alias", name,
		"model_path", "/models/" + name + ".gguf", "modalities", hears, "chat_template", "", "build_info", llamaBuild,
	})
}

// llamaSlots lists the slots; fail_on_no_slot makes it a 503 when all are busy.
func (x *call) llamaSlots() error {
	running, _, _ := x.e.sched.load()
	slots := make([]object, x.e.opt.MaxNumSeqs)
	if fail, _ := strconv.ParseBool(x.req.URL.Query().Get("fail_on_no_slot")); fail && running >= len(slots) {
		return x.refuse(&apiError{503, vllmError("no slot available", "unavailable_error", "", 503)})
	}
	for i := range slots {
		slots[i] = object{"id", i, "n_ctx", x.e.opt.MaxModelLen, "speculative", false, "is_processing", i < running}
	}
	return x.json(slots)
}
