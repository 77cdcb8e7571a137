package mockvllm

import (
	"cmp"
	"context"
	"encoding/json"
)

// response is one answer of the Responses API, while it is made and after.
type response struct {
	*generation
	p          *params
	limit      int // most tokens
	background bool
	kept       *task // how a stored response comes to its end; nil = it has
}

// responses answers POST /v1/responses.
func (x *call) responses() error {
	p, bad := parseParams(x.body)
	if bad != nil {
		return x.refuse(bad)
	}
	g := &generation{id: "resp_" + x.id, model: x.model(p), stream: p.boolean("stream", false), n: 1}
	x.set(func(r *Entry) { r.Model, r.Stream, r.ID = g.model, g.stream, g.id })
	limit := p.integer("max_output_tokens", 0)
	if p.has("max_output_tokens") && limit < 1 {
		p.fail(badRequest("max_tokens", "max_tokens must be at least 1, got %d.", limit))
	}
	r := &response{generation: g, p: p, background: p.boolean("background", false)}
	store := p.boolean("store", true)
	if r.background && !store {
		p.fail(invalid("background", "value_error", "Value error, background can only be used when `store` is true"))
	}
	plan := x.planAnswer(p, limit)
	plan.planTools(p)
	if bad = x.check(p, g.model); bad == nil {
		var pr prompt
		if pr, bad = x.e.conversation(p); bad == nil {
			bad = x.fits(pr, limit)
		}
		g.prompts = []prompt{pr}
	}
	if bad != nil {
		return x.refuse(bad)
	}
	r.limit = cmp.Or(limit, x.e.opt.MaxModelLen-g.prompts[0].tokens)
	if r.background {
		return x.inBackground(r, plan)
	}
	if !g.begin(x, p, plan) {
		return x.full(g.stream)
	}
	if g.stream {
		return x.streamResponse(r, store)
	}
	if err := g.wait(); err != nil {
		return err
	}
	if store {
		x.e.responses.put(r)
	}
	return x.json(r.object(r.outcome()))
}

// conversation renders what the model reads: the response before and its
// answer, the instructions and the input.
func (e *Engine) conversation(p *params) (prompt, *apiError) {
	var b []byte
	if id := p.text("previous_response_id"); id != "" {
		before := e.responses.get(id)
		if before == nil {
			return prompt{}, noResponse(id)
		}
		b = append(b, before.prompts[0].text...)
		if before.answered() {
			b = append(append(b, before.choices[0].text(pieceText)...), '\n')
		}
	}
	if text := p.text("instructions"); text != "" {
		b = append(append(append(b, "<|system|>"...), text...), '\n')
	}
	if !p.has("input") {
		return prompt{}, invalid("input", "missing", "Field required")
	}
	var items []struct {
		Type    string          `json:"type"`
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
		Output  json.RawMessage `json:"output"`
	}
	if text := unquote(p.raw["input"]); len(text) < len(p.raw["input"]) {
		b = append(append(append(b, "<|user|>"...), text...), '\n')
	} else if json.Unmarshal(text, &items) != nil {
		return prompt{}, invalid("input", "list_type", "Input should be a valid list")
	}
	for _, item := range items {
		b = append(append(append(b, "<|"...), cmp.Or(item.Role, item.Type)...), "|>"...)
		b = append(appendContent(b, append(item.Content, item.Output...)), '\n')
	}
	return textPrompt(append(b, "<|assistant|>"...)), p.err
}

// noResponse is the 404 for a response that another engine made, or none.
func noResponse(id string) *apiError {
	return &apiError{404, vllmError("Response with id '"+id+"' not found.", "invalid_request_error", "response_id", 404)}
}

// outcome is the status of a generation that has ended by itself.
func (r *response) outcome() string {
	if r.choices[0].finish == "length" {
		return "incomplete"
	}
	return "completed"
}

// answered tells whether the response has an output.
func (r *response) answered() bool { return r.status() == r.outcome() }

// status is what the stored response says of itself.
func (r *response) status() string {
	if r.kept != nil {
		return r.kept.state()
	}
	return r.outcome()
}

// streamResponse writes the events of a response while it is made.
func (x *call) streamResponse(r *response, store bool) error {
	x.broken = func() (string, []byte) { return r.failed(x.out.events) }
	h := sseHead
	out, err := x.open(&h)
	if err != nil {
		return err
	}
	w := &responseWriter{response: r, emit: func(name string, data []byte) error {
		if name == "response.completed" && x.fault.is("no-done") {
			return nil
		}
		return out.named(name, data)
	}}
	if err := w.write(); err != nil {
		return err
	}
	if store {
		x.e.responses.put(r)
	}
	return out.close(false)
}

// inBackground answers at once and leaves the response to a task.
func (x *call) inBackground(r *response, plan answerPlan) error {
	ctx, cancel := context.WithCancel(context.Background())
	bg := x.detach(ctx, r.id)
	if !r.begin(bg, r.p, plan) {
		cancel()
		return x.full(r.stream)
	}
	x.e.ledger.add(bg.entry)
	r.kept = &task{status: "queued", changed: make(chan struct{}), cancel: cancel}
	x.e.responses.put(r)
	queued := r.object("queued")
	x.e.work.Go(func() { r.complete(bg) })
	x.e.work.Go(func() {
		select {
		case <-x.e.done:
			cancel()
		case <-ctx.Done():
		}
	})
	if r.stream {
		return x.replay(r, 0)
	}
	return x.json(queued)
}

// responseUsage is the usage of a response.
type responseUsage struct {
	Input        int `json:"input_tokens"`
	InputDetails struct {
		Cached  int   `json:"cached_tokens"`
		PerTurn []int `json:"input_tokens_per_turn"`
		Turns   []int `json:"cached_tokens_per_turn"`
	} `json:"input_tokens_details"`
	Output        int `json:"output_tokens"`
	OutputDetails struct {
		Reasoning int   `json:"reasoning_tokens"`
		Tool      int   `json:"tool_output_tokens"`
		PerTurn   []int `json:"output_tokens_per_turn"`
		Turns     []int `json:"tool_output_tokens_per_turn"`
	} `json:"output_tokens_details"`
	Total int `json:"total_tokens"`
}

func (r *response) usage() *responseUsage {
	u := &responseUsage{}
	u.InputDetails.PerTurn, u.InputDetails.Turns = []int{}, []int{}
	u.OutputDetails.PerTurn, u.OutputDetails.Turns = []int{}, []int{}
	switch {
	case r.x.fault.is("usage-missing"):
		return nil
	case r.x.fault.is("usage-zero"):
		return u
	}
	u.Input, u.Output = r.promptTokens(), r.tokens()
	u.Total = u.Input + u.Output
	u.InputDetails.Cached = r.x.e.sched.progress(r.x.seqs).cached
	for _, p := range r.choices[0].pieces {
		if p.kind == pieceReasoning {
			u.OutputDetails.Reasoning++
		}
	}
	return u
}
