package openai

import (
	"bytes"
	"fmt"
	"mime"
	"strings"
	"unicode/utf8"
)

// Bounds of a form, in parts and in bytes, which no client of engines comes near.
const (
	maxFormParts = 64
	maxPartHead  = 8 << 10
	maxFormValue = 4096
)

// Form finds the fields of a multipart/form-data body (RFC 7578) in passing, as
// much of it as has been written. Files are neither kept nor parsed: a Form holds
// less than 16 KiB, whatever the size of the body.
//
// So that nobody behind us can read another form than we did, it accepts only what
// all readers of forms agree on: no text before the first boundary nor behind the
// last, CRLF at the end of lines, no white space behind boundaries, at most 64
// parts with heads of at most 8 KiB, names first in their Content-Disposition and
// without escapes, and a field of Form at most once, in UTF-8, not encoded, and not
// as a file.
type Form struct {
	Model  string // "" as long as its part is not complete
	Stream bool   // by a value that Python's engines take for true

	// ModelFrom and ModelTo are where the value of model stands in the body, in
	// bytes; both are 0 when there is none. An empty one stands somewhere too.
	ModelFrom, ModelTo int64

	delimiter []byte // "\r\n--" and the boundary
	matched   int    // how much of the delimiter the last bytes were
	lent      int    // how much of that no byte of the data was
	off       int64  // of the bytes looked at
	state     formState
	turn      byte // the byte of a CRLF or "--" that was seen last
	parts     int
	head      []byte // of the part, as much as was read
	field     field  // that the part is: model, stream or none
	seen      uint   // bit set of the fields read
	ascii     bool   // the value must be ASCII
	from      int64  // where the value begins
	text      []byte // the value
	err       error
}

type formState uint8

const (
	formData   formState = iota // in a part's data, at first before the first part
	formBehind                  // behind a delimiter
	formHead
	formEnd // behind the last delimiter
)

// NewForm returns the form that a body with the given Content-Type has. It must be
// multipart/form-data with a boundary as RFC 2046, section 5.1.1 allows, in UTF-8,
// and without parameters that are none of it. The error is a *SyntaxError.
func NewForm(contentType string) (*Form, error) {
	kind, params, err := mime.ParseMediaType(contentType)
	boundary := params["boundary"]
	switch {
	case err != nil || kind != "multipart/form-data":
		return nil, &SyntaxError{Message: "the request body must be multipart/form-data"}
	case !isBoundary(boundary) || strings.Contains(contentType, "*"):
		return nil, &SyntaxError{Message: "the Content-Type must have a boundary of 1 to 70 plain characters"}
	}
	for name, value := range params {
		if name != "boundary" && (name != "charset" || !strings.EqualFold(value, "utf-8")) {
			return nil, &SyntaxError{Message: "the Content-Type of a form must have no parameters but its boundary and charset=utf-8"}
		}
	}
	// The first boundary has no CRLF of its own before it.
	return &Form{delimiter: []byte("\r\n--" + boundary), matched: 2, lent: 2}, nil
}

// Boundary is that of the Content-Type.
func (f *Form) Boundary() string { return string(f.delimiter[len("\r\n--"):]) }

// Write looks at the next bytes of the body and keeps none of the files'. However
// they are cut, the result is the same. The error is a *SyntaxError, and returned
// again by everything that is called later; f then tells nothing.
func (f *Form) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0 && f.err == nil; {
		n := 1
		switch f.state {
		case formData:
			if f.parts > 0 || f.matched != f.lent || rest[0] != '\r' && rest[0] != '\n' {
				n = f.data(rest)
			} // else it begins with line ends, which engines pass over
		case formBehind:
			f.behind(rest[0])
		case formHead:
			n = f.readHead(rest)
		case formEnd:
			f.end(rest[0])
		}
		f.off += int64(n)
		rest = rest[n:]
	}
	if f.err != nil {
		return 0, f.err
	}
	return len(p), nil
}

// Close tells whether the body is complete: it is an error if the last boundary
// was not seen.
func (f *Form) Close() error {
	if f.err == nil && (f.state != formEnd || f.turn == '\r') {
		f.fail("", "it ends before its last boundary")
	}
	return f.err
}

// data reads data up to the next delimiter and returns how many bytes of p it took.
// As the delimiter has no CR but its first byte, a failed match holds no beginning
// of another.
func (f *Form) data(p []byte) int {
	if f.matched > 0 {
		return f.match(p)
	}
	if i := bytes.Index(p, f.delimiter); i >= 0 {
		f.value(p[:i])
		f.delimited(f.off + int64(i))
		return i + len(f.delimiter)
	}
	end := len(p)
	tail := p[max(0, end-len(f.delimiter)+1):]
	if i := bytes.LastIndexByte(tail, '\r'); i >= 0 && bytes.HasPrefix(f.delimiter, tail[i:]) {
		f.matched = len(tail) - i
		end -= f.matched
	}
	f.value(p[:end])
	return len(p)
}

// match goes on with a delimiter that has begun.
func (f *Form) match(p []byte) int {
	begun, n := f.matched, 0
	for n < len(p) && f.matched < len(f.delimiter) && p[n] == f.delimiter[f.matched] {
		n++
		f.matched++
	}
	switch {
	case f.matched == len(f.delimiter) && f.lent > 0 && f.parts > 0:
		// Whether the CRLF of the head counts for the delimiter is disputed.
		f.fail("", "a part has a boundary in place of its data")
	case f.matched == len(f.delimiter):
		f.delimited(f.off - int64(begun))
		f.matched, f.lent = 0, 0
	case n == len(p):
	case f.parts == 0:
		f.fail("", "it does not begin with its boundary")
	default:
		f.value(f.delimiter[f.lent:f.matched])
		f.matched, f.lent = 0, 0
	}
	return n
}

// value takes a piece of a part's data.
func (f *Form) value(p []byte) {
	switch {
	case f.field == fieldNone:
	case len(f.text)+len(p) > maxFormValue:
		f.fail(f.field.String(), fmt.Sprintf("the value is longer than %d bytes", maxFormValue))
	default:
		f.text = append(f.text, p...)
	}
}

// delimited ends a part, whose data ends at the offset.
func (f *Form) delimited(at int64) {
	f.state, f.turn = formBehind, 0
	if f.err != nil || f.field == fieldNone {
		return
	}
	if !utf8.Valid(f.text) || f.ascii && bytes.ContainsFunc(f.text, func(r rune) bool { return r >= utf8.RuneSelf }) {
		f.fail(f.field.String(), "the value is not valid UTF-8")
		return
	}
	switch f.field {
	case fieldModel:
		f.Model, f.ModelFrom, f.ModelTo = string(f.text), f.from, at
	case fieldStream:
		f.Stream = isTrue(string(f.text))
	}
	f.field, f.text = fieldNone, f.text[:0]
}

// isTrue is pydantic's rule, by which vLLM and SGLang read forms.
// https://docs.pydantic.dev/latest/api/standard_library_types/#booleans
func isTrue(s string) bool {
	switch strings.ToLower(s) {
	case "1", "on", "t", "true", "y", "yes":
		return true
	}
	return false
}

// behind reads the two bytes behind a delimiter.
func (f *Form) behind(b byte) {
	switch {
	case f.turn == 0 && (b == '\r' || b == '-'):
		f.turn = b
	case f.turn == '\r' && b == '\n':
		if f.parts++; f.parts > maxFormParts {
			f.fail("", fmt.Sprintf("it has more than %d parts", maxFormParts))
		}
		f.state, f.head = formHead, f.head[:0]
	case f.turn == '-' && b == '-':
		f.state, f.turn = formEnd, '\n'
	default:
		f.fail("", "a boundary is not followed by the end of its line")
	}
}

// end lets line ends pass behind the last boundary.
func (f *Form) end(b byte) {
	if f.turn == '\n' && b != '\r' || f.turn == '\r' && b != '\n' {
		f.fail("", "something follows its last boundary")
	}
	f.turn = b
}

// readHead reads the head of a part and returns how many bytes of p it took.
func (f *Form) readHead(p []byte) int {
	before := len(f.head)
	f.head = append(f.head, p[:min(len(p), maxPartHead-before)]...)
	from := max(before-len("\r\n\r"), 0)
	end := bytes.Index(f.head[from:], []byte("\r\n\r\n"))
	switch {
	case bytes.HasPrefix(f.head, []byte("\r\n")):
		f.fail("", "a part has no name")
	case end >= 0:
		n := from + end + len("\r\n\r\n") - before
		f.takeHead(f.head[:from+end])
		f.from = f.off + int64(n)
		f.state, f.matched, f.lent = formData, 2, 2
		return n
	case len(f.head) == maxPartHead:
		f.fail("", fmt.Sprintf("the head of a part is longer than %d bytes", maxPartHead))
	}
	return len(f.head) - before
}

func (f *Form) fail(param, msg string) {
	if param == "" {
		msg = "the request body is not a valid form: " + msg
	}
	f.err = &SyntaxError{Param: param, Message: msg}
}
