package mockvllm

import "strings"

// rustTable is what vLLM's Rust front end serves.
var rustTable = table{
	post: map[string]func(*call) error{
		"/v1/chat/completions":      func(x *call) error { return x.chatAs(&rustChat) },
		"/v1/completions":           func(x *call) error { return x.completionAs(&rustCompletion) },
		"/v1/embeddings":            (*call).embedding,
		"/v1/responses":             (*call).responses,
		"/v1/messages":              (*call).messages,
		"/v1/messages/count_tokens": (*call).countTokens,
		"/pooling":                  (*call).pooling,
		"/tokenize":                 (*call).tokenize,
		"/detokenize":               (*call).detokenize,
	},
	get: map[string]func(*call) error{
		"/v1/models": func(x *call) error { return x.modelCards("vllm") },
		"/health":    (*call).ok,
		"/version":   (*call).version,
		"/load":      (*call).serverLoad,
		"/metrics":   (*call).metrics,
	},
	admin: map[string]bool{
		"/sleep": true, "/wake_up": true, "/is_sleeping": true, "/pause": true, "/resume": true, "/is_paused": true,
		"/reset_prefix_cache": true, "/reset_mm_cache": true, "/reset_encoder_cache": true, "/collective_rpc": true,
		"/abort_requests": true, "/server_info": true, "/start_profile": true, "/stop_profile": true,
		"/init_weight_transfer_engine": true, "/start_weight_update": true, "/update_weights": true,
		"/finish_weight_update": true, "/v1/load_lora_adapter": true, "/v1/unload_lora_adapter": true,
	},
}

func (x *call) routeRust() error {
	if x.guarded("/v1", "/v2", "/inference") {
		return x.refuse(&apiError{401, `{"error":"Unauthorized"}`})
	}
	answer, allow := rustTable.look(x.req.Method, x.req.URL.Path)
	switch {
	case answer != nil:
		return answer(x)
	case allow != "":
		return x.whole(&head{status: 405, extra: [][2]string{{"allow", allow}}}, nil)
	}
	return x.whole(&head{status: 404}, nil)
}

// rustRefusal gives an error one of the front end's few codes, which are
// strings.
func rustRefusal(_ *call, status int, f flaw) (int, []byte) {
	kind, code := "invalid_request_error", "invalid_request_error"
	switch {
	case status == 401:
		return status, []byte(`{"error":"Unauthorized"}`)
	case status == 404:
		return status, rustError(f.Message, kind, f.Param, "model_not_found")
	case status >= 500:
		kind, code = "server_error", "server_error"
	case f.Param != nil && strings.HasPrefix(*f.Param, "body"):
		code = "json_parse_error" // a value of a wrong type is one too
	}
	return status, rustError(f.Message, kind, nil, code)
}

func rustError(message, kind string, param *string, code string) []byte {
	return encode(object{"error", object{"message", message, "type", kind, "param", param, "code", code}})
}

func rustFailure(*call) ([]byte, bool) {
	return rustError("Internal server error", "server_error", nil, "server_error"), true
}

// rustChat leaves out of a chunk what is null.
var rustChat = wording{
	role: func(g *generation, i int) object {
		return g.rustChunk("chat.completion.chunk", object{"index", i, "delta", object{"role", "assistant"}}, 0)
	},
	piece: func(g *generation, i, j int) object {
		p := g.choices[i].pieces[j]
		delta := object{"content", p.text}
		switch p.kind {
		case pieceEnd:
			return nil
		case pieceReasoning:
			delta = object{"reasoning", p.text}
		case pieceTool, pieceArgs:
			delta = object{"tool_calls", g.toolDelta(i, p)}
		}
		return g.rustChunk("chat.completion.chunk", object{"index", i, "delta", delta}, j+1)
	},
	finish: func(g *generation, i int) object {
		end := g.rustEnd(object{"index", i, "delta", object{}}, i)
		return g.rustChunk("chat.completion.chunk", end, len(g.choices[i].pieces))
	},
	usage: func(g *generation) object { return append(g.envelope("chat.completion.chunk"), "usage", g.rustUsage()) },
	whole: func(g *generation) object {
		choices := g.each(func(i int) object {
			c := &g.choices[i]
			message := object{"role", "assistant", "content", optional(c.text(pieceText))}
			if calls := g.toolCalls(i); calls != nil {
				message = object{"role", "assistant", "content", nil, "tool_calls", calls}
			}
			message = append(message, "reasoning", optional(c.text(pieceReasoning)))
			return object{
				"index", i, "message", message, "logprobs", nil, "finish_reason", c.finish,
				"stop_reason", optional(c.stop), "token_ids", nil,
			}
		})
		return g.rustWhole(g.envelope("chat.completion", choices...))
	},
}

var rustCompletion = wording{
	piece: func(g *generation, i, j int) object {
		choice := object{"index", i, "text", g.choices[i].pieces[j].text}
		if g.lastPiece(i, j) {
			choice = g.rustEnd(choice, i)
		}
		return g.rustChunk("text_completion", choice, j+1)
	},
	usage: func(g *generation) object { return append(g.envelope("text_completion"), "usage", g.rustUsage()) },
	whole: func(g *generation) object {
		choices := g.each(func(i int) object {
			c := &g.choices[i]
			return object{
				"index", i, "text", c.text(pieceText), "logprobs", nil, "finish_reason", c.finish,
				"stop_reason", optional(c.stop), "token_ids", nil,
			}
		})
		return g.rustWhole(g.envelope("text_completion", choices...))
	},
}

// rustEnd adds to a chunk why choice i has ended.
func (g *generation) rustEnd(choice object, i int) object {
	choice = append(choice, "finish_reason", g.choices[i].finish)
	if stop := g.choices[i].stop; stop != "" {
		choice = append(choice, "stop_reason", stop)
	}
	return choice
}

// rustChunk is a chunk; with the usage of its choice so far when that is wanted.
func (g *generation) rustChunk(kind string, choice object, tokens int) object {
	o := g.envelope(kind, choice)
	if !g.continuous || g.x.fault.is("usage-missing") {
		return o
	}
	return append(o, "usage", rustCount(g.promptTokens(), tokens, nil))
}

func (g *generation) rustWhole(o object) object {
	if !g.x.fault.is("usage-missing") {
		o = append(o, "usage", g.rustUsage())
	}
	return append(o, "system_fingerprint", nil, "prompt_logprobs", nil, "prompt_token_ids", nil,
		"kv_transfer_params", nil, "ec_transfer_params", nil)
}

func (g *generation) rustUsage() object {
	prompt, tokens := g.used()
	if n := g.cached(); n > 0 && g.x.e.opt.PromptTokenDetails {
		return rustCount(prompt, tokens, object{"cached_tokens", n})
	}
	return rustCount(prompt, tokens, nil)
}

func rustCount(prompt, tokens int, details object) object {
	o := object{"prompt_tokens", prompt, "total_tokens", prompt + tokens, "completion_tokens", tokens, "prompt_tokens_details", nil}
	if details != nil {
		o[len(o)-1] = details
	}
	return o
}
