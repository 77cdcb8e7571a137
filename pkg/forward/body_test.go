package forward

import (
	"bytes"
	"errors"
	"io"
	"net/http/httputil"
	"strings"
	"testing"
)

// unframe feeds a body in pieces of the given sizes, in turns, and returns its
// payload.
func unframe(length int64, in string, sizes ...int) (string, *framing, error) {
	var f framing
	f.reset(length)
	var out []byte
	for i := 0; in != ""; i++ {
		n := min(sizes[i%len(sizes)], len(in))
		p, err := f.decode([]byte(in[:n]))
		out = append(out, p...)
		if err != nil {
			return string(out), &f, err
		}
		in = in[n:]
	}
	return string(out), &f, nil
}

func TestFraming(t *testing.T) {
	for _, w := range []struct {
		name    string
		length  int64
		in, out string
		done    bool
		err     error
	}{
		{"a length", 5, "hello", "hello", true, nil},
		{"too little", 5, "hell", "hell", false, nil},
		{"too much", 5, "hello!", "hello", true, errExcess},
		{"nothing", 0, "", "", true, nil},
		{"something where nothing is due", 0, "x", "", true, errExcess},
		{"to the end", toClose, "hello", "hello", false, nil},
		{"chunks", chunked, "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "hello world", true, nil},
		{"sizes in any case, with zeros", chunked, "00A\r\n0123456789\r\n0a\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", true, nil},
		{"extensions", chunked, "5;a=b;c=\"d\"\r\nhello\r\n0;x\r\n\r\n", "hello", true, nil},
		{"blanks behind a size", chunked, "5 \t\r\nhello\r\n0\r\n\r\n", "hello", true, nil},
		{"bare line feeds", chunked, "5\nhello\n0\n\n", "hello", true, nil},
		{"a trailer", chunked, "5\r\nhello\r\n0\r\nA: b\r\nC: d\r\n\r\n", "hello", true, nil},
		{"a payload that looks like framing", chunked, "7\r\n0\r\n\r\n5\r\r\n0\r\n\r\n", "0\r\n\r\n5\r", true, nil},
		{"no last chunk", chunked, "5\r\nhello\r\n", "hello", false, nil},
		{"no end of the trailer", chunked, "5\r\nhello\r\n0\r\nA: b\r\n", "hello", false, nil},
		{"more behind the end", chunked, "5\r\nhello\r\n0\r\n\r\nHTTP/1.1", "hello", true, errExcess},
		{"no size", chunked, "\r\nhello\r\n", "", false, errChunk},
		{"an extension only", chunked, ";a\r\nhello\r\n", "", false, errChunk},
		{"a signed size", chunked, "+5\r\nhello\r\n", "", false, errChunk},
		{"a size with 0x", chunked, "0x5\r\nhello\r\n", "", false, errChunk},
		{"a size that overflows", chunked, "10000000000000005\r\nhello\r\n", "", false, errChunk},
		{"a chunk longer than its size", chunked, "4\r\nhello\r\n", "hell", false, errChunk},
		{"a line without end", chunked, "5;" + strings.Repeat("x", maxChunkLine+1), "", false, errChunk},
		{"a trailer without end", chunked, "0\r\n" + strings.Repeat("A: b\r\n", maxTrailer), "", false, errChunk},
	} {
		t.Run(w.name, func(t *testing.T) {
			for _, size := range []int{len(w.in) + 1, 1, 2, 3, 7} {
				out, f, err := unframe(w.length, w.in, size)
				// A piece that ends with the body cannot know of the excess in
				// the next; that one is refused then.
				if out != w.out || f.done() != w.done || !errors.Is(err, w.err) {
					t.Errorf("in pieces of %d: %q, done %v, %v", size, out, f.done(), err)
				}
			}
			_, f, _ := unframe(w.length, w.in, 3)
			whole := w.done || w.length == toClose
			if err := f.end(); w.err == nil && errors.Is(err, io.EOF) != whole {
				t.Errorf("the connection's end is %v", err)
			}
		})
	}
}

// FuzzFraming: any cut of a chunked body gives the same payload, and where
// net/http reads a payload we read the same.
func FuzzFraming(f *testing.F) {
	f.Add([]byte("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"), uint8(1), uint8(2))
	f.Add([]byte("5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\nrest"), uint8(3), uint8(1))
	f.Add([]byte("a\n0123456789\n0\n\n"), uint8(4), uint8(9))
	f.Fuzz(func(t *testing.T, in []byte, a, b uint8) {
		out, whole, err := unframe(chunked, string(in), len(in)+1)
		again, cut, errCut := unframe(chunked, string(in), int(a)+1, int(b)+1)
		if out != again || whole.done() != cut.done() || (err == nil) != (errCut == nil) {
			t.Fatalf("whole %q %v %v, in pieces %q %v %v", out, whole.done(), err, again, cut.done(), errCut)
		}
		want, wantErr := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(in)))
		if wantErr == nil && whole.done() && string(want) != out {
			t.Fatalf("%q, net/http says %q", out, want)
		}
	})
}
