package keystore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// text is JSON that is read from left to right. It takes less than encoding/json
// would: each member once, each value of one type, and every fault has a place.
// Its methods move at over what they are named after.
type text struct {
	b  []byte
	at int
}

// fault is what is wrong with a text, and where. Its message shows nothing of a
// value: what stands in the wrong place may be a secret.
type fault struct {
	at      int
	field   string // "" when it is of no field
	message string
}

func (f *fault) Error() string {
	if f.field == "" {
		return f.message
	}
	return f.field + ": " + f.message
}

func (t *text) wrong(format string, args ...any) error {
	return &fault{at: t.at, message: fmt.Sprintf(format, args...)}
}

func (t *text) space() {
	for t.at < len(t.b) {
		switch t.b[t.at] {
		case ' ', '\t', '\n', '\r':
			t.at++
		default:
			return
		}
	}
}

// take moves over white space and c, if it is there.
func (t *text) take(c byte) bool {
	t.space()
	if t.at == len(t.b) || t.b[t.at] != c {
		return false
	}
	t.at++
	return true
}

// sequence calls each where an element begins; each moves over it.
func (t *text) sequence(open, end byte, what string, each func() error) error {
	if !t.take(open) {
		return t.wrong("must be %s", what)
	}
	if t.take(end) {
		return nil
	}
	for {
		t.space()
		if err := each(); err != nil {
			return err
		}
		if t.take(end) {
			return nil
		}
		if !t.take(',') {
			return t.wrong("not JSON: there must be a comma or %c here", end)
		}
	}
}

// object calls each where a value begins, with its name and where that stands.
func (t *text) object(each func(name string, at int) error) error {
	return t.sequence('{', '}', "a JSON object", func() error {
		at := t.at
		name, err := t.string()
		if err != nil {
			return &fault{at: at, message: "not JSON: there must be a name in double quotes here"}
		}
		if !t.take(':') {
			return t.wrong("not JSON: there must be a colon here")
		}
		t.space()
		return each(name, at)
	})
}

func (t *text) list(each func() error) error {
	return t.sequence('[', ']', "a JSON array", each)
}

func (t *text) string() (string, error) {
	if !t.take('"') {
		return "", t.wrong("must be a string")
	}
	from := t.at
	escaped := false
	for ; t.at < len(t.b); t.at++ {
		switch c := t.b[t.at]; {
		case c == '"':
			s := t.b[from:t.at]
			t.at++
			if escaped {
				return t.unescape(from-1, t.at)
			}
			return string(s), nil
		case c == '\\':
			escaped = true
			t.at++
		case c < ' ':
			return "", t.wrong("not JSON: a string must not hold a line break or another control character")
		}
	}
	t.at = len(t.b)
	return "", t.wrong("not JSON: a string has no end")
}

// unescape reads the string with its quotes.
func (t *text) unescape(from, to int) (s string, err error) {
	if err := json.Unmarshal(t.b[from:to], &s); err != nil {
		return "", &fault{at: from, message: `not JSON: a \ in the string begins nothing that JSON knows`}
	}
	return s, nil
}

func (t *text) integer() (int64, error) {
	t.space()
	from := t.at
	for t.at < len(t.b) && bytes.IndexByte([]byte("+-.0123456789eE"), t.b[t.at]) >= 0 {
		t.at++
	}
	digits := string(t.b[from:t.at])
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != digits {
		return 0, &fault{at: from, message: "must be a whole number, in plain digits"}
	}
	return n, nil
}

func (t *text) strings() ([]string, error) {
	list := []string{}
	err := t.list(func() error {
		s, err := t.string()
		list = append(list, s)
		return err
	})
	return list, err
}

// null moves over null, if it is there.
func (t *text) null() bool {
	t.space()
	if !bytes.HasPrefix(t.b[t.at:], []byte("null")) {
		return false
	}
	t.at += len("null")
	return true
}

// compact reads an object of any form and returns it without white space.
func (t *text) compact() (json.RawMessage, error) {
	t.space()
	from, depth := t.at, 0
	for inString := false; t.at < len(t.b); t.at++ {
		switch c := t.b[t.at]; {
		case inString && c == '\\':
			t.at++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{', c == '[':
			depth++
		case c == '}', c == ']':
			depth--
		}
		if depth <= 0 {
			break
		}
	}
	t.at = min(t.at+1, len(t.b))
	var out bytes.Buffer
	if err := json.Compact(&out, t.b[from:t.at]); err != nil || t.b[from] != '{' {
		return nil, &fault{at: from, message: "must be a JSON object"}
	}
	return out.Bytes(), nil
}

// end is an error if anything but white space is left.
func (t *text) end() error {
	if t.space(); t.at < len(t.b) {
		return t.wrong("not JSON: something stands behind its end")
	}
	return nil
}

// checkEncoding is an error where a text is not UTF-8 as RFC 8259 wants it.
func (t *text) checkEncoding() error {
	if bytes.HasPrefix(t.b, []byte("\xef\xbb\xbf")) {
		return t.wrong("not JSON: it begins with a byte order mark; save it without one")
	}
	if utf8.Valid(t.b) {
		return nil
	}
	for at := 0; ; {
		r, size := utf8.DecodeRune(t.b[at:])
		if r == utf8.RuneError && size == 1 {
			return &fault{at: at, message: "not UTF-8"}
		}
		at += size
	}
}

// line is where at is in a text, from 1 on.
func line(b []byte, at int) int { return 1 + bytes.Count(b[:min(at, len(b))], []byte("\n")) }
