package forward

import (
	"bytes"
	"errors"
	"strings"
)

// Framing of a response body other than a length in bytes.
const (
	chunked = -1 // Transfer-Encoding: chunked
	toClose = -2 // until the connection ends
)

// field is one response header line that may go on to the client.
type field struct{ name, value []byte }

// head is the part of a response head that the gateway acts on. Its slices
// alias the bytes it was parsed from.
type head struct {
	status      int
	length      int64 // bytes of body, chunked or toClose
	keepAlive   bool
	contentType []byte
	fields      []field
}

const (
	maxFields = 16
	// maxHead bounds a response head: an engine that sends more is broken.
	maxHead = 64 << 10
	// maxInterim bounds the 1xx responses before the real one, as Go's and
	// fasthttp's clients do.
	maxInterim = 100
)

var errMalformed = errors.New("malformed response head")

// parse reads one response head (RFC 9112, section 4) from the beginning of p
// and returns its length, 0 when p does not hold all of it yet. Interim (1xx)
// responses are skipped. It is stricter than it need be for friends and lenient
// only about bare line feeds, which home-made engines send.
func (h *head) parse(p []byte) (int, error) {
	pos := 0
	for range maxInterim {
		n, err := h.parseOne(p[pos:])
		if n == 0 || err != nil {
			return 0, err
		}
		pos += n
		if h.status >= 200 {
			return pos, nil
		}
		if h.status == 101 {
			return 0, errMalformed
		}
	}
	return 0, errMalformed
}

func (h *head) parseOne(p []byte) (int, error) {
	line, n := nextLine(p)
	if n == 0 {
		return 0, nil
	}
	if err := h.statusLine(line); err != nil {
		return 0, err
	}
	for {
		line, k := nextLine(p[n:])
		if k == 0 {
			return 0, nil
		}
		n += k
		if len(line) == 0 {
			break
		}
		if err := h.headerLine(line); err != nil {
			return 0, err
		}
	}
	if h.status == 204 || h.status == 304 || h.status < 200 {
		h.length = 0
	}
	if h.length == toClose {
		h.keepAlive = false
	}
	return n, nil
}

// nextLine returns the first line of p without its ending and the bytes it
// takes with it, 0 when p has no whole line.
func nextLine(p []byte) ([]byte, int) {
	i := bytes.IndexByte(p, '\n')
	if i < 0 {
		return nil, 0
	}
	line := p[:i]
	if i > 0 && line[i-1] == '\r' {
		line = line[:i-1]
	}
	return line, i + 1
}

// statusLine reads "HTTP/1.1 200 OK" and resets h.
func (h *head) statusLine(l []byte) error {
	if len(l) < 12 || string(l[:7]) != "HTTP/1." || l[8] != ' ' || (l[7] != '0' && l[7] != '1') || (len(l) > 12 && l[12] != ' ') {
		return errMalformed
	}
	status := 0
	for _, c := range l[9:12] {
		if c < '0' || c > '9' {
			return errMalformed
		}
		status = status*10 + int(c-'0')
	}
	if status < 100 || status > 599 {
		return errMalformed
	}
	*h = head{status: status, length: toClose, keepAlive: l[7] == '1', fields: h.fields[:0]}
	return nil
}

func (h *head) headerLine(l []byte) error {
	i := bytes.IndexByte(l, ':')
	if i <= 0 || !isToken(l[:i]) {
		return errMalformed // also obs-fold, which begins with a blank
	}
	name, value := l[:i], bytes.Trim(l[i+1:], " \t")
	if bytes.IndexByte(value, 0) >= 0 || bytes.IndexByte(value, '\r') >= 0 {
		return errMalformed
	}
	switch {
	case is(name, "content-type"):
		h.contentType = value
	case is(name, "content-length"):
		n, ok := parseLength(value)
		if !ok || (h.length >= 0 && h.length != n) {
			return errMalformed
		}
		if h.length != chunked { // Transfer-Encoding wins (RFC 9112, section 6.3)
			h.length = n
		} else {
			h.keepAlive = false
		}
	case is(name, "transfer-encoding"):
		if !is(value, "chunked") || h.length == chunked {
			return errMalformed
		}
		if h.length >= 0 {
			h.keepAlive = false
		}
		h.length = chunked
	case is(name, "connection"):
		if containsToken(value, "close") {
			h.keepAlive = false
		}
	case passes(name) && len(h.fields) < maxFields:
		h.fields = append(h.fields, field{name, value})
	}
	return nil
}

// passes tells which other response headers go on to the client: what its SDK
// acts on or its user looks at, and nothing that describes the engine's
// connection or place. The x- ones are TGI's, "metadata" is where vLLM puts the
// usage of embeddings sent as bytes.
func passes(name []byte) bool {
	switch len(name) {
	case 8:
		return is(name, "metadata")
	case 11:
		return is(name, "retry-after")
	case 12:
		return is(name, "x-queue-time") || is(name, "x-total-time")
	case 14:
		return is(name, "retry-after-ms") || is(name, "x-should-retry") || is(name, "x-compute-type") ||
			is(name, "x-compute-time") || is(name, "x-total-tokens")
	case 15:
		return is(name, "x-prompt-tokens")
	case 16:
		return is(name, "content-encoding") || is(name, "x-inference-time") || is(name, "x-time-per-token")
	case 17:
		return is(name, "x-validation-time")
	case 18:
		return is(name, "x-generated-tokens")
	case 20:
		return is(name, "x-compute-characters") || is(name, "openai-processing-ms")
	}
	return false
}

// is tells whether b equals lower, which is in lower case, in any case.
func is(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i := range b {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// containsToken tells whether a comma-separated header value has the token.
func containsToken(value []byte, lower string) bool {
	for len(value) > 0 {
		item := value
		if i := bytes.IndexByte(value, ','); i >= 0 {
			item, value = value[:i], value[i+1:]
		} else {
			value = nil
		}
		if is(bytes.Trim(item, " \t"), lower) {
			return true
		}
	}
	return false
}

func isToken(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"(),/:;<=>?@[\\]{}", c) >= 0 {
			return false
		}
	}
	return len(b) > 0
}

func parseLength(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}
