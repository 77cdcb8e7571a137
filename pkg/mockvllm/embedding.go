package mockvllm

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"strconv"
	"time"
)

// embeddingSize is the default number of dimensions.
const embeddingSize = 64

// embedding answers POST /v1/embeddings. The vectors depend on the text alone.
func (x *call) embedding() error { return x.embed(x.vllmEmbeddings) }

// embed answers with the vectors in an envelope, which is given them as a JSON
// list.
func (x *call) embed(envelope func(model string, data json.RawMessage, tokens int) []byte) error {
	p, bad := parseParams(x.body)
	if bad != nil {
		return x.refuse(bad)
	}
	model := x.model(p)
	x.set(func(r *Entry) { r.Model, r.ID = model, "embd-"+x.id })
	if !p.has("input") {
		p.fail(invalid("input", "missing", "Field required"))
	}
	format, size := p.text("encoding_format"), p.integer("dimensions", embeddingSize)
	if format != "" && format != "float" && format != "base64" {
		p.fail(invalid("encoding_format", "literal_error", "Input should be \\'float\\' or \\'base64\\'"))
	}
	if size < 1 || size > 4096 {
		p.fail(badRequest("dimensions", "dimensions must be between 1 and 4096, got %d.", size))
	}
	var inputs []prompt
	if p.err == nil {
		inputs, p.err = promptList("input", p.raw["input"])
	}
	if bad := x.check(p, model); bad != nil {
		return x.refuse(bad)
	}
	b, tokens := []byte{'['}, 0
	for i, in := range inputs {
		if bad := x.fits(in, 0); bad != nil {
			return x.refuse(bad)
		}
		tokens += in.tokens
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"index":`...)
		b = strconv.AppendInt(b, int64(i), 10)
		b = append(b, `,"object":"embedding","embedding":`...)
		b = appendVector(b, textSeed(in.text), size, format == "base64")
		b = append(b, '}')
	}
	x.set(func(r *Entry) { r.PromptTokens = tokens })
	h := jsonHead
	return x.whole(&h, envelope(model, append(b, ']'), tokens))
}

func (x *call) vllmEmbeddings(model string, data json.RawMessage, tokens int) []byte {
	b := append([]byte(nil), `{"id":"embd-`...)
	b = append(b, x.id...)
	b = append(b, `","object":"list","created":`...)
	b = strconv.AppendInt(b, time.Now().Unix(), 10)
	b = append(b, `,"model":`...)
	b = appendString(b, model)
	b = append(append(b, `,"data":`...), data...)
	b = append(b, `,"usage":{"prompt_tokens":`...)
	b = strconv.AppendInt(b, int64(tokens), 10)
	b = append(b, `,"total_tokens":`...)
	b = strconv.AppendInt(b, int64(tokens), 10)
	return append(b, `,"completion_tokens":0,"prompt_tokens_details":null}}`...)
}

// appendVector appends a unit vector, as JSON numbers or as base64 of
// little-endian float32.
func appendVector(b []byte, seed uint64, size int, packed bool) []byte {
	v := make([]float32, size)
	sum := 0.0
	for i := range v {
		seed = seed*6364136223846793005 + 1442695040888963407
		v[i] = float32(int32(seed>>32)) / (1 << 31)
		sum += float64(v[i]) * float64(v[i])
	}
	norm := float32(math.Sqrt(sum))
	if packed {
		raw := make([]byte, 0, 4*size)
		for _, f := range v {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(f/norm))
		}
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, raw)
		return append(b, '"')
	}
	b = append(b, '[')
	for i, f := range v {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendFloat(b, float64(f/norm), 'g', -1, 32)
	}
	return append(b, ']')
}
