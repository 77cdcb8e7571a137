package redis

import (
	"errors"
	"fmt"
)

// What one message may hold in all, so that no header makes anybody allocate more than a server could mean.
const (
	mostBytes    = 64 << 20 // of bulk strings
	mostElements = 1 << 20
	mostDepth    = 8
	mostLine     = 64 << 10
	mostDigits   = 18
)

// place is where in a message a stream stands.
type place byte

const (
	atType place = iota
	inLine
	inNumber
	inBody
	atReturn // after a body
	atNewline
)

// stream checks RESP2 or RESP3 as it passes, and keeps of the message under way what tells one from another. Of RESP3 it
// knows what Redis sends: no attributes, no lengths left open, no blob errors. The zero stream is at the start.
type stream struct {
	place    place
	kind     byte // of the element under way
	sized    bool // the line that ends is a length or a number, not all of the element
	negative bool
	digits   int
	number   int64
	line     int            // bytes of the line so far
	body     int64          // bytes to come
	open     [mostDepth]int // elements to come of each aggregate around
	depth    int            // how many are around
	bytes    int64          // of all bodies of the message
	elements int64          // of all its aggregates

	top    byte // kind of the message
	count  int  // elements of it, were it an aggregate; -1 for a null
	noting bool
	notes  int
	noted  int
	note   [512]byte // its line, or the first three elements that are text, with a newline between; cut when longer
}

// text is what the note says.
func (s *stream) text() []byte { return s.note[:s.noted] }

// next goes on to the end of a message, or of p.
func (s *stream) next(p []byte) (n int, whole bool, err error) {
	for n < len(p) {
		if s.place == inBody {
			k := int(min(int64(len(p)-n), s.body))
			s.write(p[n : n+k])
			n += k
			if s.body -= int64(k); s.body == 0 {
				s.place = atReturn
			}
			continue
		}
		n++
		if whole, err = s.step(p[n-1]); whole || err != nil {
			return n, whole, err
		}
	}
	return n, false, nil
}

func (s *stream) step(b byte) (whole bool, err error) {
	switch {
	case s.place == atType:
		return false, s.start(b)
	case s.place == atNewline && b == '\n':
		return s.newline()
	case s.place == atNewline || s.place == atReturn && b != '\r' || b == '\n':
		return false, errors.New("a line that does not end in CRLF")
	case b == '\r':
		s.place = atNewline
	case s.place == inNumber:
		return false, s.digit(b)
	default:
		s.write1(b)
		return false, s.lengthen()
	}
	return false, nil
}

// start begins an element, and a message when nothing is around it.
func (s *stream) start(b byte) error {
	if s.depth == 0 {
		s.top, s.count, s.notes, s.noted, s.bytes, s.elements = b, 0, 0, 0, 0, 0
	}
	s.kind, s.sized, s.place = b, false, inLine
	s.line, s.number, s.digits, s.negative = 0, 0, 0, false
	switch b {
	case '+', '-', '(', ',', '_', '#':
	case ':', '$', '=', '*', '~', '%':
		s.sized, s.place = true, inNumber
	case '>':
		if s.depth > 0 {
			return errors.New("a push inside a reply")
		}
		s.sized, s.place = true, inNumber
	default:
		return fmt.Errorf("a message of type %q", b)
	}
	if s.noting = s.depth == 0 || s.depth == 1 && s.notes < 3; s.noting {
		if s.depth == 1 && s.notes > 0 {
			s.write1('\n')
		}
		s.notes += s.depth
	}
	return nil
}

// lengthen does not wait for the end of a line that is too long: rueidis does not look for that of a null or a boolean.
func (s *stream) lengthen() error {
	most := mostLine
	switch s.kind {
	case '_':
		most = 0
	case '#':
		most = 1
	}
	if s.line++; s.line > most {
		return fmt.Errorf("a line of more than %d bytes after %q", most, s.kind)
	}
	return nil
}

func (s *stream) digit(b byte) error {
	if b == '-' && s.digits == 0 && !s.negative {
		s.negative = true
		return nil
	}
	// Of an integer, which may have all 64 bits, the value does not matter.
	if b < '0' || b > '9' || s.digits >= mostDigits+1 || s.digits >= mostDigits && s.kind != ':' {
		return fmt.Errorf("no number after %q", s.kind)
	}
	s.digits++
	if s.digits <= mostDigits {
		s.number = s.number*10 + int64(b-'0')
	}
	return nil
}

// newline ends a line: the element, or the length of what follows.
func (s *stream) newline() (whole bool, err error) {
	switch {
	case !s.sized:
		if s.kind == '#' && s.line == 0 {
			return false, errors.New("nothing after '#'")
		}
		return s.end(), nil
	case s.digits == 0:
		return false, fmt.Errorf("no number after %q", s.kind)
	case s.kind == ':':
		return s.end(), nil
	case s.negative && s.number == 1 && (s.kind == '$' || s.kind == '*'):
		if s.depth == 0 {
			s.count = -1
		}
		return s.end(), nil
	case s.negative:
		return false, fmt.Errorf("a length of -%d after %q", s.number, s.kind)
	case s.kind == '$' || s.kind == '=':
		return false, s.bulk()
	}
	return s.aggregate()
}

func (s *stream) bulk() error {
	if s.number > mostBytes || s.bytes+s.number > mostBytes {
		return fmt.Errorf("a message of more than %d bytes", mostBytes)
	}
	s.bytes += s.number
	s.sized, s.line, s.body, s.place = false, 0, s.number, inBody
	if s.kind = '$'; s.number == 0 {
		s.place = atReturn
	}
	return nil
}

func (s *stream) aggregate() (whole bool, err error) {
	n := s.number
	if s.kind == '%' && n <= mostElements {
		n *= 2
	}
	if s.elements += n; n > mostElements || s.elements > mostElements {
		return false, fmt.Errorf("a message of more than %d elements", mostElements)
	}
	if s.depth == 0 {
		s.count = int(n)
	}
	if n == 0 {
		return s.end(), nil
	}
	if s.depth == mostDepth {
		return false, fmt.Errorf("a message more than %d deep", mostDepth)
	}
	s.open[s.depth] = int(n)
	s.depth++
	s.place = atType
	return false, nil
}

// end ends an element and all aggregates that end with it.
func (s *stream) end() (whole bool) {
	s.place = atType
	for s.depth > 0 {
		if s.open[s.depth-1]--; s.open[s.depth-1] > 0 {
			return false
		}
		s.depth--
	}
	return true
}

func (s *stream) write(p []byte) {
	if s.noting {
		s.noted += copy(s.note[s.noted:], p)
	}
}

func (s *stream) write1(b byte) {
	if s.noting && s.noted < len(s.note) {
		s.note[s.noted] = b
		s.noted++
	}
}
