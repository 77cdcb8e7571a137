package app_test

// openaiResponses are the uses of the Responses API.
var openaiResponses = []sdkCase{
	{name: "response", want: []string{`"object":"response"`, `"status":"completed"`, `"output_tokens":5`}},
	{name: "response items", want: []string{`"status":"completed"`, `"instructions":"Be brief."`}},
	{name: "response incomplete", want: []string{`"status":"incomplete"`, `"reason":"max_output_tokens"`}},
	{name: "response tools", want: []string{`"type":"function_call"`, `"name":"weather"`, `"arguments":"{\"city\":\"mock\"}"`}},
	{name: "response stream", want: []string{`"type":"response.created"`, `"type":"response.output_text.delta"`, `"type":"response.completed"`, `"error":null}`}},
	{name: "response stream incomplete", want: []string{`"status":"incomplete"`, `"error":null}`}},
	{name: "response stream tools", want: []string{`"type":"response.function_call_arguments.delta"`, `"type":"response.completed"`}},
	{name: "response stream helper", want: []string{`"output_text":"`, `"status":"completed"`}},
	{name: "response continued", want: []string{`"status":"completed"`, `"previous_response_id":"resp-ID"`}},
	{name: "response continued stream", want: []string{`"type":"response.completed"`, `"previous_response_id":"resp-ID"`}},
	{name: "response continued thrice", want: []string{`"status":"completed"`, `"previous_response_id":"resp-ID"`}},
	{name: "response retrieved", want: []string{`"object":"response"`, `"status":"completed"`}},
	{name: "response of a stream retrieved", want: []string{`"object":"response"`, `"status":"completed"`}},
	{name: "response background cancelled", want: []string{`"status":"cancelled"`, `"created":"queued"`}},
	{name: "response deleted", want: []string{`"status":405`, `"object":"response"`}}, // vLLM deletes none
	{name: "response unknown continued", want: []string{`"status":404`}},
	{name: "response unknown retrieved", want: []string{`"status":404`}},
	{name: "response unknown cancelled", want: []string{`"status":404`}},
	{name: "response error 400 field", want: []string{`"status":400`}},
	{
		name: "response error 404 model", want: []string{`"status":404`, `"code":"404"`},
		differs: notServed, gateway: []string{`"status":404`, `"code":"model_not_found"`},
	},
	{name: "response error 429", want: []string{`"status":429`}},
	{name: "response error 500", want: []string{`"status":500`}},
	{name: "response stream error event", want: []string{`"type":"response.failed"`, `Internal server error`}},
	{
		name: "response stream broken", want: []string{`"chunks":[{`, `"error":{`},
		differs: brokenEvent, gateway: []string{`"chunks":[{`, `The inference server failed`},
	},
}

// openaiAudio are the uses of speech to text.
var openaiAudio = []sdkCase{
	{name: "transcription", want: []string{`"text":"`, `"type":"duration"`}},
	{name: "transcription text", want: []string{`text`}},
	{name: "transcription verbose", want: []string{`"text":"`, `"segments":[`}},
	{name: "transcription error 400 format", want: []string{`"status":400`, `response_format`}},
	{name: "transcription stream", want: []string{`"object":"transcription.chunk"`, `"error":null`}},
	{name: "translation", want: []string{`"text":"`}},
	{
		name: "transcription error 404 model", want: []string{`"status":404`, `"code":"404"`},
		differs: notServed, gateway: []string{`"status":404`, `"code":"model_not_found"`},
	},
	{name: "transcription error 429", want: []string{`"status":429`}},
	{name: "transcription error 500", want: []string{`"status":500`}},
}
