package gateway

import (
	"bufio"
	"errors"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
)

func TestSuspicious(t *testing.T) {
	for _, w := range []struct {
		name, header string
		refused      bool
	}{
		{"an ordinary request", "Host: a\r\nContent-Length: 5\r\nAuthorization: x\r\n", false},
		{"chunks", "Host: a\r\nTransfer-Encoding: chunked\r\n", false},
		{"chunks in another case", "Host: a\r\ntransfer-encoding:  Chunked \r\n", false},
		{"names that begin alike", "Host: a\r\nHostname: b\r\nContent-Length-Hint: 1\r\nContent-Length: 5\r\nAuthorization-Info: y\r\nAuthorization: x\r\n", false},
		{"a name inside a value", "Host: a\r\nX-A: Host: b\r\nX-B: Transfer-Encoding: gzip\r\n", false},
		{"both lengths", "Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", true},
		{"both lengths in odd case", "Host: a\r\ntRANSFER-eNCODING: chunked\r\ncONTENT-lENGTH: 5\r\n", true},
		{"two hosts", "Host: a\r\nhost: a\r\n", true},
		{"two authorizations", "Host: a\r\nAuthorization: x\r\nAUTHORIZATION: x\r\n", true},
		{"two lengths", "Host: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n", true},
		{"two encodings", "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", true},
		{"an encoding that is none", "Host: a\r\nTransfer-Encoding: identity\r\n", true},
		{"a bare line feed", "Host: a\r\nX-A: b\nX-B: c\r\n", true},
		{"a bare line feed in the first line", "Host: a\nX-B: c\r\n", true},
	} {
		t.Run(w.name, func(t *testing.T) {
			var h fasthttp.RequestHeader
			raw := "POST / HTTP/1.1\r\n" + w.header + "\r\n"
			if err := h.Read(bufio.NewReader(strings.NewReader(raw))); err != nil {
				if !w.refused {
					t.Fatal(err)
				}
				return // the server refuses it before we can
			}
			if why := suspicious(&h); (why != "") != w.refused {
				t.Errorf("refused: %q", why)
			}
		})
	}
}

type slow struct{ error }

func (slow) Timeout() bool   { return true }
func (slow) Temporary() bool { return true }

func TestMalformedError(t *testing.T) {
	for _, w := range []struct {
		err    error
		status int
	}{
		{fasthttp.ErrBodyTooLarge, 413},
		{&fasthttp.ErrSmallBuffer{}, 431},
		{slow{errors.New("i/o timeout")}, 408},
		{errors.New("anything else, such as \x00 with the client's bytes"), 400},
	} {
		got := malformedError(w.err, 100)
		if got.Status != w.status || strings.Contains(got.Message, "\x00") {
			t.Errorf("%v: %v", w.err, got)
		}
	}
}

func TestPathOf(t *testing.T) {
	for target, want := range map[string]string{
		"/v1/models?x=/y":                      "/v1/models",
		"/":                                    "/",
		"http://gateway:8000/admin/config?x=1": "/admin/config",
		"HTTP://gateway//admin":                "//admin",
		"http://gateway":                       "gateway",
		"*":                                    "*",
		"/x?u=http://gateway/admin/":           "/x",
	} {
		var h fasthttp.RequestHeader
		h.SetRequestURI(target)
		if got := string(pathOf(&h)); got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
}
