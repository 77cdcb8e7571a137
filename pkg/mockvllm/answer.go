package mockvllm

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"
	"strings"
)

type pieceKind int

const (
	pieceText pieceKind = iota
	pieceReasoning
	pieceTool // the beginning of a tool call: text is the function's name
	pieceArgs // a part of a tool call's arguments
	pieceEnd  // the end-of-sequence token, which counts but has no text
)

// piece is one token of an answer.
type piece struct {
	kind pieceKind
	text string
}

// choice is one answer; its last piece carries finish.
type choice struct {
	pieces []piece
	finish string // "stop", "length" or "tool_calls"
	stop   string // the stop string that ended it
}

// text joins the pieces of one kind.
func (c *choice) text(kind pieceKind) string {
	var b strings.Builder
	for _, p := range c.pieces {
		if p.kind == kind {
			b.WriteString(p.text)
		}
	}
	return b.String()
}

func (c *choice) has(kind pieceKind) bool {
	return slices.ContainsFunc(c.pieces, func(p piece) bool { return p.kind == kind })
}

// answerPlan is what a request says about the answer it wants.
type answerPlan struct {
	limit     int // most tokens
	natural   int // tokens until the model ends by itself
	reasoning int // leading tokens that are thought, not said
	stop      []string
	tag       string // mixed into every token, so that no answer can be mistaken for another
	tool      string // function to call instead of speaking, with its arguments
	args      string
}

// planAnswer reads the fields that all text APIs share. A request that gives
// a limit gets exactly as many tokens; mock_tokens sets the natural length.
func (x *call) planAnswer(p *params, limit int) answerPlan {
	natural := math.MaxInt
	if limit == 0 {
		limit, natural = math.MaxInt, x.e.opt.TokensDefault
	}
	return answerPlan{
		limit:     min(limit, x.e.opt.MaxModelLen),
		natural:   p.integer("mock_tokens", natural),
		reasoning: p.integer("mock_reasoning", 0),
		stop:      p.texts("stop"),
		tag:       x.entry.Tag,
	}
}

// length is the number of tokens the answer will have.
func (a *answerPlan) length() int { return max(1, min(a.limit, a.natural)) }

// choice writes the answer.
func (a *answerPlan) choice(seed uint64) choice {
	if a.tool != "" {
		return a.toolCall()
	}
	n := a.length()
	c := choice{pieces: make([]piece, n), finish: "length"}
	for i := range c.pieces {
		c.pieces[i] = piece{text: a.token(seed, i)}
		if i < a.reasoning {
			c.pieces[i].kind = pieceReasoning
		}
	}
	if a.natural < a.limit {
		c.pieces[n-1] = piece{kind: pieceEnd}
		c.finish = "stop"
	}
	a.cut(&c)
	return c
}

func (a *answerPlan) token(seed uint64, i int) string {
	w := word(seed, i)
	if a.tag != "" {
		w += "[" + a.tag + "]"
	}
	if i > 0 {
		w = " " + w
	}
	return w
}

// cut ends the answer before the first stop string. The tokens that spelled the
// stop string were generated and count, but have no text.
func (a *answerPlan) cut(c *choice) {
	if len(a.stop) == 0 {
		return
	}
	text := c.text(pieceText)
	at, end := len(text), len(text)
	for _, s := range a.stop {
		if i := strings.Index(text, s); s != "" && i >= 0 && i < at {
			at, end, c.stop = i, i+len(s), s
		}
	}
	if c.stop == "" {
		return
	}
	c.finish = "stop"
	pos := 0
	for i := range c.pieces {
		p := &c.pieces[i]
		if p.kind != pieceText {
			continue
		}
		from := pos
		pos += len(p.text)
		p.text = p.text[:max(0, min(len(p.text), at-from))]
		if pos >= end {
			c.pieces = c.pieces[:i+1]
			return
		}
	}
}

// toolCall is an answer that calls a function.
func (a *answerPlan) toolCall() choice {
	c := choice{pieces: []piece{{pieceTool, a.tool}}, finish: "tool_calls"}
	const step = 4
	for s := a.args; s != ""; {
		n := min(step, len(s))
		for n < len(s) && s[n]&0xc0 == 0x80 {
			n++ // not inside a character
		}
		c.pieces = append(c.pieces, piece{pieceArgs, s[:n]})
		s = s[n:]
	}
	c.pieces = append(c.pieces, piece{kind: pieceEnd})
	if len(c.pieces) > a.limit {
		c.pieces, c.finish = c.pieces[:a.limit], "length"
	}
	return c
}

// tool is a function on offer, in the words of any of the chat APIs.
type tool struct {
	Name       string     `json:"name"`         // responses, messages
	Parameters properties `json:"parameters"`   // responses
	Input      properties `json:"input_schema"` // messages
	Function   struct {   // chat completions
		Name       string     `json:"name"`
		Parameters properties `json:"parameters"`
	} `json:"function"`
}

type properties struct {
	Properties map[string]json.RawMessage `json:"properties"`
}

// planTools makes the answer a tool call when tool_choice forces one, or when
// tools are on offer and the last message says "call_tool".
func (a *answerPlan) planTools(p *params) {
	var tools []tool
	if !p.has("tools") {
		return
	}
	if json.Unmarshal(p.raw["tools"], &tools) != nil {
		p.fail(invalid("tools", "list_type", "Input should be a valid list"))
		return
	}
	var named struct {
		tool
		Type string `json:"type"`
	}
	choice := string(p.raw["tool_choice"])
	_ = json.Unmarshal(p.raw["tool_choice"], &named)
	name := cmp.Or(named.Function.Name, named.Name)
	said := string(p.raw["messages"]) + string(p.raw["input"])
	asked := strings.Contains(said, "call_tool") && choice != `"none"` && named.Type != "none"
	if choice != `"required"` && named.Type != "any" && name == "" && !asked {
		return
	}
	for _, t := range tools {
		called := cmp.Or(t.Function.Name, t.Name)
		if name != "" && called != name {
			continue
		}
		args := map[string]string{}
		for _, props := range []properties{t.Parameters, t.Input, t.Function.Parameters} {
			for field := range props.Properties {
				args[field] = "mock" + a.tag
			}
		}
		b, _ := json.Marshal(args)
		a.tool, a.args = called, string(b)
		return
	}
}
