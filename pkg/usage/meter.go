package usage

import "bytes"

// lineLen is how long a line of a stream may be and still be decoded only when it
// names usage. What is longer, an answer repeated as a whole, is read in passing.
const lineLen = 2 << 10

// mostChoices bounds what is kept of a stream's choices; an engine's own limit of
// n is 1024 or less. The final usage covers the others.
const mostChoices = 1024

// Meter finds out what a request used. It is ready for one answer after Reset,
// and takes it as Whole or as a stream by Scan; Header is for either. It keeps
// nothing of what it is shown but numbers and one unfinished line of up to 2 KiB,
// and allocates nothing but that line, when one is cut, and a list of choices; it
// uses both again.
type Meter struct {
	// PerPrompt is the request's n, the answers to each prompt; 0 means 1. Reset
	// leaves it 0. It says whose prompt counts once where each choice tells it:
	// in streams of completions that are cut short, and SGLang's lists.
	PerPrompt int

	kind    Kind
	told    counts // of the answer as a whole
	listed  int    // documents of a list
	choices []Usage

	tokens, unmetered int64 // events with content; those since usage was told

	doc     document
	opening opening
	fed     bool   // the event's data is being decoded
	content bool   // the event has generated content
	metered bool   // the event has usage
	whole   bool   // no stream
	long    bool   // the line that is cut is longer than lineLen
	line    []byte // beginning of the line that is cut, up to lineLen
}

// Reset makes m ready for an answer of a surface of that kind.
func (m *Meter) Reset(kind Kind) {
	choices := m.choices[:0]
	if cap(choices) > 64 {
		choices = nil
	}
	*m = Meter{kind: kind, choices: choices, line: m.line[:0]}
}

// Header takes a field of the answer's head: TGI's x-prompt-tokens and
// x-generated-tokens, and the metadata that vLLM sends with embeddings in bytes.
func (m *Meter) Header(name, value []byte) {
	f := noField
	switch {
	case m.kind == KindTGI && bytes.EqualFold(name, []byte("x-prompt-tokens")):
		f = fieldPrompt
	case m.kind == KindTGI && bytes.EqualFold(name, []byte("x-generated-tokens")):
		f = fieldCompletion
	case m.kind == KindPooling && bytes.EqualFold(name, []byte("metadata")):
		m.Whole(value)
		m.doc = document{}
	}
	if n := plainNumber(value); f != noField && n >= 0 && len(value) > 0 {
		m.told.set(f, n)
	}
}

// Whole takes an answer that is no stream, in one piece or in several.
func (m *Meter) Whole(p []byte) {
	if m.kind == KindNone {
		return
	}
	m.whole = true
	m.read(p)
}

// Scan takes the next bytes of a stream. Only events that can carry usage are
// decoded.
func (m *Meter) Scan(p []byte) {
	if m.kind == KindNone {
		return
	}
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			m.keep(p)
			return
		}
		line := p[:end]
		p = p[end+1:]
		switch {
		case len(m.line) > 0:
			m.keep(line)
			if !m.long {
				m.event(m.line)
			}
			m.line, m.long = m.line[:0], false
		case len(line) > lineLen:
			m.begin(line[:lineLen])
			m.readLong(line[lineLen:])
		default:
			m.event(line)
		}
	}
}

// keep keeps a part of a line that is cut, or reads it when it is long.
func (m *Meter) keep(part []byte) {
	n := min(len(part), lineLen-len(m.line))
	m.line = append(m.line, part[:n]...)
	if n == len(part) {
		return
	}
	if !m.long {
		m.long = true
		m.begin(m.line)
	}
	m.readLong(part[n:])
}

// begin takes the beginning of a long line.
func (m *Meter) begin(head []byte) {
	if data, ok := dataOf(head); ok {
		m.content = m.content || m.kind.hasContent(data)
		m.fed = true
		m.read(data)
	}
}

func (m *Meter) readLong(p []byte) {
	if m.fed {
		m.read(p)
	}
}

// event takes a line of an event that is not long.
func (m *Meter) event(line []byte) {
	if len(line) == 0 || len(line) == 1 && line[0] == '\r' {
		m.endEvent()
		return
	}
	data, ok := dataOf(line)
	if !ok {
		return
	}
	m.content = m.content || m.kind.hasContent(data)
	switch {
	case m.fed || !closed(data):
		m.fed = true
		m.read(data)
	case m.kind.mayCount(data):
		m.fed = true
		if n := m.opening.skip(data); n > 0 {
			m.doc.resume()
			data = data[n:]
		}
		m.read(data)
	}
}

func (m *Meter) endEvent() {
	m.tokens += m.pending()
	if !m.metered {
		m.unmetered += m.pending()
	}
	if m.fed {
		m.doc = document{}
	}
	m.fed, m.content, m.metered = false, false, false
}

// pending is 1 if the event that is not complete yet has content.
func (m *Meter) pending() int64 {
	if m.content {
		return 1
	}
	return 0
}

// dataOf is the value of a data line.
func dataOf(line []byte) ([]byte, bool) { return bytes.CutPrefix(line, []byte("data:")) }

// closed tells whether a line of data ends as JSON does, and not in its midst.
func closed(data []byte) bool {
	data = bytes.TrimSuffix(data, []byte("\r"))
	return len(data) > 0 && (data[len(data)-1] == '}' || data[len(data)-1] == ']')
}

func (m *Meter) read(p []byte) {
	for done := false; len(p) > 0; {
		if p, done = m.doc.read(p); done {
			m.take(&m.doc)
			m.doc.counts, m.doc.choices, m.doc.nested = counts{}, false, false
		}
	}
}

// take takes the numbers of one document by the rules of its surface.
func (m *Meter) take(d *document) {
	u, ok := d.usage(m.kind)
	if !ok {
		return
	}
	m.metered = true
	switch {
	case m.kind == KindMessages, m.kind == KindTGI:
		// Each field is told when it is known; the last word counts.
		m.told.override(&d.counts)
	case m.whole && d.depth > 0:
		m.add(&d.counts)
		return
	case m.kind == KindSGLang && !m.whole, d.choices && !m.whole:
		m.choose(d.number[fieldIndex], u)
		if d.has&(1<<fieldPredicted) != 0 {
			m.unmetered = 0 // timings are of the end
		}
		return
	default:
		m.told = d.counts
	}
	if !d.nested || m.kind != KindMessages {
		m.unmetered = 0
	}
}

// override takes the fields that are there.
func (c *counts) override(by *counts) {
	for f := range fields {
		if by.has&(1<<f) != 0 {
			c.set(f, by.number[f])
		}
	}
}

// add adds a document of a list. Of a prompt with several answers, which all tell
// it, the first one counts.
func (m *Meter) add(c *counts) {
	for f := range fields {
		switch f {
		case fieldPrompt, fieldCached:
			if m.listed%max(1, m.PerPrompt) != 0 {
				continue
			}
		}
		m.told.set(f, m.told.number[f]+c.number[f])
	}
	m.listed++
}

// choose takes what a choice of a stream has used so far. It only grows, so that
// the most that was told counts.
func (m *Meter) choose(index int64, u Usage) {
	if index >= mostChoices {
		m.metered = false
		return
	}
	for int(index) >= len(m.choices) {
		m.choices = append(m.choices, Usage{})
	}
	c := &m.choices[index]
	c.Prompt, c.Cached = max(c.Prompt, u.Prompt), max(c.Cached, u.Cached)
	c.Completion, c.Reasoning = max(c.Completion, u.Completion), max(c.Reasoning, u.Reasoning)
	// TGI tells it of each prompt at its end only: then all is told again.
	if m.unmetered > 0 && m.sum().Completion >= m.tokens+m.pending() {
		m.unmetered = 0
	}
}

// sum is what the choices have used. Those to one prompt all tell its tokens.
func (m *Meter) sum() (u Usage) {
	per := max(1, m.PerPrompt)
	if m.kind == KindChat || m.kind == KindAudio {
		per = mostChoices
	}
	prompt, cached := int64(0), int64(0)
	for i, c := range m.choices {
		if i%per == 0 {
			u.Prompt, u.Cached = u.Prompt+prompt, u.Cached+cached
			prompt, cached = 0, 0
		}
		prompt, cached = max(prompt, c.Prompt), max(cached, c.Cached)
		u.Completion += c.Completion
		u.Reasoning += c.Reasoning
	}
	u.Prompt, u.Cached = u.Prompt+prompt, u.Cached+cached
	u.Total = u.Prompt + u.Completion
	return u
}

// Usage is what the engine has told so far, and whether it has told anything; a
// usage of nothing but zeros tells nothing. Of a stream that was cut it is a
// lower bound; see Exact.
//
// A final usage, which an event without choices carries, counts before what the
// choices told. Numbers that cannot be, below 0 or above 1e12, are ignored.
func (m *Meter) Usage() (u Usage, found bool) {
	if u, found = m.told.usage(m.kind); found || len(m.choices) == 0 {
		return u, found
	}
	u = m.sum()
	return u, u.Total > 0
}

// Tokens is how many complete events of the stream carried generated content: at
// least so many tokens have been generated, and exactly so many by TGI.
func (m *Meter) Tokens() int64 { return m.tokens }

// Exact tells whether the engine has told the usage of all content up to now: at
// the end of a stream, and with continuous usage anywhere. Else a stream that
// ends here has used the tokens that Usage tells, or Tokens if they are more, and
// an unknown number beyond.
func (m *Meter) Exact() bool {
	_, found := m.Usage()
	return found && m.unmetered == 0
}
