package usage

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// quote returns the index in p of the quote that ends the string p[i:] is in, -1
// if it is not there. odd tells that an odd number of backslashes stands before
// p[i], which is the beginning of the string or of p.
func quote(p []byte, i int, odd bool) int {
	for start := i; ; i++ {
		n := bytes.IndexByte(p[i:], '"')
		if n < 0 {
			return -1
		}
		if i += n; i > start && p[i-1] != '\\' || !escaping(p[start:i], odd) {
			return i
		}
	}
}

// escaping tells whether a part of a string ends in an odd number of backslashes.
func escaping(part []byte, odd bool) bool {
	n := len(part)
	for n > 0 && part[n-1] == '\\' {
		n--
	}
	run := (len(part)-n)%2 == 1
	if n == 0 {
		return run != odd
	}
	return run
}

const (
	ones  = 0x0101010101010101
	highs = 0x80 * ones
)

// structural returns the index of the first quote, bracket or brace from i on,
// where no string is open; len(p) if there is none. Lists of numbers, as
// embeddings are, pass eight bytes at a time.
//
// A byte that has all the bits of 0x59 is a bracket, a brace or one that stands
// in strings only. Subtracting one from a zero byte sets its top bit, and may
// borrow from bytes behind it but from none before it: the lowest is a true one.
func structural(p []byte, i int) int {
	for ; len(p)-i >= 8; i += 8 {
		w := binary.LittleEndian.Uint64(p[i:])
		q, b := w^('"'*ones), ^w&(0x59*ones)
		if stop := ((q-ones)&^q | (b-ones)&^b) & highs; stop != 0 {
			return i + bits.TrailingZeros64(stop)/8
		}
	}
	for ; i < len(p); i++ {
		if p[i] == '"' || p[i]&0x59 == 0x59 {
			break
		}
	}
	return i
}

// span is b[start:end].
type span struct{ start, end int }

// members goes through the members of a JSON object in b. A line break that is
// followed by the field name of an event's data is white space, as it can stand
// nowhere else in JSON.
type members struct {
	b          []byte
	i          int
	key, value span // of the member that next has found; the key without its quotes
	comma      int  // before that member, -1 if there is none
}

// open enters the object that begins at i or behind white space.
func (m *members) open(i int) bool {
	m.i = i
	m.space()
	if m.i == len(m.b) || m.b[m.i] != '{' {
		return false
	}
	m.i++
	return true
}

// next finds the next member. At the end of the object it is false, and ended is
// true if that is one.
func (m *members) next() bool {
	m.space()
	m.comma = -1
	if m.at(',') {
		m.comma = m.i
		m.i++
		m.space()
	}
	if !m.at('"') {
		return false
	}
	m.key.start = m.i + 1
	m.key.end = quote(m.b, m.key.start, false)
	if m.key.end < 0 {
		return false
	}
	m.i = m.key.end + 1
	m.space()
	if !m.at(':') {
		return false
	}
	m.i++
	m.space()
	m.value.start = m.i
	m.i = valueEnd(m.b, m.i)
	m.value.end = m.i
	return m.i > m.value.start
}

func (m *members) ended() bool { return m.at('}') }

func (m *members) at(c byte) bool { return m.i < len(m.b) && m.b[m.i] == c }

func (m *members) space() {
	for m.i < len(m.b) && m.b[m.i] <= ' ' {
		m.i++
		if m.b[m.i-1] == '\n' && bytes.HasPrefix(m.b[m.i:], []byte("data:")) {
			m.i += len("data:")
		}
	}
}

// valueEnd returns the end of the value that begins at i; i if it has none.
func valueEnd(b []byte, i int) int {
	start, depth := i, 0
	for i < len(b) {
		switch c := b[i]; {
		case c == '"':
			n := quote(b, i+1, false)
			if n < 0 {
				return start
			}
			i = n + 1
		case c == '{' || c == '[':
			depth++
			i++
		case c == '}' || c == ']':
			if depth == 0 {
				return start
			}
			depth--
			i++
		case depth > 0:
			i = structural(b, i+1)
			continue
		default:
			return i + literal(b[i:])
		}
		if depth == 0 {
			return i
		}
	}
	return start
}

// literal returns the length of the number or word that b begins with.
func literal(b []byte) int {
	for i, c := range b {
		if c <= ' ' || c == ',' || c == '}' || c == ']' || c == '"' || c == ':' {
			return i
		}
	}
	return len(b)
}

// opening is how the events of a stream begin: with one id, object, time and
// model. It is read once and compared then, as it is half of a token's event.
type opening struct {
	known bool
	n     int
	text  [256]byte
}

// skip returns how much of the object data need not be read: what it has in common
// with the first one, up to the comma before "choices", if none of that counts.
func (o *opening) skip(data []byte) int {
	if !o.known {
		o.known = true
		m := members{b: data}
		for ok := m.open(0); ok && m.next(); {
			name := data[m.key.start:m.key.end]
			if string(name) == "choices" && m.comma > 0 {
				o.n = copy(o.text[:], data[:m.comma])
			}
			if in, f := nodeTop.member(name); in != nodeOther || f != noField {
				break
			}
		}
		if o.n == len(o.text) {
			o.n = 0
		}
	}
	if !bytes.HasPrefix(data, o.text[:o.n]) {
		return 0
	}
	return o.n
}
