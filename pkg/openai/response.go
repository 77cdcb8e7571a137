package openai

import "bytes"

// responseSearch is how much of an answer, in bytes, is looked through for its id.
const responseSearch = 64 << 10

// ResponseID finds the id of a response object in the beginning of an answer of the
// Responses API in passing: {"id":"resp_..",..} when it is whole, at the top of the
// object and wherever among its keys; {"response":{"id":"resp_..",..},..} in the
// data of the first event when it streams. The zero value is at the beginning of an
// answer. However the bytes are cut, the result is the same.
//
// It gives up after 64 KiB, at the end of the object or event, and at an id that
// the engines do not make: empty, longer than 512 bytes or with a character outside
// [A-Za-z0-9._:-]. What it reads is trusted to be JSON.
type ResponseID struct {
	id     []byte
	read   int // bytes
	done   bool
	stream bool
	line   int // bytes of "data:" that the line began with; lineSkipped: it is another line
	state  idState
	skip   bool // the last byte of the string was a backslash
	inside bool // the object at depth 2 is the response
	depth  int
	keyN   int
	key    [len("response")]byte // beginning of the string read last
}

type idState uint8

const (
	idStart   idState = iota // before the first byte
	idBetween                // between strings
	idString
	idColon    // behind a string: a key if a colon follows
	idValue    // behind the colon of the id's key
	idText     // in the id
	idResponse // behind the colon of "response"
)

const lineSkipped = -1

// Scan looks at the next bytes of the answer and keeps none of them. done tells
// that ID is final, and that there is no need to call again.
func (r *ResponseID) Scan(p []byte) (done bool) {
	p = p[:min(len(p), responseSearch-r.read)]
	r.read += len(p)
	for i := 0; i < len(p) && !r.done; i++ {
		switch {
		case r.state == idStart && !r.stream:
			r.start(p[i])
		case r.stream && (r.line != len("data:") || p[i] == '\n'):
			r.prefix(p[i])
		default:
			r.json(p[i])
		}
	}
	if !r.done && r.read == responseSearch {
		r.giveUp()
	}
	return r.done
}

// ID is the id, "" as long as there is none.
func (r *ResponseID) ID() string {
	if !r.done {
		return ""
	}
	return string(r.id)
}

func (r *ResponseID) giveUp() { r.id, r.done = nil, true }

// start tells an object from a stream.
func (r *ResponseID) start(b byte) {
	switch {
	case b == '{':
		r.state, r.depth = idBetween, 1
	case !isSpace(b):
		r.stream = true
		r.prefix(b)
	}
}

// prefix reads what stands before the JSON of a stream's line, and its end.
func (r *ResponseID) prefix(b byte) {
	switch {
	case b == '\n':
		// A blank line behind data ends the event.
		if r.line == 0 && r.state != idStart {
			r.giveUp()
		}
		r.line = 0
	case r.line == lineSkipped, r.line == 0 && b == '\r':
	case b == "data:"[r.line]:
		r.line++
	default:
		r.line = lineSkipped
	}
}

func (r *ResponseID) json(b byte) {
	switch r.state {
	case idStart:
		if b == '{' {
			r.state, r.depth = idBetween, 1
		} else if !isSpace(b) {
			r.giveUp()
		}
	case idBetween:
		r.between(b)
	case idString:
		r.str(b)
	case idColon:
		r.behindString(b)
	case idValue:
		if b == '"' {
			r.state = idText
		} else if !isSpace(b) {
			r.giveUp()
		}
	case idText:
		r.text(b)
	case idResponse:
		if !isSpace(b) {
			r.inside = b == '{'
			r.state = idBetween
			r.between(b)
		}
	}
}

func (r *ResponseID) between(b byte) {
	switch b {
	case '"':
		r.state, r.keyN, r.skip = idString, 0, false
	case '{', '[':
		r.depth++
	case '}', ']':
		r.depth--
		if r.depth == 0 || r.depth == 1 && r.inside {
			r.giveUp()
		}
	}
}

func (r *ResponseID) str(b byte) {
	switch {
	case r.skip:
		r.skip = false
	case b == '\\':
		r.skip = true
	case b == '"':
		r.state = idColon
		return
	}
	// One more than fits marks a string too long to be a key that counts.
	if r.keyN < len(r.key) {
		r.key[r.keyN] = b
	}
	r.keyN = min(r.keyN+1, len(r.key)+1)
}

func (r *ResponseID) behindString(b byte) {
	if isSpace(b) {
		return
	}
	r.state = idBetween
	if b != ':' {
		r.between(b)
		return
	}
	switch key := r.key[:min(r.keyN, len(r.key))]; {
	case r.keyN > len(r.key):
	case bytes.Equal(key, []byte("id")) && (r.depth == 1 && !r.stream || r.depth == 2 && r.inside):
		r.state = idValue
	case bytes.Equal(key, []byte("response")) && r.depth == 1 && r.stream:
		r.state = idResponse
	}
}

func (r *ResponseID) text(b byte) {
	switch {
	case b == '"':
		r.done = true
	case !isIDByte(b), len(r.id) == maxResponseID:
		r.giveUp()
	default:
		r.id = append(r.id, b)
	}
}

func isIDByte(b byte) bool {
	return b|0x20 >= 'a' && b|0x20 <= 'z' || b >= '0' && b <= ':' || b == '.' || b == '_' || b == '-'
}
