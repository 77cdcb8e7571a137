package forward

import (
	"bufio"
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

func TestHead(t *testing.T) {
	for _, w := range []struct {
		name, in  string
		status    int // 0: malformed
		length    int64
		keepAlive bool
		fields    string
	}{
		{"a length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, 5, true, ""},
		{"chunks", "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", 200, chunked, true, ""},
		{"neither", "HTTP/1.1 200 OK\r\n\r\n", 200, toClose, false, ""},
		{"no reason", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, 0, true, ""},
		{"an empty reason", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", 200, 0, true, ""},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", 200, 5, false, ""},
		{"close", "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 5\r\n\r\n", 200, 5, false, ""},
		{"a word like close", "HTTP/1.1 200 OK\r\nConnection: closed\r\nContent-Length: 5\r\n\r\n", 200, 5, true, ""},
		{"bare line feeds", "HTTP/1.1 200 OK\nContent-Length: 5\n\n", 200, 5, true, ""},
		{"no body by status", "HTTP/1.1 204 No Content\r\n\r\n", 204, 0, true, ""},
		{"interim responses", "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, 5, true, ""},
		{"what passes", "HTTP/1.1 200 OK\r\nRetry-After: 3\r\nServer: uvicorn\r\nSet-Cookie: a\r\nX-Request-Id: theirs\r\nx-compute-time: 1\r\nContent-Length: 5\r\n\r\n", 200, 5, true, "Retry-After=3 x-compute-time=1 "},
		{"blanks around a value", "HTTP/1.1 200 OK\r\nRetry-After:\t 3 \t\r\nContent-Length:5\r\n\r\n", 200, 5, true, "Retry-After=3 "},
		{"chunks win over a length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 200, chunked, false, ""},
		{"chunks win before a length", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 200, chunked, false, ""},
		{"the same length twice", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", 200, 5, true, ""},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 0, 0, false, ""},
		{"two lengths around chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 0, 0, false, ""},
		{"a list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", 0, 0, false, ""},
		{"a signed length", "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", 0, 0, false, ""},
		{"an empty length", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", 0, 0, false, ""},
		{"a length that overflows", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", 0, 0, false, ""},
		{"another encoding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 0, 0, false, ""},
		{"a folded line", "HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\n\r\n", 0, 0, false, ""},
		{"a space before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n", 0, 0, false, ""},
		{"a line without a colon", "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", 0, 0, false, ""},
		{"a NUL", "HTTP/1.1 200 OK\r\nX-A: \x00\r\n\r\n", 0, 0, false, ""},
		{"a carriage return in a value", "HTTP/1.1 200 OK\r\nRetry-After: 1\rX: y\r\n\r\n", 0, 0, false, ""},
		{"another protocol", "HTTP/2 200\r\n\r\n", 0, 0, false, ""},
		{"no HTTP", "SSH-2.0-OpenSSH_9\r\n\r\n", 0, 0, false, ""},
		{"a status of two digits", "HTTP/1.1 20 OK\r\n\r\n", 0, 0, false, ""},
		{"a status of four digits", "HTTP/1.1 2000 OK\r\n\r\n", 0, 0, false, ""},
		{"a status below 100", "HTTP/1.1 099 OK\r\n\r\n", 0, 0, false, ""},
		{"a switch of protocols", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", 0, 0, false, ""},
		{"interim responses without end", strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", maxInterim+1), 0, 0, false, ""},
	} {
		t.Run(w.name, func(t *testing.T) {
			var h head
			n, err := h.parse([]byte(w.in + "body"))
			if w.status == 0 {
				if err == nil {
					t.Fatalf("accepted: %+v", h)
				}
				return
			}
			fields := ""
			for _, f := range h.fields {
				fields += string(f.name) + "=" + string(f.value) + " "
			}
			if err != nil || n != len(w.in) || h.status != w.status || h.length != w.length || h.keepAlive != w.keepAlive || fields != w.fields {
				t.Errorf("%v, %d of %d bytes, status %d, length %d, keepAlive %v, fields %q", err, n, len(w.in), h.status, h.length, h.keepAlive, fields)
			}
			for cut := range len(w.in) { // an incomplete head is neither one nor malformed
				if n, err := h.parse([]byte(w.in[:cut])); n != 0 || err != nil {
					t.Fatalf("the first %d bytes: %d %v", cut, n, err)
				}
			}
		})
	}
}

// FuzzHead compares with net/http's reader where both accept a head: they must
// agree on what frames the body.
func FuzzHead(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nRetry-After: 1\r\n\r\nhello"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\nConnection: close\r\n\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No\r\n\r\n"))
	f.Add([]byte("HTTP/1.0 503 X\nA: b\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var h head
		n, err := h.parse(in)
		if err != nil || n == 0 {
			return
		}
		if h.status < 200 || h.status > 999 || h.length < toClose || bytes.IndexByte(in[:n], '\n') < 0 {
			t.Fatalf("accepted %+v", h)
		}
		for _, field := range h.fields {
			if bytes.ContainsAny(field.name, "\r\n\x00: ") || bytes.ContainsAny(field.value, "\r\n\x00") {
				t.Fatalf("a field could inject lines: %q: %q", field.name, field.value)
			}
		}
		br := bufio.NewReader(bytes.NewReader(in))
		resp, err := http.ReadResponse(br, nil)
		for err == nil && resp.StatusCode < 200 {
			resp, err = http.ReadResponse(br, nil)
		}
		if err != nil {
			return // stricter than we are
		}
		want := resp.ContentLength
		switch {
		case len(resp.TransferEncoding) > 0:
			want = chunked
		case h.status == 204 || h.status == 304:
			want = 0
		case want < 0:
			want = toClose
		}
		// HTTP/1.0 has no chunks: net/http reads such a body to the end of the
		// connection, which is where it ends for us too, as it is never reused.
		old := resp.ProtoMinor == 0 && h.length == chunked
		if resp.StatusCode != h.status || !old && want != h.length {
			t.Fatalf("%d %d, net/http says %d %d\n%q", h.status, h.length, resp.StatusCode, want, in)
		}
		if h.keepAlive && resp.Close {
			t.Fatalf("a connection is kept that net/http closes: %s", strconv.Quote(string(in)))
		}
	})
}
