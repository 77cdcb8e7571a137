//go:build linux

package main

import "bytes"

// needle looks for text in bytes that come in pieces.
type needle struct {
	text  []byte
	found int // bytes of text that the pieces so far end with
}

// in returns what follows the text's first occurrence that ends in b. The text
// must not begin again within itself other than in its very last bytes.
func (n *needle) in(b []byte) (rest []byte, ok bool) {
	for n.found > 0 && len(b) > 0 {
		if b[0] != n.text[n.found] {
			n.found = 0
			break
		}
		n.found, b = n.found+1, b[1:]
		if n.found == len(n.text) {
			n.found = 0
			return b, true
		}
	}
	if len(b) == 0 {
		return nil, false
	}
	if i := bytes.Index(b, n.text); i >= 0 {
		return b[i+len(n.text):], true
	}
	for k := min(len(n.text)-1, len(b)); k > 0; k-- {
		if bytes.HasSuffix(b, n.text[:k]) {
			n.found = k
			break
		}
	}
	return nil, false
}

// Names in JSON, as they stand in a body: within a string their quotes would be
// escaped, so there is no mistaking a prompt for them.
var (
	streamName  = []byte(`"stream":`)
	contentName = []byte(`"content":`)
	doneLine    = []byte("data: [DONE]")
)

// flagScan tells whether a body says "stream": true.
type flagScan struct {
	name  needle
	value bool // the name was read, its value comes
	set   bool
}

func (s *flagScan) read(b []byte) {
	for len(b) > 0 && !s.set {
		if !s.value {
			if b, s.value = s.name.in(b); !s.value {
				return
			}
			continue
		}
		if b[0] != ' ' {
			s.value, s.set = false, b[0] == 't'
		}
		b = b[1:]
	}
}

// stampDigits is the length of the engine's time in a content: nanoseconds of
// the wall clock, until the year 2286.
const stampDigits = 19

// stampScan finds the stamps in a stream of events.
type stampScan struct {
	name   needle
	opened bool // the value's quote was read
	inside bool // the name was read, its value comes
	digits int
	stamp  int64
}

// next returns the next stamp that ends in b, and what follows it; rest is
// empty when there is no more.
func (s *stampScan) next(b []byte) (stamp int64, rest []byte, ok bool) {
	for len(b) > 0 {
		if !s.inside {
			if b, s.inside = s.name.in(b); !s.inside {
				return 0, nil, false
			}
			s.opened, s.digits, s.stamp = false, 0, 0
			continue
		}
		c := b[0]
		b = b[1:]
		switch {
		case s.opened && '0' <= c && c <= '9':
			s.stamp = s.stamp*10 + int64(c-'0')
			if s.digits++; s.digits == stampDigits {
				s.inside = false
				return s.stamp, b, true
			}
		case !s.opened && c == '"':
			s.opened = true
		case !s.opened && c == ' ':
		default: // an empty content, or null
			s.inside = false
		}
	}
	return 0, nil, false
}
