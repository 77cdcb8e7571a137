//go:build linux

package main

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

// model is what the engine serves and what the load asks for.
const model = "bench"

const (
	answerID   = "chatcmpl-5f0c2b7d9a1e4c38b6d2f4a07c915e83"
	answerBody = 600 // bytes of a whole answer's JSON
	eventBytes = 245 // of an event with its framing
)

// answers are the bytes that the engine sends, made once.
type answers struct {
	whole, whole10     []byte // the latter to HTTP/1.0, which has to hear that the connection stays
	head, head10       []byte // of a stream
	first, other       event
	tail               []piece // finish reason, usage, [DONE]
	end                []byte  // the last chunk
	noContent, invalid []byte
	goOn               []byte // 100 Continue
}

// piece is one write of a stream. HTTP/1.0 gets it without the chunk's framing.
type piece struct {
	framed []byte
	plain  []byte // within framed
}

// event is a piece whose stamp is set before each write.
type event struct {
	piece
	stamp []byte // within framed
}

func newAnswers() *answers {
	created := time.Now().Unix()
	chunk := func(choices, usage string) string {
		return fmt.Sprintf(`data: {"id":"%s","object":"chat.completion.chunk","created":%d,"model":"%s","choices":[%s]%s}`,
			answerID, created, model, choices, usage) + "\n\n"
	}
	content := func(role, fill string) piece {
		return newPiece(chunk(`{"index":0,"delta":{`+role+`"content":"`+strings.Repeat("0", stampDigits)+
			fill+`"},"logprobs":null,"finish_reason":null}`, ""))
	}
	short := content("", " token")
	// Tokens as long as it takes for an event of the size that was set.
	fill := " token" + strings.Repeat("s", max(0, eventBytes-len(short.framed)))
	a := &answers{
		first: newEvent(content(`"role":"assistant",`, fill)),
		other: newEvent(content("", fill)),
		tail: []piece{
			newPiece(chunk(`{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop"}`, "")),
			newPiece(chunk("", `,"usage":{"prompt_tokens":200,"total_tokens":264,"completion_tokens":64}`)),
			newPiece("data: [DONE]\n\n"),
		},
		end:       []byte("0\r\n\r\n"),
		noContent: []byte("HTTP/1.1 204 No Content\r\n\r\n"),
		invalid:   []byte("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
		goOn:      []byte("HTTP/1.1 100 Continue\r\n\r\n"),
	}
	const stream = "HTTP/1.1 200 OK\r\nServer: bare\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
	a.head = []byte(stream + "Transfer-Encoding: chunked\r\n\r\n")
	a.head10 = []byte(stream + "Connection: close\r\n\r\n")
	body := wholeBody(created)
	a.whole, a.whole10 = reply(body, ""), reply(body, "Connection: keep-alive\r\n")
	return a
}

func wholeBody(created int64) string {
	body := func(content string) string {
		return fmt.Sprintf(`{"id":"%s","object":"chat.completion","created":%d,"model":"%s","choices":[{"index":0,`+
			`"message":{"role":"assistant","content":"%s"},"logprobs":null,"finish_reason":"stop"}],`+
			`"usage":{"prompt_tokens":200,"total_tokens":264,"completion_tokens":64}}`, answerID, created, model, content)
	}
	words := strings.Repeat("token ", answerBody/6)
	return body(words[:answerBody-len(body(""))])
}

func newPiece(data string) piece {
	size := fmt.Sprintf("%x\r\n", len(data))
	framed := []byte(size + data + "\r\n")
	return piece{framed: framed, plain: framed[len(size) : len(size)+len(data)]}
}

func newEvent(p piece) event {
	at := bytes.Index(p.framed, contentName) + len(contentName) + 1
	return event{piece: p, stamp: p.framed[at : at+stampDigits]}
}

// at returns the event with the wall clock's now, nanoseconds, in its content.
func (e *event) at(now int64) piece {
	for i := stampDigits - 1; i >= 0; i-- {
		e.stamp[i] = byte('0' + now%10)
		now /= 10
	}
	return e.piece
}

// reply is a whole JSON answer; extra are further lines of its head.
func reply(body, extra string) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nServer: bare\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s",
		len(body), extra, body)
}

// described answers what routers ask an engine about itself.
func described(path string) []byte {
	switch path {
	case "/v1/models":
		return reply(`{"object":"list","data":[{"id":"`+model+`","object":"model","created":1700000000,"owned_by":"bare","root":"`+
			model+`","parent":null,"max_model_len":131072}]}`, "")
	case "/get_model_info", "/model_info":
		return reply(`{"model_path":"`+model+`","tokenizer_path":"`+model+`","is_generation":true}`, "")
	case "/get_server_info", "/server_info":
		return reply(`{"model_path":"`+model+`","served_model_name":"`+model+`","tp_size":1,"dp_size":1,"version":"0.1.0"}`, "")
	case "/version":
		return reply(`{"version":"0.1.0"}`, "")
	}
	return reply(`{"status":"ok"}`, "")
}
