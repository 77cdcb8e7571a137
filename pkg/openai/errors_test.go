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
		{MethodNotAllowed("GET", "/v1/embeddings"), 405, `{"error":{"message":"Not allowed to GET on /v1/embeddings. Use a different HTTP method.","type":"invalid_request_error","param":null,"code":"method_not_supported"}}`},
		{RequestTimeout(), 408, `{"error":{"message":"The request was not received in time.","type":"invalid_request_error","param":null,"code":"request_timeout"}}`},
		{BodyTooLarge(64 << 20), 413, `{"error":{"message":"The request body is larger than the 67108864 bytes that are allowed.","type":"invalid_request_error","param":null,"code":"request_too_large"}}`},
		{UnsupportedMedia(), 415, `{"error":{"message":"The request must have Content-Type: application/json and no Content-Encoding.","type":"invalid_request_error","param":null,"code":"unsupported_media_type"}}`},
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
		asIs   bool
	}{
		"vLLM, int code": {
			404, `{"error":{"message":"The model x does not exist.","type":"NotFoundError","param":"model","code":404}}`,
			Error{Message: "The model x does not exist.", Type: "NotFoundError", Param: "model"},
			true,
		},
		"vLLM Rust, string code": {
			404, `{"error":{"message":"m","type":"invalid_request_error","param":null,"code":"model_not_found"}}`,
			Error{Message: "m", Type: "invalid_request_error", Code: "model_not_found"},
			true,
		},
		"SGLang and old vLLM, flat": {
			400, `{"object":"error","message":"too long","type":"BadRequestError","param":null,"code":400}`,
			Error{Message: "too long", Type: "BadRequestError"},
			false,
		},
		"vLLM's 401": {401, `{"error":"Unauthorized"}`, Error{Message: "Unauthorized", Type: "invalid_request_error"}, false},
		"vLLM scaling": {
			503, `{"error":"The model is currently scaling. Please try again later."}`,
			Error{Message: "The model is currently scaling. Please try again later.", Type: "server_error"},
			false,
		},
		"TGI": {
			429, `{"error":"Model is overloaded","error_type":"overloaded"}`,
			Error{Message: "Model is overloaded", Type: "rate_limit_error", Code: "overloaded"},
			false,
		},
		"Anthropic": {
			400, `{"type":"error","error":{"type":"invalid_request_error","message":"m"}}`,
			Error{Message: "m", Type: "invalid_request_error"},
			true,
		},
		"llama.cpp loading": {
			503, `{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}`,
			Error{Message: "Loading model", Type: "unavailable_error"},
			true,
		},
		"FastAPI's own":         {404, `{"detail":"Not Found"}`, Error{Message: "Not Found", Type: "invalid_request_error"}, false},
		"FastAPI's list":        {422, `{"detail":[{"msg":"x"}]}`, Error{Message: `[{"msg":"x"}]`, Type: "invalid_request_error"}, false},
		"nothing":               {500, "", Error{Message: "The inference server answered with status 500.", Type: "server_error"}, false},
		"uvicorn's text":        {500, "Internal Server Error", Error{Message: "Internal Server Error", Type: "server_error"}, false},
		"a page":                {502, "<html>nginx</html>", Error{Message: "The inference server answered with status 502.", Type: "server_error"}, false},
		"a trace back":          {500, "Traceback:\n  File x", Error{Message: "The inference server answered with status 500.", Type: "server_error"}, false},
		"cut JSON":              {400, `{"error":{"message":"x`, Error{Message: "The inference server answered with status 400.", Type: "invalid_request_error"}, false},
		"error without message": {400, `{"error":{"code":1}}`, Error{Message: "The inference server answered with status 400.", Type: "invalid_request_error"}, false},
		"error of no kind":      {400, `{"error":7}`, Error{Message: "The inference server answered with status 400.", Type: "invalid_request_error"}, false},
		"a list":                {400, `[1]`, Error{Message: "[1]", Type: "invalid_request_error"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			err, asIs := EngineError(c.status, []byte(c.body))
			c.want.Status = c.status
			if *err != c.want || asIs != c.asIs {
				t.Errorf("got  %+v, %v\nwant %+v, %v", *err, asIs, c.want, c.asIs)
			}
		})
	}
}

func TestEventError(t *testing.T) {
	for name, c := range map[string]struct {
		data    string
		status  int
		message string
	}{
		"TGI overload":                  {`{"error":"Model is overloaded","error_type":"overloaded"}`, 429, "Model is overloaded"},
		"TGI overload says 422":         {`{"error":{"message":"Model is overloaded","http_status_code":422}}`, 429, "Model is overloaded"},
		"TGI validation":                {`{"error":"Input too long","error_type":"validation"}`, 422, "Input too long"},
		"TGI validation, OpenAI stream": {`{"error":{"message":"Input too long","http_status_code":422}}`, 422, "Input too long"},
		"TGI generation":                {`{"error":"Request failed during generation","error_type":"generation"}`, 424, "Request failed during generation"},
		"SGLang queue":                  {`{"error":{"object":"error","message":"The request queue is full.","type":"x","code":503}}`, 503, "The request queue is full."},
		"vLLM int code":                 {`{"error":{"message":"m","type":"InternalServerError","param":null,"code":500}}`, 500, "m"},
		"code as digits in a string":    {`{"error":{"message":"m","code":"400"}}`, 400, "m"},
		"string code":                   {`{"error":{"message":"m","code":"model_not_found"}}`, 404, "m"},
		"type only":                     {`{"error":{"message":"m","type":"BadRequestError"}}`, 400, "m"},
		"Anthropic":                     {`{"type":"error","error":{"type":"overloaded_error","message":"Busy"}}`, 503, "Busy"},
		"flat":                          {`{"object":"error","message":"m","code":400}`, 400, "m"},
		"code of no error":              {`{"error":{"message":"m","code":200}}`, 502, "m"},
		"unknown":                       {`{"error":{"message":"m"}}`, 502, "m"},
		"nothing said":                  {`{"error":{}}`, 502, "The inference server answered with status 502."},
		"not JSON":                      {`oops`, 502, BadGateway().Message},
	} {
		t.Run(name, func(t *testing.T) {
			if err, _ := EventError([]byte(c.data)); err.Status != c.status || err.Message != c.message || err.Type == "" {
				t.Errorf("got %+v", err)
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
		`{"error":{"message":"a","message":1}}`, `{"error":{"message":"\ud800"}}`, `text`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		err, asIs := EngineError(http.StatusInternalServerError, body)
		if err.Status != http.StatusInternalServerError || err.Message == "" || err.Type == "" {
			t.Fatalf("%q: %+v", body, err)
		}
		if asIs && !isOpenAIShaped(body) {
			t.Fatalf("%q does not pass as it is", body)
		}
		again, asIs := EngineError(err.Status, err.Append(nil))
		if !asIs || again.Message != err.Message {
			t.Fatalf("%q: %+v became %+v", body, err, again)
		}
		if e, _ := EventError(body); e.Status < 400 || e.Status > 599 || !stdjson.Valid(e.AppendTGI(nil)) {
			t.Fatalf("%q: %+v", body, e)
		}
	})
}

func isOpenAIShaped(body []byte) bool {
	// Maps, as struct fields would match other spellings too.
	var outer, inner map[string]stdjson.RawMessage
	var message *string
	return stdjson.Unmarshal(body, &outer) == nil && stdjson.Unmarshal(outer["error"], &inner) == nil &&
		stdjson.Unmarshal(inner["message"], &message) == nil && message != nil
}
