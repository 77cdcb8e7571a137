package mockvllm

import "strconv"

// completion answers POST /v1/completions.
func (x *call) completion() error {
	g, p, err := x.startCompletion()
	if g == nil {
		return err
	}
	logprobs, echo := p.has("logprobs"), p.boolean("echo", false)
	if g.stream {
		return g.streamCompletion(logprobs, echo)
	}
	if err := g.wait(); err != nil {
		return err
	}
	h := jsonHead
	return x.whole(&h, g.completionAnswer(logprobs, echo))
}

// startCompletion is startChat for a completion.
func (x *call) startCompletion() (*generation, *params, error) {
	p, bad := parseParams(x.body)
	if bad != nil {
		return nil, nil, x.refuse(bad)
	}
	g := &generation{id: x.e.dialect.textID + x.id, model: x.model(p), stream: p.boolean("stream", false), n: p.integer("n", 1)}
	x.set(func(r *Entry) { r.Model, r.Stream = g.model, g.stream })
	// The API's default is 16; unlike chat, the model may not go on as it likes.
	limit := p.integer("max_tokens", 16)
	if limit < 1 {
		p.fail(badRequest("max_tokens", "max_tokens must be at least 1, got %d.", limit))
	}
	x.usageOptions(g, p)
	plan := x.planAnswer(p, limit)
	if !p.has("prompt") || string(p.raw["prompt"]) == `""` {
		p.fail(badRequest("prompt", "Either prompt or prompt_embeds must be provided and non-empty."))
	} else if g.prompts, bad = promptList("prompt", p.raw["prompt"]); bad != nil {
		p.fail(bad)
	}
	bad = x.check(p, g.model)
	for _, pr := range g.prompts {
		if bad == nil {
			bad = x.fits(pr, limit)
		}
	}
	if bad != nil {
		return nil, nil, x.refuse(bad)
	}
	if !g.begin(x, p, plan) {
		return nil, nil, x.full(g.stream)
	}
	return g, p, nil
}

func (g *generation) streamCompletion(logprobs, echo bool) error {
	h := sseHead
	out, err := g.x.open(&h)
	if err != nil {
		return err
	}
	var b []byte
	err = g.deliver(func(i, j int) error {
		c := &g.choices[i]
		text := c.pieces[j].text
		if echo && j == 0 {
			text = g.echoed(i) + text
		}
		b = g.appendHead(b[:0], "text_completion")
		b = append(b, `,"choices":[`...)
		b = g.appendText(b, i, text, c.pieces[j:j+1], j == len(c.pieces)-1, logprobs)
		b = append(b, `,"prompt_token_ids":null,"token_ids":null}]`...)
		b = append(b, `,"usage":`...)
		if g.continuous && !g.x.fault.is("usage-missing") {
			// Per choice: its own prompt and its own tokens.
			b = g.appendUsage(b, g.prompts[i/g.n].tokens, j+1, false)
		} else {
			b = append(b, "null"...) // unlike a chat's, its unset fields are written
		}
		return out.event(append(b, '}'))
	})
	if err != nil {
		return err
	}
	if g.include && !g.x.fault.is("usage-missing") {
		b = g.appendHead(b[:0], "text_completion")
		b = append(b, `,"choices":[],"usage":`...)
		b = g.appendUsage(b, g.promptTokens(), g.tokens(), false)
		if err := out.event(append(b, '}')); err != nil {
			return err
		}
	}
	return out.close(true)
}

// appendText appends a choice up to its stop_reason; the brace stays open.
func (g *generation) appendText(b []byte, i int, text string, pieces []piece, last, logprobs bool) []byte {
	c := &g.choices[i]
	b = append(b, `{"index":`...)
	b = strconv.AppendInt(b, int64(i), 10)
	b = append(b, `,"text":`...)
	b = appendString(b, text)
	b = append(b, `,"logprobs":`...)
	if logprobs {
		b = appendTextLogprobs(b, pieces)
	} else {
		b = append(b, "null"...)
	}
	finish, stop := "", ""
	if last {
		finish, stop = c.finish, c.stop
	}
	b = append(b, `,"finish_reason":`...)
	b = appendOptional(b, finish)
	b = append(b, `,"stop_reason":`...)
	return appendOptional(b, stop)
}

func (g *generation) completionAnswer(logprobs, echo bool) []byte {
	b := g.appendHead(nil, "text_completion")
	b = append(b, `,"choices":[`...)
	for i := range g.choices {
		if i > 0 {
			b = append(b, ',')
		}
		text := g.choices[i].text(pieceText)
		if echo {
			text = g.echoed(i) + text
		}
		b = g.appendText(b, i, text, g.choices[i].pieces, true, logprobs)
		b = append(b, `,"token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null}`...)
	}
	b = append(b, `],"service_tier":null,"system_fingerprint":null`...)
	if !g.x.fault.is("usage-missing") {
		b = append(b, `,"usage":`...)
		b = g.appendUsage(b, g.promptTokens(), g.tokens(), true)
	}
	return append(b, `,"kv_transfer_params":null}`...)
}

// echoed is the prompt of choice i, as echo wants it repeated.
func (g *generation) echoed(i int) string { return string(g.prompts[i/g.n].text) }

func appendTextLogprobs(b []byte, pieces []piece) []byte {
	offsets, probs, tokens, tops := []byte(nil), []byte(nil), []byte(nil), []byte(nil)
	at := 0
	for i, p := range pieces {
		if i > 0 {
			offsets, probs, tokens, tops = append(offsets, ','), append(probs, ','), append(tokens, ','), append(tops, ',')
		}
		offsets = strconv.AppendInt(offsets, int64(at), 10)
		at += len(p.text)
		probs = append(probs, "-0.5"...)
		tokens = appendString(tokens, p.text)
		tops = append(appendString(append(tops, '{'), p.text), ":-0.5}"...)
	}
	b = append(append(b, `{"text_offset":[`...), offsets...)
	b = append(append(b, `],"token_logprobs":[`...), probs...)
	b = append(append(b, `],"tokens":[`...), tokens...)
	b = append(append(b, `],"top_logprobs":[`...), tops...)
	return append(b, `]}`...)
}
