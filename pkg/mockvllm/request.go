package mockvllm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// params are the fields of a JSON request body. Keys are exact and the last of
// two equal ones wins, as in Python. The first fault found is kept in err.
type params struct {
	raw map[string]json.RawMessage
	err *apiError
}

// apiError is an answer that refuses a request.
type apiError struct {
	status int
	body   string
}

// badRequest is vLLM's 400.
func badRequest(param, format string, args ...any) *apiError {
	return &apiError{400, vllmError(fmt.Sprintf(format, args...), "BadRequestError", param, 400)}
}

// invalid is the 400 that vLLM makes of a pydantic validation error.
func invalid(field, kind, msg string) *apiError {
	text := "1 validation error:\n  {'type': '" + kind + "', 'loc': ('body', '" + field + "'), 'msg': '" + msg + "'}"
	return &apiError{400, vllmError(text, "Bad Request", "body."+field, 400)}
}

func parseParams(body []byte) (*params, *apiError) {
	p := &params{}
	if err := json.Unmarshal(body, &p.raw); err != nil || p.raw == nil {
		text := "1 validation error:\n  {'type': 'json_invalid', 'loc': ('body', 0), 'msg': 'JSON decode error'}"
		return nil, &apiError{400, vllmError(text, "Bad Request", "body", 400)}
	}
	return p, nil
}

// has tells whether a field is there and not null.
func (p *params) has(name string) bool {
	v, ok := p.raw[name]
	return ok && string(v) != "null"
}

func (p *params) fail(err *apiError) {
	if p.err == nil {
		p.err = err
	}
}

func (p *params) integer(name string, def int) int {
	if !p.has(name) {
		return def
	}
	// pydantic takes "5" for 5; the fields of a form are all strings.
	n, err := strconv.Atoi(strings.Trim(string(p.raw[name]), `"`))
	if err != nil {
		p.fail(invalid(name, "int_parsing", "Input should be a valid integer"))
	}
	return n
}

func (p *params) boolean(name string, def bool) bool {
	if !p.has(name) {
		return def
	}
	b, err := strconv.ParseBool(strings.Trim(string(p.raw[name]), `"`))
	if err != nil {
		p.fail(invalid(name, "bool_parsing", "Input should be a valid boolean"))
	}
	return b
}

func (p *params) text(name string) string {
	if !p.has(name) {
		return ""
	}
	var s string
	if json.Unmarshal(p.raw[name], &s) != nil {
		p.fail(invalid(name, "string_type", "Input should be a valid string"))
	}
	return s
}

// texts reads a string or a list of strings.
func (p *params) texts(name string) []string {
	if !p.has(name) {
		return nil
	}
	if p.raw[name][0] == '"' {
		return []string{p.text(name)}
	}
	var list []string
	if json.Unmarshal(p.raw[name], &list) != nil {
		p.fail(invalid(name, "list_type", "Input should be a valid list"))
	}
	return list
}

// usageOptions reads stream_options. In vLLM its include_usage is true unless
// said otherwise, and it needs a stream unless it is empty.
func (x *call) usageOptions(g *generation, p *params) {
	if x.e.opt.ForceUsage {
		g.include, g.continuous = true, true
		return
	}
	if !p.has("stream_options") {
		return
	}
	var so map[string]*bool
	if json.Unmarshal(p.raw["stream_options"], &so) != nil {
		p.fail(invalid("stream_options", "model_type", "Input should be a valid dictionary"))
		return
	}
	if len(so) > 0 && !g.stream && x.e.dialect.strict {
		p.fail(badRequest("stream_options", "Stream options can only be defined when `stream=True`."))
	}
	v, set := so["include_usage"]
	g.include = !set && x.e.dialect.defaultUsage || v != nil && *v
	c := so["continuous_usage_stats"]
	g.continuous = g.include && c != nil && *c
}

// prompt is what an engine computes before it answers.
type prompt struct {
	text   []byte // stands for the tokens, tokenBytes each
	tokens int
}

func textPrompt(text []byte) prompt {
	return prompt{text, max(1, (len(text)+tokenBytes-1)/tokenBytes)}
}

// imageTokens is what an image costs, as in many vision models.
const imageTokens = 576

// chatPrompt renders messages as a chat template would.
func chatPrompt(raw json.RawMessage) (prompt, *apiError) {
	var messages []struct {
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
	}
	if len(raw) == 0 {
		return prompt{}, invalid("messages", "missing", "Field required")
	}
	if json.Unmarshal(raw, &messages) != nil {
		return prompt{}, invalid("messages", "list_type", "Input should be a valid list")
	}
	if len(messages) == 0 {
		return prompt{}, badRequest("", "list index out of range")
	}
	var b []byte
	for _, m := range messages {
		b = append(b, "<|"...)
		b = append(b, m.Role...)
		b = append(b, "|>"...)
		b = appendContent(b, m.Content)
		b = append(b, '\n')
	}
	return textPrompt(append(b, "<|assistant|>"...)), nil
}

// appendContent appends a message's content: text and what tools said as it is,
// and for an image as much text as it has tokens, made from its hash.
func appendContent(b []byte, raw json.RawMessage) []byte {
	var parts []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	var items []json.RawMessage
	if json.Unmarshal(raw, &parts) != nil || json.Unmarshal(raw, &items) != nil {
		return append(b, raw...)
	}
	for i, part := range parts {
		switch part.Type {
		case "text", "input_text", "output_text":
			b = append(b, part.Text...)
			continue
		case "tool_use", "tool_result", "thinking":
			b = append(b, items[i]...)
			continue
		}
		mark := fmt.Sprintf("%016x", textSeed(items[i]))
		b = append(b, strings.Repeat(mark, imageTokens*tokenBytes/len(mark))...)
	}
	return b
}

// promptList reads the four forms of a prompt: text, texts, token ids, lists of
// token ids.
func promptList(field string, raw json.RawMessage) ([]prompt, *apiError) {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return []prompt{textPrompt([]byte(one))}, nil
	}
	var ids []int
	if json.Unmarshal(raw, &ids) == nil && len(ids) > 0 {
		return []prompt{idPrompt(ids)}, nil
	}
	var items []json.RawMessage
	if json.Unmarshal(raw, &items) != nil || len(items) == 0 {
		return nil, invalid(field, "string_type", "Input should be a valid string")
	}
	var out []prompt
	for _, item := range items {
		item = bytes.TrimSpace(item)
		if len(item) > 0 && (item[0] == '[' || item[0] == '"') {
			if p, err := promptList(field, item); err == nil && len(p) == 1 {
				out = append(out, p[0])
				continue
			}
		}
		return nil, invalid(field, "string_type", "Input should be a valid string")
	}
	return out, nil
}

func idPrompt(ids []int) prompt {
	var b []byte
	for _, id := range ids {
		b = append(b, byte(id), byte(id>>8), byte(id>>16), byte(id>>24))
	}
	return prompt{b, len(ids)}
}
