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
		"nothing":                                 {"", seen{Boundary: true}},
		"whole vLLM chat":                         {roleChunk + tokenChunk + tokenChunk + finishChunk + usageChunk + doneEvent, seen{5, true, false, true, true}},
		"role chunk is no token":                  {roleChunk, seen{Count: 1, Boundary: true}},
		"finish and usage are none":               {roleChunk + finishChunk + usageChunk + doneEvent, seen{3, true, false, true, false}},
		"error then DONE is a failure":            {tokenChunk + vllmError + doneEvent, seen{2, true, true, true, true}},
		"TGI native, no space":                    {tgiToken, seen{1, false, false, true, true}},
		"TGI error":                               {tgiError + "data: [DONE]\n\n", seen{1, true, true, true, false}},
		"Anthropic error":                         {"event: error\ndata: {\"type\":\"error\",\"error\":{}}\n\n", seen{1, false, true, true, false}},
		"error by its event name only":            {"event: error\ndata: oops\n\n", seen{1, false, true, true, false}},
		"flat error":                              {"data: {\"object\":\"error\",\"message\":\"x\"}\n\n", seen{1, false, true, true, false}},
		"null error is none":                      {"data: {\"error\": null,\"content\":\"x\"}\n\n", seen{1, false, false, true, true}},
		"error in the text is none":               {`data: {"content":"{\"error\":{}}"}` + "\n\n", seen{1, false, false, true, true}},
		"object that is no error":                 {"data: {\"object\":\"chat.completion.chunk\"}\n\n", seen{Count: 1, Boundary: true}},
		"CRLF":                                    {strings.ReplaceAll(roleChunk+tokenChunk+doneEvent, "\n", "\r\n"), seen{2, true, false, true, true}},
		"comments are no events":                  {": ping\n\n: {\"content\":\"x\"}\n\n", seen{Boundary: true}},
		"comment without its line end":            {tokenChunk + ": pi", seen{1, false, false, false, true}},
		"comment without a blank line":            {": ping\n", seen{}},
		"event cut in data":                       {tokenChunk + tokenChunk[:40], seen{1, false, false, false, true}},
		"event cut before blank line":             {tokenChunk[:len(tokenChunk)-1], seen{0, false, false, false, true}},
		"CRLF cut in the blank line":              {"data: x\r\n\r", seen{}},
		"DONE without blank line":                 {"data: [DONE]\n", seen{Done: true}},
		"DONE in the text is none":                {"data: {\"content\":\"[DONE]\"}\n\n", seen{1, false, false, true, true}},
		"two data lines, one event":               {"data: {\"a\":1,\ndata: \"content\":\"x\"}\n\n", seen{1, false, false, true, true}},
		"named event without data":                {"event: ping\n\nid: 3\n\nretry: 1\n\n", seen{Boundary: true}},
		"empty data":                              {"data:\n\n", seen{Count: 1, Boundary: true}},
		"blank lines":                             {"\n\n\n", seen{Boundary: true}},
		"message_stop ends the stream":            {"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n", seen{1, true, false, true, false}},
		"message_stop without a space":            {"event:message_stop\r\ndata:{}\r\n\r\n", seen{1, true, false, true, false}},
		"completed ends the stream":               {"event: response.completed\ndata: {}\n\n", seen{1, true, false, true, false}},
		"incomplete ends the stream":              {"event: response.incomplete\ndata: {}\n\n", seen{1, true, false, true, false}},
		"cancelled ends the stream":               {"event: response.cancelled\ndata: {}\n\n", seen{1, true, false, true, false}},
		"failed ends the stream and fails":        {"event: response.failed\ndata: {}\n\n", seen{1, true, true, true, false}},
		"name behind its data":                    {"data: {}\nevent: response.completed\n\n", seen{1, true, false, true, false}},
		"completed cut in its data":               {"event: response.completed\ndata: {\"response\":{", seen{}},
		"failed cut before its blank line":        {"event: response.failed\ndata: {}\n", seen{}},
		"failed stays failed under a second name": {"event: response.failed\nevent: message_stop\ndata: {}\n\n", seen{1, true, true, true, false}},
		"name of one event only":                  {"event: response.failed\n\ndata: {}\n\n", seen{1, true, true, true, false}},
		"longer name is another":                  {"event: message_stopped\ndata: {}\n\nevent: response.completed.x\ndata: {}\n\n", seen{Count: 2, Boundary: true}},
		"created and in progress end nothing":     {"event: response.created\ndata: {}\n\nevent: response.in_progress\ndata: {}\n\n", seen{Count: 2, Boundary: true}},
		"name in the data only":                   {"data: {\"type\":\"response.completed\"}\n\n", seen{Count: 1, Boundary: true}},
		"database: is not data:":                  {"database: {\"content\":\"x\"}\n\n", seen{Boundary: true, Content: true}},
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
		"Responses reasoning":          {`{"type":"response.reasoning_text.delta","item_id":"rs_1","output_index":0,"content_index":0,"delta":"Hm"}`, true},
		"Responses reasoning summary":  {`{"type":"response.reasoning_summary_text.delta","item_id":"rs_1","delta":"Hm"}`, true},
		"Responses tool call":          {`{"type":"response.function_call_arguments.delta","item_id":"fc_1","delta":"{"}`, true},
		"Responses refusal":            {`{"type":"response.refusal.delta","delta":"I"}`, true},
		"Responses created, in full":   {`{"type":"response.created","sequence_number":0,"response":{"id":"resp_1","object":"response","status":"in_progress","instructions":"Be brief.","output":[],"reasoning":{"effort":null,"summary":null},"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"truncation":"disabled","usage":null}}`, false},
		"Responses in progress":        {`{"type":"response.in_progress","response":{"id":"resp_1","output":[],"reasoning":null,"text":null}}`, false},
		"Responses item added":         {`{"type":"response.output_item.added","output_index":0,"item":{"id":"msg_1","type":"message","status":"in_progress","content":[],"role":"assistant"}}`, false},
		"Responses reasoning added":    {`{"type":"response.output_item.added","item":{"id":"rs_1","summary":[],"type":"reasoning","content":null,"encrypted_content":null}}`, false},
		"Responses tool call added":    {`{"type":"response.output_item.added","item":{"type":"function_call","name":"f","arguments":"","call_id":"c"}}`, false},
		"Responses part added":         {`{"type":"response.content_part.added","item_id":"msg_1","part":{"type":"output_text","text":"","annotations":[],"logprobs":[]}}`, false},
		"Anthropic message_start":      {`{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","content":[],"model":"m","stop_reason":null,"usage":{"input_tokens":9,"output_tokens":0}}}`, false},
		"Anthropic ping":               {`{"type":"ping"}`, false},
		"Anthropic block start":        {`{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`, false},
		"Anthropic thinking start":     {`{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}`, false},
		"Anthropic tool start":         {`{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"t","name":"f","input":{}}}`, false},
		"Anthropic text":               {`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hel"}}`, true},
		"Anthropic thinking":           {`{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Hm"}}`, true},
		"Anthropic tool input":         {`{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"a"}}`, true},
		"Anthropic empty tool input":   {`{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":""}}`, false},
		"Anthropic message_delta":      {`{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":7}}`, false},
		"SGLang, cumulative text":      {`{"text":" Hel","output_ids":[7],"meta_info":{"id":"x","finish_reason":null,"prompt_tokens":9}}`, true},
		"SGLang, ids only":             {`{"output_ids":[7],"meta_info":{"id":"x"}}`, true},
		"SGLang, nothing yet":          {`{"text":"","output_ids":[],"meta_info":{"id":"x"}}`, false},
		"llama.cpp":                    {`{"index":0,"content":"Hel","tokens":[7],"stop":false,"id_slot":-1}`, true},
		"llama.cpp's role chunk":       {`{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}]}`, false},
		"llama.cpp's last":             {`{"index":0,"content":"","tokens":[],"id_slot":0,"stop":true,"model":"m","tokens_predicted":3,"stop_type":"eos"}`, false},
		"vLLM transcription":           {`{"id":"trsc-1","object":"transcription.chunk","choices":[{"delta":{"content":" Hel"},"finish_reason":null}]}`, true},
		"vLLM transcription, empty":    {`{"id":"trsc-1","object":"transcription.chunk","choices":[{"delta":{"content":""},"finish_reason":"stop"}]}`, false},
		"OpenAI transcription":         {`{"type":"transcript.text.delta","delta":"Hel"}`, true},
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
		"Responses failed at once":     {"event: response.failed\ndata: {\"type\":\"response.failed\"}\n\n", FirstError, `{"type":"response.failed"}`},
		"Responses created":            {"event: response.created\ndata: {\"type\":\"response.created\"}\n\n", FirstData, `{"type":"response.created"}`},
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
