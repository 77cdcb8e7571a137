package mockvllm

import "encoding/json"

func (x *call) sglangEmbedding() error {
	return x.embed(func(model string, data json.RawMessage, tokens int) []byte {
		return encode(object{"object", "list", "data", data, "model", model, "usage", sglangPooled(tokens)})
	})
}

func sglangPooled(tokens int) object {
	return object{
		"prompt_tokens", tokens, "total_tokens", tokens, "completion_tokens", 0,
		"prompt_tokens_details", nil, "reasoning_tokens", 0,
	}
}

// sglangRerank answers with a bare list, best first; each result has a
// meta_info of its own and there is no sum.
func (x *call) sglangRerank() error {
	ranks, _, _, err := x.rank("rerank-")
	if ranks == nil {
		return err
	}
	results := make([]object, len(ranks))
	for i, r := range ranks {
		results[i] = object{"score", r.score, "document", r.document, "index", r.index, "meta_info", x.sglangPoolMeta(r.tokens)}
	}
	return x.json(results)
}

func (x *call) sglangPoolMeta(tokens int) object {
	return object{
		"id", x.id, "finish_reason", nil, "prompt_tokens", tokens, "cached_tokens", 0,
		"weight_version", "default",
	}
}

// sglangScore gives each item a share for each label.
func (x *call) sglangScore() error {
	p, model, bad := x.openPooled("score-")
	if bad != nil {
		return x.refuse(bad)
	}
	query, items := p.documents("query"), p.documents("items")
	var labels []int
	if p.has("label_token_ids") && json.Unmarshal(p.raw["label_token_ids"], &labels) != nil {
		p.fail(invalid("label_token_ids", "list_type", "Input should be a valid list"))
	}
	if p.err != nil {
		return x.refuse(p.err)
	}
	scores, tokens := make([][]float64, len(items)), 0
	for i, item := range items {
		if bad := x.pair(query[0], item, &tokens); bad != nil {
			return x.refuse(bad)
		}
		scores[i] = make([]float64, len(labels))
		for k, id := range labels {
			scores[i][k] = relevance(query[0], item+string(rune(id)))
		}
	}
	x.set(func(r *Entry) { r.PromptTokens = tokens })
	return x.json(object{"scores", scores, "model", model, "usage", sglangPooled(tokens), "object", "scoring"})
}

// sglangClassify is SGLang's own /classify, of reward models.
func (x *call) sglangClassify() error {
	x.native = true
	p, _, bad := x.openPooled("classify-")
	if bad != nil {
		return x.refuse(bad)
	}
	texts, tokens := p.documents("text"), 0
	if p.err != nil {
		return x.refuse(p.err)
	}
	list := make([]object, len(texts))
	for i, text := range texts {
		before := tokens
		if bad := x.pair("", text, &tokens); bad != nil {
			return x.refuse(bad)
		}
		list[i] = object{"embedding", []float64{relevance("", text)}, "meta_info", x.sglangPoolMeta(tokens - before)}
	}
	x.set(func(r *Entry) { r.PromptTokens = tokens })
	if !isBatch(p.raw["text"], false) {
		return x.json(list[0])
	}
	return x.json(list)
}

func (x *call) sglangDetokenize() error { return x.detokenizeAs("text") }
