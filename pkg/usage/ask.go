package usage

import (
	"bytes"
	"unsafe"

	"github.com/llmproxy/llmproxy/pkg/openai"
)

// Style is what an engine makes of stream_options, and what its streams say of
// usage unasked.
type Style struct {
	Told       bool // they tell it anyway: nothing need be asked
	EmptyAsks  bool // stream_options without include_usage ask for it, against OpenAI's rule
	Continuous bool // it knows continuous_usage_stats

	// Plain and Every are what gives a client that asked for no usage its chunks
	// back, when usage was asked for once, and in every chunk.
	Plain, Every Chunks
}

// StyleOf is the style of an engine: "vllm", "vllm-rust", "sglang", "tgi" or
// "llamacpp", in KindChat or KindCompletions. Any other is taken to follow OpenAI's
// rules, and keeps its nulls.
func StyleOf(engine string, kind Kind) Style {
	chat := kind == KindChat
	switch engine {
	case "vllm":
		if chat {
			// Older versions write a null into the chunks when they are asked for
			// usage; newer ones write nothing.
			return Style{EmptyAsks: true, Continuous: true, Plain: ChunksRemove, Every: ChunksRemove}
		}
		return Style{EmptyAsks: true, Continuous: true, Every: ChunksNull}
	case "vllm-rust":
		return Style{Continuous: true, Every: ChunksRemove}
	case "sglang":
		if chat {
			return Style{Continuous: true, Plain: ChunksRemove, Every: ChunksRemove}
		}
		return Style{Continuous: true, Every: ChunksNull}
	case "tgi":
		return Style{Told: !chat} // of each prompt, with its last chunk
	case "llamacpp":
		return Style{Told: true} // as timings
	}
	return Style{Continuous: true, Every: ChunksRemove}
}

// Asking is what makes an engine report the usage of a stream.
type Asking struct {
	Asked bool // by the client: it gets the usage
	Take  Take // for the Filter: what the client has not asked for

	size  int // of the body
	n     int
	edits [2]edit // n of them, in the order of their places
}

// edit replaces body[at.Start:at.End] by text.
type edit struct {
	at   openai.Span
	text string
}

// What Ask puts in. All are constants, so that nothing is put together while a
// request waits.
const (
	usageOption = `"include_usage":true`
	statsOption = `"continuous_usage_stats":true`
	usageObject = "{" + usageOption + "}"
	bothObject  = "{" + usageOption + "," + statsOption + "}"
	addUsage    = `,"stream_options":` + usageObject
	addBoth     = `,"stream_options":` + bothObject
)

// Ask tells what to do to a request of chat or completions, of which r is the
// parsed body, so that its stream reports usage; with continuous also in every
// chunk, where the engine can. Nothing is to be done for a request that does not
// stream, an engine that reports anyway, and stream_options that no engine takes.
func Ask(r *openai.Request, body []byte, s Style, continuous bool) Asking {
	a := Asking{size: len(body)}
	if !r.Stream || s.Told {
		return a
	}
	continuous = continuous && s.Continuous
	at := r.StreamOptionsSpan
	var o options
	switch {
	case at == (openai.Span{}):
		// There is a member before it: "stream".
		a.edit(openai.Span{Start: r.ObjectEnd, End: r.ObjectEnd}, pick(continuous, addBoth, addUsage))
	case body[at.Start] == 'n':
		a.edit(at, pick(continuous, bothObject, usageObject))
	case body[at.Start] == '{':
		o.read(body[:at.End], at.Start)
		a.Asked = o.include.on || s.EmptyAsks && !o.include.there
		a.options(&o, at, continuous)
	default:
		return a
	}
	every := continuous || o.stats.on
	a.Take.Final = !a.Asked
	switch {
	case every && !(a.Asked && o.stats.on):
		a.Take.Chunks = s.Every
	case !a.Asked:
		a.Take.Chunks = s.Plain
	}
	return a
}

func pick(continuous bool, both, one string) string {
	if continuous {
		return both
	}
	return one
}

// options are the stream_options that a client sent.
type options struct {
	include, stats option
	empty          bool
	odd            bool // a name occurs twice, or is spelled with an escape
}

// option is one of them.
type option struct {
	there, on bool
	value     span
}

func (o *options) read(body []byte, at int) {
	m := members{b: body}
	m.open(at)
	for o.empty = true; m.next(); o.empty = false {
		name := body[m.key.start:m.key.end]
		p := &o.include
		switch string(name) {
		case "include_usage":
		case "continuous_usage_stats":
			p = &o.stats
		default:
			o.odd = o.odd || bytes.IndexByte(name, '\\') >= 0
			continue
		}
		o.odd = o.odd || p.there
		*p = option{true, isTrue(body[m.value.start:m.value.end]), m.value}
	}
}

// isTrue is pydantic's rule, by which vLLM and SGLang read an option. What it
// refuses is not true.
// https://docs.pydantic.dev/latest/api/standard_library_types/#booleans
func isTrue(value []byte) bool {
	value = bytes.Trim(value, `"`)
	for _, word := range [...]string{"true", "1", "1.0", "yes", "on", "t", "y"} {
		if len(value) == len(word) && bytes.EqualFold(value, []byte(word)) {
			return true
		}
	}
	return false
}

// options edits the object at, which has members that must stay. One that engines
// may read in different ways is written anew.
func (a *Asking) options(o *options, at openai.Span, continuous bool) {
	include, stats := !a.Asked, continuous && !o.stats.on
	switch {
	case !include && !stats:
		return
	case o.empty || o.odd:
		a.edit(at, pick(continuous || o.stats.on, bothObject, usageObject))
		return
	}
	front := openai.Span{Start: at.Start + 1, End: at.Start + 1}
	switch newInclude, newStats := include && !o.include.there, stats && !o.stats.there; {
	case newInclude && newStats:
		a.edit(front, usageOption+","+statsOption+",")
	case newInclude:
		a.edit(front, usageOption+",")
	case newStats:
		a.edit(front, statsOption+",")
	}
	first, second := &o.include, &o.stats
	if include, stats = include && first.there, stats && second.there; first.value.start > second.value.start {
		first, second, include, stats = second, first, stats, include
	}
	if include {
		a.edit(openai.Span{Start: first.value.start, End: first.value.end}, "true")
	}
	if stats {
		a.edit(openai.Span{Start: second.value.start, End: second.value.end}, "true")
	}
}

func (a *Asking) edit(at openai.Span, text string) {
	a.edits[a.n] = edit{at, text}
	a.n++
}

// Changes tells whether the body may not go as it is.
func (a *Asking) Changes() bool { return a.n > 0 }

// Splice appends to dst the parts that, sent one after the other, are the body
// with the edits made. parts is the body without them: as it came, or as
// (*openai.Request).Splice left it with another model. dst and parts must not
// overlap: dst gets up to four parts more than there are. Nothing is copied, and
// the parts must not be written to.
func (a *Asking) Splice(dst, parts [][]byte) [][]byte {
	edits := a.edits[:a.n]
	for i, part := range parts {
		start := 0 // of the part in the body
		switch i {
		case 0:
		case len(parts) - 1:
			start = a.size - len(part)
		default:
			dst = append(dst, part) // the model
			continue
		}
		at := start
		for len(edits) > 0 && edits[0].at.End <= start+len(part) {
			e := edits[0]
			dst = append(dst, part[at-start:e.at.Start-start], unsafe.Slice(unsafe.StringData(e.text), len(e.text)))
			at, edits = e.at.End, edits[1:]
		}
		dst = append(dst, part[at-start:])
	}
	return dst
}

// Answers is how many answers to each prompt a request of KindCompletions or
// KindSGLang wants: its n, 1 where there is none. body is JSON.
func Answers(kind Kind, body []byte) int {
	n, m := 1, members{b: body}
	for ok := m.open(0); ok && m.next(); {
		switch name := string(body[m.key.start:m.key.end]); {
		case name == "n":
			n = max(1, int(plainNumber(bytes.Trim(body[m.value.start:m.value.end], `"`))))
		case name == "sampling_params" && kind == KindSGLang:
			n = Answers(KindNone, body[m.value.start:m.value.end])
		}
	}
	return n
}
