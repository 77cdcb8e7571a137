package openai

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// maxDepth bounds the nesting of a body, and with it the recursion of the scanner.
const maxDepth = 64

// scanner validates JSON and hands the members that matter to a Request. Its
// methods move i over what they are named after and report whether it was valid;
// if not, err says why and nothing else may be called.
type scanner struct {
	b       []byte
	i       int
	escaped bool // the string read last has escapes
	seen    uint // bit set of the fields read
	tokens  field
	r       *Request
	err     *SyntaxError
}

// body reads a whole request body.
func (s *scanner) body() bool {
	s.space()
	switch {
	case s.i == len(s.b):
		return s.fail("", "the request body is empty")
	case s.b[s.i] == 0xEF:
		return s.fail("", "the request body must be JSON without a byte order mark")
	case s.b[s.i] != '{':
		return s.fail("", "the request body must be a JSON object")
	}
	if !s.object(1, scopeTop) {
		return false
	}
	s.r.ObjectEnd = s.i - 1
	s.space()
	return s.i == len(s.b) || s.unexpected("after the JSON object")
}

func (s *scanner) value(depth int) bool {
	if s.i == len(s.b) {
		return s.unexpected("where a value begins")
	}
	switch s.b[s.i] {
	case '"':
		return s.str()
	case '{':
		return s.object(depth, scopeOther)
	case '[':
		return s.array(depth)
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		return s.number()
	default:
		return s.unexpected("where a value begins")
	}
}

func (s *scanner) object(depth int, in scope) bool {
	if depth > maxDepth {
		return s.tooDeep()
	}
	s.i++
	if s.space(); s.i < len(s.b) && s.b[s.i] == '}' {
		s.i++
		s.r.empty = in == scopeTop
		return true
	}
	for {
		if s.i == len(s.b) || s.b[s.i] != '"' {
			return s.unexpected("where a name in quotes begins")
		}
		if !s.member(depth, in) {
			return false
		}
		s.space()
		switch {
		case s.i < len(s.b) && s.b[s.i] == ',':
			s.i++
			s.space()
		case s.i < len(s.b) && s.b[s.i] == '}':
			s.i++
			return true
		default:
			return s.unexpected("after the value of a member")
		}
	}
}

// member reads one name and its value, and lets the request take what it names.
func (s *scanner) member(depth int, in scope) bool {
	start := s.i
	if !s.str() {
		return false
	}
	f := fieldNone
	if in != scopeOther {
		var ok bool
		if f, ok = s.field(s.b[start:s.i], in); !ok {
			return false
		}
	}
	if s.space(); s.i == len(s.b) || s.b[s.i] != ':' {
		return s.unexpected("after the name of a member")
	}
	s.i++
	s.space()
	start = s.i
	if f == fieldNone {
		return s.value(depth + 1)
	}
	if f == fieldParameters && start < len(s.b) && s.b[start] == '{' {
		return s.object(depth+1, scopeParameters)
	}
	return s.value(depth+1) && s.take(f, Span{start, s.i})
}

func (s *scanner) array(depth int) bool {
	if depth > maxDepth {
		return s.tooDeep()
	}
	s.i++
	if s.space(); s.i < len(s.b) && s.b[s.i] == ']' {
		s.i++
		return true
	}
	for {
		if s.i = integers(s.b, s.i); !s.value(depth + 1) {
			return false
		}
		s.space()
		switch {
		case s.i < len(s.b) && s.b[s.i] == ',':
			s.i++
			s.space()
		case s.i < len(s.b) && s.b[s.i] == ']':
			s.i++
			return true
		default:
			return s.unexpected("after the value of an element")
		}
	}
}

// integers skips the plain elements of a list, "123," or "123, ", as a prompt of
// token ids has by the ten thousand, and returns where the first other one begins.
func integers(b []byte, i int) int {
	for start := i; ; i++ {
		switch {
		case i == len(b):
			return start
		case b[i] > '0' && b[i] <= '9', b[i] == '0' && i > start:
		case b[i] == ',' && i > start, b[i] == ' ' && i == start:
			start = i + 1
		default:
			return start
		}
	}
}

// str reads a string. Most of a large body is in its strings, so that they are
// looked at eight bytes at a time, and as UTF-8 only if some byte is not ASCII.
func (s *scanner) str() bool {
	start := s.i + 1
	s.escaped = false
	var high uint64
	for i := start; ; {
		i, high = plain(s.b, i, high)
		if s.i = i; i == len(s.b) {
			return s.unexpected("in a string")
		}
		switch s.b[i] {
		case '"':
			if high != 0 && !utf8.Valid(s.b[start:i]) {
				return s.fail("", fmt.Sprintf("the request body is not valid JSON: invalid UTF-8 in the string at byte %d", start-1))
			}
			s.i++
			return true
		case '\\':
			n := escape(s.b[i:])
			if n == 0 {
				return s.fail("", fmt.Sprintf("the request body is not valid JSON: invalid escape at byte %d", i))
			}
			s.escaped = true
			i += n
		default:
			return s.unexpected("in a string, where it must be escaped")
		}
	}
}

const (
	ones  = 0x0101010101010101
	highs = 0x80 * ones
)

// plain returns the index of the first byte from i on that ends a run of plain
// string bytes: a quote, a backslash or a control character; len(b) if none. It
// adds to high the top bits of the bytes it passed.
//
// Subtracting n from a byte below n sets its top bit, and may borrow from bytes
// behind it but from none before it: the lowest bit found is a true one. XOR with
// 2 moves the quote next to the control characters, so that one subtraction finds
// both. Bytes outside ASCII are masked out.
func plain(b []byte, i int, high uint64) (int, uint64) {
	for end := min(len(b), i+128); ; end = len(b) {
		for ; end-i >= 8; i += 8 {
			w := binary.LittleEndian.Uint64(b[i:])
			if stop := stops(w) & highs; stop != 0 {
				return i + bits.TrailingZeros64(stop)/8, high | w&highs&(stop-1)
			}
			high |= w & highs
		}
		if end == len(b) {
			break
		}
		// It is long, perhaps an image of megabytes: four words at a time.
		for ; len(b)-i >= 32; i += 32 {
			p := b[i : i+32]
			w0, w1 := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
			w2, w3 := binary.LittleEndian.Uint64(p[16:]), binary.LittleEndian.Uint64(p[24:])
			if (stops(w0)|stops(w1)|stops(w2)|stops(w3))&highs != 0 {
				break
			}
			high |= (w0 | w1 | w2 | w3) & highs
		}
	}
	for ; i < len(b); i++ {
		if c := b[i]; c == '"' || c == '\\' || c < ' ' {
			break
		}
		high |= uint64(b[i] & 0x80)
	}
	return i, high
}

// stops has the top bits of those bytes of w set that end a run; the lowest one
// set is true. Other bits mean nothing.
func stops(w uint64) uint64 {
	return (((w ^ 0x02*ones) - 0x21*ones) | ((w ^ '\\'*ones) - ones)) &^ w
}

// escape returns the length of the escape b begins with, 0 if it is none. Half a
// surrogate pair is none: it is no character, and no engine can encode it.
func escape(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		switch u := hex4(b); {
		case u < 0 || u >= 0xDC00 && u <= 0xDFFF:
			return 0
		case u >= 0xD800 && u <= 0xDBFF:
			if low := hex4(b[6:]); low < 0xDC00 || low > 0xDFFF {
				return 0
			}
			return 12
		default:
			return 6
		}
	}
	return 0
}

// hex4 returns the value of the \uXXXX that b begins with, -1 if it does not.
func hex4(b []byte) int {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return -1
	}
	u := 0
	for _, c := range b[2:6] {
		switch {
		case c >= '0' && c <= '9':
			u = u<<4 | int(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			u = u<<4 | int(c|0x20-'a'+10)
		default:
			return -1
		}
	}
	return u
}

// number reads a number as RFC 8259, section 6, spells it.
func (s *scanner) number() bool {
	b, i := s.b, s.i
	if b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if i = s.digits(i); i < 0 {
		return false
	}
	if i < len(b) && b[i] == '.' {
		if i = s.digits(i + 1); i < 0 {
			return false
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if i = s.digits(i); i < 0 {
			return false
		}
	}
	s.i = i
	return true
}

// digits returns the end of the digits from i on, -1 if there is none.
func (s *scanner) digits(i int) int {
	b, start := s.b, i
	for i < len(b) && b[i]-'0' <= 9 {
		i++
	}
	if i == start {
		s.i = i
		s.unexpected("where a digit must be")
		return -1
	}
	return i
}

func (s *scanner) literal(word string) bool {
	if len(s.b)-s.i < len(word) || string(s.b[s.i:s.i+len(word)]) != word {
		return s.unexpected("where a value begins")
	}
	s.i += len(word)
	return true
}

func (s *scanner) space() {
	for s.i < len(s.b) && s.b[s.i] <= ' ' {
		if c := s.b[s.i]; c != ' ' && c != '\n' && c != '\r' && c != '\t' {
			return
		}
		s.i++
	}
}

func (s *scanner) fail(param, msg string) bool {
	s.err = &SyntaxError{Param: param, Message: msg}
	return false
}

// unexpected fails at the byte at i.
func (s *scanner) unexpected(where string) bool {
	if s.i >= len(s.b) {
		return s.fail("", "the request body is not valid JSON: it ends "+where)
	}
	return s.fail("", fmt.Sprintf("the request body is not valid JSON: unexpected %q at byte %d, %s", s.b[s.i:s.i+1], s.i, where))
}

func (s *scanner) tooDeep() bool {
	return s.fail("", fmt.Sprintf("the request body is nested deeper than %d levels", maxDepth))
}
