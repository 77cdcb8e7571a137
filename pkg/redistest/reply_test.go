package redistest

import (
	"bufio"
	"strings"
	"testing"
)

func FuzzReadReply(f *testing.F) {
	for _, s := range []string{
		"+OK\r\n", "-ERR no\r\n", ":-7\r\n", "$-1\r\n", "$0\r\n\r\n", "$3\r\na\r\n\r\n", "*-1\r\n",
		"*2\r\n*1\r\n:1\r\n$1\r\na\r\n", "$9999999999\r\n", "*67108864\r\n", strings.Repeat("*1\r\n", 100), "%1\r\n", "\r\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		in := bufio.NewReader(strings.NewReader(s))
		text, err := readReply(in, maxDepth)
		if err != nil && text != "" {
			t.Errorf("both %q and %v", text, err)
		}
		if len(text) > len(s)+strings.Count(s, "\n") {
			t.Errorf("%q is longer than what was read", text)
		}
	})
}

func TestReplyThatIsCutShortIsAnError(t *testing.T) {
	for _, s := range []string{"", "+OK", "$3\r\nab", "$3\r\nabcd\r\n", "*2\r\n:1\r\n", "$x\r\n", "$-2\r\n", "?1\r\n", "*1\r\n-ERR in a list\r\n"} {
		if text, err := readReply(bufio.NewReader(strings.NewReader(s)), maxDepth); err == nil {
			t.Errorf("%q is read as %q", s, text)
		}
	}
}
