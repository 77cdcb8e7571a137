package mockvllm

import "encoding/json"

// responseObject is a response as vLLM's model_dump writes it, nulls and all.
type responseObject struct {
	ID           string          `json:"id"`
	Created      int64           `json:"created_at"`
	Incomplete   any             `json:"incomplete_details"`
	Instructions json.RawMessage `json:"instructions"`
	Metadata     json.RawMessage `json:"metadata"`
	Model        string          `json:"model"`
	Object       string          `json:"object"`
	Output       []any           `json:"output"`
	Parallel     json.RawMessage `json:"parallel_tool_calls"`
	Temperature  json.RawMessage `json:"temperature"`
	ToolChoice   json.RawMessage `json:"tool_choice"`
	Tools        json.RawMessage `json:"tools"`
	TopP         json.RawMessage `json:"top_p"`
	Background   bool            `json:"background"`
	MaxTokens    int             `json:"max_output_tokens"`
	MaxTools     json.RawMessage `json:"max_tool_calls"`
	Previous     json.RawMessage `json:"previous_response_id"`
	Prompt       any             `json:"prompt"`
	Reasoning    json.RawMessage `json:"reasoning"`
	Tier         json.RawMessage `json:"service_tier"`
	Status       string          `json:"status"`
	Text         json.RawMessage `json:"text"`
	Logprobs     any             `json:"top_logprobs"`
	Truncation   json.RawMessage `json:"truncation"`
	Usage        *responseUsage  `json:"usage"`
	User         json.RawMessage `json:"user"`
	Inputs       any             `json:"input_messages"`
	Outputs      any             `json:"output_messages"`
	KVTransfer   any             `json:"kv_transfer_params"`
}

// object is the response with a status; without an outcome it has no output.
func (r *response) object(status string) *responseObject {
	echo := func(name, absent string) json.RawMessage {
		if r.p.has(name) {
			return r.p.raw[name]
		}
		return json.RawMessage(absent)
	}
	o := &responseObject{
		ID: r.id, Created: r.created, Model: r.model, Object: "response", Output: []any{}, Status: status,
		Background: r.background, MaxTokens: r.limit,
		Instructions: echo("instructions", "null"), Metadata: echo("metadata", "null"),
		Parallel: echo("parallel_tool_calls", "true"), Temperature: echo("temperature", "1.0"),
		ToolChoice: echo("tool_choice", `"auto"`), Tools: echo("tools", "[]"), TopP: echo("top_p", "1.0"),
		MaxTools: echo("max_tool_calls", "null"), Previous: echo("previous_response_id", "null"),
		Reasoning: echo("reasoning", "null"), Tier: echo("service_tier", `"auto"`), Text: echo("text", "null"),
		Truncation: echo("truncation", `"disabled"`), User: echo("user", "null"),
	}
	switch status {
	case "incomplete":
		o.Incomplete = map[string]string{"reason": "max_output_tokens"}
	case "completed":
	default:
		return o
	}
	o.Usage = r.usage()
	for _, item := range r.items() {
		o.Output = append(o.Output, item.object("completed"))
	}
	return o
}

// outputItem is a part of the output: pieces of one kind.
type outputItem struct {
	kind pieceKind
	id   string // the tail of its ids
	name string // of the function
	text string // said, thought, or the arguments
}

// items are the parts of the output; an answer without text is one empty
// message.
func (r *response) items() []outputItem {
	var items []outputItem
	for _, p := range r.choices[0].pieces {
		if !p.shown() {
			continue
		}
		if n := len(items); n == 0 || items[n-1].kind != p.itemKind() {
			items = append(items, outputItem{kind: p.itemKind(), id: r.x.id})
		}
		items[len(items)-1].add(p)
	}
	if len(items) == 0 {
		items = []outputItem{{kind: pieceText, id: r.x.id}}
	}
	return items
}

// shown tells whether a piece is seen in the output.
func (p *piece) shown() bool { return p.text != "" }

// itemKind is the kind of output a piece belongs to.
func (p *piece) itemKind() pieceKind {
	if p.kind == pieceArgs {
		return pieceTool
	}
	return p.kind
}

func (o *outputItem) add(p piece) {
	if p.kind == pieceTool {
		o.name = p.text
		return
	}
	o.text += p.text
}

// textPart is the content of a message, or of a thought.
type textPart struct {
	Annotations *[]any `json:"annotations,omitempty"`
	Text        string `json:"text"`
	Type        string `json:"type"`
	Logprobs    any    `json:"logprobs,omitempty"`
}

// part is the content of the item.
func (o *outputItem) part() textPart {
	if o.kind == pieceReasoning {
		return textPart{Text: o.text, Type: "reasoning_text"}
	}
	return textPart{Annotations: &[]any{}, Text: o.text, Type: "output_text", Logprobs: json.RawMessage("null")}
}

// itemID is the id of the item in the events about it.
func (o *outputItem) itemID() string {
	switch o.kind {
	case pieceReasoning:
		return "rs_" + o.id
	case pieceTool:
		return "fc_" + o.id
	}
	return "msg_" + o.id
}

// object is the item with its status.
func (o *outputItem) object(status string) any {
	var content []textPart // null without text, but for a message
	switch {
	case o.text != "":
		content = []textPart{o.part()}
	case o.kind == pieceText:
		content = []textPart{}
	}
	switch o.kind {
	case pieceTool:
		return struct {
			Arguments string `json:"arguments"`
			CallID    string `json:"call_id"`
			Name      string `json:"name"`
			Type      string `json:"type"`
			ID        string `json:"id"`
			Status    string `json:"status"`
		}{o.text, "call_" + o.id, o.name, "function_call", o.itemID(), status}
	case pieceReasoning:
		return struct {
			ID        string     `json:"id"`
			Summary   []any      `json:"summary"`
			Type      string     `json:"type"`
			Content   []textPart `json:"content"`
			Encrypted any        `json:"encrypted_content"`
			Status    string     `json:"status"`
		}{o.itemID(), []any{}, "reasoning", content, nil, status}
	}
	return struct {
		ID      string     `json:"id"`
		Content []textPart `json:"content"`
		Role    string     `json:"role"`
		Status  string     `json:"status"`
		Type    string     `json:"type"`
	}{o.itemID(), content, "assistant", status, "message"}
}
