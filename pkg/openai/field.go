package openai

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
	"unsafe"

	"github.com/goccy/go-json/jsontext"
)

// field is a member of the body that a Request knows. The token fields are in
// ascending order of precedence.
type field uint8

const (
	fieldNone field = iota
	fieldModel
	fieldStream
	fieldStreamOptions
	fieldPreviousResponseID
	fieldParameters
	fieldMaxNewTokens
	fieldMaxTokens
	fieldMaxCompletionTokens
)

var fieldNames = [...]string{
	fieldModel:               "model",
	fieldStream:              "stream",
	fieldStreamOptions:       "stream_options",
	fieldPreviousResponseID:  "previous_response_id",
	fieldParameters:          "parameters",
	fieldMaxNewTokens:        "max_new_tokens",
	fieldMaxTokens:           "max_tokens",
	fieldMaxCompletionTokens: "max_completion_tokens",
}

func (f field) String() string { return fieldNames[f] }

// scope is the object a member stands in.
type scope uint8

const (
	scopeOther      scope = iota
	scopeTop              // the body itself
	scopeParameters       // TGI's "parameters"
)

// holds reports whether f is a member of the scope.
func (in scope) holds(f field) bool { return (f == fieldMaxNewTokens) == (in == scopeParameters) }

// field tells which field the name just read (with its quotes) is, and refuses
// a second one and other spellings: see Request.Parse.
func (s *scanner) field(quoted []byte, in scope) (field, bool) {
	name := quoted[1 : len(quoted)-1]
	if s.escaped {
		// No spelling of a name that is known is longer than 6 bytes a character.
		var buf [6 * len("max_completion_tokens")]byte
		if len(name) > len(buf) {
			return fieldNone, true
		}
		name, _ = jsontext.AppendUnquote(buf[:0], quoted)
	}
	if len(name) == 0 || !mayBeField(name[0]) {
		return fieldNone, true
	}
	for f := fieldModel; f <= fieldMaxCompletionTokens; f++ {
		switch {
		case !in.holds(f), len(name) < len(f.String()), name[0] < utf8.RuneSelf && name[0]|0x20 != f.String()[0]:
		case string(name) == f.String():
			if s.seen&(1<<f) != 0 {
				return f, s.fail(f.String(), "\""+f.String()+"\" occurs more than once in the request body")
			}
			s.seen |= 1 << f
			return f, true
		case strings.EqualFold(unsafe.String(&name[0], len(name)), f.String()):
			return f, s.fail(f.String(), "\""+strings.ToValidUTF8(string(name), "")+"\" is not a known field: it is spelled \""+f.String()+"\"")
		}
	}
	return fieldNone, true
}

// mayBeField spares most names the comparisons: fields begin with m, p or s, in
// either case, or with U+017F, which folds to s.
func mayBeField(c byte) bool {
	return c|0x20 == 'm' || c|0x20 == 'p' || c|0x20 == 's' || c == 0xC5
}

// take keeps the value of a field.
func (s *scanner) take(f field, at Span) bool {
	r, v := s.r, s.b[at.Start:at.End]
	switch f {
	case fieldModel:
		r.ModelSpan = at
		return s.takeModel(v)
	case fieldStream:
		r.StreamSpan = at
		r.Stream = v[0] == 't'
		return v[0] == 't' || v[0] == 'f' || v[0] == 'n' ||
			s.fail("stream", "\"stream\" must be true, false or null")
	case fieldStreamOptions:
		r.StreamOptionsSpan = at
	case fieldPreviousResponseID:
		return s.takePrevious(v)
	case fieldMaxNewTokens, fieldMaxTokens, fieldMaxCompletionTokens:
		return s.takeTokens(f, at)
	}
	return true
}

func (s *scanner) takeModel(v []byte) (ok bool) {
	if s.r.Model, ok = s.text(v); !ok {
		return s.fail("model", "\"model\" must be a string")
	}
	return true
}

// maxResponseID is the length in bytes that the id of a response may have.
const maxResponseID = 512

func (s *scanner) takePrevious(v []byte) bool {
	id, ok := s.text(v)
	switch {
	case !ok:
		return s.fail("previous_response_id", "\"previous_response_id\" must be a string")
	case len(id) > maxResponseID:
		return s.fail("previous_response_id", "\"previous_response_id\" is too long")
	}
	s.r.PreviousResponseID = id
	return true
}

// text is the string that v, the value read last, stands for; "" if it is null.
func (s *scanner) text(v []byte) (text string, ok bool) {
	switch {
	case v[0] != '"':
		return "", v[0] == 'n'
	case s.escaped:
		start := len(s.r.decoded)
		s.r.decoded, _ = jsontext.AppendUnquote(s.r.decoded, v)
		v = s.r.decoded[start:]
		return unsafe.String(unsafe.SliceData(v), len(v)), true
	}
	return unsafe.String(&v[1], len(v)-2), true
}

// takeTokens keeps the limit of the field that engines prefer. 256.0 and 1e3 are
// integers to Python's engines, so they are to us.
func (s *scanner) takeTokens(f field, at Span) bool {
	v := s.b[at.Start:at.End]
	if v[0] == 'n' {
		return true
	}
	text := unsafe.String(&v[0], len(v))
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		x, err := strconv.ParseFloat(text, 64)
		if err != nil || x != math.Trunc(x) || math.Abs(x) >= 1<<53 {
			return s.fail(f.String(), "\""+f.String()+"\" must be an integer")
		}
		n = int64(x)
	}
	if f < s.tokens {
		return true
	}
	s.tokens = f
	s.r.MaxTokens, s.r.MaxTokensSpan = max(n, -1), at
	return true
}
