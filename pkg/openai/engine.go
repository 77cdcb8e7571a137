package openai

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-json/jsontext"
	json "github.com/goccy/go-json/v2"
)

// failure holds what the engines' error objects have in common. The values are
// raw as their types differ: code is an int with vLLM, a string with OpenAI.
type failure struct {
	Error     jsontext.Value `json:"error"`      // an object; TGI, vLLM's 401 and 503: a string
	ErrorType jsontext.Value `json:"error_type"` // TGI
	Message   jsontext.Value `json:"message"`
	Type      jsontext.Value `json:"type"`
	Param     jsontext.Value `json:"param"`
	Code      jsontext.Value `json:"code"`
	HTTPCode  jsontext.Value `json:"http_status_code"` // TGI's OpenAI streams
	Detail    jsontext.Value `json:"detail"`           // FastAPI
	Response  jsontext.Value `json:"response"`         // of Responses' response.failed, around an "error"
}

// Shape says whose clients understand an error's body as it stands, so that it may
// pass byte-equal.
type Shape uint8

// ShapeOther: nobody's; the body must be written anew. ShapeOpenAI:
// {"error":{"message":string,..}} that is not Anthropic's. ShapeAnthropic:
// {"type":"error","error":{"type":string,"message":string}}.
const (
	ShapeOther Shape = iota
	ShapeOpenAI
	ShapeAnthropic
)

// EngineError reads the body of an engine's answer with an error status, in any of
// the shapes engines use: OpenAI's with an int or a string code, vLLM's older flat
// object, {"error":"text"} with or without TGI's error_type, Anthropic's, FastAPI's
// {"detail":..}, plain text, nothing.
//
// err says the same in OpenAI's words; an error_type of TGI's is kept as the code.
// Status is the given one: what a client is told about an engine's 401 is not
// decided here.
func EngineError(status int, body []byte) (err *Error, shape Shape) {
	f, ok := parseFailure(body)
	if !ok {
		return &Error{Status: status, Type: typeOf(status), Message: plainMessage(status, body)}, ShapeOther
	}
	err, shape = f.read()
	err.Status = status
	err.fill()
	return err, shape
}

// EventError reads the data of an error event or of Responses' response.failed, in
// a stream whose own status was 200, and finds the status it should have had: by
// what the event says of queues, overload and failed generation first, as TGI's
// http_status_code is 422 even then, by its codes, by its type; 502 if it tells none.
//
// The shape is that of data as a body with that status: TGI's, which would
// contradict it, is ShapeOther.
func EventError(data []byte) (err *Error, shape Shape) {
	if isAbort(data) {
		a, _ := parseAbort(data)
		err = &Error{Status: a.Status, Message: a.Message}
		err.fill()
		return err, ShapeOther
	}
	f, ok := parseFailure(data)
	if !ok {
		return BadGateway(), ShapeOther
	}
	if failed, ok := parseFailure(f.Response); ok && len(f.Error) == 0 {
		f = failed
		err, _ = f.read()
	} else {
		err, shape = f.read()
	}
	err.Status = f.status(err)
	err.fill()
	if len(f.HTTPCode) > 0 {
		shape = ShapeOther
	}
	return err, shape
}

// engineDeadTexts are what vLLM answers once its core has died and before its
// process ends. https://github.com/vllm-project/vllm/blob/main/vllm/v1/engine/exceptions.py
var engineDeadTexts = [...]string{
	"EngineDeadError",
	"AsyncEngineDeadError",
	"EngineCore encountered an issue",
	"Background loop has errored already",
	"Background loop is stopped",
}

// EngineDead reports whether the body of a 500 means that the engine behind it is
// gone and another may do better: it is empty, or says so.
func EngineDead(body []byte) bool {
	body = bytes.TrimSpace(body)
	for _, text := range engineDeadTexts {
		if bytes.Contains(body, []byte(text)) {
			return true
		}
	}
	return len(body) == 0
}

func parseFailure(body []byte) (f failure, ok bool) {
	body = bytes.TrimSpace(body)
	if len(body) == 0 || body[0] != '{' {
		return f, false
	}
	err := json.Unmarshal(body, &f, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	return f, err == nil
}

// read turns f into an Error without a status, and tells the shape of f. If its
// "error" is an object, f becomes that object.
func (f *failure) read() (e *Error, shape Shape) {
	e = &Error{Code: text(f.ErrorType)}
	if inner, ok := parseFailure(f.Error); ok {
		shape = f.shape(&inner)
		*f = inner
	} else {
		e.Message = text(f.Error)
	}
	if e.Message == "" {
		e.Message = text(f.Message)
	}
	if e.Message == "" {
		e.Message = f.detail()
	}
	if code := text(f.Code); code != "" {
		e.Code = code
	}
	// The flat error event of Responses has "error" there: it says nothing.
	if e.Type = text(f.Type); e.Type == "error" {
		e.Type = ""
	}
	e.Param = text(f.Param)
	return e, shape
}

// shape is that of an object whose "error" is inner.
func (f *failure) shape(inner *failure) Shape {
	switch {
	case inner.Message.Kind() != jsontext.KindString:
		return ShapeOther
	case text(f.Type) == "error" && inner.Type.Kind() == jsontext.KindString:
		return ShapeAnthropic
	}
	return ShapeOpenAI
}

// detail is FastAPI's "detail": a text, or for a 422 a list that names the fields
// at fault, which is passed on as it is.
func (f *failure) detail() string {
	if k := f.Detail.Kind(); k == jsontext.KindBeginArray || k == jsontext.KindBeginObject {
		return shorten(strings.ToValidUTF8(string(f.Detail), "\uFFFD"))
	}
	return text(f.Detail)
}

// fill completes what the engine left out.
func (e *Error) fill() {
	if e.Type == "" {
		e.Type = typeOf(e.Status)
	}
	if e.Message == "" {
		e.Message = plainMessage(e.Status, nil)
	}
}

// status finds the HTTP status of an error that came without one.
func (f *failure) status(e *Error) int {
	message := strings.ToLower(e.Message)
	switch {
	case strings.Contains(message, "queue is full"), strings.Contains(message, "queue full"):
		return http.StatusServiceUnavailable
	case e.Code == "overloaded", strings.Contains(message, "overloaded"):
		return http.StatusTooManyRequests
	case strings.HasPrefix(message, "request failed during generation"), strings.HasPrefix(message, "incomplete generation"):
		return http.StatusFailedDependency
	}
	for _, v := range [...]jsontext.Value{f.Code, f.HTTPCode} {
		if n, err := strconv.Atoi(strings.Trim(string(v), `"`)); err == nil && n >= 400 && n <= 599 {
			return n
		}
	}
	for _, word := range [...]string{e.Code, e.Type} {
		if status := statusOf(word); status != 0 {
			return status
		}
	}
	return http.StatusBadGateway
}

// statusOf is the status that an engine's error type or code stands for, 0 if it
// is not known. Names of Python exceptions are vLLM's.
func statusOf(word string) int {
	switch word {
	case "invalid_request_error", "BadRequestError", "Bad Request", "json_parse_error",
		"exceed_context_size_error", "context_length_exceeded", "invalid_prompt":
		return http.StatusBadRequest
	case "authentication_error", "AuthenticationError", "invalid_api_key":
		return http.StatusUnauthorized
	case "permission_error":
		return http.StatusForbidden
	case "not_found_error", "NotFoundError", "model_not_found":
		return http.StatusNotFound
	case "request_too_large":
		return http.StatusRequestEntityTooLarge
	case "validation", "template_error", "tool_error", "missing_template_vertex":
		return http.StatusUnprocessableEntity
	case "generation":
		return http.StatusFailedDependency
	case "rate_limit_error", "rate_limit_exceeded":
		return http.StatusTooManyRequests
	case "InternalServerError", "internal_error", "server_error", "api_error",
		"incomplete_generation", "incomplete_generation_stream":
		return http.StatusInternalServerError
	case "unavailable_error", "overloaded_error", "ServiceUnavailableError", "service_unavailable":
		return http.StatusServiceUnavailable
	case "timeout_error":
		return http.StatusGatewayTimeout
	}
	return 0
}

func typeOf(status int) string {
	switch {
	case status == http.StatusTooManyRequests:
		return "rate_limit_error"
	case status >= 500:
		return "server_error"
	}
	return "invalid_request_error"
}

// plainMessage passes a short line of text on; a page or a trace back is not for
// the client.
func plainMessage(status int, body []byte) string {
	const most = 200
	body = bytes.TrimSpace(body)
	if len(body) == 0 || len(body) > most || body[0] == '<' || body[0] == '{' ||
		bytes.IndexByte(body, '\n') >= 0 || !utf8.Valid(body) {
		return "The inference server answered with status " + strconv.Itoa(status) + "."
	}
	return string(body)
}

// text is the string v holds, "" if it is not one.
func text(v jsontext.Value) string {
	if v.Kind() != jsontext.KindString {
		return ""
	}
	s, _ := jsontext.AppendUnquote(nil, v)
	return string(s)
}
