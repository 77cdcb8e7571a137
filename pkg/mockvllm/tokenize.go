package mockvllm

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
)

// tokenize answers POST /tokenize, of a prompt or of messages. A token's id is
// its four bytes, so that detokenize gives them back.
func (x *call) tokenize() error {
	p, bad := parseParams(x.body)
	if bad != nil {
		return x.refuse(bad)
	}
	model, names := x.model(p), p.boolean("return_token_strs", false)
	text := []byte(p.text("prompt"))
	switch {
	case p.has("messages"):
		var pr prompt
		if pr, bad = chatPrompt(p.raw["messages"]); bad != nil {
			p.fail(bad)
		}
		text = pr.text
	case !p.has("prompt"):
		p.fail(invalid("prompt", "missing", "Field required"))
	}
	ids := tokenIDs(text)
	x.set(func(r *Entry) { r.Model, r.ID, r.PromptTokens = model, "tokenize-"+x.id, len(ids) })
	if bad := x.check(p, model); bad != nil {
		return x.refuse(bad)
	}
	var parts []string
	for i := 0; names && i < len(text); i += tokenBytes {
		parts = append(parts, string(text[i:min(i+tokenBytes, len(text))]))
	}
	return x.json(struct {
		Count int      `json:"count"`
		Max   int      `json:"max_model_len"`
		IDs   []int    `json:"tokens"`
		Parts []string `json:"token_strs"`
	}{len(ids), x.e.opt.MaxModelLen, ids, parts})
}

// detokenize answers POST /detokenize.
func (x *call) detokenize() error { return x.detokenizeAs("prompt") }

// detokenizeAs answers with the text in a field of that name.
func (x *call) detokenizeAs(field string) error {
	p, bad := parseParams(x.body)
	if bad != nil {
		return x.refuse(bad)
	}
	model := x.model(p)
	x.set(func(r *Entry) { r.Model, r.ID = model, "detokenize-"+x.id })
	var ids []uint32
	if !p.has("tokens") {
		p.fail(invalid("tokens", "missing", "Field required"))
	} else if json.Unmarshal(p.raw["tokens"], &ids) != nil {
		p.fail(invalid("tokens", "list_type", "Input should be a valid list"))
	}
	if bad := x.check(p, model); bad != nil {
		return x.refuse(bad)
	}
	var text []byte
	for _, id := range ids {
		text = binary.LittleEndian.AppendUint32(text, id)
	}
	return x.json(object{field, string(bytes.TrimRight(text, "\x00"))})
}

// tokenIDs are the tokens of a text, see idPrompt.
func tokenIDs(text []byte) []int {
	ids := make([]int, 0, len(text)/tokenBytes+1)
	for len(text) > 0 {
		var four [tokenBytes]byte
		text = text[copy(four[:], text):]
		ids = append(ids, int(binary.LittleEndian.Uint32(four[:])))
	}
	return ids
}
