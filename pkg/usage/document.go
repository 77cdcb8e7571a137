package usage

import (
	"math"
	"strconv"
	"unsafe"
)

// field is a number that counts.
type field uint8

const (
	noField field = iota
	fieldPrompt
	fieldCompletion
	fieldTotal
	fieldCached
	fieldCacheRead  // Anthropic's, which its input_tokens do not include
	fieldCacheWrite // the same
	fieldReasoning
	fieldPromptNew // of llama.cpp's timings: what the cache had not
	fieldPromptOld // of llama.cpp's timings: what the cache had
	fieldPredicted // of llama.cpp's timings
	fieldIndex
	fieldSeconds
	fields
)

// counts are the numbers of one document.
type counts struct {
	has     uint16 // bit set of fields
	number  [fields]int64
	seconds float64
}

func (c *counts) set(f field, n int64) { c.has |= 1 << f; c.number[f] = n }

// node is a container by what counts in it.
type node uint8

const (
	nodeOther    node = iota // nothing
	nodeList                 // a list of documents, as SGLang's answers to several prompts are
	nodeTop                  // a document
	nodeResponse             // Responses' "response" or Anthropic's "message", which holds a usage
	nodeUsage
	nodeDetails // of a usage's tokens
	nodeMeta    // SGLang's meta_info
	nodeTimings // llama.cpp's
	nodeTGI     // TGI's details
	nodeChoices
	nodeChoice // the first of them
)

// member tells what the member of a container is: a container itself, or a number.
func (in node) member(name []byte) (node, field) {
	switch in {
	case nodeTop, nodeResponse, nodeChoice:
		return in.part(name)
	case nodeUsage:
		return usageMember(name)
	case nodeDetails, nodeMeta:
		switch string(name) {
		case "cached_tokens":
			return nodeOther, fieldCached
		case "reasoning_tokens":
			return nodeOther, fieldReasoning
		case "prompt_tokens":
			return nodeOther, fieldPrompt
		case "completion_tokens":
			return nodeOther, fieldCompletion
		}
	case nodeTimings:
		switch string(name) {
		case "prompt_n":
			return nodeOther, fieldPromptNew
		case "cache_n":
			return nodeOther, fieldPromptOld
		case "predicted_n":
			return nodeOther, fieldPredicted
		}
	case nodeTGI:
		switch string(name) {
		case "generated_tokens":
			return nodeOther, fieldCompletion
		case "input_length":
			return nodeOther, fieldPrompt
		}
	}
	return nodeOther, noField
}

// part is member for what holds the containers that count.
func (in node) part(name []byte) (node, field) {
	switch string(name) {
	case "usage":
		if in != nodeChoice {
			return nodeUsage, noField
		}
	case "index":
		return nodeOther, fieldIndex
	}
	if in != nodeTop {
		return nodeOther, noField
	}
	switch string(name) {
	case "choices":
		return nodeChoices, noField
	case "response", "message":
		return nodeResponse, noField
	case "meta_info":
		return nodeMeta, noField
	case "timings":
		return nodeTimings, noField
	case "details":
		return nodeTGI, noField
	case "duration":
		return nodeOther, fieldSeconds
	}
	return nodeOther, noField
}

func usageMember(name []byte) (node, field) {
	switch string(name) {
	case "prompt_tokens", "input_tokens":
		return nodeOther, fieldPrompt
	case "completion_tokens", "output_tokens":
		return nodeOther, fieldCompletion
	case "total_tokens":
		return nodeOther, fieldTotal
	case "reasoning_tokens": // SGLang's
		return nodeOther, fieldReasoning
	case "cache_read_input_tokens":
		return nodeOther, fieldCacheRead
	case "cache_creation_input_tokens":
		return nodeOther, fieldCacheWrite
	case "seconds":
		return nodeOther, fieldSeconds
	case "prompt_tokens_details", "completion_tokens_details", "input_tokens_details", "output_tokens_details":
		return nodeDetails, noField
	}
	return nodeOther, noField
}

// document reads JSON in passing, and keeps the numbers that stand where usage
// stands; a number of the same name elsewhere, where a client's own words may be
// echoed, counts for nothing. However the bytes are cut, the result is the same.
type document struct {
	counts
	choices bool // there was one
	nested  bool // the usage was that of a "response" or "message"

	state   docState
	in      node
	depth   int
	stack   [6]node // the containers as deep as any counts
	wantKey bool    // the next string is a name
	odd     bool    // an odd number of backslashes was the last of a string that is cut
	next    node    // what the member is whose value comes
	field   field
	textN   int
	text    [len("cache_creation_input_tokens") + 1]byte // a name or number that is cut
}

type docState uint8

const (
	docBetween docState = iota
	docString
	docNumber
)

// read reads on, as far as the end of a document (of the whole, or of one in a
// list): done then tells that, and rest is what stands behind it.
func (d *document) read(p []byte) (rest []byte, done bool) {
	i := 0
	switch d.state {
	case docString:
		i = d.str(p, i)
	case docNumber:
		i = d.num(p, i)
	}
	for i < len(p) {
		if d.in == nodeOther && d.depth > 0 {
			if i = structural(p, i); i == len(p) {
				break
			}
		}
		switch c := p[i]; c {
		case '"':
			d.odd, d.textN = false, 0
			i = d.str(p, i+1)
			continue
		case '{', '[':
			d.push(c)
		case '}', ']':
			if d.pop() {
				return p[i+1:], true
			}
		case ':':
			d.wantKey = false
		case ',':
			d.wantKey = d.in > nodeList && d.in != nodeChoices
			d.next, d.field = nodeOther, noField
		default:
			i = d.other(p, i)
			continue
		}
		i++
	}
	return nil, false
}

// resume makes a new document as good as read up to the comma behind a member.
func (d *document) resume() { d.depth, d.in, d.stack[1] = 1, nodeTop, nodeTop }

// other reads a number that counts, or over what is none and no string either.
func (d *document) other(p []byte, i int) int {
	if d.field != noField && !d.wantKey && (p[i]-'0' <= 9 || p[i] == '-') {
		d.textN = 0
		return d.num(p, i)
	}
	for i++; i < len(p); i++ {
		if c := p[i]; c|0x20-'a' > 'z'-'a' && (c-'0' > 9 || d.field != noField) {
			break
		}
	}
	return i
}

func (d *document) push(c byte) {
	object, in := c == '{', nodeOther
	switch {
	case d.depth == 0 && object:
		in = nodeTop
	case d.depth == 0:
		in = nodeList
	case d.in == nodeList && object:
		in = nodeTop
	case d.in == nodeChoices:
		if object && !d.choices {
			in = nodeChoice
		}
		d.choices = true
	case !d.wantKey && object == (d.next != nodeChoices):
		in = d.next
	}
	if in == nodeUsage {
		d.nested = d.in == nodeResponse
	}
	d.depth++
	if d.depth < len(d.stack) {
		d.stack[d.depth] = in
	}
	d.in, d.wantKey, d.next, d.field = in, object && in != nodeOther, nodeOther, noField
}

func (d *document) pop() (done bool) {
	if d.depth == 0 {
		return false
	}
	top := d.in == nodeTop
	d.depth--
	d.in = nodeOther
	if d.depth < len(d.stack) {
		d.in = d.stack[d.depth]
	}
	d.wantKey, d.next, d.field = false, nodeOther, noField
	return top
}

// str reads a string from i on, to its end or that of p.
func (d *document) str(p []byte, i int) int {
	end := quote(p, i, d.odd)
	if end < 0 {
		d.odd = escaping(p[i:], d.odd)
		d.state = docString
		d.keep(p[i:])
		return len(p)
	}
	if d.wantKey {
		name := p[i:end]
		if d.textN > 0 {
			d.keep(name)
			name = d.text[:d.textN]
		}
		d.next, d.field = d.in.member(name)
	}
	d.state = docBetween
	return end + 1
}

// num reads a number from i on, to its end or that of p.
func (d *document) num(p []byte, i int) int {
	n := numberLen(p[i:])
	d.keep(p[i : i+n])
	if i += n; i == len(p) {
		d.state = docNumber
		return i
	}
	d.take(d.text[:d.textN])
	d.state, d.field = docBetween, noField
	return i
}

// keep adds to the text that is cut; one byte more than any that counts marks one
// that is too long.
func (d *document) keep(part []byte) { d.textN += copy(d.text[d.textN:], part) }

func numberLen(p []byte) int {
	for i, c := range p {
		if c-'0' > 9 && c != '.' && c != '-' && c != '+' && c|0x20 != 'e' {
			return i
		}
	}
	return len(p)
}

// most is the largest count that is believed.
const most = 1e12

// take keeps a number unless it is absurd: no count, or above 1e12. Python's and
// C++'s writers may spell 12 as 12.0 and 1000000 as 1e+06.
func (d *document) take(text []byte) {
	x := float64(plainNumber(text))
	if x < 0 {
		var err error
		x, err = strconv.ParseFloat(unsafe.String(&text[0], len(text)), 64)
		if err != nil || len(text) == len(d.text) || x < 0 || x > most {
			return
		}
	}
	if d.field == fieldSeconds {
		d.seconds = x
	} else if x != math.Trunc(x) {
		return
	}
	d.set(d.field, int64(x))
	if d.in == nodeChoice {
		d.in, d.stack[d.depth] = nodeOther, nodeOther // nothing else in it counts
	}
}

// plainNumber is the value of up to 12 digits, and -1 of anything else.
func plainNumber(text []byte) int64 {
	if len(text) > 12 {
		return -1
	}
	n := int64(0)
	for _, c := range text {
		if c-'0' > 9 {
			return -1
		}
		n = n*10 + int64(c-'0')
	}
	return n
}
