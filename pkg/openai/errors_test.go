package openai

import (
	stdjson "encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestGatewayErrors(t *testing.T) {
	for _, c := range []struct {
		err    *Error
		status int
		body   string
	}{
		{BadRequest("stream", "Must be a boolean."), 400, `{"error":{"message":"Must be a boolean.","type":"invalid_request_error","param":"stream","code":"invalid_request"}}`},
		{NoModel(), 400, `{"error":{"message":"You must provide a model parameter. GET /v1/models lists the models you can use.","type":"invalid_request_error","param":"model","code":"missing_required_parameter"}}`},
		{ModelNotFound("gpt-5"), 404, "{\"error\":{\"message\":\"The model `gpt-5` does not exist or you do not have access to it. GET /v1/models lists the models you can use.\",\"type\":\"invalid_request_error\",\"param\":\"model\",\"code\":\"model_not_found\"}}"},
		{NotFound("POST", "/v1/chat"), 404, `{"error":{"message":"Unknown request URL: POST /v1/chat. Check the URL for typos; endpoints start with /v1/.","type":"invalid_request_error","param":null,"code":"unknown_url"}}`},
		{NotServed("m", "/v1/rerank"), 404, "{\"error\":{\"message\":\"The model `m` cannot be used with /v1/rerank: no server of it has this endpoint.\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"endpoint_not_supported\"}}"},
		{ResponseNotFound("resp_1"), 404, "{\"error\":{\"message\":\"The response `resp_1` was not found: the server that made it is gone, or no server ever did. Send the whole conversation as input instead.\",\"type\":\"invalid_request_error\",\"param\":\"previous_response_id\",\"code\":\"previous_response_not_found\"}}"},
		{MethodNotAllowed("GET", "/v1/embeddings"), 405, `{"error":{"message":"Not allowed to GET on /v1/embeddings. Use a different HTTP method.","type":"invalid_request_error","param":null,"code":"method_not_supported"}}`},
		{RequestTimeout(), 408, `{"error":{"message":"The request was not received in time.","type":"invalid_request_error","param":null,"code":"request_timeout"}}`},
		{BodyTooLarge(64 << 20), 413, `{"error":{"message":"The request body is larger than the 67108864 bytes that are allowed.","type":"invalid_request_error","param":null,"code":"request_too_large"}}`},
		{UnsupportedMedia(), 415, `{"error":{"message":"The request must have Content-Type: application/json and no Content-Encoding.","type":"invalid_request_error","param":null,"code":"unsupported_media_type"}}`},
		{UnsupportedForm(), 415, `{"error":{"message":"The request must have Content-Type: multipart/form-data with a boundary, and no Content-Encoding.","type":"invalid_request_error","param":null,"code":"unsupported_media_type"}}`},
		{Overloaded(time.Second), 429, `{"error":{"message":"The model is overloaded. Please try again later.","type":"rate_limit_error","param":null,"code":"overloaded"}}`},
		{HeadersTooLarge(), 431, `{"error":{"message":"The request headers are too large.","type":"invalid_request_error","param":null,"code":"headers_too_large"}}`},
		{Internal(), 500, `{"error":{"message":"The gateway failed to process the request.","type":"server_error","param":null,"code":"internal_error"}}`},
		{BadGateway(), 502, `{"error":{"message":"The inference server failed or closed the connection.","type":"server_error","param":null,"code":"bad_gateway"}}`},
		{Unavailable("m", time.Second), 503, "{\"error\":{\"message\":\"No server is available for the model `m`. Please try again later.\",\"type\":\"server_error\",\"param\":null,\"code\":\"service_unavailable\"}}"},
		{Unavailable("", time.Second), 503, `{"error":{"message":"No server is available for this request. Please try again later.","type":"server_error","param":null,"code":"service_unavailable"}}`},
		{ShuttingDown(), 503, `{"error":{"message":"The service is restarting. Please try again.","type":"server_error","param":null,"code":"shutting_down"}}`},
		{GatewayTimeout(), 504, `{"error":{"message":"The inference server did not answer in time.","type":"server_error","param":null,"code":"gateway_timeout"}}`},
	} {
		if got := string(c.err.Append(nil)); got != c.body || c.err.Status != c.status {
			t.Errorf("got  %d %s\nwant %d %s", c.err.Status, got, c.status, c.body)
		}
		if got, want := string(c.err.AppendEvent([]byte("x"))), "xdata: "+c.body+"\n\n"; got != want {
			t.Errorf("event %q, want %q", got, want)
		}
		if again := c.err.Status >= 500 && c.err.Status != 500 || c.err.Status == 429; again != (c.err.RetryAfter > 0) {
			t.Errorf("%d: RetryAfter = %v", c.err.Status, c.err.RetryAfter)
		}
	}
}

func TestErrorsQuoteWhatAClientSent(t *testing.T) {
	for name, model := range map[string]string{
		"quotes and lines": "a\"b\\c\r\n\x00",
		"invalid UTF-8":    "\xff\xfe",
		"endless":          strings.Repeat("é", 1<<20) + "x",
		"cut in a rune":    "x" + strings.Repeat("é", 1<<10),
	} {
		t.Run(name, func(t *testing.T) {
			event := ModelNotFound(model).AppendEvent(nil)
			if len(event) > 1000 || strings.Count(string(event), "\n") != 2 || strings.Contains(string(event), "�…") {
				t.Errorf("got %d bytes: %.300q", len(event), event)
			}
			if kind, data := FirstEvent(event); kind != FirstError || !stdjson.Valid(data) {
				t.Errorf("got %d %q", kind, data)
			}
		})
	}
}

func TestTGIErrors(t *testing.T) {
	for _, c := range []struct {
		err  *Error
		want string
	}{
		{Overloaded(0), "overloaded"},
		{Unavailable("", 0), "overloaded"},
		{BadRequest("", "x"), "validation"},
		{NotFound("GET", "/"), "validation"},
		{BadGateway(), "generation"},
		{&Error{Status: 500, Code: "incomplete_generation"}, "incomplete_generation"},
	} {
		want := `{"error":` + quote(t, c.err.Message) + `,"error_type":"` + c.want + `"}`
		if got := string(c.err.AppendTGI(nil)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got := string(c.err.AppendTGIEvent(nil)); got != "data:"+want+"\n\n" {
			t.Errorf("got event %q", got)
		}
	}
}

func TestAnthropicErrors(t *testing.T) {
	for status, want := range map[int]string{
		400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
		404: "not_found_error", 405: "invalid_request_error", 413: "request_too_large", 415: "invalid_request_error",
		422: "invalid_request_error", 429: "rate_limit_error", 500: "api_error", 502: "api_error",
		503: "overloaded_error", 504: "timeout_error", 529: "overloaded_error",
	} {
		err := &Error{Status: status, Message: "a\"b", Type: "t", Code: "c", Param: "p"}
		body := `{"type":"error","error":{"type":"` + want + `","message":"a\"b"}}`
		if got := string(err.AppendAnthropic(nil)); got != body {
			t.Errorf("got %s, want %s", got, body)
		}
		if got := string(err.AppendAnthropicEvent([]byte("x"))); got != "xevent: error\ndata: "+body+"\n\n" {
			t.Errorf("got event %q", got)
		}
		if again, shape := EngineError(status, []byte(body)); shape != ShapeAnthropic || again.Message != err.Message || again.Type != want {
			t.Errorf("%s is read as %d, %+v", body, shape, again)
		}
	}
}

// The SDKs raise an error only for an "error" in the event; the Vercel SDK refuses
// an event without the sequence_number, and reads the fields beside the type.
func TestResponsesErrorEvent(t *testing.T) {
	err := &Error{Status: 400, Message: "a\nb", Type: "invalid_request_error", Param: "input"}
	want := `xevent: error
data: {"type":"error","sequence_number":7,"code":null,"message":"a\nb","param":"input","error":{"message":"a\nb","type":"invalid_request_error","param":"input","code":null}}

`
	got := err.AppendResponsesEvent([]byte("x"), 7)
	if string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
	kind, data := FirstEvent(got[1:])
	again, _ := EventError(data)
	if kind != FirstError || !stdjson.Valid(data) || *again != *err {
		t.Errorf("read as %d %+v", kind, again)
	}
}

func quote(t *testing.T, s string) string {
	t.Helper()
	b, err := stdjson.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestEngineError(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		want   Error
		shape  Shape
	}{
		"vLLM, int code": {
			404, `{"error":{"message":"The model x does not exist.","type":"NotFoundError","param":"model","code":404}}`,
			Error{Message: "The model x does not exist.", Type: "NotFoundError", Param: "model"},
			ShapeOpenAI,
		},
		"vLLM Rust, string code": {
			404, `{"error":{"message":"m","type":"invalid_request_error","param":null,"code":"model_not_found"}}`,
			Error{Message: "m", Type: "invalid_request_error", Code: "model_not_found"},
			ShapeOpenAI,
		},
		"SGLang and old vLLM, flat": {
			400, `{"object":"error","message":"too long","type":"BadRequestError","param":null,"code":400}`,
			Error{Message: "too long", Type: "BadRequestError"},
			ShapeOther,
		},
		"vLLM's 401": {401, `{"error":"Unauthorized"}`, Error{Message: "Unauthorized", Type: "invalid_request_error"}, ShapeOther},
		"vLLM scaling": {
			503, `{"error":"The model is currently scaling. Please try again later."}`,
			Error{Message: "The model is currently scaling. Please try again later.", Type: "server_error"},
			ShapeOther,
		},
		"TGI": {
			429, `{"error":"Model is overloaded","error_type":"overloaded"}`,
			Error{Message: "Model is overloaded", Type: "rate_limit_error", Code: "overloaded"},
			ShapeOther,
		},
		"Anthropic": {
			400, `{"type":"error","error":{"type":"invalid_request_error","message":"m"}}`,
			Error{Message: "m", Type: "invalid_request_error"},
			ShapeAnthropic,
		},
		"Anthropic's shape without a type is OpenAI's": {
			400, `{"type":"error","error":{"message":"m"}}`,
			Error{Message: "m", Type: "invalid_request_error"},
			ShapeOpenAI,
		},
		"Anthropic's shape without a message is nobody's": {
			400, `{"type":"error","error":{"type":"overloaded_error"}}`,
			Error{Message: "The inference server answered with status 400.", Type: "overloaded_error"},
			ShapeOther,
		},
		"Responses' flat event": {
			500, `{"type":"error","code":"server_error","message":"m","param":null,"sequence_number":3}`,
			Error{Message: "m", Type: "server_error", Code: "server_error"},
			ShapeOther,
		},
		"llama.cpp loading": {
			503, `{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}`,
			Error{Message: "Loading model", Type: "unavailable_error"},
			ShapeOpenAI,
		},
		"FastAPI's own":         {404, `{"detail":"Not Found"}`, Error{Message: "Not Found", Type: "invalid_request_error"}, ShapeOther},
		"FastAPI's list":        {422, `{"detail":[{"msg":"x"}]}`, Error{Message: `[{"msg":"x"}]`, Type: "invalid_request_error"}, ShapeOther},
		"nothing":               {500, "", Error{Message: "The inference server answered with status 500.", Type: "server_error"}, ShapeOther},
		"uvicorn's text":        {500, "Internal Server Error", Error{Message: "Internal Server Error", Type: "server_error"}, ShapeOther},
		"a page":                {502, "<html>nginx</html>", Error{Message: "The inference server answered with status 502.", Type: "server_error"}, ShapeOther},
		"a trace back":          {500, "Traceback:\n  File x", Error{Message: "The inference server answered with status 500.", Type: "server_error"}, ShapeOther},
		"cut JSON":              {400, `{"error":{"message":"x`, Error{Message: "The inference server answered with status 400.", Type: "invalid_request_error"}, ShapeOther},
		"error without message": {400, `{"error":{"code":1}}`, Error{Message: "The inference server answered with status 400.", Type: "invalid_request_error"}, ShapeOther},
		"error of no kind":      {400, `{"error":7}`, Error{Message: "The inference server answered with status 400.", Type: "invalid_request_error"}, ShapeOther},
		"a list":                {400, `[1]`, Error{Message: "[1]", Type: "invalid_request_error"}, ShapeOther},
	} {
		t.Run(name, func(t *testing.T) {
			err, shape := EngineError(c.status, []byte(c.body))
			c.want.Status = c.status
			if *err != c.want || shape != c.shape {
				t.Errorf("got  %+v, %v\nwant %+v, %v", *err, shape, c.want, c.shape)
			}
		})
	}
}

func TestEventError(t *testing.T) {
	for name, c := range map[string]struct {
		data    string
		status  int
		message string
		shape   Shape
	}{
		"TGI overload":                      {`{"error":"Model is overloaded","error_type":"overloaded"}`, 429, "Model is overloaded", ShapeOther},
		"TGI overload says 422":             {`{"error":{"message":"Model is overloaded","http_status_code":422}}`, 429, "Model is overloaded", ShapeOther},
		"TGI validation":                    {`{"error":"Input too long","error_type":"validation"}`, 422, "Input too long", ShapeOther},
		"TGI validation, OpenAI stream":     {`{"error":{"message":"Input too long","http_status_code":422}}`, 422, "Input too long", ShapeOther},
		"TGI generation":                    {`{"error":"Request failed during generation","error_type":"generation"}`, 424, "Request failed during generation", ShapeOther},
		"SGLang queue":                      {`{"error":{"object":"error","message":"The request queue is full.","type":"x","code":503}}`, 503, "The request queue is full.", ShapeOpenAI},
		"vLLM int code":                     {`{"error":{"message":"m","type":"InternalServerError","param":null,"code":500}}`, 500, "m", ShapeOpenAI},
		"code as digits in a string":        {`{"error":{"message":"m","code":"400"}}`, 400, "m", ShapeOpenAI},
		"string code":                       {`{"error":{"message":"m","code":"model_not_found"}}`, 404, "m", ShapeOpenAI},
		"type only":                         {`{"error":{"message":"m","type":"BadRequestError"}}`, 400, "m", ShapeOpenAI},
		"Anthropic":                         {`{"type":"error","error":{"type":"overloaded_error","message":"Busy"}}`, 503, "Busy", ShapeAnthropic},
		"flat":                              {`{"object":"error","message":"m","code":400}`, 400, "m", ShapeOther},
		"code of no error":                  {`{"error":{"message":"m","code":200}}`, 502, "m", ShapeOpenAI},
		"unknown":                           {`{"error":{"message":"m"}}`, 502, "m", ShapeOpenAI},
		"nothing said":                      {`{"error":{}}`, 502, "The inference server answered with status 502.", ShapeOther},
		"Responses failed, never as it is":  {`{"type":"response.failed","response":{"id":"r","status":"failed","error":{"code":"rate_limit_exceeded","message":"m"}},"sequence_number":1}`, 429, "m", ShapeOther},
		"Responses failed without a reason": {`{"type":"response.failed","response":{"error":null}}`, 502, "The inference server answered with status 502.", ShapeOther},
		"an error outside counts first":     {`{"error":{"message":"m","code":400},"response":{"error":{"message":"x","code":"server_error"}}}`, 400, "m", ShapeOpenAI},
		"Responses flat":                    {`{"type":"error","code":"server_error","message":"m","param":null}`, 500, "m", ShapeOther},
		"Anthropic's timeout":               {`{"type":"error","error":{"type":"timeout_error","message":"m"}}`, 504, "m", ShapeAnthropic},
		"not JSON":                          {`oops`, 502, BadGateway().Message, ShapeOther},
	} {
		t.Run(name, func(t *testing.T) {
			err, shape := EventError([]byte(c.data))
			if err.Status != c.status || err.Message != c.message || err.Type == "" || shape != c.shape {
				t.Errorf("got %+v, %d", err, shape)
			}
		})
	}
}

func TestEngineDead(t *testing.T) {
	for body, want := range map[string]bool{
		"":    true,
		" \n": true,
		`{"error":{"message":"EngineCore encountered an issue. See stack trace (above) for the root cause.","type":"InternalServerError","param":null,"code":500}}`: true,
		"vllm.v1.engine.exceptions.EngineDeadError":       true,
		"Internal Server Error":                           false,
		`{"error":{"message":"list index out of range"}}`: false,
	} {
		if EngineDead([]byte(body)) != want {
			t.Errorf("%q: got %v", body, !want)
		}
	}
}

// FuzzEngineError: whatever an engine says becomes an error that clients can read,
// and what passes as it is really is of OpenAI's shape.
func FuzzEngineError(f *testing.F) {
	for _, s := range []string{
		`{"error":{"message":"m","type":"t","param":"p","code":404}}`, `{"error":"Unauthorized"}`, ``, `{"detail":[{}]}`,
		`{"error":"e","error_type":"overloaded"}`, `{"object":"error","message":"m","code":"x"}`, "{\"error\":{\"message\":\"\xff\"}}",
		`{"type":"error","error":{"type":"t","message":"m"}}`, `{"type":"response.failed","response":{"error":{"code":"c"}}}`,
		`{"error":{"message":"a","message":1}}`, `{"error":{"message":"\ud800"}}`, `text`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		err, shape := EngineError(http.StatusInternalServerError, body)
		if err.Status != http.StatusInternalServerError || err.Message == "" || err.Type == "" {
			t.Fatalf("%q: %+v", body, err)
		}
		if shape != ShapeOther && (!isOpenAIShaped(body) || (shape == ShapeAnthropic) != isAnthropicShaped(body)) {
			t.Fatalf("%q is not of shape %d", body, shape)
		}
		again, shape := EngineError(err.Status, err.Append(nil))
		if shape != ShapeOpenAI || again.Message != err.Message {
			t.Fatalf("%q: %+v became %+v", body, err, again)
		}
		if e, _ := EventError(body); e.Status < 400 || e.Status > 599 || !stdjson.Valid(e.AppendTGI(nil)) || !isAnthropicShaped(e.AppendAnthropic(nil)) {
			t.Fatalf("%q: %+v", body, e)
		}
	})
}

func isOpenAIShaped(body []byte) bool {
	_, _, message := shapeOf(body)
	return message != nil
}

func isAnthropicShaped(body []byte) bool {
	outer, inner, message := shapeOf(body)
	return message != nil && outer != nil && *outer == "error" && inner != nil
}

// shapeOf is what shapes differ by: the types outside and inside, and the message.
func shapeOf(body []byte) (outerType, innerType, message *string) {
	// Maps, as struct fields would match other spellings too.
	var outer, inner map[string]stdjson.RawMessage
	if stdjson.Unmarshal(body, &outer) != nil || stdjson.Unmarshal(outer["error"], &inner) != nil {
		return nil, nil, nil
	}
	text := func(v stdjson.RawMessage) (s *string) {
		if stdjson.Unmarshal(v, &s) != nil {
			return nil
		}
		return s
	}
	return text(outer["type"]), text(inner["type"]), text(inner["message"])
}
