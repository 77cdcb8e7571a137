package openai

import "bytes"

// content looks for the first generated token in the lines of a stream, whatever
// API they belong to. It reads just enough JSON to tell keys from values, and is
// asked only until it has found something.
type content struct {
	found bool
	state contentState
	wants byte // the opening byte of the value that counts: '"' or '['
	skip  bool // the last byte of the string was a backslash
	keyN  int
	key   [len("reasoning_content")]byte // beginning of the string read last
}

type contentState uint8

const (
	seekString contentState = iota // between strings
	inString
	seekColon // behind a string: a key if a colon follows
	seekValue // behind the colon of a key that counts
	seekFirst // behind the opening byte: content if it is not closed at once
	otherLine // not data
)

// scan reads a piece of a line.
func (c *content) scan(p []byte, lineStart bool) {
	if lineStart && len(p) > 0 {
		c.state = seekString
		if p[0] != 'd' {
			c.state = otherLine
		}
	}
	if c.state == otherLine {
		return
	}
	for i := 0; i < len(p) && !c.found; i++ {
		switch b := p[i]; c.state {
		case seekString:
			n := bytes.IndexByte(p[i:], '"')
			if n < 0 {
				return
			}
			i += n
			c.state, c.keyN, c.skip = inString, 0, false
		case inString:
			c.str(b)
		case seekColon:
			c.behindString(b)
		case seekValue:
			c.value(b)
		case seekFirst:
			c.first(b)
		}
	}
}

func (c *content) str(b byte) {
	switch {
	case c.skip:
		c.skip = false
	case b == '\\':
		c.skip = true
	case b == '"':
		c.state = seekColon
		return
	}
	// One more than fits marks a string too long to be a key that counts.
	if c.keyN < len(c.key) {
		c.key[c.keyN] = b
	}
	c.keyN = min(c.keyN+1, len(c.key)+1)
}

func (c *content) behindString(b byte) {
	if isSpace(b) {
		return
	}
	c.state = seekString
	if b != ':' || c.keyN > len(c.key) {
		return
	}
	switch string(c.key[:c.keyN]) {
	case "content", "text", // chat, completions, TGI, llama.cpp, SGLang, Anthropic
		"reasoning", "reasoning_content", "thinking", "refusal",
		"delta", "partial_json": // Responses, Anthropic
		c.state, c.wants = seekValue, '"'
	case "tool_calls", "token_ids", "output_ids":
		c.state, c.wants = seekValue, '['
	}
}

func (c *content) value(b byte) {
	switch {
	case isSpace(b):
	case b == c.wants:
		c.state = seekFirst
	case b == '"':
		c.state, c.keyN, c.skip = inString, 0, false
	default:
		c.state = seekString
	}
}

func (c *content) first(b byte) {
	switch {
	case c.wants == '[' && isSpace(b):
	case c.wants == '"' && b == '"', c.wants == '[' && b == ']':
		c.state = seekString
	default:
		c.found = true
	}
}

func isSpace(b byte) bool { return b == ' ' || b == '\t' || b == '\r' || b == '\n' }
