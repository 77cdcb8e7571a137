package mockvllm

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// sglangGenerate answers SGLang's own /generate: of one prompt with an object,
// of a list with a list. Every event of its streams has the whole text so far.
func (x *call) sglangGenerate() error {
	x.native = true
	p, bad := parseParams(x.body)
	if bad != nil {
		return x.refuse(bad)
	}
	sub := &params{}
	if p.has("sampling_params") && json.Unmarshal(p.raw["sampling_params"], &sub.raw) != nil {
		p.fail(invalid("sampling_params", "dict_type", "Input should be a valid dictionary"))
	}
	g := &generation{id: x.id, model: x.e.opt.Models[0], stream: p.boolean("stream", false), n: sub.integer("n", 1)}
	x.set(func(r *Entry) { r.Model, r.Stream = g.model, g.stream })
	if rid := p.text("rid"); rid != "" {
		g.id = rid
	}
	field := "text"
	if !p.has(field) {
		field = "input_ids"
	}
	limit := sub.integer("max_new_tokens", 0)
	plan := x.planAnswer(p, limit)
	plan.stop = sub.texts("stop")
	if sub.err != nil {
		p.fail(sub.err)
	}
	if !p.has(field) {
		p.fail(badRequest("", "Either text, input_ids or input_embeds should be provided."))
	} else if g.prompts, bad = promptList(field, p.raw[field]); bad != nil {
		p.fail(bad)
	}
	bad = x.check(p, g.model)
	for _, pr := range g.prompts {
		if bad == nil {
			bad = x.fits(pr, limit)
		}
	}
	if bad != nil {
		return x.refuse(bad)
	}
	if !g.begin(x, p, plan) {
		return x.full(g.stream)
	}
	return g.sglangOutput(isBatch(p.raw[field], field == "input_ids"))
}

// isBatch tells a list of prompts from a single one.
func isBatch(raw json.RawMessage, ids bool) bool {
	depth := strings.Trim(string(raw[:min(len(raw), 64)]), " \t\r\n")
	if ids {
		depth = strings.TrimLeft(strings.TrimPrefix(depth, "["), " \t\r\n")
	}
	return strings.HasPrefix(depth, "[")
}

func (g *generation) sglangOutput(batch bool) error {
	batch = batch || g.n > 1
	if g.stream {
		return g.sglangEvents(batch)
	}
	if err := g.wait(); err != nil {
		return err
	}
	list := g.each(func(i int) object { return g.sglangText(i, len(g.choices[i].pieces)) })
	if !batch {
		return g.x.json(list[0])
	}
	return g.x.json(list)
}

func (g *generation) sglangEvents(batch bool) error {
	h := sseHead
	out, err := g.x.open(&h)
	if err != nil {
		return err
	}
	err = g.deliver(func(i, j int) error {
		o := g.sglangText(i, j+1)
		if batch {
			o = append(o, "index", i)
		}
		return out.event(encode(o))
	})
	if err != nil {
		return err
	}
	return out.close(true)
}

// sglangText is choice i as far as its first n tokens.
func (g *generation) sglangText(i, n int) object {
	c := choice{pieces: g.choices[i].pieces[:n]}
	var text strings.Builder
	ids := make([]int, n)
	for j, p := range c.pieces {
		text.WriteString(p.text)
		ids[j] = int(textSeed([]byte(p.text)) % 32000)
	}
	return object{"text", text.String(), "output_ids", ids, "meta_info", g.sglangMeta(i, n)}
}

func (g *generation) sglangMeta(i, n int) object {
	c, id := &g.choices[i], g.id
	if len(g.choices) > 1 {
		id = fmt.Sprintf("%s-%d", g.id, i)
	}
	var finish any
	if g.lastPiece(i, n-1) {
		finish = object{"type", "stop", "matched", c.matched()}
		if c.finish == "length" {
			finish = object{"type", "length", "length", n}
		}
	}
	meta := object{"id", id, "finish_reason", finish}
	if !g.x.fault.is("usage-missing") {
		prompt, tokens := g.prompts[i/g.n].tokens, n
		if g.x.fault.is("usage-zero") {
			prompt, tokens = 0, 0
		}
		meta = append(meta, "prompt_tokens", prompt, "completion_tokens", tokens, "reasoning_tokens", thought(c.pieces[:n]),
			"cached_tokens", g.x.e.sched.progress(g.x.seqs[i:i+1]).cached)
	}
	return append(meta, "weight_version", "default", "e2e_latency", time.Since(g.x.arrived).Seconds())
}
