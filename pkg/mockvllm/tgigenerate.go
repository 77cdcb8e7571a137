package mockvllm

import (
	"encoding/json"
	"hash/crc32"
	"strconv"
)

// tgiCompat answers POST /: /generate or /generate_stream by the body's stream.
func (x *call) tgiCompat(p *params) error {
	return x.tgiGenerate(p, p.boolean("stream", false), true)
}

// tgiGenerate answers TGI's own API; list wraps a whole answer in an array, as
// the compatible path does.
func (x *call) tgiGenerate(p *params, stream, list bool) error {
	x.native = true
	sub := &params{}
	if p.has("parameters") && json.Unmarshal(p.raw["parameters"], &sub.raw) != nil || !p.has("inputs") {
		return x.tgiText(422, "Failed to deserialize the JSON body into the target type: missing field `inputs` at line 1 column 2")
	}
	limit := sub.integer("max_new_tokens", 0)
	if sub.err == nil && sub.has("max_new_tokens") && limit < 1 {
		return x.tgiInvalid(sub, "`max_new_tokens` must be strictly positive")
	}
	g := &generation{stream: stream, prompts: []prompt{textPrompt([]byte(p.text("inputs")))}}
	plan := x.planAnswer(p, limit)
	plan.stop = sub.texts("stop")
	if sub.err != nil {
		p.fail(sub.err)
	}
	leave, err := x.tgiEnter(stream)
	if err != nil {
		return err
	}
	defer leave()
	if ok, err := g.tgiRun(x, p, plan); !ok {
		return err
	}
	full := ""
	if sub.boolean("return_full_text", false) {
		full = string(g.prompts[0].text)
	}
	if stream {
		return g.tgiStreamNative(sub, full)
	}
	if err := g.wait(); err != nil {
		return err
	}
	h := tgiHead(200, "application/json")
	g.tgiTimes(h)
	b := g.tgiNative(sub, full)
	if list {
		b = append(append([]byte{'['}, b...), ']')
	}
	return x.whole(h, b)
}

func (g *generation) tgiStreamNative(sub *params, full string) error {
	out, err := g.x.tgiOpen()
	if err != nil {
		return err
	}
	var b []byte
	err = g.deliver(func(i, j int) error {
		c := &g.choices[i]
		b = append(b[:0], `{"index":`...)
		b = strconv.AppendInt(b, int64(j+1), 10)
		b = append(b, `,"token":`...)
		b = appendToken(b, c.pieces[j])
		b = append(b, `,"generated_text":`...)
		if j < len(c.pieces)-1 {
			return out.event(append(b, `null,"details":null}`...))
		}
		b = appendString(b, full+c.text(pieceText))
		b = append(b, `,"details":`...)
		if !sub.boolean("details", false) {
			return out.event(append(b, "null}"...))
		}
		b = g.appendDetails(b, sub)
		b = append(b, `,"input_length":`...)
		b = strconv.AppendInt(b, int64(g.promptTokens()), 10)
		return out.event(append(b, "}}"...))
	})
	if err != nil {
		return err
	}
	return out.close(false)
}

// tgiNative is the whole answer of /generate.
func (g *generation) tgiNative(sub *params, full string) []byte {
	c := &g.choices[0]
	b := appendString([]byte(`{"generated_text":`), full+c.text(pieceText))
	if sub.boolean("details", false) || sub.boolean("decoder_input_details", false) {
		b = append(b, `,"details":`...)
		b = g.appendDetails(b, sub)
		b = append(b, `,"prefill":[],"tokens":[`...)
		for j, p := range c.pieces {
			if j > 0 {
				b = append(b, ',')
			}
			b = appendToken(b, p)
		}
		b = append(b, "]}"...)
	}
	return append(b, '}')
}

// appendDetails appends the beginning of details; the brace stays open.
func (g *generation) appendDetails(b []byte, sub *params) []byte {
	b = append(b, `{"finish_reason":"`...)
	b = append(b, tgiFinish(&g.choices[0])...)
	b = append(b, `","generated_tokens":`...)
	b = strconv.AppendInt(b, int64(g.tokens()), 10)
	b = append(b, `,"seed":`...)
	if sub.has("seed") {
		return append(b, sub.raw["seed"]...)
	}
	return append(b, "null"...)
}

// tgiFinish is TGI's own word for why an answer ended.
func tgiFinish(c *choice) string {
	switch {
	case c.finish == "length":
		return "length"
	case c.stop != "":
		return "stop_sequence"
	}
	return "eos_token"
}

// appendToken appends TGI's Token.
func appendToken(b []byte, p piece) []byte {
	text, id, special := p.text, uint64(crc32.ChecksumIEEE([]byte(p.text))%32000), "false"
	if p.kind == pieceEnd {
		text, id, special = "</s>", 2, "true"
	}
	b = append(b, `{"id":`...)
	b = strconv.AppendUint(b, id, 10)
	b = append(b, `,"text":`...)
	b = appendString(b, text)
	b = append(b, `,"logprob":-0.5,"special":`...)
	b = append(b, special...)
	return append(b, '}')
}
