package app_test

import (
	"io"
	"strings"
	"testing"
)

// carriers are requests of somebody without a key that have, in what is or may be
// taken for their body, a request that the operator's token stands in, as it would
// be where a proxy adds that. BODY is what is hidden, LEN its length.
var carriers = map[string]string{
	"a body":                    "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: LEN\r\n\r\nBODY",
	"a body of a GET":           "GET /v1/models HTTP/1.1\r\nHost: g\r\nContent-Length: LEN\r\n\r\nBODY",
	"a body of a HEAD":          "HEAD /healthz HTTP/1.1\r\nHost: g\r\nContent-Length: LEN\r\n\r\nBODY",
	"a body of an OPTIONS":      "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length: LEN\r\n\r\nBODY",
	"a body of nothing there":   "POST /nothing HTTP/1.1\r\nHost: g\r\nContent-Length: LEN\r\n\r\nBODY",
	"a body of another method":  "PUT /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length: LEN\r\n\r\nBODY",
	"a body of no method":       "BREW /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length: LEN\r\n\r\nBODY",
	"a body of another type":    "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Type: text/plain\r\nContent-Length: LEN\r\n\r\nBODY",
	"a body to /admin":          "POST /admin/api-keys HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: LEN\r\n\r\nBODY",
	"a body to a GET of /admin": "GET /admin/api-keys HTTP/1.1\r\nHost: g\r\nContent-Length: LEN\r\n\r\nBODY",
	"a large body":              "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\nBODY",
	"a large body, late":        "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\nPADBODY",
	"too large a body":          "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: 1000000000000\r\n\r\nBODY",
	"a large body of a GET":     "GET /v1/models HTTP/1.1\r\nHost: g\r\nContent-Length: 1000000\r\n\r\nBODY",
	"a large body to /admin":    "POST /admin/api-keys HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\nPADBODY",
	"expected":                  "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: LEN\r\n\r\nBODY",
	"expected, large":           "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\nBODY",
	"expected at /admin":        "POST /admin/api-keys HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\nContent-Length: LEN\r\n\r\nBODY",
	"expected in chunks":        "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\nCHUNK",
	"a form":                    "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: g\r\nContent-Type: multipart/form-data; boundary=frontier\r\nContent-Length: LEN\r\n\r\nBODY",
	"a large form":              "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: g\r\nContent-Type: multipart/form-data; boundary=frontier\r\nContent-Length: 1000000\r\n\r\n--frontier\r\nBODY",
	"a form in chunks":          "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: g\r\nContent-Type: multipart/form-data; boundary=frontier\r\nTransfer-Encoding: chunked\r\n\r\nCHUNK",
	"a form without a boundary": "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: g\r\nContent-Type: multipart/form-data\r\nContent-Length: LEN\r\n\r\nBODY",
	"an expected form":          "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\nContent-Type: multipart/form-data; boundary=frontier\r\nContent-Length: LEN\r\n\r\nBODY",
	"chunks":                    "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\nCHUNK",
	"large chunks":              "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n8000\r\nPADPAD\r\nCHUNK",
	"a chunk that never ends":   "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n7fffffff\r\nBODY",

	"length and chunks":           "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length: 5LEN\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nBODY",
	"chunks and length":           "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\nContent-Length: 5LEN\r\n\r\n0\r\n\r\nBODY",
	"two lengths":                 "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length: LEN\r\nContent-Length: 0\r\n\r\nBODY",
	"two lengths, 0 first":        "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length: 0\r\nContent-Length: LEN\r\n\r\nBODY",
	"a list of lengths":           "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length: 0, LEN\r\n\r\nBODY",
	"a plus":                      "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length: +LEN\r\n\r\nBODY",
	"a minus":                     "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length: -LEN\r\n\r\nBODY",
	"hex":                         "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length: 0xLEN\r\n\r\nBODY",
	"an empty length":             "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length:\r\n\r\nBODY",
	"a blank before the colon":    "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length : LEN\r\n\r\nBODY",
	"a folded length":             "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length:\r\n LEN\r\n\r\nBODY",
	"an underscore":               "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent_Length: LEN\r\nContent-Length: LEN\r\n\r\nBODY",
	"an overflow":                 "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length: 18446744073709551616\r\n\r\nBODY",
	"chunked, identity":           "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\nBODY",
	"chunked twice":               "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\nBODY",
	"xchunked":                    "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: xchunked\r\nContent-Length: LEN\r\n\r\nBODY",
	"a vertical tab":              "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nTransfer-Encoding:\x0bchunked\r\nContent-Length: 5LEN\r\n\r\n0\r\n\r\nBODY",
	"a chunk's size overflows":    "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\nBODY",
	"a chunk's size in a bad way": "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n0x0\r\n\r\nBODY",
	"a line feed alone":           "POST /v1/chat/completions HTTP/1.1\r\nHost: g\nContent-Length: LEN\r\n\r\nBODY",
	"a return in a value":         "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nX: y\rContent-Length: LEN\r\n\r\nBODY",
	"no blank line":               "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nX: BODY",
	"a line of no header":         "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nBODY",
	"HTTP/1.0 in chunks":          "POST /v1/chat/completions HTTP/1.0\r\nHost: g\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: LEN\r\n\r\nBODY",
	"HTTP/0.9":                    "GET /admin/api-keys\r\nBODY",
	"an upgrade":                  "GET /v1/models HTTP/1.1\r\nHost: g\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nContent-Length: LEN\r\n\r\nBODY",
	"HTTP/2's preface":            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nBODY",
	"a hop-by-hop length":         "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nConnection: Content-Length\r\nContent-Length: LEN\r\n\r\nBODY",
	"a tunnel":                    "CONNECT /admin/api-keys HTTP/1.1\r\nHost: g\r\nContent-Length: LEN\r\n\r\nBODY",
}

// TestAttackSmuggling: what one request carries is never another, so that nobody
// speaks with the token that a proxy adds to its own.
func TestAttackSmuggling(t *testing.T) {
	leavesNothing(t)
	for place, more := range adminPlaces(t) {
		t.Run(place, func(t *testing.T) {
			s := startOperated(t, more+"cors: {enabled: true, allowed_origins: [\"https://a.example\"]}\n")
			hidden := adminRequest("DELETE /admin/api-keys/"+s.id, "", attackBearer+attackToken)
			fill := strings.NewReplacer("PAD", strings.Repeat(" ", 16<<10), "BODY", hidden, "LEN", itoa(len(hidden)), "CHUNK", chunk(hidden).wire+lastChunk.wire)
			for name, raw := range carriers {
				s.clients++
				c := dialFrom(t, s.addr, "127.3.250."+itoa(s.clients%250+1))
				if err := c.sendAll(fill.Replace(raw)); err != nil {
					t.Logf("%s: the rest was not taken: %v", name, err)
				}
				got := c.ended()
				c.Close()
				s.unchanged(t, got)
				if t.Failed() {
					t.Fatalf("%s: %s", name, got)
				}
			}
			// What two requests are is two requests: else nothing were shown.
			c := dialFrom(t, s.addr, "127.3.251.1")
			if err := c.sendAll("GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n" + hidden); err != nil {
				t.Fatal(err)
			}
			if got := c.ended(); strings.Count(got, "HTTP/1.1 ") != 2 || !strings.Contains(got, "HTTP/1.1 204 ") {
				t.Errorf("two requests come to %s", got)
			}
			quiet(t, s.Gateway)
		})
	}
}

// sendAll sends s and ends this side. The gateway may be gone before it has read
// all.
func (c *rawClient) sendAll(s string) error {
	if _, err := io.WriteString(c, s); err != nil {
		return err
	}
	return tcpOf(c.Conn).CloseWrite()
}
