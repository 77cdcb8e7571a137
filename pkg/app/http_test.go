package app_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// TestAmbiguousRequests sends what one proxy reads in one way and the next in
// another. Each is refused, its connection closed, and no engine sees it.
func TestAmbiguousRequests(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, "", e)
	const path = "/v1/chat/completions"
	n := itoa(len(wholeChat))
	start := "POST " + path + " HTTP/1.1\r\nHost: gateway\r\n"
	chunked := itoa16(len(wholeChat)) + "\r\n" + wholeChat + "\r\n0\r\n\r\n"
	te := start + "Transfer-Encoding: chunked\r\n"
	for name, raw := range map[string]string{
		"both lengths":                    te + "Content-Length: " + n + "\r\n\r\n" + chunked,
		"both lengths, the other order":   start + "Content-Length: " + n + "\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked,
		"two hosts":                       "POST " + path + " HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: " + n + "\r\n\r\n" + wholeChat,
		"two equal hosts":                 "POST " + path + " HTTP/1.1\r\nHost: a\r\nhost: a\r\nContent-Length: " + n + "\r\n\r\n" + wholeChat,
		"two authorizations":              post(path, wholeChat, "Authorization: Bearer a", "Authorization: Bearer b"),
		"two lengths":                     post(path, wholeChat, "Content-Length: 5"),
		"two equal lengths":               post(path, wholeChat, "Content-Length: "+n),
		"a list of lengths":               start + "Content-Length: " + n + ", " + n + "\r\n\r\n" + wholeChat,
		"a signed length":                 start + "Content-Length: +" + n + "\r\n\r\n" + wholeChat,
		"a negative length":               start + "Content-Length: -1\r\n\r\n",
		"an empty length":                 start + "Content-Length:\r\n\r\n",
		"a hexadecimal length":            start + "Content-Length: 0x10\r\n\r\n" + wholeChat,
		"a huge length":                   start + "Content-Length: 99999999999999999999\r\n\r\n",
		"a folded line":                   post(path, wholeChat, "X-A: b", " Content-Length: 0"),
		"a folded first line":             start[:len(start)-len("Host: gateway\r\n")] + " Host: x\r\nHost: gateway\r\nContent-Length: " + n + "\r\n\r\n" + wholeChat,
		"a line ending in LF":             start + "X-A: b\nContent-Length: " + n + "\r\n\r\n" + wholeChat,
		"the head ending in LF":           start + "Content-Length: " + n + "\r\n\n" + wholeChat,
		"a carriage return in a line":     post(path, wholeChat, "X-A: b\rTransfer-Encoding: chunked"),
		"a space before the colon":        post(path, wholeChat, "Transfer-Encoding : chunked"),
		"a tab before the colon":          post(path, wholeChat, "X-A\t: b"),
		"a NUL in a name":                 post(path, wholeChat, "X-\x00A: b"),
		"a NUL in a value":                post(path, wholeChat, "X-A: b\x00c"),
		"a line without a colon":          post(path, wholeChat, "nonsense"),
		"an empty name":                   post(path, wholeChat, ": b"),
		"two encodings":                   te + "Transfer-Encoding: chunked\r\n\r\n" + chunked,
		"an encoding besides chunked":     start + "Transfer-Encoding: gzip, chunked\r\n\r\n" + chunked,
		"chunked twice":                   start + "Transfer-Encoding: chunked, chunked\r\n\r\n" + chunked,
		"the encoding identity":           start + "Transfer-Encoding: identity\r\nX: y\r\n\r\n" + chunked,
		"an encoding with a vertical tab": start + "Transfer-Encoding: \x0bchunked\r\n\r\n" + chunked,
		"an encoding under HTTP/1.0":      "POST " + path + " HTTP/1.0\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked,
		"a chunk size with a sign":        te + "\r\n+" + chunked,
		"a chunk size with 0x":            te + "\r\n0x" + chunked,
		"a chunk without its size":        te + "\r\n\r\n" + chunked,
		"a chunk size that overflows":     te + "\r\n1" + strings.Repeat("0", 16) + chunked,
		"a chunk longer than its size":    te + "\r\n" + itoa16(len(wholeChat)-1) + "\r\n" + wholeChat + "\r\n0\r\n\r\n",
		"no host":                         "POST " + path + " HTTP/1.1\r\nContent-Length: " + n + "\r\n\r\n" + wholeChat,
		"HTTP/2's preface":                "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"a version that is none":          "POST " + path + " HTTP/x.y\r\nHost: gateway\r\nContent-Length: " + n + "\r\n\r\n" + wholeChat,
		"no version":                      "POST " + path + "\r\nHost: gateway\r\nContent-Length: " + n + "\r\n\r\n" + wholeChat,
		"a trailer, taken for a header":   te + itoa16(len(wholeChat)) + "\r\n" + wholeChat + "\r\n0\r\nTraceparent: evil\r\n\r\n",
		"a space in the target":           "POST " + path + " x HTTP/1.1\r\nHost: gateway\r\nContent-Length: " + n + "\r\n\r\n" + wholeChat,
		"a TLS hello":                     "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			before := len(posts(e))
			c := dialRaw(t, g.Addr)
			c.send(raw + "GET /healthz HTTP/1.1\r\nHost: smuggled\r\n\r\n")
			resp, body := c.answer("POST")
			if resp.StatusCode/100 != 4 && resp.StatusCode != 501 && resp.StatusCode != 505 || !strings.HasPrefix(body, `{"error":{"message":"`) {
				t.Errorf("answered %d %s", resp.StatusCode, body)
			}
			if rest := c.ended(); rest != "" {
				t.Errorf("went on with %q", rest)
			}
			if n := len(posts(e)) - before; n != 0 {
				t.Errorf("the engine was asked %d times", n)
			}
		})
	}
	quiet(t, g)
}

// TestHarmlessOddities sends what is unusual and clear.
func TestHarmlessOddities(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, "", e)
	const path = "/v1/chat/completions"
	te := "POST " + path + " HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n"
	half := len(wholeChat) / 2
	for name, raw := range map[string]string{
		"chunks":                     te + itoa16(half) + "\r\n" + wholeChat[:half] + "\r\n" + itoa16(len(wholeChat)-half) + "\r\n" + wholeChat[half:] + "\r\n0\r\n\r\n",
		"chunk size in capitals":     te + strings.ToUpper(itoa16(len(wholeChat))) + "\r\n" + wholeChat + "\r\n0\r\n\r\n",
		"empty lines before":         "\r\n\r\n" + post(path, wholeChat),
		"no content type":            "POST " + path + " HTTP/1.1\r\nHost: gateway\r\nContent-Length: " + itoa(len(wholeChat)) + "\r\n\r\n" + wholeChat,
		"names in odd case":          "POST " + path + " HTTP/1.1\r\nhOsT: gateway\r\ncONTENT-lENGTH: " + itoa(len(wholeChat)) + "\r\n\r\n" + wholeChat,
		"a query":                    post(path+"?api-version=2024&model=other", wholeChat),
		"an absolute target":         post("http://gateway"+path, wholeChat),
		"bytes above ASCII":          post(path, wholeChat, "X-Name: J\xc3\xbcrgen \xff"),
		"identity":                   post(path, wholeChat, "Content-Encoding: identity"),
		"a connection header naming": post(path, wholeChat, "Connection: X-Request-Id, Content-Type", "X-Request-Id: mine"),
	} {
		t.Run(name, func(t *testing.T) {
			before := len(posts(e))
			c := dialRaw(t, g.Addr)
			c.send(raw)
			resp, body := c.answer("POST")
			if resp.StatusCode != 200 || !strings.Contains(body, `"chat.completion"`) {
				t.Fatalf("answered %d %s", resp.StatusCode, body)
			}
			rows := posts(e)
			if len(rows) != before+1 || rows[before].Path != path || rows[before].Host == "gateway" {
				t.Errorf("the engine saw %+v", rows[before:])
			}
			c.send(post(path, wholeChat)) // and the connection lives on
			if resp, _ := c.answer("POST"); resp.StatusCode != 200 {
				t.Errorf("the next request got %d", resp.StatusCode)
			}
			c.Close()
		})
	}
	quiet(t, g)
}

// TestOldVersions covers HTTP/1.0, which knows no chunks, and versions to come.
func TestOldVersions(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, "", e)
	const path = "/v1/chat/completions"
	request := func(version, body string, lines ...string) string {
		return strings.Replace(post(path, body, lines...), " HTTP/1.1", " "+version, 1)
	}
	for name, body := range map[string]string{"whole": wholeChat, "stream": streamChat} {
		t.Run("HTTP/1.0 "+name, func(t *testing.T) {
			c := dialRaw(t, g.Addr)
			c.send(request("HTTP/1.0", body, "Connection: keep-alive"))
			resp, got := c.answer("POST")
			if resp.StatusCode != 200 || len(resp.TransferEncoding) != 0 || got == "" {
				t.Errorf("%d %v %q", resp.StatusCode, resp.Header, got)
			}
			if name == "stream" {
				if !strings.HasSuffix(got, "data: [DONE]\n\n") || resp.Header.Get("Content-Type") != "text/event-stream; charset=utf-8" || resp.Header.Get("X-Request-Id") == "" {
					t.Errorf("%v %q", resp.Header, got)
				}
				if rest := c.ended(); rest != "" {
					t.Errorf("went on with %q", rest)
				}
			}
			c.Close()
		})
		t.Run("HTTP/1.2 "+name, func(t *testing.T) {
			c := dialRaw(t, g.Addr)
			c.send(request("HTTP/1.2", body))
			resp, got := c.answer("POST")
			if resp.StatusCode != 200 && resp.StatusCode != 505 || got == "" {
				t.Errorf("%d %q", resp.StatusCode, got)
			}
			c.Close()
		})
	}
	t.Run("HTTP/1.0 whole closes", func(t *testing.T) {
		c := dialRaw(t, g.Addr)
		c.send(request("HTTP/1.0", wholeChat))
		if resp, _ := c.answer("POST"); resp.StatusCode != 200 {
			t.Errorf("%d", resp.StatusCode)
		}
		if rest := c.ended(); rest != "" {
			t.Errorf("went on with %q", rest)
		}
	})
	quiet(t, g)
}

// TestPathsAndMethods shows what is reachable: the table of endpoints, exactly
// as it is written, and nothing else of an engine.
func TestPathsAndMethods(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, "", e)
	type want struct {
		method, path string
		status       int
		allow        string
	}
	var table []want
	for _, p := range []string{
		"/v1/chat/completions/", "//v1/chat/completions", "/v1//chat/completions", "/v1/chat%2fcompletions", "/v1/chat/%2e/completions",
		"/v1/./chat/completions", "/v1/x/../chat/completions", "/v1/chat/completions;a=b", "/v1/chat/completions%00", "/V1/chat/completions",
		"/v1/chat/completions%20", "/v1%2Fchat/completions", "/%761/chat/completions", "/v1/chat/../../sleep", "/chat/completions", "/v1", "/",
		"/v1\\chat\\completions", "http://other/sleep", "/v1/chat/completions/../../../sleep", "/generate/", "/generate/../sleep",
	} {
		table = append(table, want{"POST", p, 404, ""})
	}
	for _, p := range []string{
		"/sleep", "/wake_up", "/is_sleeping", "/flush_cache", "/load_lora_adapter", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/unload_lora_adapter",
		"/reset_prefix_cache", "/collective_rpc", "/update_weights", "/pause", "/resume", "/server_info", "/start_profile",
		"/invocations", "/docs", "/openapi.json", "/load", "/version", "/ping", "/health", "/info",
	} {
		table = append(table, want{"POST", p, 404, ""}, want{"GET", p, 404, ""})
	}
	for _, p := range []string{
		"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/generate_stream", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens",
		"/v1/rerank", "/v2/rerank", "/rerank", "/v1/score", "/score", "/classify", "/pooling", "/tokenize", "/detokenize",
		"/v1/audio/transcriptions", "/v1/audio/translations", "/v1/responses/resp_1/cancel",
	} {
		for _, m := range []string{"GET", "HEAD", "PUT", "DELETE", "PATCH"} {
			table = append(table, want{m, p, 405, "OPTIONS, POST"})
		}
		table = append(table, want{"OPTIONS", p, 204, "OPTIONS, POST"})
	}
	table = append(table,
		want{"GET", "/generate", 405, "OPTIONS, POST, PUT"}, // SGLang's is a PUT too
		want{"POST", "/v1/responses/resp_1", 405, "DELETE, GET, OPTIONS"},
		want{"GET", "/v1/responses/..%2f..%2fsleep", 404, ""},
		want{"GET", "/v1/models", 200, ""}, want{"HEAD", "/v1/models", 200, ""}, want{"POST", "/v1/models", 405, "GET, HEAD, OPTIONS"},
		want{"GET", "/v1/models/mock-model", 200, ""}, want{"GET", "/v1/models/none", 404, ""},
		want{"GET", "/healthz", 200, ""}, want{"HEAD", "/healthz", 200, ""}, want{"GET", "/readyz", 200, ""},
		want{"DELETE", "/healthz", 405, "GET, HEAD, OPTIONS"}, want{"BREW", "/v1/models", 405, "GET, HEAD, OPTIONS"},
		want{"TRACE", "/v1/models", 405, "GET, HEAD, OPTIONS"}, want{"CONNECT", "gateway:443", 404, ""},
	)
	for _, w := range table {
		t.Run(w.method+" "+w.path, func(t *testing.T) {
			c := dialRaw(t, g.Addr)
			defer c.Close()
			c.send(w.method + " " + w.path + " HTTP/1.1\r\nHost: gateway\r\n\r\n")
			resp, body := c.answer(w.method)
			if resp.StatusCode != w.status || resp.Header.Get("Allow") != w.allow {
				t.Errorf("%d, Allow %q, want %d, %q: %s", resp.StatusCode, resp.Header.Get("Allow"), w.status, w.allow, body)
			}
			if w.method == "HEAD" && body != "" {
				t.Errorf("a HEAD has a body: %q", body)
			}
			shape := `{"error":{"message":"`
			if strings.HasPrefix(w.path, "/v1/messages") {
				shape = `{"type":"error","error":{"type":"`
			}
			if w.status >= 400 && w.method != "HEAD" && !strings.HasPrefix(body, shape) {
				t.Errorf("not an error of its SDK: %s", body)
			}
		})
	}
	if rows := posts(e); len(rows) != 0 {
		t.Errorf("the engine was asked: %+v", rows)
	}
	quiet(t, g)
}

// TestBodyLimits: what is too large is told so, also while it is being sent.
func TestBodyLimits(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, "server: {max_body_size: 64KiB, max_header_size: 8KiB}\n", e)
	const path, limit = "/v1/chat/completions", 64 << 10
	padded := func(size int) string {
		return wholeChat[:len(wholeChat)-1] + strings.Repeat(" ", size-len(wholeChat)) + "}"
	}
	chunks := func(body string) string {
		const size = 1000
		var b strings.Builder
		b.WriteString("POST " + path + " HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n")
		for len(body) > 0 {
			k := min(size, len(body))
			b.WriteString(itoa16(k) + "\r\n" + body[:k] + "\r\n")
			body = body[k:]
		}
		return b.String() + "0\r\n\r\n"
	}
	for _, w := range []struct {
		name, raw string
		status    int
		code      string
	}{
		{"exactly the limit", post(path, padded(limit)), 200, ""},
		{"exactly the limit in chunks", chunks(padded(limit)), 200, ""},
		{"one byte over", post(path, padded(limit+1)), 413, "request_too_large"},
		{"one byte over in chunks", chunks(padded(limit + 1)), 413, "request_too_large"},
		{"far over", post(path, padded(16*limit)), 413, "request_too_large"},
		{"far over in chunks", chunks(padded(16 * limit)), 413, "request_too_large"},
		{"only announced", "POST " + path + " HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000000000\r\n\r\n", 413, "request_too_large"},
		{"a long header", post(path, wholeChat, "X-Long: "+strings.Repeat("x", 9<<10)), 431, "headers_too_large"},
		{"a long target", post(path+"?"+strings.Repeat("x", 9<<10), wholeChat), 431, "headers_too_large"},
		{"a trailer without end", chunks("{}")[:len(chunks("{}"))-2] + strings.Repeat("x-a: b\r\n", 1<<17), 431, "headers_too_large"},
	} {
		t.Run(w.name, func(t *testing.T) {
			c := dialRaw(t, g.Addr)
			defer c.Close()
			sent := make(chan struct{})
			go func() { // the answer may come while this still goes on
				defer close(sent)
				_, _ = io.WriteString(c, w.raw)
			}()
			resp, body := c.answer("POST")
			if resp.StatusCode != w.status || w.code != "" && !strings.Contains(body, `"code":"`+w.code+`"`) {
				t.Errorf("%d %s, want %d %s", resp.StatusCode, body, w.status, w.code)
			}
			if w.status != 200 {
				_ = c.ended()
			}
			c.Close()
			<-sent
		})
	}
	quiet(t, g)
}

// TestSlowClients: a head or a body that does not come is answered 408, and
// the connection closed.
func TestSlowClients(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, "server: {header_timeout: 200ms, body_timeout: 300ms, idle_timeout: 400ms}\n", e)
	const path = "/v1/chat/completions"
	whole := post(path, wholeChat)
	for name, raw := range map[string]string{
		"half a request line": "POST /v1/ch",
		"half a head":         whole[:60],
		"no body":             strings.TrimSuffix(whole, wholeChat),
		"half a body":         whole[:len(whole)-10],
		"half a chunk":        "POST " + path + " HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nabc",
	} {
		t.Run(name, func(t *testing.T) {
			c := dialRaw(t, g.Addr)
			c.send(raw)
			resp, body := c.answer("POST")
			if resp.StatusCode != 408 || !strings.Contains(body, `"code":"request_timeout"`) {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
			if rest := c.ended(); rest != "" {
				t.Errorf("went on with %q", rest)
			}
		})
	}
	t.Run("nothing at all", func(t *testing.T) {
		c := dialRaw(t, g.Addr)
		if rest := c.ended(); rest != "" {
			t.Errorf("said %q", rest)
		}
	})
	t.Run("nothing after an answer", func(t *testing.T) {
		c := dialRaw(t, g.Addr)
		c.send(whole)
		if resp, _ := c.answer("POST"); resp.StatusCode != 200 {
			t.Errorf("%d", resp.StatusCode)
		}
		if rest := c.ended(); rest != "" {
			t.Errorf("said %q", rest)
		}
	})
	if rows := posts(e); len(rows) != 1 {
		t.Errorf("the engine saw %d requests, want 1", len(rows))
	}
	quiet(t, g)
}

// TestExpectContinue: a client that asks first is told to go on, or not to.
func TestExpectContinue(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, "server: {max_body_size: 1MiB}\n", e)
	const path = "/v1/chat/completions"
	t.Run("small enough", func(t *testing.T) {
		body := wholeChat[:len(wholeChat)-1] + strings.Repeat(" ", 512<<10) + "}"
		c := dialRaw(t, g.Addr)
		defer c.Close()
		c.send(strings.TrimSuffix(post(path, body, "Expect: 100-continue"), body))
		line, err := c.br.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "HTTP/1.1 100 ") {
			t.Fatalf("%q %v", line, err)
		}
		if line, err = c.br.ReadString('\n'); line != "\r\n" {
			t.Fatalf("%q %v", line, err)
		}
		c.send(body)
		if resp, got := c.answer("POST"); resp.StatusCode != 200 {
			t.Errorf("%d %s", resp.StatusCode, got)
		}
	})
	t.Run("too large", func(t *testing.T) {
		c := dialRaw(t, g.Addr)
		c.send("POST " + path + " HTTP/1.1\r\nHost: gateway\r\nExpect: 100-continue\r\nContent-Length: 2000000\r\n\r\n")
		resp, body := c.answer("POST")
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
		_ = c.ended()
	})
	quiet(t, g)
}
