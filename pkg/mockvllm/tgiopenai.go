package mockvllm

import "strconv"

// tgiFingerprint is version and docker label of the TGI that is imitated.
const tgiFingerprint = "3.3.7-native"

// tgiChat answers TGI's POST /v1/chat/completions.
func (x *call) tgiChat(p *params) error {
	text, bad := chatPrompt(p.raw["messages"])
	if bad != nil {
		p.fail(bad)
	}
	g := &generation{stream: p.boolean("stream", false), prompts: []prompt{text}}
	x.usageOptions(g, p)
	if ok, leave, err := g.tgiOpenAI(x, p); !ok {
		return err
	} else {
		defer leave()
	}
	if g.stream {
		return g.tgiStreamChat()
	}
	if err := g.wait(); err != nil {
		return err
	}
	c := &g.choices[0]
	b := g.tgiAppendHead(nil, "chat.completion")
	b = append(b, `,"choices":[{"index":0,"message":{"role":"assistant","content":`...)
	b = appendString(b, c.text(pieceText))
	b = append(b, `},"logprobs":null,"finish_reason":`...)
	b = appendString(b, c.finish)
	b = append(b, `}],"usage":`...)
	b = tgiAppendUsage(b, g.promptTokens(), g.tokens())
	return g.tgiWhole(append(b, '}'))
}

// tgiOpenAI plans and starts a generation of either OpenAI API; ok is false
// when the answer is given.
func (g *generation) tgiOpenAI(x *call, p *params) (ok bool, leave func(), err error) {
	plan := x.planAnswer(p, p.integer("max_completion_tokens", p.integer("max_tokens", 0)))
	if p.err != nil {
		return false, nil, x.tgiInvalid(p, "")
	}
	if leave, err = x.tgiEnter(g.stream); err != nil {
		return false, nil, err
	}
	if ok, err = g.tgiRun(x, p, plan); !ok {
		leave()
	}
	return ok, leave, err
}

func (g *generation) tgiWhole(b []byte) error {
	h := tgiHead(200, "application/json")
	g.tgiTimes(h)
	return g.x.whole(h, b)
}

func (g *generation) tgiStreamChat() error {
	out, err := g.x.tgiOpen()
	if err != nil {
		return err
	}
	var b []byte
	err = g.deliver(func(i, j int) error {
		c := &g.choices[i]
		b = g.tgiAppendHead(b[:0], "chat.completion.chunk")
		b = append(b, `,"choices":[{"index":0,"delta":{"role":"assistant","content":`...)
		b = appendString(b, c.pieces[j].text)
		b = append(b, `},"logprobs":null,"finish_reason":`...)
		if j == len(c.pieces)-1 {
			b = appendString(b, c.finish)
		} else {
			b = append(b, "null"...)
		}
		return out.event(append(b, `}],"usage":null}`...))
	})
	if err != nil {
		return err
	}
	if g.include && !g.x.fault.is("usage-missing") {
		b = g.tgiAppendHead(b[:0], "chat.completion.chunk")
		b = append(b, `,"choices":[],"usage":`...)
		b = tgiAppendUsage(b, g.promptTokens(), g.tokens())
		if err := out.event(append(b, '}')); err != nil {
			return err
		}
	}
	return out.close(true)
}

// tgiCompletion answers TGI's POST /v1/completions, whose stream tells the usage
// of every prompt by itself in that prompt's last chunk, asked or not.
func (x *call) tgiCompletion(p *params) error {
	g := &generation{stream: p.boolean("stream", false)}
	var bad *apiError
	if g.prompts, bad = promptList("prompt", p.raw["prompt"]); bad != nil {
		p.fail(bad)
	}
	if ok, leave, err := g.tgiOpenAI(x, p); !ok {
		return err
	} else {
		defer leave()
	}
	if g.stream {
		return g.tgiStreamCompletion()
	}
	if err := g.wait(); err != nil {
		return err
	}
	b := g.tgiAppendHead(nil, "text_completion")
	b = append(b, `,"choices":[`...)
	for i := range g.choices {
		if i > 0 {
			b = append(b, ',')
		}
		b = tgiAppendText(b, i, g.choices[i].text(pieceText), g.choices[i].finish)
	}
	b = append(b, `],"usage":`...)
	b = tgiAppendUsage(b, g.promptTokens(), g.tokens())
	return g.tgiWhole(append(b, '}'))
}

func (g *generation) tgiStreamCompletion() error {
	out, err := g.x.tgiOpen()
	if err != nil {
		return err
	}
	var b []byte
	err = g.deliver(func(i, j int) error {
		c := &g.choices[i]
		if j < len(c.pieces)-1 {
			b = append(b[:0], `{"object":"text_completion","id":"","created":`...)
			b = strconv.AppendInt(b, g.created, 10)
			b = append(b, `,"choices":[`...)
			b = tgiAppendText(b, i, c.pieces[j].text, "")
			b = append(b, `],"model":`...)
			b = appendString(b, g.model)
			return out.event(append(b, `,"system_fingerprint":"`+tgiFingerprint+`"}`...))
		}
		b = g.tgiAppendHead(b[:0], "text_completion")
		b = append(b, `,"choices":[`...)
		b = tgiAppendText(b, i, c.pieces[j].text, tgiFinish(c))
		b = append(b, `],"usage":`...)
		b = tgiAppendUsage(b, g.prompts[i].tokens, len(c.pieces))
		return out.event(append(b, '}'))
	})
	if err != nil {
		return err
	}
	return out.close(true)
}

// tgiAppendHead appends what TGI's answers begin with; its id is always empty.
func (g *generation) tgiAppendHead(b []byte, object string) []byte {
	b = append(b, `{"object":"`...)
	b = append(b, object...)
	b = append(b, `","id":"","created":`...)
	b = strconv.AppendInt(b, g.created, 10)
	b = append(b, `,"model":`...)
	b = appendString(b, g.model)
	return append(b, `,"system_fingerprint":"`+tgiFingerprint+`"`...)
}

func tgiAppendText(b []byte, i int, text, finish string) []byte {
	b = append(b, `{"index":`...)
	b = strconv.AppendInt(b, int64(i), 10)
	b = append(b, `,"text":`...)
	b = appendString(b, text)
	b = append(b, `,"logprobs":null,"finish_reason":`...)
	return append(appendString(b, finish), '}')
}

func tgiAppendUsage(b []byte, prompt, tokens int) []byte {
	b = append(b, `{"prompt_tokens":`...)
	b = strconv.AppendInt(b, int64(prompt), 10)
	b = append(b, `,"completion_tokens":`...)
	b = strconv.AppendInt(b, int64(tokens), 10)
	b = append(b, `,"total_tokens":`...)
	b = strconv.AppendInt(b, int64(prompt+tokens), 10)
	return append(b, '}')
}
