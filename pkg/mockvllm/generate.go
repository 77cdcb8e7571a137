package mockvllm

import (
	"errors"
	"strconv"
	"time"
)

// errFailed ends a call whose stream has ended with an error event.
var errFailed = errors.New("generation failed")

// generation is one request for text, of whichever API.
type generation struct {
	x       *call
	id      string
	created int64
	model   string // as the answer names it

	stream     bool
	include    bool // a last chunk with the usage
	continuous bool // usage in every chunk

	prompts []prompt
	n       int // answers to each prompt
	choices []choice
	counts  []int // tokens of each choice so far
}

// check refuses what vLLM refuses before it generates; the other dialects let
// unknown models and priorities pass.
func (x *call) check(p *params, model string) *apiError {
	if p.err != nil {
		return p.err
	}
	if x.e.dialect.strict && !x.e.serves(model) {
		return &apiError{404, vllmError("The model `"+model+"` does not exist.", "NotFoundError", "model", 404)}
	}
	if x.e.dialect.strict && p.integer("priority", 0) != 0 {
		return badRequest("priority", "Got priority %s but Priority scheduling is not enabled.", p.raw["priority"])
	}
	if n := p.integer("n", 1); n < 1 || n > 1024 {
		return badRequest("n", "n must be between 1 and 1024, got %d.", n)
	}
	return p.err
}

// fits refuses a prompt that, with its answer, is longer than the context.
func (x *call) fits(p prompt, limit int) *apiError {
	if most := x.e.opt.MaxModelLen; p.tokens+limit > most || p.tokens >= most {
		return badRequest("input_tokens", "This model's maximum context length is %d tokens. However, you requested "+
			"%d output tokens and your prompt contains at least %d input tokens, for a total of at least %d tokens. "+
			"Please reduce the length of the input prompt or the number of requested output tokens.",
			most, limit, p.tokens, p.tokens+limit)
	}
	return nil
}

// model reads the model's name: none means the first one served.
func (x *call) model(p *params) string {
	if m := p.text("model"); m != "" {
		return m
	}
	return x.e.opt.Models[0]
}

// begin fills in what all generations share and queues the sequences; false
// when the queue is full.
func (g *generation) begin(x *call, p *params, plan answerPlan) bool {
	g.x, g.created = x, time.Now().Unix()
	if x.fault.is("wrong-model") {
		g.model = "another-model"
	}
	salt := g.model + "\x00" + p.text("cache_salt")
	delay := x.e.opt.PrefillDelay
	if p.has("mock_prefill_ms") {
		delay = time.Duration(p.integer("mock_prefill_ms", 0)) * time.Millisecond
	}
	var seqs []*sequence
	for _, pr := range g.prompts {
		hashes := blockHashes(salt, pr.text)
		plan := plan
		plan.limit = min(plan.limit, x.e.opt.MaxModelLen-pr.tokens)
		for i := range g.n {
			c := plan.choice(textSeed(pr.text, p.raw["seed"], []byte{byte(i)}))
			g.choices = append(g.choices, c)
			reason := "stop"
			if c.finish == "length" {
				reason = "length"
			}
			seqs = append(seqs, &sequence{
				prompt: pr.tokens, hashes: hashes, want: len(c.pieces), reason: reason, each: g.stream, delay: delay,
			})
		}
	}
	g.counts = make([]int, len(seqs))
	x.set(func(r *Entry) {
		r.ID, r.Stream, r.PromptTokens = g.id, g.stream, g.promptTokens()
	})
	return x.run(seqs)
}

func (g *generation) promptTokens() int {
	sum := 0
	for _, p := range g.prompts {
		sum += p.tokens
	}
	return sum
}

func (g *generation) tokens() int {
	sum := 0
	for i := range g.choices {
		sum += len(g.choices[i].pieces)
	}
	return sum
}

// wait returns when every answer is complete.
func (g *generation) wait() error {
	for !g.x.e.sched.tokens(g.x.seqs, g.counts) {
		if err := g.x.more(); err != nil {
			return err
		}
	}
	return nil
}

// deliver calls token for every piece as it is generated, choices taking turns.
func (g *generation) deliver(token func(choice, piece int) error) error {
	sent := make([]int, len(g.choices))
	for {
		over := g.x.e.sched.tokens(g.x.seqs, g.counts)
		for again := true; again; {
			again = false
			for i := range sent {
				if sent[i] == g.counts[i] {
					continue
				}
				if err := g.x.ctx.Err(); err != nil {
					return err
				}
				if err := token(i, sent[i]); err != nil {
					return err
				}
				sent[i]++
				again = true
			}
		}
		if over {
			return nil
		}
		if err := g.x.more(); err != nil {
			return err
		}
	}
}

// appendUsage appends a UsageInfo; full is model_dump, where unset details are
// null, as opposed to exclude_unset.
func (g *generation) appendUsage(b []byte, promptTokens, tokens int, full bool) []byte {
	if g.x.fault.is("usage-zero") {
		promptTokens, tokens = 0, 0
	}
	b = append(b, `{"prompt_tokens":`...)
	b = strconv.AppendInt(b, int64(promptTokens), 10)
	b = append(b, `,"total_tokens":`...)
	b = strconv.AppendInt(b, int64(promptTokens+tokens), 10)
	b = append(b, `,"completion_tokens":`...)
	b = strconv.AppendInt(b, int64(tokens), 10)
	switch {
	case g.x.e.opt.PromptTokenDetails:
		b = append(b, `,"prompt_tokens_details":{"cached_tokens":`...)
		b = strconv.AppendInt(b, int64(g.x.e.sched.progress(g.x.seqs).cached), 10)
		b = append(b, '}')
	case full:
		b = append(b, `,"prompt_tokens_details":null`...)
	}
	return append(b, '}')
}

// appendHead appends the fields every chunk and answer begins with.
func (g *generation) appendHead(b []byte, object string) []byte {
	b = append(b, `{"id":`...)
	b = appendString(b, g.id)
	b = append(b, `,"object":"`...)
	b = append(b, object...)
	b = append(b, `","created":`...)
	b = strconv.AppendInt(b, g.created, 10)
	b = append(b, `,"model":`...)
	return appendString(b, g.model)
}

// appendOptional appends s as a string, or null when it is empty.
func appendOptional(b []byte, s string) []byte {
	if s == "" {
		return append(b, "null"...)
	}
	return appendString(b, s)
}

var (
	sseHead  = head{status: 200, contentType: "text/event-stream; charset=utf-8"}
	jsonHead = head{status: 200, contentType: "application/json"}
)

// refuse answers with an error.
func (x *call) refuse(e *apiError) error {
	h := jsonHead
	h.status = e.status
	return x.whole(&h, []byte(e.body))
}

// full answers a request that finds the queue full.
func (x *call) full(stream bool) error {
	if answer := x.e.dialect.full; answer != nil && stream {
		return answer(x)
	}
	return x.refuse(queueFull())
}

// queueFull is the 503 of --max-num-queued-reqs.
func queueFull() *apiError {
	return &apiError{503, vllmError("The request queue is full. Please retry later.", "ServiceUnavailableError", "", 503)}
}
