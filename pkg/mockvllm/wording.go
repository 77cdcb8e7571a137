package mockvllm

import (
	"bytes"
	"encoding/json"
)

// wording is how a dialect other than vLLM's Python writes one of OpenAI's text
// APIs. Every function returns an event or an answer.
type wording struct {
	role   func(g *generation, i int) object    // goes before the first piece of choice i; nil = nothing does
	piece  func(g *generation, i, j int) object // piece j of choice i; nil = no event
	finish func(g *generation, i int) object    // choice i, after the last piece of all; nil = the piece says it
	usage  func(g *generation) object           // comes last, when it was asked for
	whole  func(g *generation) object
}

// object is a JSON object: names and values in turn, in the order they are
// written.
type object []any

// MarshalJSON writes the fields in order.
func (o object) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i := 0; i < len(o); i += 2 {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, encode(o[i])...), ':')
		b = append(b, encode(o[i+1])...)
	}
	return append(b, '}'), nil
}

// encode writes v as JSON, like pydantic without escapes for HTML.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("BUG: cannot encode an answer: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
}

// json answers with v.
func (x *call) json(v any) error {
	h := jsonHead
	return x.whole(&h, encode(v))
}

// chatAs answers POST /v1/chat/completions in a wording.
func (x *call) chatAs(w *wording) error {
	g, _, err := x.startChat()
	if g == nil {
		return err
	}
	return g.answer(w)
}

// completionAs answers POST /v1/completions in a wording.
func (x *call) completionAs(w *wording) error {
	g, _, err := x.startCompletion()
	if g == nil {
		return err
	}
	return g.answer(w)
}

func (g *generation) answer(w *wording) error {
	if g.stream {
		return g.answerStream(w)
	}
	if err := g.wait(); err != nil {
		return err
	}
	return g.x.json(w.whole(g))
}

func (g *generation) answerStream(w *wording) error {
	h := sseHead
	out, err := g.x.open(&h)
	if err != nil {
		return err
	}
	event := func(o object) error {
		if o == nil {
			return nil
		}
		return out.event(encode(o))
	}
	err = g.deliver(func(i, j int) error {
		if w.role != nil && j == 0 {
			if err := event(w.role(g, i)); err != nil {
				return err
			}
		}
		return event(w.piece(g, i, j))
	})
	if err != nil {
		return err
	}
	for i := 0; w.finish != nil && i < len(g.choices); i++ {
		if err := event(w.finish(g, i)); err != nil {
			return err
		}
	}
	if g.include && !g.x.fault.is("usage-missing") {
		if err := event(w.usage(g)); err != nil {
			return err
		}
	}
	return out.close(true)
}

// envelope is what a chunk or an answer has around its choices.
func (g *generation) envelope(kind string, choices ...any) object {
	if choices == nil {
		choices = []any{}
	}
	return object{"id", g.id, "object", kind, "created", g.created, "model", g.model, "choices", choices}
}

// each makes a list of one thing for each choice.
func (g *generation) each(of func(i int) object) []any {
	list := make([]any, len(g.choices))
	for i := range list {
		list[i] = of(i)
	}
	return list
}

// used are the tokens an answer tells of.
func (g *generation) used() (prompt, tokens int) {
	if g.x.fault.is("usage-zero") {
		return 0, 0
	}
	return g.promptTokens(), g.tokens()
}

// cached is the part of the prompts found in the prefix cache.
func (g *generation) cached() int { return g.x.e.sched.progress(g.x.seqs).cached }

// lastPiece tells whether piece j ends choice i.
func (g *generation) lastPiece(i, j int) bool { return j == len(g.choices[i].pieces)-1 }

// toolDelta is a part of a tool call in a chunk.
func (g *generation) toolDelta(i int, p piece) []object {
	if p.kind == pieceArgs {
		return []object{{"index", 0, "function", object{"arguments", p.text}}}
	}
	return []object{{"index", 0, "id", g.toolID(i), "type", "function", "function", object{"name", p.text, "arguments", ""}}}
}

// toolCalls are the tool calls of a whole message; nil without one.
func (g *generation) toolCalls(i int) []object {
	c := &g.choices[i]
	if !c.has(pieceTool) {
		return nil
	}
	function := object{"name", c.text(pieceTool), "arguments", c.text(pieceArgs)}
	return []object{{"id", g.toolID(i), "type", "function", "function", function}}
}

// optional is s, or null when it is empty.
func optional(s string) any {
	if s == "" {
		return nil
	}
	return s
}
