package usage

import "bytes"

// largeBody is what a body has at least to be looked through for base64, in bytes.
const largeBody = 16 << 10

const (
	// A picture or sound counts as mediaBytes and a mediaShare of its own: about 256
	// tokens, and 1,000 more for a megabyte.
	mediaBytes = 1 << 10
	mediaShare = 256
	// maxMediaType is how long the media type of a data URL may be.
	maxMediaType = 128
)

// PromptBytes is how long a body is where a picture or sound in base64 counts as a
// few bytes: it has few tokens for its length. That is so in messages and the like;
// what looks the same elsewhere, in a tool's schema for example, is text to an engine.
func PromptBytes(body []byte) int {
	n := len(body)
	if n <= largeBody {
		return n
	}
	m := members{b: body}
	for ok := m.open(0); ok && m.next(); {
		switch string(body[m.key.start:m.key.end]) {
		case "messages", "input", "image_data", "audio_data", "video_data":
			n -= media(body[m.value.start:m.value.end])
		}
	}
	return n
}

// media is how many bytes of b do not count.
func media(b []byte) (saved int) {
	for rest := b; ; {
		i := bytes.Index(rest, []byte(`"data`))
		if i < 0 {
			return saved
		}
		run := base64Run(rest[:i], rest[i+len(`"data`):])
		if run > mediaBytes {
			saved += run - mediaBytes - run/mediaShare
		}
		rest = rest[i+len(`"data`)+run:]
	}
}

// base64Run is the length of what stands in base64 behind a `"data`: as the value of
// that name, or as a data URL that is the value of a url. In a text, where quotes are
// escaped, neither can stand.
func base64Run(before, after []byte) int {
	from := 0
	switch {
	case bytes.HasPrefix(after, []byte(`":"`)):
		from = len(`":"`)
	case bytes.HasPrefix(after, []byte(`": "`)):
		from = len(`": "`)
	case bytes.HasSuffix(before, []byte(`url":`)), bytes.HasSuffix(before, []byte(`url": `)):
		i := bytes.Index(after[:min(len(after), maxMediaType)], []byte(";base64,"))
		if i < 0 {
			return 0
		}
		from = i + len(";base64,")
	default:
		return 0
	}
	to := from
	for to < len(after) && isBase64(after[to]) {
		to++
	}
	if to == len(after) || after[to] != '"' {
		return 0
	}
	return to - from
}

func isBase64(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '+' || c == '/' || c == '='
}
