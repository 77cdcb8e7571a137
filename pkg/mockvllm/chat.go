package mockvllm

import "strconv"

// chat answers POST /v1/chat/completions.
func (x *call) chat() error {
	g, p, err := x.startChat()
	if g == nil {
		return err
	}
	if g.stream {
		return g.streamChat(p.boolean("logprobs", false))
	}
	if err := g.wait(); err != nil {
		return err
	}
	h := jsonHead
	return x.whole(&h, g.chatAnswer(p.boolean("logprobs", false)))
}

// startChat reads a chat request and queues its generation, which is nil when
// the request has been refused.
func (x *call) startChat() (*generation, *params, error) {
	p, bad := parseParams(x.body)
	if bad != nil {
		return nil, nil, x.refuse(bad)
	}
	g := &generation{id: x.e.dialect.chatID + x.id, model: x.model(p), stream: p.boolean("stream", false), n: p.integer("n", 1)}
	x.set(func(r *Entry) { r.Model, r.Stream = g.model, g.stream })
	limit := p.integer("max_completion_tokens", p.integer("max_tokens", 0))
	if (p.has("max_tokens") || p.has("max_completion_tokens")) && limit < 1 {
		p.fail(badRequest("max_tokens", "max_tokens must be at least 1, got %d.", limit))
	}
	x.usageOptions(g, p)
	plan := x.planAnswer(p, limit)
	plan.planTools(p)
	text, bad := chatPrompt(p.raw["messages"])
	if bad != nil {
		p.fail(bad)
	}
	if bad = x.check(p, g.model); bad == nil {
		bad = x.fits(text, limit)
	}
	if bad != nil {
		return nil, nil, x.refuse(bad)
	}
	g.prompts = []prompt{text}
	if !g.begin(x, p, plan) {
		return nil, nil, x.full(g.stream)
	}
	return g, p, nil
}

// streamChat writes the answer as vLLM's chat_completion_stream_generator does:
// the role chunks come with the first token.
func (g *generation) streamChat(logprobs bool) error {
	h := sseHead
	out, err := g.x.open(&h)
	if err != nil {
		return err
	}
	var b []byte
	first := true
	err = g.deliver(func(i, j int) error {
		for k := 0; first && k < len(g.choices); k++ {
			b = g.appendHead(b[:0], "chat.completion.chunk")
			b = append(b, `,"choices":[{"index":`...)
			b = strconv.AppendInt(b, int64(k), 10)
			b = append(b, `,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]`...)
			b = g.appendChunkUsage(b, 0)
			if err := out.event(append(b, `,"prompt_token_ids":null}`...)); err != nil {
				return err
			}
		}
		first = false
		b = g.appendHead(b[:0], "chat.completion.chunk")
		b = append(b, `,"choices":[`...)
		b = g.appendDelta(b, i, j, logprobs)
		b = g.appendChunkUsage(append(b, ']'), j+1)
		return out.event(append(b, '}'))
	})
	if err != nil {
		return err
	}
	if g.include && !g.x.fault.is("usage-missing") {
		b = g.appendHead(b[:0], "chat.completion.chunk")
		b = append(b, `,"choices":[],"usage":`...)
		b = g.appendUsage(b, g.promptTokens(), g.tokens(), false)
		if err := out.event(append(b, '}')); err != nil {
			return err
		}
	}
	return out.close(true)
}

// appendChunkUsage appends the usage of a choice so far when it is wanted in
// every chunk.
func (g *generation) appendChunkUsage(b []byte, tokens int) []byte {
	if !g.continuous || g.x.fault.is("usage-missing") {
		return b
	}
	b = append(b, `,"usage":`...)
	return g.appendUsage(b, g.promptTokens(), tokens, false)
}

// appendDelta appends the choice of a chunk: piece j of choice i.
func (g *generation) appendDelta(b []byte, i, j int, logprobs bool) []byte {
	c := &g.choices[i]
	p := c.pieces[j]
	b = append(b, `{"index":`...)
	b = strconv.AppendInt(b, int64(i), 10)
	b = append(b, `,"delta":{`...)
	switch p.kind {
	case pieceTool:
		b = append(b, `"tool_calls":[{"id":`...)
		b = appendString(b, g.toolID(i))
		b = append(b, `,"type":"function","index":0,"function":{"name":`...)
		b = appendString(b, p.text)
		b = append(b, `,"arguments":""}}]`...)
	case pieceArgs:
		b = append(b, `"tool_calls":[{"index":0,"function":{"arguments":`...)
		b = appendString(b, p.text)
		b = append(b, `}}]`...)
	case pieceReasoning:
		b = append(b, `"reasoning":`...)
		b = appendString(b, p.text)
	default:
		b = append(b, `"content":`...)
		b = appendString(b, p.text)
	}
	b = append(b, `},"logprobs":`...)
	if logprobs {
		b = appendChatLogprobs(b, c.pieces[j:j+1])
	} else {
		b = append(b, "null"...)
	}
	b = append(b, `,"finish_reason":`...)
	if j == len(c.pieces)-1 {
		b = appendString(b, c.finish)
		b = append(b, `,"stop_reason":`...)
		b = appendOptional(b, c.stop)
	} else {
		b = append(b, "null"...)
	}
	return append(b, `,"token_ids":null}`...)
}

func (g *generation) toolID(i int) string { return "chatcmpl-tool-" + g.x.id + strconv.Itoa(i) }

// chatAnswer is the whole answer as model_dump writes it, nulls and all.
func (g *generation) chatAnswer(logprobs bool) []byte {
	b := g.appendHead(nil, "chat.completion")
	b = append(b, `,"choices":[`...)
	for i := range g.choices {
		c := &g.choices[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"index":`...)
		b = strconv.AppendInt(b, int64(i), 10)
		b = append(b, `,"message":`...)
		b = g.appendMessage(b, i)
		b = append(b, `,"logprobs":`...)
		if logprobs {
			b = appendChatLogprobs(b, c.pieces)
		} else {
			b = append(b, "null"...)
		}
		b = append(b, `,"finish_reason":`...)
		b = appendString(b, c.finish)
		b = append(b, `,"stop_reason":`...)
		b = appendOptional(b, c.stop)
		b = append(b, `,"token_ids":null}`...)
	}
	b = append(b, `],"service_tier":null,"system_fingerprint":null`...)
	if !g.x.fault.is("usage-missing") {
		b = append(b, `,"usage":`...)
		b = g.appendUsage(b, g.promptTokens(), g.tokens(), true)
	}
	return append(b, `,"prompt_logprobs":null,"prompt_token_ids":null,"kv_transfer_params":null}`...)
}

func (g *generation) appendMessage(b []byte, i int) []byte {
	c := &g.choices[i]
	tool := c.has(pieceTool)
	b = append(b, `{"role":"assistant","content":`...)
	if tool {
		b = append(b, "null"...)
	} else {
		b = appendString(b, c.text(pieceText))
	}
	b = append(b, `,"refusal":null,"annotations":null,"audio":null,"function_call":null`...)
	if tool {
		b = append(b, `,"tool_calls":[{"id":`...)
		b = appendString(b, g.toolID(i))
		b = append(b, `,"type":"function","function":{"name":`...)
		b = appendString(b, c.text(pieceTool))
		b = append(b, `,"arguments":`...)
		b = appendString(b, c.text(pieceArgs))
		b = append(b, `}}]`...)
	}
	b = append(b, `,"reasoning":`...)
	b = appendOptional(b, c.text(pieceReasoning))
	return append(b, '}')
}

// appendChatLogprobs gives every token the same probability.
func appendChatLogprobs(b []byte, pieces []piece) []byte {
	b = append(b, `{"content":[`...)
	for i, p := range pieces {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"token":`...)
		b = appendString(b, p.text)
		b = append(b, `,"logprob":-0.5,"bytes":[`...)
		for k := range len(p.text) {
			if k > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, int64(p.text[k]), 10)
		}
		b = append(b, `],"top_logprobs":[]}`...)
	}
	return append(b, "]}"...)
}
