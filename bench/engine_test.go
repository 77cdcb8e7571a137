package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

// What the engine answers: sizes as vLLM's, a short chat and one token.
const (
	wholeBody = `{"id":"chatcmpl-581bec036a30b55f21a8ffb6c7fe6ce0","object":"chat.completion","created":1795394112,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"The gateway forwards every token as soon as it arrives and never holds a byte back for long.","refusal":null,"annotations":null,"audio":null,"function_call":null,"tool_calls":[],"reasoning":null},"logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null}],"service_tier":null,"system_fingerprint":null,"usage":{"prompt_tokens":212,"total_tokens":233,"completion_tokens":21,"prompt_tokens_details":null},"prompt_logprobs":null,"prompt_token_ids":null,"kv_transfer_params":null}`
	event     = `data: {"id":"chatcmpl-581bec036a30b55f21a8ffb6c7fe6ce0","object":"chat.completion.chunk","created":1795394112,"model":"m","choices":[{"index":0,"delta":{"content":" arrives"},"logprobs":null,"finish_reason":null,"token_ids":null}]}` + "\n\n"
)

var (
	wholeAnswer  = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nServer: uvicorn\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(wholeBody), wholeBody)
	streamChunk  = fmt.Appendf(nil, "%x\r\n%s\r\n", len(event), event)
	streamBegin  = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nServer: uvicorn\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n%s", streamChunk)
	streamEnding = []byte("e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
)

// engine is the least that can answer: canned bytes behind a request's head
// and length, no parsing and no allocation, so that what is measured is the
// gateway.
type engine struct {
	addr string
	// tick makes a stream send its next event; end ends it.
	tick, end chan struct{}
}

func startEngine(b *testing.B) *engine {
	ln := listen(b)
	e := &engine{addr: ln.Addr().String(), tick: make(chan struct{}), end: make(chan struct{})}
	b.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			b.Cleanup(func() { c.Close() })
			go e.serve(c)
		}
	}()
	return e
}

func listen(b *testing.B) net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	return ln
}

func (e *engine) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReaderSize(c, 16<<10)
	for {
		stream, err := readRequest(in)
		if err != nil {
			return
		}
		if !stream {
			if _, err := c.Write(wholeAnswer); err != nil {
				return
			}
			continue
		}
		if _, err := c.Write(streamBegin); err != nil {
			return
		}
		for more := true; more; {
			out := streamChunk
			select {
			case <-e.tick:
			case <-e.end:
				out, more = streamEnding, false
			}
			if _, err := c.Write(out); err != nil {
				return
			}
		}
	}
}

// readRequest reads one request and tells whether a stream is wanted.
func readRequest(in *bufio.Reader) (stream bool, err error) {
	length := 0
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return false, err
		}
		if len(line) == 2 {
			break
		}
		if name, value, ok := bytes.Cut(line, []byte(": ")); ok && bytes.EqualFold(name, []byte("Content-Length")) {
			length = atoi(value)
		}
	}
	body, err := in.Peek(length)
	if err != nil {
		return false, err
	}
	stream = bytes.Contains(body, []byte(`"stream":true`))
	_, err = in.Discard(length)
	return stream, err
}

// atoi reads the digits at the start of p.
func atoi(p []byte) (n int) {
	for _, c := range p {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// client is one keep-alive connection; like the engine it allocates nothing.
type client struct {
	conn net.Conn
	in   *bufio.Reader
}

func dial(b *testing.B, addr string) *client {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return &client{conn: c, in: bufio.NewReaderSize(c, 16<<10)}
}

// secret is the client's key.
const secret = "sk-0123456789abcdef"

// request is a chat of the usual size: an 800-byte prompt.
func request(stream bool) []byte {
	body := fmt.Sprintf(`{"model":"m","stream":%t,"max_tokens":256,"temperature":0.7,"messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":%q}]}`,
		stream, strings.Repeat("Tell me about rivers and stones. ", 25))
	return fmt.Appendf(nil, "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %s\r\nUser-Agent: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", secret, len(body), body)
}

// send sends a request and reads the head of its answer.
func (c *client) send(b *testing.B, request []byte) (length int) {
	if _, err := c.conn.Write(request); err != nil {
		b.Fatal(err)
	}
	status := true
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			b.Fatal(err)
		}
		if status && !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
			b.Fatalf("got %q", line)
		}
		status = false
		if len(line) == 2 {
			return length
		}
		if name, value, ok := bytes.Cut(line, []byte(": ")); ok && bytes.EqualFold(name, []byte("Content-Length")) {
			length = atoi(value)
		}
	}
}

// whole sends a request and reads all of its answer.
func (c *client) whole(b *testing.B, request []byte) {
	n := c.send(b, request)
	if n != len(wholeBody) {
		b.Fatalf("the answer has %d bytes, want %d", n, len(wholeBody))
	}
	if _, err := c.in.Discard(n); err != nil {
		b.Fatal(err)
	}
}

// chunk reads one chunk of a chunked answer, whose size must be that of one
// event.
func (c *client) chunk(b *testing.B) {
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		b.Fatal(err)
	}
	if n := unhex(line); n != len(event) {
		b.Fatalf("a chunk of %d bytes, want one event of %d", n, len(event))
	}
	if _, err := c.in.Discard(len(event) + 2); err != nil {
		b.Fatal(err)
	}
}

func unhex(p []byte) (n int) {
	for _, c := range p {
		switch {
		case '0' <= c && c <= '9':
			n = n<<4 + int(c-'0')
		case 'a' <= c && c <= 'f':
			n = n<<4 + int(c-'a') + 10
		case 'A' <= c && c <= 'F':
			n = n<<4 + int(c-'A') + 10
		default:
			return n
		}
	}
	return n
}

// drain reads an answer to its end.
func (c *client) drain(b *testing.B) {
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil && err != io.EOF {
			b.Fatal(err)
		}
		if string(line) == "0\r\n" {
			return
		}
	}
}
