package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// What the engine answers: sizes as vLLM's, a short chat and one token.
const (
	answer = `{"id":"chatcmpl-581bec036a30b55f21a8ffb6c7fe6ce0","object":"chat.completion","created":1795394112,"model":"chat","choices":[{"index":0,"message":{"role":"assistant","content":"The gateway forwards every token as soon as it arrives and never holds a byte back.","refusal":null,"annotations":null,"audio":null,"function_call":null,"tool_calls":[],"reasoning":null},"logprobs":null,"finish_reason":"stop","stop_reason":null}],"service_tier":null,"system_fingerprint":null,"usage":{"prompt_tokens":212,"total_tokens":233,"completion_tokens":21,"prompt_tokens_details":null},"prompt_logprobs":null}`
	event  = `data: {"id":"chatcmpl-581bec036a30b55f21a8ffb6c7fe6ce0","object":"chat.completion.chunk","created":1795394112,"model":"chat","choices":[{"index":0,"delta":{"content":" arrives"},"logprobs":null,"finish_reason":null,"token_ids":null}]}` + "\n\n"
	done   = "data: [DONE]\n\n"

	// What a metered gateway asks for, and takes out again: the usage at the end of
	// a stream, and with each event.
	usageTotal = `data: {"id":"chatcmpl-581bec036a30b55f21a8ffb6c7fe6ce0","object":"chat.completion.chunk","created":1795394112,"model":"chat","choices":[],"usage":{"prompt_tokens":212,"total_tokens":233,"completion_tokens":21}}` + "\n\n"
	usageEvent = `data: {"id":"chatcmpl-581bec036a30b55f21a8ffb6c7fe6ce0","object":"chat.completion.chunk","created":1795394112,"model":"chat","choices":[{"index":0,"delta":{"content":" arrives"},"logprobs":null,"finish_reason":null,"token_ids":null}],"usage":{"prompt_tokens":212,"total_tokens":233,"completion_tokens":21}}` + "\n\n"
)

var (
	wholeHead  = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nServer: uvicorn\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer)
	streamHead = []byte("HTTP/1.1 200 OK\r\nServer: uvicorn\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n")
	streamEnd  = append(chunk(done), "0\r\n\r\n"...)
)

func chunk(data string) []byte { return fmt.Appendf(nil, "%x\r\n%s\r\n", len(data), data) }

// secret is the key of every client but those that shall be refused. A gateway that
// asks for no keys takes it for one that nobody knows.
const secret = "sk-0123456789abcdef"

// chat is a request of about 1,100 bytes, head included, with a prompt of 725.
func chat(model string, stream bool) []byte { return chatBy(secret, model, stream) }

// chatBy is the same by the holder of another key; all have one length.
func chatBy(secret, model string, stream bool) []byte {
	body := fmt.Sprintf(`{"model":%q,"stream":%t,"max_tokens":256,"temperature":0.7,"messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":%q}]}`,
		model, stream, strings.Repeat("Tell me about rivers, stones. ", 24))
	return fmt.Appendf(nil, "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %s\r\nUser-Agent: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", secret, len(body), body)
}

// ends are the client and the engine. One goroutine plays both in turn, and
// unless in a hurry it sends nothing to the gateway before that has come to
// rest: whether the gateway finds bytes waiting or has to sleep for them is then
// no matter of speed.
type ends struct {
	gateway  *gateway
	mode     mode // the gateway's
	hurry    bool
	listener net.Listener // where the gateway finds its engine
	billing  net.Listener // where a metered one finds who is never going to answer; else nil

	client, engine     net.Conn      // the gateway's first request makes the second
	toClient, toEngine *bufio.Reader // what they receive
	stream             io.Reader     // the answer that is being streamed to the client

	strangers []*stranger
	spender   int       // the tenant whose minute is used up
	spent     time.Time // when it was
}

// patience is how long the gateway may take for anything at all; under valgrind,
// on a busy machine.
const patience = 30 * time.Second

// listen comes before the gateway starts.
func (e *ends) listen() (err error) {
	if e.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	if e.mode == metered {
		e.billing, err = net.Listen("tcp", "127.0.0.1:0")
	}
	return err
}

// billingAddr is "" for a gateway that is not metered.
func (e *ends) billingAddr() string {
	if e.billing == nil {
		return ""
	}
	return e.billing.Addr().String()
}

func (e *ends) connect() (err error) {
	if e.client, err = net.Dial("tcp", e.gateway.addr); err != nil {
		return fmt.Errorf("cannot reach the gateway: %w", err)
	}
	e.toClient = bufio.NewReader(e.client)
	return nil
}

func (e *ends) close() {
	for _, c := range []io.Closer{e.client, e.engine, e.listener, e.billing} {
		if c != nil {
			c.Close()
		}
	}
	for _, s := range e.strangers {
		s.conn.Close()
	}
}

func (e *ends) send(c net.Conn, p []byte) error {
	if !e.hurry {
		if err := e.gateway.rest(); err != nil {
			return err
		}
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := c.Write(p)
	return err
}

// ask sends a request and waits until the engine has all of it.
func (e *ends) ask(request []byte) error {
	if err := e.send(e.client, request); err != nil {
		return err
	}
	if e.engine == nil {
		c, err := e.listener.Accept()
		if err != nil {
			return err
		}
		e.engine, e.toEngine = c, bufio.NewReader(c)
	}
	if err := e.engine.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	r, err := http.ReadRequest(e.toEngine)
	if err != nil {
		return fmt.Errorf("cannot read what the engine received: %w", err)
	}
	_, err = io.Copy(io.Discard, r.Body)
	return err
}

// receive reads the head of the client's answer; the caller reads the body.
func (e *ends) receive(status int) (io.Reader, error) {
	r, err := http.ReadResponse(e.toClient, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot read the client's answer: %w", err)
	}
	if r.StatusCode != status {
		return nil, fmt.Errorf("the client got %s, want %d", r.Status, status)
	}
	return r.Body, nil
}

// whole is one request that is answered as a whole.
func (e *ends) whole(request []byte) error {
	if err := e.ask(request); err != nil {
		return err
	}
	if err := e.send(e.engine, wholeHead); err != nil {
		return err
	}
	body, err := e.receive(http.StatusOK)
	if err != nil {
		return err
	}
	return expect(body, []byte(answer), true)
}

// fillRing makes as many requests as a metered gateway takes to have used each
// place of its ring, 16,384, for the beginning and the end of a request: a place
// gets its memory when it is first used.
func (e *ends) fillRing() error {
	e.hurry = true
	for range 16384 / 2 {
		if err := e.whole(chat("chat", false)); err != nil {
			return err
		}
	}
	return nil
}

// refused is one request that no engine sees.
func (e *ends) refused(request []byte, status int) error {
	if err := e.send(e.client, request); err != nil {
		return err
	}
	body, err := e.receive(status)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, body)
	return err
}

// open begins a stream, up to its first event.
func (e *ends) open(request []byte) error {
	if err := e.ask(request); err != nil {
		return err
	}
	if err := e.send(e.engine, append(streamHead, chunk(event)...)); err != nil {
		return err
	}
	var err error
	if e.stream, err = e.receive(http.StatusOK); err != nil {
		return err
	}
	return expect(e.stream, []byte(event), false)
}

// relay sends n events at once through the open stream; the client gets them as
// event, whatever the engine has told with them.
func (e *ends) relay(sent string, n int) error {
	if err := e.send(e.engine, bytes.Repeat(chunk(sent), n)); err != nil {
		return err
	}
	return expect(e.stream, bytes.Repeat([]byte(event), n), false)
}

// finish ends the open stream; an engine that is asked tells its usage before.
func (e *ends) finish() error {
	tail := streamEnd
	if e.mode != plain { // what is limited has to be known, too
		tail = append(chunk(usageTotal), streamEnd...)
	}
	if err := e.send(e.engine, tail); err != nil {
		return err
	}
	return expect(e.stream, []byte(done), true)
}

// expect reads want from r and, at the end of a body, that there is no more.
func expect(r io.Reader, want []byte, last bool) error {
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil {
		return fmt.Errorf("cannot read the client's answer: %w", err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("the client got %q, want %q", got, want)
	}
	if !last {
		return nil
	}
	n, err := io.Copy(io.Discard, r)
	if err != nil {
		return fmt.Errorf("cannot read the end of the client's answer: %w", err)
	}
	if n > 0 {
		return fmt.Errorf("the client got %d bytes too many", n)
	}
	return nil
}
