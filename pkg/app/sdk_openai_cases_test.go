package app_test

// openaiChats are chat, completions, embeddings and models.
var openaiChats = []sdkCase{
	{name: "chat", want: []string{`"object":"chat.completion"`, `"finish_reason":"length"`, `"completion_tokens":5`, `"kv_transfer_params":null`}},
	{name: "chat n=2", want: []string{`"index":0`, `"index":1`, `"completion_tokens":8`}},
	{name: "chat reasoning", want: []string{`"reasoning":"`}},
	{name: "chat tools", want: []string{`"finish_reason":"tool_calls"`, `"name":"weather"`, `"arguments":"{\"city\":\"mock\"}"`}},
	{name: "chat stream", want: []string{`"chunks":[{`, `"role":"assistant"`, `"finish_reason":"length"`, `"error":null`}},
	{name: "chat stream usage", want: []string{`"choices":[],"created":0`, `"completion_tokens":5`, `"error":null`}},
	{name: "chat stream continuous usage", want: []string{`"completion_tokens":1,`, `"completion_tokens":2,`, `"error":null`}},
	{name: "chat stream n=2", want: []string{`"index":1`, `"error":null`}},
	{name: "chat stream tools", want: []string{`"name":"weather"`, `"finish_reason":"tool_calls"`, `"arguments":"{\"ci"`, `"error":null`}},
	{name: "chat stream helper", want: []string{`"role":"assistant"`, `"arguments":"{\"city\":\"mock\"}"`}},
	{name: "chat tgi", want: []string{`"system_fingerprint":"3.3.7-native"`}},
	{name: "chat stream tgi", want: []string{`"system_fingerprint":"3.3.7-native"`, `"error":null`}},
	{name: "completion", want: []string{`"object":"text_completion"`, `"completion_tokens":8`}},
	{name: "completion stream", want: []string{`"object":"text_completion"`, `"finish_reason":"length"`, `"error":null`}},
	{name: "completion stream usage", want: []string{`"object":"text_completion"`, `"usage":{"completion_tokens":4`, `"error":null`}},
	{name: "embeddings", want: []string{`"embedding":`, `"object":"embedding"`}},
	{name: "embeddings float", want: []string{`"embedding":[0.`, `"index":1`}},
	{name: "embeddings base64", want: []string{`"embedding":`}},
	{name: "headers", want: []string{`{"content_type":"application/json","status":200}`}},
	{name: "headers of a stream", want: []string{`{"content_type":"text/event-stream; charset=utf-8","status":200}`}},
	{
		name: "request id", want: []string{"false"},
		differs: "vLLM tells its request ids only when asked to; the gateway always does", gateway: []string{"true"},
	},
	{
		name: "request id of an error", want: []string{"false"},
		differs: "vLLM tells its request ids only when asked to; the gateway always does", gateway: []string{"true"},
	},
	{
		name: "models", want: []string{`["mock-model","org/mock-model","one-model"]`},
		differs: "the gateway lists what all its engines serve", gateway: []string{`["mock-model","one-model","org/mock-model","tgi-model"]`},
	},
	{
		name: "model", want: []string{`"status":404`},
		differs: "vLLM has no such endpoint, the gateway has", gateway: []string{`"id":"mock-model"`, `"max_model_len":131072`},
	},
	{
		name: "model with a slash", want: []string{`"status":404`},
		differs: "vLLM has no such endpoint, the gateway has", gateway: []string{`"id":"org/mock-model"`},
	},
	{
		name: "model unknown", want: []string{`"status":404`},
		differs: "vLLM has no such endpoint, the gateway has",
		gateway: []string{`"code":"model_not_found"`, `"status":404`, `"param":"model"`},
	},
}

// openaiErrors are what goes wrong, and clients that leave.
var openaiErrors = []sdkCase{
	{name: "error 400 field", want: []string{`"status":400`, `"param":"body.n"`, `1 validation error`}},
	{name: "error 400 context length", want: []string{`"status":400`, `"param":"input_tokens"`, `"code":"400"`}},
	{
		name: "error 400 stream", want: []string{`"status":400`, `"param":"body.stream"`},
		differs: "the gateway must know what stream means before it can ask an engine",
		gateway: []string{`"status":400`, `"param":"stream"`, `"code":"invalid_request"`},
	},
	{
		name: "error 401", want: []string{`"error":{`},
		differs: gatewaysKey, gateway: []string{`"status":502`, `"code":"bad_gateway"`},
	},
	{
		name: "error 404 model", want: []string{`"status":404`, `"param":"model"`, `The model `},
		differs: notServed,
		gateway: []string{`"status":404`, `"param":"model"`, `"code":"model_not_found"`, `The model `},
	},
	{name: "error 404 unloaded", want: []string{`"status":404`, `"type":"NotFoundError"`, `"param":"model"`}},
	{
		name: "error 413", want: []string{`"status":400`, `"param":"input_tokens"`},
		differs: "the engine reads any body, the gateway up to server.max_body_size", gateway: []string{`"status":413`, `"code":"request_too_large"`},
	},
	{
		name: "error 422", want: []string{`"error":{`},
		differs: "TGI's error is a text, which the SDKs cannot read; the gateway says it in OpenAI's words",
		gateway: []string{`"status":422`, `"code":"validation"`, `"message":"Input validation error: `},
	},
	{name: "error 429", want: []string{`"status":429`, `"type":"Too Many Requests"`}},
	{
		name: "error 429 retry-after", want: []string{`"status":429`, `"retry_after":"2"`, `"retry_after_ms":""`},
		differs: "the gateway says it in milliseconds too, which the SDKs prefer",
		gateway: []string{`"status":429`, `"retry_after":"2"`, `"retry_after_ms":"2000"`},
	},
	{name: "error 500", want: []string{`"status":500`, `"type":"InternalServerError"`}},
	{name: "error 500 engine dead", want: []string{`"status":500`, `"type":"EngineDeadError"`}},
	{
		name: "error 500 empty", want: []string{`"status":500`, `"type":""`},
		differs: "the engine says nothing at all", gateway: []string{`"status":500`, `"type":"server_error"`},
	},
	{
		name: "error 503", want: []string{`"error":{`},
		differs: "vLLM's error is a text, which the SDKs cannot read; the gateway says it in OpenAI's words",
		gateway: []string{`"status":503`, `"type":"server_error"`, `currently scaling`},
	},
	{name: "stream error event", want: []string{`"chunks":[{`, `"error":{`, `Internal server error`}},
	{
		name: "stream error event first", want: []string{`"chunks":[]`, `Internal server error`, `"status":0`},
		differs: "nothing has been sent yet, so that the status can still tell it",
		gateway: []string{`"chunks":[]`, `"status":500`, `Internal server error`},
	},
	{
		name: "stream broken", want: []string{`"chunks":[{`, `"error":{`},
		differs: brokenEvent,
		gateway: []string{`"chunks":[{`, `"error":{`, `The inference server failed`},
	},
	{name: "status 400", want: []string{`"status":400`, `"message":"status 400"`, `"code":"some_code"`}},
	{
		name: "status 401", want: []string{`"status":401`, `"code":"some_code"`},
		differs: gatewaysKey, gateway: []string{`"status":502`, `"code":"bad_gateway"`},
	},
	{name: "status 403", want: []string{`"status":403`, `"message":"status 403"`, `"code":"some_code"`}},
	{name: "status 404", want: []string{`"status":404`, `"message":"status 404"`, `"code":"some_code"`}},
	{name: "status 409", want: []string{`"status":409`, `"message":"status 409"`, `"code":"some_code"`}},
	{name: "status 422", want: []string{`"status":422`, `"message":"status 422"`, `"code":"some_code"`}},
	{name: "status 429", want: []string{`"status":429`, `"message":"status 429"`, `"code":"some_code"`}},
	{name: "status 500", want: []string{`"status":500`, `"message":"status 500"`, `"code":"some_code"`}},
	{name: "status 503", want: []string{`"status":503`, `"message":"status 503"`, `"code":"some_code"`}},
	{name: "retry after 503", want: []string{`"object":"chat.completion"`}},
	{name: "retry after 429", want: []string{`"object":"chat.completion"`}},
	{name: "abort whole", want: []string{`"class":"aborted"`, `"phase":"prefill","state":"aborted"`}},
	{
		name: "abort queued", want: []string{`"phase":"queue","state":"aborted"`},
		differs: heldHead, some: true, gateway: []string{`"class":"aborted"`, `"phase":"queue","state":"aborted"`},
	},
	{name: "abort before the head", want: []string{`"class":"aborted"`, `"state":"aborted"`}},
	{
		name: "abort before the first token", want: []string{`"phase":"prefill","state":"aborted"`},
		differs: heldHead, some: true, gateway: []string{`"class":"aborted"`, `"phase":"prefill","state":"aborted"`},
	},
	{name: "abort completion", want: []string{`"phase":"decode","state":"aborted"`}},
	{name: "abort response", want: []string{`"phase":"decode","state":"aborted"`}},
	{name: "abort transcription", want: []string{`"class":"aborted"`, `"state":"aborted"`}},
	{name: "abort mid-stream", want: []string{`"phase":"decode","state":"aborted"`}},
}

// heldHead is why an abort before the first event is an error in Node, where
// one in the middle just ends the loop over a stream.
const heldHead = "the gateway's head comes with the first event, so that until then it can try another engine"
