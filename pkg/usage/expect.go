package usage

import (
	"bytes"
	"math"
	"strconv"

	"github.com/goccy/go-json/jsontext"
)

// Expectation is what a request may come to use, by what its body says. Engines
// differ in which of several fields they read, and which of two equal ones, so it
// goes by the largest number that is there.
type Expectation struct {
	// Bytes is how long the prompt is, see PromptBytes.
	Bytes int
	// Output is how many tokens each answer may have; -1 when none of the fields is
	// there that all engines of the surface read. AtLeast is then what a field says
	// that some of them read, 0 without one.
	Output, AtLeast int64
	// Answers is how many answers there may be, over all prompts; at least 1.
	Answers int64
	// Background says that the answer is fetched later (the Responses API).
	Background bool
}

// mostAsked bounds each number of an Expectation.
const mostAsked = 1 << 40

// Expect reads what a request of a surface of that kind may use. body is JSON.
func Expect(kind Kind, body []byte) Expectation {
	e := expecting{kind: kind, own: -1, answers: 1, prompts: 1}
	e.object(body)
	x := Expectation{
		Bytes: PromptBytes(body), Output: e.own, AtLeast: e.all, Background: e.background,
		Answers: min(e.answers, 1<<20) * min(e.prompts, 1<<20),
	}
	switch {
	case kind == KindPooling:
		x.Output, x.AtLeast = 0, 0
	case x.Output >= 0:
		x.Output, x.AtLeast = max(e.own, e.all), 0
	}
	return x
}

// expecting is an Expectation on its way.
type expecting struct {
	kind             Kind
	own, all         int64 // of the limits that every engine of the kind reads, and of all
	answers, prompts int64
	background       bool
}

// object reads the members of a request, or of its parameters.
func (e *expecting) object(b []byte) {
	m := members{b: b}
	for ok := m.open(0); ok && m.next(); {
		name, value := m.b[m.key.start:m.key.end], m.b[m.value.start:m.value.end]
		if bytes.IndexByte(name, '\\') >= 0 {
			var buf [32]byte
			name, _ = jsontext.AppendUnquote(buf[:0], m.b[m.key.start-1:m.key.end+1])
		}
		e.member(name, value)
	}
}

func (e *expecting) member(name, value []byte) {
	switch string(name) {
	case "max_tokens":
		e.limit(value, e.kind == KindChat || e.kind == KindCompletions || e.kind == KindMessages)
	case "max_completion_tokens":
		e.limit(value, e.kind == KindChat)
	case "max_output_tokens":
		e.limit(value, e.kind == KindResponses)
	case "max_new_tokens":
		e.limit(value, e.kind == KindTGI || e.kind == KindSGLang)
	case "n_predict": // llama.cpp's, before max_tokens
		e.limit(value, false)
	case "n", "best_of", "n_cmpl":
		if n, ok := asked(value); ok {
			e.answers = max(e.answers, n)
		}
	case "prompt", "text", "input_ids":
		if e.kind == KindCompletions || e.kind == KindSGLang {
			e.prompts = max(e.prompts, lists(value))
		}
	case "parameters", "sampling_params":
		e.nested(value)
	case "background":
		e.background = e.background || isTrue(value)
	}
}

// nested reads the parameters of TGI, and those of SGLang, which may be a list.
func (e *expecting) nested(value []byte) {
	if len(value) == 0 || value[0] != '[' {
		e.object(value)
		return
	}
	for i := 1; i < len(value); {
		if value[i] != '{' {
			i++
			continue
		}
		end := valueEnd(value, i)
		if end == i {
			return
		}
		e.object(value[i:end])
		i = end
	}
}

func (e *expecting) limit(value []byte, own bool) {
	n, ok := asked(value)
	if !ok {
		return
	}
	e.all = max(e.all, n)
	if own {
		e.own = max(e.own, n)
	}
}

// asked reads a number as an engine may that is not strict: 256.0, 1e3 and "100" are
// integers. A negative one is none, and so is what no engine takes.
func asked(value []byte) (n int64, ok bool) {
	for _, c := range value {
		if c < '0' || c > '9' || n > mostAsked {
			return askedOddly(value)
		}
		n = 10*n + int64(c-'0')
	}
	return min(n, mostAsked), len(value) > 0
}

func askedOddly(value []byte) (n int64, ok bool) {
	text := string(bytes.ReplaceAll(bytes.Trim(value, "\" \t\r\n"), []byte("_"), nil))
	x, err := strconv.ParseFloat(text, 64)
	if err != nil && !math.IsInf(x, 0) || math.IsNaN(x) || x < 0 {
		return 0, false
	}
	return int64(min(math.Ceil(x), mostAsked)), true
}

// lists is how many prompts a value is: a list of texts or of lists of tokens is
// many, a list of tokens one.
func lists(value []byte) (n int64) {
	if len(value) == 0 || value[0] != '[' {
		return 1
	}
	for i := 1; i < len(value); i++ {
		switch value[i] {
		case '"', '[', '{':
			end := valueEnd(value, i)
			if end == i {
				return max(n, 1)
			}
			n++
			i = end - 1
		}
	}
	return max(n, 1)
}
