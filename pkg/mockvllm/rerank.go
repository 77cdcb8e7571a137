package mockvllm

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"
)

// pooledUsage is the usage of an API that generates nothing.
type pooledUsage struct {
	Prompt     int `json:"prompt_tokens"`
	Total      int `json:"total_tokens"`
	Completion int `json:"completion_tokens"`
	Details    any `json:"prompt_tokens_details"`
}

// pooled is the list that the pooling APIs answer with.
type pooled struct {
	ID      string       `json:"id"`
	Object  string       `json:"object"`
	Created int64        `json:"created"`
	Model   string       `json:"model"`
	Data    any          `json:"data"`
	Usage   *pooledUsage `json:"usage,omitempty"`
}

// openPooled reads what the pooling APIs share, id and model.
func (x *call) openPooled(prefix string) (*params, string, *apiError) {
	p, bad := parseParams(x.body)
	if bad != nil {
		return nil, "", bad
	}
	model := x.model(p)
	x.set(func(r *Entry) { r.Model, r.ID = model, prefix+x.id })
	if bad := x.check(p, model); bad != nil {
		return nil, "", bad
	}
	if x.fault.is("wrong-model") {
		model = "another-model"
	}
	return p, model, nil
}

// answerPooled writes data for so many prompt tokens.
func (x *call) answerPooled(prefix, model string, data any, tokens int) error {
	x.set(func(r *Entry) { r.PromptTokens = tokens })
	return x.json(pooled{prefix + x.id, "list", time.Now().Unix(), model, data, x.pooledUsage(tokens)})
}

func (x *call) pooledUsage(tokens int) *pooledUsage {
	switch {
	case x.fault.is("usage-missing"):
		return nil
	case x.fault.is("usage-zero"):
		tokens = 0
	}
	return &pooledUsage{Prompt: tokens, Total: tokens}
}

// relevance is what a model thinks of a document: between 0 and 1, the same for
// the same two texts.
func relevance(query, document string) float64 {
	z := textSeed([]byte(query), []byte(document))
	z = (z ^ z>>33) * 0xff51afd7ed558ccd // the seeds of short texts are neighbours
	return float64((z^z>>33)>>11) / (1 << 53)
}

// documents reads a text or a list of texts; an item that is an object counts
// by its JSON.
func (p *params) documents(names ...string) []string {
	for _, name := range names {
		if !p.has(name) {
			continue
		}
		var items []json.RawMessage
		if json.Unmarshal(p.raw[name], &items) != nil {
			items = []json.RawMessage{p.raw[name]}
		}
		texts := make([]string, len(items))
		for i, item := range items {
			if json.Unmarshal(item, &texts[i]) != nil {
				texts[i] = string(item)
			}
		}
		return texts
	}
	p.fail(invalid(names[0], "missing", "Field required"))
	return nil
}

// pair is the prompt of a query with a document; its tokens are counted.
func (x *call) pair(query, document string, tokens *int) *apiError {
	pr := textPrompt([]byte(query + document))
	*tokens += pr.tokens
	return x.fits(pr, 0)
}

// ranked is what a model thinks of one document.
type ranked struct {
	index    int // in the request
	document string
	score    float64
	tokens   int // of query and document
}

// rank reads a rerank request and answers it, best document first; nil when the
// request has been refused.
func (x *call) rank(prefix string) (ranks []ranked, model string, tokens int, err error) {
	p, model, bad := x.openPooled(prefix)
	if bad != nil {
		return nil, "", 0, x.refuse(bad)
	}
	query, documents, top := p.documents("query"), p.documents("documents", "texts"), p.integer("top_n", 0)
	if p.err == nil && len(documents) == 0 {
		p.fail(badRequest("documents", "Documents cannot be empty"))
	}
	if p.err != nil {
		return nil, "", 0, x.refuse(p.err)
	}
	for i, d := range documents {
		before := tokens
		if bad := x.pair(query[0], d, &tokens); bad != nil {
			return nil, "", 0, x.refuse(bad)
		}
		ranks = append(ranks, ranked{i, d, relevance(query[0], d), tokens - before})
	}
	x.set(func(r *Entry) { r.PromptTokens = tokens })
	slices.SortStableFunc(ranks, func(a, b ranked) int { return cmp.Compare(b.score, a.score) })
	if top > 0 && top < len(ranks) {
		ranks = ranks[:top]
	}
	return ranks, model, tokens, nil
}

// ranking is one result of a rerank.
type ranking struct {
	Index    int `json:"index"`
	Document struct {
		Text  string `json:"text"`
		Media any    `json:"multi_modal"`
	} `json:"document"`
	Score float64 `json:"relevance_score"`
}

// rerank answers POST /rerank, /v1/rerank and /v2/rerank.
func (x *call) rerank() error {
	ranks, model, tokens, err := x.rank("score-")
	if ranks == nil {
		return err
	}
	results := make([]ranking, len(ranks))
	for i, r := range ranks {
		results[i].Index, results[i].Document.Text, results[i].Score = r.index, r.document, r.score
	}
	type usage struct {
		Prompt int `json:"prompt_tokens"`
		Total  int `json:"total_tokens"`
	}
	answer := struct {
		ID      string    `json:"id"`
		Model   string    `json:"model"`
		Usage   *usage    `json:"usage,omitempty"`
		Results []ranking `json:"results"`
	}{ID: "score-" + x.id, Model: model, Results: results}
	if u := x.pooledUsage(tokens); u != nil {
		answer.Usage = &usage{u.Prompt, u.Total}
	}
	return x.json(answer)
}

// score answers POST /score and /v1/score: one query with every document, or
// each with its own.
func (x *call) score() error {
	p, model, bad := x.openPooled("score-")
	if bad != nil {
		return x.refuse(bad)
	}
	first, second := p.documents("text_1", "queries", "data_1"), p.documents("text_2", "documents", "items", "data_2")
	if p.err == nil && len(first) != 1 && len(first) != len(second) {
		p.fail(badRequest("", "Input lengths must be either 1:1, 1:N or N:N"))
	}
	if p.err != nil {
		return x.refuse(p.err)
	}
	type item struct {
		Index  int     `json:"index"`
		Object string  `json:"object"`
		Score  float64 `json:"score"`
	}
	items, tokens := make([]item, len(second)), 0
	for i, d := range second {
		query := first[min(i, len(first)-1)]
		if bad := x.pair(query, d, &tokens); bad != nil {
			return x.refuse(bad)
		}
		items[i] = item{i, "score", relevance(query, d)}
	}
	return x.answerPooled("score-", model, items, tokens)
}

// pooledInputs reads the prompts of a request with input or messages.
func (x *call) pooledInputs(p *params) (inputs []prompt, tokens int, bad *apiError) {
	if p.has("messages") {
		var pr prompt
		pr, bad = chatPrompt(p.raw["messages"])
		inputs = []prompt{pr}
	} else if p.has("input") {
		inputs, bad = promptList("input", p.raw["input"])
	} else {
		bad = invalid("input", "missing", "Field required")
	}
	for _, in := range inputs {
		tokens += in.tokens
		if bad == nil {
			bad = x.fits(in, 0)
		}
	}
	return inputs, tokens, bad
}

// classify answers POST /classify with one of two classes.
func (x *call) classify() error {
	p, model, bad := x.openPooled("classify-")
	if bad != nil {
		return x.refuse(bad)
	}
	inputs, tokens, bad := x.pooledInputs(p)
	if bad != nil {
		return x.refuse(bad)
	}
	type class struct {
		Index   int        `json:"index"`
		Label   string     `json:"label"`
		Probs   [2]float64 `json:"probs"`
		Classes int        `json:"num_classes"`
	}
	data := make([]class, len(inputs))
	for i, in := range inputs {
		no := relevance(string(in.text), "")
		data[i] = class{i, "LABEL_0", [2]float64{no, 1 - no}, 2}
		if no < 0.5 {
			data[i].Label = "LABEL_1"
		}
	}
	return x.answerPooled("classify-", model, data, tokens)
}

// pooling answers POST /pooling with one vector for each input.
func (x *call) pooling() error {
	p, model, bad := x.openPooled("pool-")
	if bad != nil {
		return x.refuse(bad)
	}
	inputs, tokens, bad := x.pooledInputs(p)
	size, packed := p.integer("dimensions", embeddingSize), p.text("encoding_format") == "base64"
	if size < 1 || size > 4096 {
		p.fail(badRequest("dimensions", "dimensions must be between 1 and 4096, got %d.", size))
	}
	if bad = cmp.Or(p.err, bad); bad != nil {
		return x.refuse(bad)
	}
	type vector struct {
		Index  int             `json:"index"`
		Object string          `json:"object"`
		Data   json.RawMessage `json:"data"`
	}
	data := make([]vector, len(inputs))
	for i, in := range inputs {
		data[i] = vector{i, "pooling", appendVector(nil, textSeed(in.text), size, packed)}
	}
	return x.answerPooled("pool-", model, data, tokens)
}
