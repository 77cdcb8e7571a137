package mockvllm

import "encoding/json"

func (x *call) llamaEmbedding() error {
	return x.embed(func(model string, data json.RawMessage, tokens int) []byte {
		return encode(object{"model", model, "object", "list", "usage", llamaPooled(tokens), "data", data})
	})
}

func llamaPooled(tokens int) object { return object{"prompt_tokens", tokens, "total_tokens", tokens} }

// llamaRerank answers documents as Jina does and texts as TEI does.
func (x *call) llamaRerank() error {
	ranks, model, tokens, err := x.rank("rerank-")
	if ranks == nil {
		return err
	}
	var shape struct {
		Texts json.RawMessage `json:"texts"`
	}
	_ = json.Unmarshal(x.body, &shape)
	results := make([]object, len(ranks))
	for i, r := range ranks {
		if shape.Texts != nil {
			results[i] = object{"index", r.index, "score", r.score}
		} else {
			results[i] = object{"index", r.index, "relevance_score", r.score}
		}
	}
	if shape.Texts != nil {
		return x.json(results)
	}
	return x.json(object{"model", model, "object", "list", "usage", llamaPooled(tokens), "results", results})
}

func (x *call) llamaTokenize() error {
	p, bad := parseParams(x.body)
	if bad != nil {
		return x.refuse(bad)
	}
	ids := tokenIDs([]byte(p.text("content")))
	x.set(func(r *Entry) { r.PromptTokens = len(ids) })
	if p.err != nil {
		return x.refuse(p.err)
	}
	return x.json(object{"tokens", ids})
}

func (x *call) llamaDetokenize() error { return x.detokenizeAs("content") }
