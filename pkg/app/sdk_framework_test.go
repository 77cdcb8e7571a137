package app_test

import "testing"

// Frameworks over the official SDKs, or over their own clients.

func TestLangChain(t *testing.T) {
	s := sdkSuite{dir: nodeDir, command: nodeSuite(t, "langchain"), cases: langchainCases, class: errorClass}
	s.run(t)
}

func TestVercelAI(t *testing.T) {
	s := sdkSuite{dir: nodeDir, command: nodeSuite(t, "ai"), cases: vercelCases}
	s.run(t)
}

const (
	gatewaysKey = "the key is the gateway's, not the client's, who can do nothing about it"
	notServed   = "no backend is configured to serve it: no engine is asked"
	brokenEvent = "the gateway ends a stream that broke with an error event"
)

var langchainCases = []sdkCase{
	{name: "invoke", want: []string{`"finish_reason":"length"`, `"usage_metadata":{"input_token_details":{},"input_tokens":8,"output_token_details":{},"output_tokens":5`}},
	{name: "invoke n=2", want: []string{`","`}},
	{name: "invoke tools", want: []string{`"finish_reason":"tool_calls"`, `"args":{"city":"mock"}`}},
	{name: "structured output", want: []string{`{"city":"mock"}`}},
	{name: "batch", want: []string{`"usage_metadata":`}},
	{name: "stream", want: []string{`"output_tokens":5`, `"finish_reason":"length"`, `"error":null`}},
	{name: "stream without usage", want: []string{`"finish_reason":"length"`, `"error":null`}},
	{name: "stream tools", want: []string{`"tool_call_chunks":[{"args":"{\"ci"`, `"error":null`}},
	{name: "completion", want: []string{`"`}},
	{name: "completion stream", want: []string{`"chunks":["`, `"error":null`}},
	{name: "embeddings", want: []string{`[[0.`}},
	{name: "embeddings float", want: []string{`[0.`}},
	{name: "responses invoke", want: []string{`"type":"text"`, `"object":"response"`}},
	{name: "responses stream", want: []string{`"type":"text"`, `"output_tokens":5`, `"error":null`}},
	{name: "responses tools", want: []string{`"args":{"city":"mock"}`}},
	{name: "responses continued", want: []string{`"type":"text"`, `"object":"response"`}},
	{
		name: "error 404 model", want: []string{`"lc":"MODEL_NOT_FOUND"`, `"code":"404"`},
		differs: notServed, gateway: []string{`"lc":"MODEL_NOT_FOUND"`, `"code":"model_not_found"`},
	},
	{name: "stream error event", want: []string{`"chunks":[{`, `Internal server error`}},
	{
		name: "stream broken", want: []string{`"chunks":[{`, `"error":{`},
		differs: brokenEvent, gateway: []string{`"chunks":[{`, `The inference server failed`},
	},
	{name: "status 400", want: []string{`"status":400`, `"code":"some_code"`}},
	{name: "status 401", want: []string{`"status":401`, `"lc":"MODEL_AUTHENTICATION"`}, differs: gatewaysKey, gateway: []string{`"status":502`, `"code":"bad_gateway"`}},
	{name: "status 403", want: []string{`"status":403`, `"code":"some_code"`}},
	{name: "status 404", want: []string{`"status":404`, `"code":"some_code"`}},
	{name: "status 409", want: []string{`"status":409`, `"code":"some_code"`}},
	{name: "status 422", want: []string{`"status":422`, `"code":"some_code"`}},
	{name: "status 429", want: []string{`"status":429`, `"lc":"MODEL_RATE_LIMIT"`}},
	{name: "status 500", want: []string{`"status":500`, `"code":"some_code"`}},
	{name: "status 503", want: []string{`"status":503`, `"code":"some_code"`}},
	{name: "retry after 503", want: []string{`"finish_reason":"length"`}},
	{name: "retry after 429", want: []string{`"finish_reason":"length"`}},
	{name: "abort whole", want: []string{`"class":"aborted"`, `"phase":"prefill","state":"aborted"`}},
	{name: "abort mid-stream", want: []string{`"class":"aborted"`, `"phase":"decode","state":"aborted"`}},
	{name: "abort by leaving the loop", want: []string{`"error":null`, `"phase":"decode","state":"aborted"`}},
}

var vercelCases = []sdkCase{
	{name: "generate", want: []string{`"finish":"length"`, `"inputTokens":8`, `"outputTokens":5`}},
	{name: "generate reasoning", want: []string{`"reasoning":"`, `"finish":"length"`}},
	{name: "generate tools", want: []string{`"finish":"tool-calls"`, `{"input":{"city":"mock"},"toolName":"weather"}`}},
	{name: "generate completion", want: []string{`"finish":"length"`, `"outputTokens":4`}},
	{name: "stream", want: []string{`"type":"text-delta"`, `"finishReason":"length"`, `"error":null`}},
	{name: "stream usage", want: []string{`"type":"text-delta"`, `"outputTokens":5`, `"error":null`}},
	{name: "stream reasoning", want: []string{`"type":"reasoning-delta"`, `"type":"text-delta"`, `"error":null`}},
	{name: "stream tools", want: []string{`"type":"tool-input-delta"`, `"finishReason":"tool-calls"`, `"error":null`}},
	{name: "stream completion", want: []string{`"type":"text-delta"`, `"finishReason":"length"`, `"error":null`}},
	{name: "embed", want: []string{`"embedding":[0.`, `"usage":{"tokens":`}},
	{name: "embed many", want: []string{`"embeddings":[[0.`, `"usage":{"tokens":`}},
	{
		name: "error 404 model", want: []string{`"status":404`, `"type":"NotFoundError"`},
		differs: notServed, gateway: []string{`"status":404`, `"code":"model_not_found"`},
	},
	{name: "error 429 retry-after", want: []string{`"status":429`, `"retryable":true`, `"retry_after":"2"`}},
	{name: "stream error 429", want: []string{`"status":429`, `"retryable":true`, `"retry_after":"2"`}},
	{name: "stream error event", want: []string{`"type":"text-delta"`, `Internal server error`}},
	{
		name: "stream error event first", want: []string{`Internal server error`},
		differs: "nothing has been sent yet, so that the status can still tell it", gateway: []string{`"status":500`, `Internal server error`},
	},
	{
		name: "stream broken", want: []string{`"type":"text-delta"`, `"error":{`},
		differs: brokenEvent, gateway: []string{`"type":"text-delta"`, `The inference server failed`},
	},
	{name: "status 400", want: []string{`"status":400`, `"retryable":false`, `"code":"some_code"`}},
	{name: "status 401", want: []string{`"status":401`, `"retryable":false`}, differs: gatewaysKey, gateway: []string{`"status":502`, `"code":"bad_gateway"`}},
	{name: "status 403", want: []string{`"status":403`, `"retryable":false`, `"code":"some_code"`}},
	{name: "status 404", want: []string{`"status":404`, `"retryable":false`, `"code":"some_code"`}},
	{name: "status 409", want: []string{`"status":409`, `"retryable":true`, `"code":"some_code"`}},
	{name: "status 422", want: []string{`"status":422`, `"retryable":false`, `"code":"some_code"`}},
	{name: "status 429", want: []string{`"status":429`, `"retryable":true`, `"code":"some_code"`}},
	{name: "status 500", want: []string{`"status":500`, `"retryable":true`, `"code":"some_code"`}},
	{name: "status 503", want: []string{`"status":503`, `"retryable":true`, `"code":"some_code"`}},
	{name: "retry after 503", want: []string{`"finish":"length"`}},
	{name: "retry after 429", want: []string{`"finish":"length"`}},
	{name: "abort whole", want: []string{`"class":"aborted"`, `"state":"aborted"`}},
	{name: "abort before the head", want: []string{`"class":"aborted"`, `"state":"aborted"`}},
	{name: "abort mid-stream", want: []string{`"class":"aborted"`, `"phase":"decode","state":"aborted"`}},
}
