package openai

import (
	"bytes"
	"mime"
	"strings"
)

// partHead is what the head of a part says.
type partHead struct {
	name    string
	named   bool // it has a Content-Disposition
	odd     bool // a file, encoded, or of a type that cannot be read: no field
	charset string
}

// takeHead reads the head of a part, without the blank line, and decides whether
// the part is a field of f.
func (f *Form) takeHead(b []byte) {
	h, ok := readPartHead(b)
	f.field = fieldNone
	switch {
	case !ok || !h.named:
		f.fail("", "the head of a part is malformed")
		return
	case h.name == fieldModel.String():
		f.field = fieldModel
	case h.name == fieldStream.String():
		f.field = fieldStream
	default:
		return
	}
	if f.seen&(1<<f.field) != 0 {
		f.fail(h.name, "\""+h.name+"\" occurs more than once in the form")
		return
	}
	f.seen |= 1 << f.field
	switch f.ascii = false; h.charset {
	case "", "utf-8":
	case "us-ascii", "iso-8859-1":
		f.ascii = true // most engines read UTF-8 whatever this says
	default:
		h.odd = true
	}
	if h.odd {
		f.fail(h.name, "\""+h.name+"\" must be a plain field of the form, in UTF-8, and not a file")
	}
}

// readPartHead reads the lines of a head, without the blank one.
func readPartHead(b []byte) (h partHead, ok bool) {
	for line := range bytes.SplitSeq(b, []byte("\r\n")) {
		name, value, colon := bytes.Cut(line, []byte(":"))
		if !colon || !isToken(name) || bytes.ContainsFunc(line, isControl) {
			return h, false
		}
		value = bytes.Trim(value, " \t")
		switch strings.ToLower(string(name)) {
		case "content-disposition":
			if h.named || !h.disposition(value) {
				return h, false
			}
			h.named = true
		case "content-transfer-encoding":
			switch strings.ToLower(string(value)) {
			case "7bit", "8bit", "binary":
			default:
				h.odd = true
			}
		case "content-type":
			_, params, err := mime.ParseMediaType(string(value))
			h.odd = h.odd || err != nil || h.charset != ""
			h.charset = strings.ToLower(params["charset"])
		}
	}
	return h, true
}

// disposition reads `form-data; name="x"; filename="y"`. The name must come first,
// as every client writes it: readers that know no quotes then find the same one.
func (h *partHead) disposition(v []byte) bool {
	const kind = "form-data"
	if len(v) < len(kind) || !strings.EqualFold(string(v[:len(kind)]), kind) {
		return false
	}
	v = bytes.TrimLeft(v[len(kind):], " \t")
	seen := map[string]bool{}
	for first := true; len(v) > 0; first = false {
		key, value, rest, ok := parameter(v)
		if !ok || seen[key] || first && key != "name" || strings.HasPrefix(key, "name*") {
			return false
		}
		switch {
		case first && strings.Contains(value, `\`):
			return false
		case first:
			h.name = strings.Trim(value, `"`)
		case strings.HasPrefix(key, "filename"):
			h.odd = true
		}
		seen[key], v = true, rest
	}
	return len(seen) > 0
}

// parameter cuts the first parameter, `; key=value`, from v. The value keeps its
// quotes and escapes.
func parameter(v []byte) (key, value string, rest []byte, ok bool) {
	if v[0] != ';' {
		return "", "", nil, false
	}
	name, v, _ := bytes.Cut(bytes.TrimLeft(v[1:], " \t"), []byte("="))
	end := bytes.IndexAny(v, "; \t")
	if end < 0 {
		end = len(v)
	}
	if len(v) > 0 && v[0] == '"' {
		end = quotedEnd(v)
		// Whether a quote that is escaped hides the semicolon is disputed.
		if bytes.IndexByte(v[:end], '\\') >= 0 && bytes.IndexByte(v[:end], ';') >= 0 {
			return "", "", nil, false
		}
	} else if !isToken(v[:end]) {
		return "", "", nil, false
	}
	if end == 0 || !isToken(name) || strings.ToLower(string(name)) != string(name) {
		return "", "", nil, false
	}
	return string(name), string(v[:end]), bytes.TrimLeft(v[end:], " \t"), true
}

// quotedEnd is the length of the quoted string that v begins with, 0 if it has no
// end.
func quotedEnd(v []byte) int {
	for i := 1; i < len(v); i++ {
		switch v[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
	return 0
}

func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7F }

// isToken follows RFC 9110, section 5.6.2.
func isToken(b []byte) bool {
	for _, c := range b {
		if !isIDByte(c) && !bytes.ContainsRune([]byte("!#$%&'*+^`|~"), rune(c)) || c == ':' {
			return false
		}
	}
	return len(b) > 0
}

// isBoundary follows RFC 2046, section 5.1.1, but for white space: that needs
// quotes, and not every reader knows them.
func isBoundary(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isIDByte(c) && !strings.ContainsRune("'()+,/=?", rune(c)) {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 70
}
