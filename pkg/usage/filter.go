package usage

import (
	"bytes"
	"slices"
)

// eventLen is the longest event that a Filter edits, and the most that it holds
// back. No event that tells usage alone is longer.
const eventLen = 64 << 10

// Take says what a [Filter] takes out of a stream. The zero value is nothing.
type Take struct {
	Final  bool // the event without choices that tells the usage
	Chunks Chunks
}

// Chunks is what becomes of the usage in chunks that have choices.
type Chunks uint8

const (
	ChunksKeep   Chunks = iota // it stays
	ChunksRemove               // it goes, with its name, and so does a null
	ChunksNull                 // a null takes its place, for engines that write one unasked
)

// Filter takes out of a stream of OpenAI's chat or completions what was put in
// because the gateway asked for it. It is ready for one stream after Reset. It
// holds back nothing but an event that is not complete, up to 64 KiB.
type Filter struct {
	take Take
	buf  []byte // buf[from:] is held back
	from int
	line int  // where in buf its last line begins
	pass bool // the event is too long, and passes
	mid  bool // and so has the beginning of this line

	opening opening
}

// Reset makes f ready for a stream to take that out of.
func (f *Filter) Reset(take Take) {
	buf := f.buf[:0]
	if cap(buf) > eventLen {
		buf = nil
	}
	*f = Filter{take: take, buf: buf}
}

// Filter returns what the client gets of the next bytes p of the stream, which it
// edits in place. The result aliases p or memory of f, is valid until either is
// used again, and may be empty.
func (f *Filter) Filter(p []byte) []byte {
	if f.take == (Take{}) {
		return p
	}
	line := 0
	held := f.buf[f.from:]
	if len(held) > 0 {
		line = f.line - f.from
		f.buf = append(slices.Delete(f.buf, 0, f.from), p...)
		p = f.buf
	}
	out, from, line := f.edit(p, line)
	if n := len(p) - from; n > eventLen && !f.pass {
		f.pass = true
	}
	if f.pass {
		// Only a line that may be blank is held.
		if rest := p[line:]; len(rest) > 1 || len(rest) == 1 && rest[0] != '\r' {
			f.mid, line = true, len(p)
		}
		out, from = append(out, p[from:line]...), line
	}
	if len(held) == 0 {
		f.buf, line, from = append(f.buf[:0], p[from:]...), line-from, 0
	}
	f.from, f.line = from, line
	return out
}

// Flush returns what is held back at the end of the stream: an event without an
// end. The result is valid until the next Reset.
func (f *Filter) Flush() []byte {
	held := f.buf[f.from:]
	f.from, f.line = len(f.buf), len(f.buf)
	return held
}

// edit edits the complete events of p, in which the first unfinished line begins
// at line. The rest of p begins at from, and its last line at last.
func (f *Filter) edit(p []byte, line int) (out []byte, from, last int) {
	n := 0 // p[:n] is edited
	for {
		length := bytes.IndexByte(p[line:], '\n')
		if length < 0 {
			return p[:n], from, line
		}
		blank := !f.mid && (length == 0 || length == 1 && p[line] == '\r')
		line += length + 1
		f.mid = false
		if !blank {
			continue
		}
		event := p[from:line]
		if !f.pass && len(event) <= eventLen && has(event, `usage"`, 3) {
			event = f.event(event)
		}
		if n == from {
			n += len(event) // is where it belongs
		} else {
			n += copy(p[n:], event)
		}
		f.pass, from = false, line
	}
}

// event edits a complete event in place.
func (f *Filter) event(event []byte) []byte {
	at := dataAt(event)
	if at < 0 {
		return event
	}
	m := members{b: event, i: at + f.opening.skip(event[at:])}
	if m.i == at && !m.open(at) {
		return event
	}
	var cut, value span
	final := false
	for m.next() {
		switch string(event[m.key.start:m.key.end]) {
		case "choices":
			list := members{b: event, i: m.value.start + 1}
			list.space()
			final = event[m.value.start] == '[' && list.at(']')
		case "usage":
			value = m.value
			cut = m.around()
		}
	}
	if value.end == 0 || !m.ended() {
		return event
	}
	switch object := event[value.start] == '{'; {
	case final && object && f.take.Final:
		return event[:0]
	case final && object:
		return event
	case f.take.Chunks == ChunksRemove:
		return append(event[:cut.start], event[cut.end:]...)
	case f.take.Chunks == ChunksNull && value.end-value.start > len("null"):
		return append(append(event[:value.start], "null"...), event[value.end:]...)
	}
	return event
}

// dataAt is where the data of an event begins, -1 if it has none.
func dataAt(event []byte) int {
	if bytes.HasPrefix(event, []byte("data:")) {
		return len("data:")
	}
	if i := bytes.Index(event, []byte("\ndata:")); i >= 0 {
		return i + len("\ndata:")
	}
	return -1
}

// around is the member that next has found, with the comma before it, else the
// one behind.
func (m *members) around() span {
	if m.comma >= 0 {
		return span{m.comma, m.value.end}
	}
	behind := members{b: m.b, i: m.value.end}
	if behind.space(); behind.at(',') {
		behind.i++
		behind.space()
	}
	return span{m.key.start - 1, behind.i}
}
