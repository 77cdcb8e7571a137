package usage

import "bytes"

// find returns the index of name in data, -1 if it is not there. It looks for the
// byte at name[rare] first: JSON is full of most of the others.
func find(data []byte, name string, rare int) int {
	for i := rare; i < len(data); i++ {
		n := bytes.IndexByte(data[i:], name[rare])
		if n < 0 {
			return -1
		}
		i += n
		if at := i - rare; len(data)-at >= len(name) && string(data[at:at+len(name)]) == name {
			return at
		}
	}
	return -1
}

func has(data []byte, name string, rare int) bool { return find(data, name, rare) >= 0 }

// mayCount tells whether data can carry usage, by a search for the name.
func (k Kind) mayCount(data []byte) bool {
	switch k {
	case KindChat, KindCompletions:
		return tells(data)
	case KindTGI:
		return has(data, `details"`, 0)
	case KindSGLang:
		return has(data, `meta_info"`, 4)
	}
	return has(data, `usage"`, 3)
}

// tells looks for usage" and for timings", which end alike, at once.
func tells(data []byte) bool {
	for i := 0; ; i++ {
		n := bytes.IndexByte(data[i:], 'g')
		if n < 0 {
			return false
		}
		i += n
		if rest := data[i+1:]; len(rest) > 1 && rest[1] == '"' &&
			(bytes.HasSuffix(data[:i+1], []byte("usag")) || bytes.HasSuffix(data[:i+1], []byte("timing"))) {
			return true
		}
	}
}

// hasContent tells whether data carries a generated token, by the names that each
// surface gives to content. In a string the quotes of a name would be escaped.
func (k Kind) hasContent(data []byte) bool {
	switch k {
	case KindChat:
		at := find(data, `delta":{`, 7)
		return at >= 0 && chatContent(data[at:])
	case KindCompletions:
		return text(data, `text":`, 2)
	case KindResponses:
		return text(data, `delta":`, 0) || has(data, `"response.output_item.added"`, 9) && has(data, `"function_call"`, 9)
	case KindMessages:
		return text(data, `text":`, 2) || text(data, `thinking":`, 5) || text(data, `partial_json":`, 8) || has(data, `"type":"tool_use"`, 12)
	case KindTGI:
		return has(data, `"token":`, 3)
	case KindSGLang:
		return has(data, `meta_info":`, 4)
	case KindAudio:
		return text(data, `content":`, 0) || text(data, `delta":`, 0)
	}
	return false
}

// chatContent tells the same of the deltas of a chunk.
func chatContent(deltas []byte) bool {
	return text(deltas, `content":`, 0) || // and reasoning_content
		text(deltas, `reasoning":`, 8) || filled(deltas, `tool_calls":`, 4, '[', ']') || text(deltas, `refusal":`, 2)
}

// text tells whether a value of that name is a string that is not empty.
func text(data []byte, name string, rare int) bool { return filled(data, name, rare, '"', '"') }

// filled tells whether a value of that name is more than its two ends.
func filled(data []byte, name string, rare int, open, end byte) bool {
	for {
		n := find(data, name, rare)
		if n < 0 {
			return false
		}
		data = bytes.TrimPrefix(data[n+len(name):], []byte(" "))
		if len(data) > 1 && data[0] == open && data[1] != end {
			return true
		}
	}
}
