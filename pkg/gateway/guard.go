package gateway

import (
	"bytes"
	"errors"
	"net"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/listener"
	"github.com/llmproxy/llmproxy/pkg/openai"
)

// suspicious tells why a request is refused before anything reads it: what one
// proxy may read in one way and the next in another (RFC 9112, sections 2.2,
// 5.2 and 6.3). fasthttp accepts these; nothing of a client's framing reaches
// an engine, but a proxy in front of us may have been tricked by them.
func suspicious(h *fasthttp.RequestHeader) string {
	raw := h.RawHeaders()
	var lengths, encodings, hosts, auths, contents int
	for len(raw) > 0 {
		i := bytes.IndexByte(raw, '\n')
		if i < 0 {
			break
		}
		line := raw[:i]
		raw = raw[i+1:]
		if i == 0 || line[i-1] != '\r' {
			return "a header line ends in a bare line feed"
		}
		line = line[:i-1]
		if len(line) == 0 {
			break
		}
		if bytes.IndexByte(line, '\r') >= 0 {
			return "a header line holds a carriage return"
		}
		switch line[0] | 0x20 {
		case ' ', '\t' | 0x20:
			return "a header line is folded"
		case 'c':
			lengths += named(line, "content-length")
			contents += named(line, "content-encoding")
		case 't':
			if n := named(line, "transfer-encoding"); n > 0 {
				encodings += n
				if value := line[len("transfer-encoding:"):]; !bytes.EqualFold(bytes.Trim(value, " \t"), []byte("chunked")) {
					return "the only Transfer-Encoding of a request is chunked"
				}
			}
		case 'h':
			hosts += named(line, "host")
		case 'a':
			auths += named(line, "authorization")
		}
	}
	switch {
	case lengths > 0 && encodings > 0:
		return "Content-Length and Transfer-Encoding exclude each other"
	case encodings > 0 && len(h.PeekTrailerKeys()) > 0:
		return "trailer fields are not accepted" // the server mixes them with the header's
	case lengths > 1, encodings > 1, hosts > 1, auths > 1, contents > 1:
		return "a header that may stand once stands twice"
	}
	return ""
}

// pathOf is the path that a request asks for, without its query, also where its
// target is a whole URL (RFC 9112, section 3.2.2).
func pathOf(h *fasthttp.RequestHeader) []byte {
	path, _, _ := bytes.Cut(h.RequestURI(), []byte("?"))
	if len(path) > 0 && path[0] == '/' {
		return path
	}
	if _, rest, ok := bytes.Cut(path, []byte("://")); ok {
		return rest[max(bytes.IndexByte(rest, '/'), 0):]
	}
	return path
}

// named returns 1 when the header line has that name, in any case.
func named(line []byte, lower string) int {
	if len(line) > len(lower) && line[len(lower)] == ':' && bytes.EqualFold(line[:len(lower)], []byte(lower)) {
		return 1
	}
	return 0
}

// malformedError says what was wrong with bytes that made no request.
func malformedError(err error, maxBody int) *openai.Error {
	var small *fasthttp.ErrSmallBuffer
	var ne net.Error
	switch {
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		return openai.BodyTooLarge(int64(maxBody))
	case errors.As(err, &small):
		return openai.HeadersTooLarge()
	case errors.As(err, &ne) && ne.Timeout():
		return openai.RequestTimeout()
	}
	return openai.BadRequest("", "the bytes sent are not an HTTP/1.1 request")
}

// unread tells whether headerReceived has left a body on the connection.
func unread(h *fasthttp.RequestHeader) bool {
	if h.ContentLength() != 0 {
		return false
	}
	for line := range bytes.Lines(h.RawHeaders()) {
		if named(line, "transfer-encoding") == 1 ||
			named(line, "content-length") == 1 && bytes.ContainsAny(line[len("content-length:"):], "123456789") {
			return true
		}
	}
	return false
}

// refuseUnread answers a request that is refused whatever stands in its body, which
// is still to come.
func (g *Gateway) refuseUnread(ctx *fasthttp.RequestCtx) {
	if c := listener.FromConn(ctx.Conn()); c != nil {
		c.Linger()
	}
	err := g.refusedByHead(&ctx.Request.Header)
	if err == nil { // the keys are others by now
		err = openai.Unavailable("", time.Second)
	}
	ctx.SetConnectionClose()
	g.refuseByHead(ctx, err)
}
