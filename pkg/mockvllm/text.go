package mockvllm

import (
	"hash/fnv"
	"unicode/utf8"
)

// words is the vocabulary of the answers; each is one token. Some need several
// bytes in UTF-8 or an escape in JSON, where careless proxies fail.
var words = [...]string{
	"the", "gateway", "forwards", "every", "token", "as", "soon", "it", "arrives",
	"and", "never", "holds", "a", "byte", "back", "for", "long", "naïve", "東京",
	"🙂", "\"quoted\"", "back\\slash", "line\n", "stream", "slow", "river", "stone",
	"paper", "light", "quiet", "engine", "answer",
}

// word is the i-th word of the text that a seed stands for.
func word(seed uint64, i int) string {
	// SplitMix64: cheap, and neighbours differ.
	z := seed + uint64(i+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return words[(z^z>>31)%uint64(len(words))]
}

// textSeed turns what a request says into the seed of its answer.
func textSeed(parts ...[]byte) uint64 {
	h := fnv.New64a()
	for _, p := range parts {
		_, _ = h.Write(p)
		_, _ = h.Write([]byte{0})
	}
	return h.Sum64()
}

// appendString appends s as a JSON string the way pydantic writes it: UTF-8 as
// it is, only what must be escaped escaped. Invalid UTF-8 becomes U+FFFD.
func appendString(dst []byte, s string) []byte {
	const hexDigits = "0123456789abcdef"
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			dst = utf8.AppendRune(dst, r)
			i += n
			continue
		}
		i++
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		case c < 0x20:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}
