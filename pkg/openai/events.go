package openai

import (
	"bytes"
	"slices"
)

// Events watches a stream of server-sent events in passing. The zero value is at
// the beginning of a stream. However the bytes are cut, the result is the same.
//
// Terminal events are those whose name ends the stream of an API that has no [DONE]:
// Anthropic's message_stop, Responses' response.completed, response.incomplete,
// response.cancelled and response.failed. As they carry what the client waits for,
// they count when they are complete.
//
// Lines end with LF or CRLF; a CR alone, which the standard allows too and no
// engine sends, does not end one.
// https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
type Events struct {
	Count  int  // complete events with data, [DONE] excluded
	Done   bool // [DONE], which engines also send after an error, or a complete terminal event was seen
	Failed bool // an error event or a complete response.failed was seen

	content  content
	head     [headLen]byte // beginning of the line that is not complete yet
	headLen  int
	inLine   bool     // the last byte did not end a line
	hasData  bool     // the event has a data line that is not [DONE]
	unclosed bool     // the event has a line
	named    lineKind // what a name has said of this event or one before
}

// headLen is how much of a line decides what it is. An error's key comes first in
// its object in every engine; 64 bytes leave room for white space around it.
const headLen = 64

// Scan looks at the next bytes of the stream. It keeps none of them, allocates
// nothing, and costs about a search for the ends of lines.
func (e *Events) Scan(p []byte) {
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		line := p
		if end >= 0 {
			line = p[:end]
		}
		head := line
		if e.inLine || end < 0 {
			e.headLen += copy(e.head[e.headLen:], line)
			head = e.head[:e.headLen]
		}
		if !e.content.found {
			e.content.scan(line, !e.inLine)
		}
		if end < 0 {
			e.inLine = true
			return
		}
		e.endLine(head)
		e.inLine, e.headLen = false, 0
		p = p[end+1:]
	}
}

// endLine takes notice of a complete line by its beginning.
func (e *Events) endLine(head []byte) {
	head = head[:min(len(head), headLen)]
	switch kind, value := lineOf(head); kind {
	case lineBlank:
		if e.hasData {
			e.Count++
		}
		if e.named != lineOther {
			e.Done, e.Failed = true, e.Failed || e.named == lineFailedName
		}
		e.hasData, e.unclosed = false, false
		return
	case lineData:
		switch {
		case bytes.HasPrefix(value, []byte("[DONE]")):
			e.Done = true
		case isError(value):
			e.Failed, e.hasData = true, true
		default:
			e.hasData = true
		}
	case lineErrorName:
		e.Failed = true
	case lineDoneName, lineFailedName:
		e.named = max(e.named, kind)
	}
	e.unclosed = true
}

// AtBoundary reports whether nothing of an event or comment has been left open by
// the last byte seen, so that an event may be appended.
func (e *Events) AtBoundary() bool { return !e.inLine && !e.unclosed }

// HasContent reports whether a token has been seen: a non-empty string under a key
// that carries generated text, or a non-empty list of tool calls or token ids, in
// any event. The role chunk that chat streams begin with ("content":"") is none.
// It turns true with the byte that tells, also before the event is complete.
//
// The keys are looked for at any depth of an event, as every API nests them
// differently; a text that is echoed to the client counts.
func (e *Events) HasContent() bool { return e.content.found }

// Reset makes e ready for another stream.
func (e *Events) Reset() { *e = Events{} }

// FirstKind is what a stream begins with.
type FirstKind uint8

// FirstNone: too little is there to tell. FirstComment: nothing but comments or
// other lines without data, a sign of life but no answer yet. FirstData: an event.
// FirstError: an error event, complete.
const (
	FirstNone FirstKind = iota
	FirstComment
	FirstData
	FirstError
)

// FirstEvent tells what p, the beginning of a stream, begins with. An event is told
// as soon as it is known to be no error; data is then its first line of data, nil
// while that is incomplete. An error event is told when it is complete, and data is
// all of its data. Unless that spans several lines, data aliases p.
func FirstEvent(p []byte) (kind FirstKind, data []byte) {
	failed := false
	for {
		line, rest, complete := bytes.Cut(p, []byte("\n"))
		what, value := lineOf(line)
		if what == lineData && !failed {
			_, head := lineOf(line[:min(len(line), headLen)])
			failed = isError(head) || complete && isAbort(value)
		}
		switch {
		case what == lineData && !failed && complete:
			return FirstData, value
		case what == lineData && !failed && len(line) >= headLen && !mayBeAbort(value):
			return FirstData, nil
		case !complete:
			return kind, nil
		case what == lineErrorName, what == lineFailedName:
			failed = true
		case what == lineData && data == nil:
			data = slices.Clip(value)
		case what == lineData:
			data = append(append(data, '\n'), value...)
		case what == lineBlank && data != nil:
			return FirstError, data
		case what == lineBlank:
			failed = false
		}
		if data == nil {
			kind = FirstComment
		}
		p = rest
	}
}

type lineKind uint8

const (
	lineOther lineKind = iota
	lineBlank
	lineData
	lineErrorName  // "event: error"
	lineDoneName   // "event: message_stop", or another that ends a stream
	lineFailedName // "event: response.failed"
)

// lineOf tells what a line without its LF is, and the value of a data line.
func lineOf(line []byte) (lineKind, []byte) {
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return lineBlank, nil
	}
	if value, ok := bytes.CutPrefix(line, []byte("data:")); ok {
		return lineData, bytes.TrimPrefix(value, []byte(" "))
	}
	return nameOf(line), nil
}

// nameOf tells what an event's name says of it.
func nameOf(line []byte) lineKind {
	name, ok := bytes.CutPrefix(line, []byte("event:"))
	if !ok {
		return lineOther
	}
	switch string(bytes.TrimPrefix(name, []byte(" "))) {
	case "error":
		return lineErrorName
	case "message_stop", "response.completed", "response.incomplete", "response.cancelled":
		return lineDoneName
	case "response.failed":
		return lineFailedName
	}
	return lineOther
}

// isError reports whether data begins like an engine's error: {"error": with a
// value that SDKs take for one, {"object":"error" or {"type":"error".
func isError(data []byte) bool {
	rest, ok := token(data, "{")
	if !ok {
		return false
	}
	for _, key := range [...]string{`"object"`, `"type"`} {
		if rest, ok := token(rest, key); ok {
			rest, _ = token(rest, ":")
			_, ok = token(rest, `"error"`)
			return ok
		}
	}
	if rest, ok = token(rest, `"error"`); !ok {
		return false
	}
	if rest, ok = token(rest, ":"); !ok {
		return false
	}
	for _, falsy := range [...]string{"null", "false", `""`, "0", "{}"} {
		if _, ok := token(rest, falsy); ok {
			return false
		}
	}
	return true
}

// token cuts s, and the white space before it, from the beginning of b.
func token(b []byte, s string) ([]byte, bool) {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	if len(b) < len(s) || string(b[:len(s)]) != s {
		return b, false
	}
	return b[len(s):], true
}
