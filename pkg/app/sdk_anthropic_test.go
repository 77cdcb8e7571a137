package app_test

import (
	"slices"
	"testing"
)

func TestAnthropicNode(t *testing.T) {
	s := sdkSuite{dir: nodeDir, command: nodeSuite(t, "anthropic"), here: true, cases: anthropicCases, class: anthropicClass}
	s.run(t)
}

func TestAnthropicPython(t *testing.T) {
	s := sdkSuite{dir: pythonDir, command: pythonSuite(t, "anthropic"), cases: anthropicCases, class: anthropicClass}
	s.run(t)
}

// anthropicClass is errorClass of Anthropic's libraries, which have more.
// Python's says that a stream with an error event had status 200.
func anthropicClass(status int) string {
	classes := map[int]string{
		200: "APIStatusError", 413: "ContentTooLargeError", 503: "ServiceUnavailableError", 504: "GatewayTimeoutError", 529: "OverloadedError",
	}
	if class := classes[status]; class != "" {
		return class
	}
	return errorClass(status)
}

// anthropicCases are those of Anthropic's own libraries, each of which has all.
var anthropicCases = slices.Concat(anthropicMessages, anthropicErrors)

var anthropicMessages = []sdkCase{
	{name: "message", want: []string{`"type":"message"`, `"stop_reason":"max_tokens"`, `"output_tokens":5`}},
	{name: "message system", want: []string{`"type":"message"`, `"output_tokens":5`}},
	{name: "message blocks", want: []string{`"type":"message"`, `"output_tokens":5`}},
	{name: "message end of turn", want: []string{`"stop_reason":"end_turn"`, `"output_tokens":3`}},
	{name: "message tools", want: []string{`"stop_reason":"tool_use"`, `"input":{"city":"mock"}`, `"name":"weather"`}},
	{name: "message thinking", want: []string{`"type":"thinking"`, `"type":"text"`}},
	{name: "message of a bearer", want: []string{`"type":"message"`, `"output_tokens":5`}},
	{name: "message stream", want: []string{`"type":"message_start"`, `"type":"text_delta"`, `"type":"message_stop"`, `"error":null`}},
	{name: "message stream tools", want: []string{`"type":"input_json_delta"`, `"stop_reason":"tool_use"`, `"error":null`}},
	{name: "message stream thinking", want: []string{`"type":"thinking_delta"`, `"type":"text_delta"`, `"error":null`}},
	{name: "message stream helper", want: []string{`"input":{"city":"mock"}`, `"stop_reason":"tool_use"`}},
	{name: "count tokens", want: []string{`"input_tokens":8`}},
	{name: "count tokens blocks", want: []string{`"input_tokens":12`}},
	{name: "headers", want: []string{`{"content_type":"application/json","status":200}`}},
	{name: "headers of a stream", want: []string{`{"content_type":"text/event-stream; charset=utf-8","status":200}`}},
	{
		name: "request id", want: []string{"false"},
		differs: "vLLM tells its request ids only when asked to; the gateway always does", gateway: []string{"true"},
	},
}

var anthropicErrors = []sdkCase{
	{
		name: "error 400 field", want: []string{`"status":400`, `1 validation error`},
		differs: "the gateway reads max_tokens itself", gateway: []string{`"status":400`, `"type":"invalid_request_error"`, `max_tokens`},
	},
	{
		name: "error 400 no max_tokens", want: []string{`"status":400`, `"type":"Bad Request"`, `Field required`},
		differs: "vLLM says it in OpenAI's words, the gateway in Anthropic's", gateway: []string{`"status":400`, `"type":"invalid_request_error"`, `Field required`},
	},
	{name: "error 400 context length", want: []string{`"status":400`, `maximum context length`}},
	{
		name: "error 404 model", want: []string{`"status":404`, `"type":"NotFoundError"`},
		differs: notServed, gateway: []string{`"status":404`, `"type":"not_found_error"`, `The model `},
	},
	{
		name: "error 404 model of count tokens", want: []string{`"status":404`, `"type":"NotFoundError"`},
		differs: notServed, gateway: []string{`"status":404`, `"type":"not_found_error"`, `The model `},
	},
	{name: "error 404 unloaded", want: []string{`"status":404`, `The model has been unloaded.`}},
	{
		name: "error 401", want: []string{`"status":401`},
		differs: gatewaysKey, gateway: []string{`"status":502`, `"type":"api_error"`},
	},
	{
		name: "error 413", want: []string{`"status":400`, `maximum context length`},
		differs: "the engine reads any body, the gateway up to server.max_body_size", gateway: []string{`"status":413`, `"type":"request_too_large"`},
	},
	{
		name: "error 429 retry-after", want: []string{`"status":429`, `"retry_after":"2"`, `"retry_after_ms":""`},
		differs: "the gateway says it in milliseconds too, which the SDKs prefer",
		gateway: []string{`"status":429`, `"retry_after":"2"`, `"retry_after_ms":"2000"`},
	},
	{name: "error 500", want: []string{`"status":500`, `Internal server error`}},
	{
		name: "error 500 empty", want: []string{`"status":500`, `"type":""`},
		differs: "the engine says nothing at all", gateway: []string{`"status":500`, `"type":"api_error"`},
	},
	{
		name: "error 503", want: []string{`"status":503`, `"type":""`},
		differs: "vLLM's error is a text, which the SDKs cannot read; the gateway says it in Anthropic's words",
		gateway: []string{`"status":503`, `"type":"overloaded_error"`, `currently scaling`},
	},
	{name: "stream error event", want: []string{`"chunks":[{`, `"type":"internal_error"`, `Internal server error`}},
	{
		name: "stream error event first", want: []string{`"chunks":[]`, `Internal server error`},
		differs: "nothing has been sent yet, so that the status can still tell it", gateway: []string{`"chunks":[]`, `"status":500`, `Internal server error`},
	},
	{
		name: "stream broken", want: []string{`"chunks":[{`, `"error":{`},
		differs: brokenEvent,
		gateway: []string{`"chunks":[{`, `"type":"api_error"`, `The inference server failed`},
	},
	{name: "status 400", want: []string{`"status":400`, `"message":"status 400"`, `"type":"some_error"`}},
	{
		name: "status 401", want: []string{`"status":401`, `"type":"some_error"`},
		differs: gatewaysKey, gateway: []string{`"status":502`, `"type":"api_error"`},
	},
	{name: "status 403", want: []string{`"status":403`, `"message":"status 403"`, `"type":"some_error"`}},
	{name: "status 404", want: []string{`"status":404`, `"message":"status 404"`, `"type":"some_error"`}},
	{name: "status 409", want: []string{`"status":409`, `"message":"status 409"`, `"type":"some_error"`}},
	{name: "status 413", want: []string{`"status":413`, `"message":"status 413"`, `"type":"some_error"`}},
	{name: "status 422", want: []string{`"status":422`, `"message":"status 422"`, `"type":"some_error"`}},
	{name: "status 429", want: []string{`"status":429`, `"message":"status 429"`, `"type":"some_error"`}},
	{name: "status 500", want: []string{`"status":500`, `"message":"status 500"`, `"type":"some_error"`}},
	{name: "status 503", want: []string{`"status":503`, `"message":"status 503"`, `"type":"some_error"`}},
	{name: "status 529", want: []string{`"status":529`, `"message":"status 529"`, `"type":"some_error"`}},
	{name: "retry after 503", want: []string{`"type":"message"`}},
	{name: "retry after 429", want: []string{`"type":"message"`}},
	{name: "abort whole", want: []string{`"class":"aborted"`, `"phase":"prefill","state":"aborted"`}},
	{
		name: "abort before the first token", want: []string{`"phase":"prefill","state":"aborted"`},
		differs: heldHead, some: true, gateway: []string{`"class":"aborted"`, `"phase":"prefill","state":"aborted"`},
	},
	{name: "abort mid-stream", want: []string{`"phase":"decode","state":"aborted"`}},
	{
		name: "abort queued", want: []string{`"phase":"queue","state":"aborted"`},
		differs: heldHead, some: true, gateway: []string{`"class":"aborted"`, `"phase":"queue","state":"aborted"`},
	},
}
