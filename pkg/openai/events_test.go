package openai

import (
	"bytes"
	"strings"
	"testing"
)

// What engines put on the wire, as far as it matters here.
const (
	roleChunk   = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1750000000,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null}` + "\n\n"
	tokenChunk  = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1750000000,"model":"m","choices":[{"index":0,"delta":{"content":"Hel"},"logprobs":null,"finish_reason":null,"token_ids":null}]}` + "\n\n"
	finishChunk = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1750000000,"model":"m","choices":[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null}]}` + "\n\n"
	usageChunk  = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1750000000,"model":"m","choices":[],"usage":{"prompt_tokens":12,"total_tokens":19,"completion_tokens":7}}` + "\n\n"
	doneEvent   = "data: [DONE]\n\n"
	vllmError   = `data: {"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "param": null, "code": 500}}` + "\n\n"
	tgiToken    = `data:{"index":1,"token":{"id":7,"text":" Hel","logprob":-0.1,"special":false},"generated_text":null,"details":null}` + "\n\n"
	tgiError    = `data:{"error":"Model is overloaded","error_type":"overloaded"}` + "\n\n"
)

type seen struct {
	Count                           int
	Done, Failed, Boundary, Content bool
}

func (e *Events) seen() seen {
	return seen{e.Count, e.Done, e.Failed, e.AtBoundary(), e.HasContent()}
}

func TestEvents(t *testing.T) {
	for name, c := range map[string]struct {
		stream string
		want   seen
	}{
		"nothing":                      {"", seen{Boundary: true}},
		"whole vLLM chat":              {roleChunk + tokenChunk + tokenChunk + finishChunk + usageChunk + doneEvent, seen{5, true, false, true, true}},
		"role chunk is no token":       {roleChunk, seen{Count: 1, Boundary: true}},
		"finish and usage are none":    {roleChunk + finishChunk + usageChunk + doneEvent, seen{3, true, false, true, false}},
		"error then DONE is a failure": {tokenChunk + vllmError + doneEvent, seen{2, true, true, true, true}},
		"TGI native, no space":         {tgiToken, seen{1, false, false, true, true}},
		"TGI error":                    {tgiError + "data: [DONE]\n\n", seen{1, true, true, true, false}},
		"Anthropic error":              {"event: error\ndata: {\"type\":\"error\",\"error\":{}}\n\n", seen{1, false, true, true, false}},
		"error by its event name only": {"event: error\ndata: oops\n\n", seen{1, false, true, true, false}},
		"flat error":                   {"data: {\"object\":\"error\",\"message\":\"x\"}\n\n", seen{1, false, true, true, false}},
		"null error is none":           {"data: {\"error\": null,\"content\":\"x\"}\n\n", seen{1, false, false, true, true}},
		"error in the text is none":    {`data: {"content":"{\"error\":{}}"}` + "\n\n", seen{1, false, false, true, true}},
		"object that is no error":      {"data: {\"object\":\"chat.completion.chunk\"}\n\n", seen{Count: 1, Boundary: true}},
		"CRLF":                         {strings.ReplaceAll(roleChunk+tokenChunk+doneEvent, "\n", "\r\n"), seen{2, true, false, true, true}},
		"comments are no events":       {": ping\n\n: {\"content\":\"x\"}\n\n", seen{Boundary: true}},
		"comment without its line end": {tokenChunk + ": pi", seen{1, false, false, false, true}},
		"comment without a blank line": {": ping\n", seen{}},
		"event cut in data":            {tokenChunk + tokenChunk[:40], seen{1, false, false, false, true}},
		"event cut before blank line":  {tokenChunk[:len(tokenChunk)-1], seen{0, false, false, false, true}},
		"CRLF cut in the blank line":   {"data: x\r\n\r", seen{}},
		"DONE without blank line":      {"data: [DONE]\n", seen{Done: true}},
		"DONE in the text is none":     {"data: {\"content\":\"[DONE]\"}\n\n", seen{1, false, false, true, true}},
		"two data lines, one event":    {"data: {\"a\":1,\ndata: \"content\":\"x\"}\n\n", seen{1, false, false, true, true}},
		"named event without data":     {"event: ping\n\nid: 3\n\nretry: 1\n\n", seen{Boundary: true}},
		"empty data":                   {"data:\n\n", seen{Count: 1, Boundary: true}},
		"blank lines":                  {"\n\n\n", seen{Boundary: true}},
		"database: is not data:":       {"database: {\"content\":\"x\"}\n\n", seen{Boundary: true, Content: true}},
	} {
		t.Run(name, func(t *testing.T) {
			var e Events
			e.Scan([]byte(c.stream))
			if got := e.seen(); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			for cut := range len(c.stream) + 1 {
				e.Reset()
				e.Scan([]byte(c.stream[:cut]))
				e.Scan([]byte(c.stream[cut:]))
				if got := e.seen(); got != c.want {
					t.Fatalf("cut at %d: got %+v, want %+v", cut, got, c.want)
				}
			}
		})
	}
}

func TestHasContent(t *testing.T) {
	for name, c := range map[string]struct {
		data string
		want bool
	}{
		"reasoning":                    {`{"delta":{"reasoning":"Hm"}}`, true},
		"older reasoning":              {`{"delta":{"reasoning_content":"Hm"}}`, true},
		"tool calls":                   {`{"delta":{"tool_calls":[{"index":0}]}}`, true},
		"no tool calls":                {`{"delta":{"tool_calls":[ ]}}`, false},
		"nulls":                        {`{"delta":{"content":null,"tool_calls":null,"text":null}}`, false},
		"spaces, from json.dumps":      {`{"delta": {"role": "assistant", "content": "Hel"}}`, true},
		"spaces, and empty":            {`{"delta": {"role": "assistant", "content": ""}}`, false},
		"completions":                  {`{"choices":[{"index":0,"text":"Hel"}]}`, true},
		"empty completion":             {`{"choices":[{"index":0,"text":""}]}`, false},
		"token ids without text":       {`{"choices":[{"delta":{"content":""},"token_ids":[7]}]}`, true},
		"prompt's token ids":           {`{"choices":[{"delta":{"content":""}}],"prompt_token_ids":[7]}`, false},
		"responses":                    {`{"type":"response.output_text.delta","delta":"Hel"}`, true},
		"responses created":            {`{"type":"response.created","response":{"text":{"format":{"type":"text"}}}}`, false},
		"list of content parts":        {`{"content":[{"type":"output_text","text":""}]}`, false},
		"key as a value":               {`{"type":"text","x":["content","a"]}`, false},
		"key at the end of a long one": {`{"my_reasoning_content":"x","reasoning_content_":"x"}`, false},
		"escaped quote in a string":    {`{"x":"\",\"content\":\"a"}`, false},
		"content is an escape":         {`{"content":"\n"}`, true},
		"space before the colon":       {`{"content" : "x"}`, true},
		"text where a list belongs":    {`{"tool_calls":"content","content":"x"}`, true},
		"usage details":                {`{"usage":{"completion_tokens_details":{"reasoning_tokens":3}}}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			var e Events
			e.Scan([]byte("data: " + c.data + "\n\n"))
			if e.HasContent() != c.want {
				t.Errorf("got %v for %s", !c.want, c.data)
			}
		})
	}
}

func TestHasContentBeforeTheEventEnds(t *testing.T) {
	var e Events
	giant := append([]byte(`data: {"content":"H`), bytes.Repeat([]byte("e"), 1000)...)
	e.Scan(giant)
	if !e.HasContent() || e.Count != 0 {
		t.Errorf("got %+v", e.seen())
	}
}

func TestFirstEvent(t *testing.T) {
	body := func(event string) string {
		return strings.TrimPrefix(strings.TrimSpace(strings.TrimPrefix(event, "data:")), " ")
	}
	for name, c := range map[string]struct {
		p    string
		kind FirstKind
		data string
	}{
		"nothing":                      {"", FirstNone, ""},
		"begun":                        {"data: {\"id\":", FirstNone, ""},
		"not closed, but no error":     {"data: {\"id\":1}\n", FirstData, `{"id":1}`},
		"error not closed":             {vllmError[:len(vllmError)-1], FirstNone, ""},
		"comment":                      {": keep-alive\n\n", FirstComment, ""},
		"half a comment":               {": keep-al", FirstNone, ""},
		"comment, then begun":          {": keep-alive\n\ndata: {\"er", FirstComment, ""},
		"normal":                       {roleChunk + tokenChunk, FirstData, body(roleChunk)},
		"comment, then normal":         {": keep-alive\n\n" + roleChunk, FirstData, body(roleChunk)},
		"CRLF":                         {"data: {\"id\":1}\r\n\r\n", FirstData, `{"id":1}`},
		"DONE":                         {doneEvent, FirstData, "[DONE]"},
		"known early to be normal":     {roleChunk[:90], FirstData, ""},
		"error":                        {vllmError + doneEvent, FirstError, body(vllmError)},
		"error behind a comment":       {": hi\n\n" + vllmError, FirstError, body(vllmError)},
		"TGI error":                    {tgiError, FirstError, body(tgiError)},
		"error not yet complete":       {vllmError[:100], FirstNone, ""},
		"error later is not the first": {roleChunk + vllmError, FirstData, body(roleChunk)},
		"error by name":                {"event: error\ndata: {\"type\":\"x\"}\n\n", FirstError, `{"type":"x"}`},
		"error by name, long":          {"event: error\ndata: " + strings.Repeat("x", 100), FirstComment, ""},
		"error over two lines":         {"data: {\"error\":\ndata: {\"message\":\"x\"}}\n\n", FirstError, "{\"error\":\n{\"message\":\"x\"}}"},
		"named event":                  {"event: message_start\ndata: {}\n\n", FirstData, "{}"},
		"name without data is none":    {"event: error\n\ndata: {}\n\n", FirstData, "{}"},
		"empty data":                   {"data:\n\n", FirstData, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := []byte(c.p)
			kind, data := FirstEvent(p)
			if kind != c.kind || string(data) != c.data {
				t.Errorf("got %d %q, want %d %q", kind, data, c.kind, c.data)
			}
			if string(p) != c.p {
				t.Error("the stream was changed")
			}
		})
	}
}
