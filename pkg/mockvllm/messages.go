package mockvllm

import (
	"encoding/json"
	"fmt"
	"strings"
)

// anthropicError puts an error that vLLM's Messages API found into Anthropic's
// shape. What the server refuses before, with a type in two words or none, keeps
// its own.
func anthropicError(body []byte) []byte {
	f, ok := readFlaw(body)
	if !ok || f.Type == "" || strings.Contains(f.Type, " ") {
		return body
	}
	return anthropicFlaw(f.Type, f.Message)
}

func anthropicFlaw(kind, message string) []byte {
	type flaw struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}
	return encode(struct {
		Type  string `json:"type"`
		Error flaw   `json:"error"`
	}{"error", flaw{kind, message}})
}

// openMessages reads what the two Messages APIs share.
func (x *call) openMessages() (p *params, model string, pr prompt, bad *apiError) {
	if p, bad = parseParams(x.body); bad != nil {
		return nil, "", pr, bad
	}
	model = x.model(p)
	x.set(func(r *Entry) { r.Model = model })
	if !p.has("model") {
		p.fail(invalid("model", "missing", "Field required"))
	}
	pr, bad = chatPrompt(p.raw["messages"])
	if bad != nil {
		p.fail(bad)
	} else if p.has("system") {
		text := append(appendContent([]byte("<|system|>"), unquote(p.raw["system"])), '\n')
		pr = textPrompt(append(text, pr.text...))
	}
	return p, model, pr, nil
}

// unquote returns the text of a JSON string, and other JSON as it is.
func unquote(raw json.RawMessage) []byte {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return []byte(s)
	}
	return raw
}

// countTokens answers POST /v1/messages/count_tokens.
func (x *call) countTokens() error {
	p, model, pr, bad := x.openMessages()
	if bad == nil {
		bad = x.check(p, model)
	}
	if bad != nil {
		return x.refuse(bad)
	}
	type context struct {
		Original int `json:"original_input_tokens"`
	}
	return x.json(struct {
		Tokens  int     `json:"input_tokens"`
		Context context `json:"context_management"`
	}{pr.tokens, context{pr.tokens}})
}

// messages answers POST /v1/messages.
func (x *call) messages() error {
	p, model, pr, bad := x.openMessages()
	if bad != nil {
		return x.refuse(bad)
	}
	g := &generation{id: "chatcmpl-" + x.id, model: model, stream: p.boolean("stream", false), n: 1, prompts: []prompt{pr}}
	x.set(func(r *Entry) { r.Stream = g.stream })
	limit := p.integer("max_tokens", 0)
	switch {
	case !p.has("max_tokens"):
		p.fail(invalid("max_tokens", "missing", "Field required"))
	case limit < 1:
		p.fail(invalid("max_tokens", "value_error", "Value error, max_tokens must be positive"))
	}
	plan := x.planAnswer(p, limit)
	plan.stop = p.texts("stop_sequences")
	plan.planTools(p)
	if bad = x.check(p, model); bad == nil {
		bad = x.fits(pr, limit)
	}
	if bad != nil {
		return x.refuse(bad)
	}
	if !g.begin(x, p, plan) {
		return x.full(g.stream)
	}
	m := &messageAnswer{generation: g}
	if g.stream {
		x.broken = func() (string, []byte) {
			return "error", anthropicFlaw("internal_error", "Internal server error")
		}
		return m.stream()
	}
	if err := g.wait(); err != nil {
		return err
	}
	return x.json(m.whole())
}

// messageAnswer writes a generation in Anthropic's words.
type messageAnswer struct {
	*generation
	out   *sse
	block pieceKind // of the open block
	open  bool
	index int // of the next block, or the open one
}

type messageUsage struct {
	Input  int  `json:"input_tokens"`
	Output int  `json:"output_tokens"`
	Cached *int `json:"cache_read_input_tokens,omitempty"`
}

// contentBlock is a block of a message; its type tells which fields it has.
type contentBlock struct {
	Type      string          `json:"type"`
	Text      *string         `json:"text,omitempty"`
	ID        string          `json:"id,omitempty"`
	Name      string          `json:"name,omitempty"`
	Input     json.RawMessage `json:"input,omitempty"`
	Thinking  *string         `json:"thinking,omitempty"`
	Signature string          `json:"signature,omitempty"`
}

// usage counts what the cache had apart, as Anthropic does.
func (m *messageAnswer) usage(output int) *messageUsage {
	u := &messageUsage{Input: m.promptTokens(), Output: output}
	switch {
	case m.x.fault.is("usage-missing"):
		return nil
	case m.x.fault.is("usage-zero"):
		return &messageUsage{}
	case m.x.e.opt.PromptTokenDetails:
		cached := m.x.e.sched.progress(m.x.seqs).cached
		u.Input, u.Cached = u.Input-cached, &cached
	}
	return u
}

// stopReason tells why the message ended, and by which stop sequence.
func (m *messageAnswer) stopReason() (reason, sequence string) {
	c := &m.choices[0]
	switch {
	case c.stop != "":
		return "stop_sequence", c.stop
	case c.finish == "length":
		return "max_tokens", ""
	case c.finish == "tool_calls":
		return "tool_use", ""
	}
	return "end_turn", ""
}

func (m *messageAnswer) signature() string {
	return fmt.Sprintf("%032x", textSeed(m.prompts[0].text))
}

// whole is the message as model_dump(exclude_none=True) writes it.
func (m *messageAnswer) whole() any {
	c := &m.choices[0]
	var blocks []contentBlock
	if text := c.text(pieceReasoning); text != "" {
		blocks = append(blocks, contentBlock{Type: "thinking", Thinking: &text, Signature: m.signature()})
	}
	text := c.text(pieceText)
	if text != "" || !c.has(pieceTool) && len(blocks) == 0 {
		blocks = append(blocks, contentBlock{Type: "text", Text: &text})
	}
	if c.has(pieceTool) {
		input := json.RawMessage(c.text(pieceArgs))
		if !json.Valid(input) { // cut off by max_tokens
			input = json.RawMessage("{}")
		}
		blocks = append(blocks, contentBlock{Type: "tool_use", ID: m.toolID(0), Name: c.text(pieceTool), Input: input})
	}
	reason, sequence := m.stopReason()
	return struct {
		ID       string         `json:"id"`
		Type     string         `json:"type"`
		Role     string         `json:"role"`
		Content  []contentBlock `json:"content"`
		Model    string         `json:"model"`
		Reason   string         `json:"stop_reason"`
		Sequence string         `json:"stop_sequence,omitempty"`
		Usage    *messageUsage  `json:"usage,omitempty"`
	}{m.id, "message", "assistant", blocks, m.model, reason, sequence, m.usage(m.tokens())}
}
