package openai

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-json/jsontext"
)

// Error is OpenAI's error object with the status it travels under.
// The message is for the client: it never carries addresses or internal texts.
type Error struct {
	Status     int           // HTTP status
	Message    string        // one or two sentences
	Type       string        // when it is ours "invalid_request_error", "server_error", or what there was too much of
	Param      string        // the request field at fault; "" is sent as null
	Code       string        // stable and machine-readable; "" is sent as null
	RetryAfter time.Duration // for the Retry-After header; 0 sends none
	Final      bool          // trying again is of no use: x-should-retry, which OpenAI's and Anthropic's SDKs know
}

// Error makes *Error an error; the text is for logs.
func (e *Error) Error() string {
	return strconv.Itoa(e.Status) + " " + e.Code + ": " + e.Message
}

// Append appends the JSON body {"error":{...}} to dst.
func (e *Error) Append(dst []byte) []byte {
	dst = append(dst, `{"error":{"message":`...)
	dst = appendString(dst, e.Message)
	dst = append(dst, `,"type":`...)
	dst = appendString(dst, e.Type)
	dst = append(dst, `,"param":`...)
	dst = appendStringOrNull(dst, e.Param)
	dst = append(dst, `,"code":`...)
	dst = appendStringOrNull(dst, e.Code)
	return append(dst, '}', '}')
}

// AppendEvent appends the error as one server-sent event. No [DONE] follows: a
// client must not take the stream for a complete one.
func (e *Error) AppendEvent(dst []byte) []byte {
	dst = append(dst, "data: "...)
	dst = e.Append(dst)
	return append(dst, "\n\n"...)
}

// AppendTGI appends the body of TGI's native API, {"error":"..","error_type":".."}.
func (e *Error) AppendTGI(dst []byte) []byte {
	dst = append(dst, `{"error":`...)
	dst = appendString(dst, e.Message)
	dst = append(dst, `,"error_type":`...)
	dst = appendString(dst, e.tgiType())
	return append(dst, '}')
}

// AppendTGIEvent appends the error as one event of TGI's native stream.
func (e *Error) AppendTGIEvent(dst []byte) []byte {
	dst = append(dst, "data:"...)
	dst = e.AppendTGI(dst)
	return append(dst, "\n\n"...)
}

// tgiType is a word of TGI's own vocabulary. An engine's is kept in Code on its
// way through, ours follows from the status.
// https://github.com/huggingface/text-generation-inference/blob/main/router/src/infer/mod.rs
func (e *Error) tgiType() string {
	switch e.Code {
	case "generation", "overloaded", "validation", "incomplete_generation", "incomplete_generation_stream",
		"template_error", "missing_template_vertex", "tool_error", "stream_serialization_error":
		return e.Code
	}
	switch {
	case e.Status == http.StatusTooManyRequests || e.Status == http.StatusServiceUnavailable:
		return "overloaded"
	case e.Status < 500:
		return "validation"
	}
	return "generation"
}

// AppendAnthropic appends the body of Anthropic's API,
// {"type":"error","error":{"type":"..","message":".."}}.
func (e *Error) AppendAnthropic(dst []byte) []byte {
	dst = append(dst, `{"type":"error","error":{"type":"`...)
	dst = append(dst, e.anthropicType()...)
	dst = append(dst, `","message":`...)
	dst = appendString(dst, e.Message)
	return append(dst, '}', '}')
}

// AppendAnthropicEvent appends the error as one event of Anthropic's stream. No
// message_stop follows.
func (e *Error) AppendAnthropicEvent(dst []byte) []byte {
	dst = append(dst, "event: error\ndata: "...)
	dst = e.AppendAnthropic(dst)
	return append(dst, "\n\n"...)
}

// anthropicType is the type that Anthropic documents for the status.
// https://docs.anthropic.com/en/api/errors
func (e *Error) anthropicType() string {
	switch e.Status {
	case http.StatusUnauthorized:
		return "authentication_error"
	case http.StatusPaymentRequired:
		return "billing_error"
	case http.StatusForbidden:
		return "permission_error"
	case http.StatusNotFound:
		return "not_found_error"
	case http.StatusRequestEntityTooLarge:
		return "request_too_large"
	case http.StatusTooManyRequests:
		return "rate_limit_error"
	case http.StatusServiceUnavailable, 529: // Anthropic's own "overloaded"
		return "overloaded_error"
	case http.StatusGatewayTimeout:
		return "timeout_error"
	}
	if e.Status < 500 {
		return "invalid_request_error"
	}
	return "api_error"
}

// AppendResponsesEvent appends the error as one event of a Responses stream, which
// no terminal event follows. The fields beside "type" are those of the documented
// error event; OpenAI's SDKs raise an error only for an "error" that is an object.
// sequence is the event's number: that of the events before it, from 0 on.
// https://platform.openai.com/docs/api-reference/responses-streaming/error
func (e *Error) AppendResponsesEvent(dst []byte, sequence int) []byte {
	dst = append(dst, "event: error\ndata: "+`{"type":"error","sequence_number":`...)
	dst = strconv.AppendInt(dst, int64(sequence), 10)
	dst = append(dst, `,"code":`...)
	dst = appendStringOrNull(dst, e.Code)
	dst = append(dst, `,"message":`...)
	dst = appendString(dst, e.Message)
	dst = append(dst, `,"param":`...)
	dst = appendStringOrNull(dst, e.Param)
	dst = append(dst, ',')
	dst = append(dst, e.Append(nil)[1:]...) // "error":{..}}
	return append(dst, "\n\n"...)
}

// BadRequest is 400: the body or a field of it (param, may be "") is not acceptable.
func BadRequest(param, msg string) *Error {
	return clientError(http.StatusBadRequest, param, "invalid_request", msg)
}

// NoModel is 400: the request names no model and more than one could serve it.
func NoModel() *Error {
	return clientError(http.StatusBadRequest, "model", "missing_required_parameter",
		"You must provide a model parameter. GET /v1/models lists the models you can use.")
}

// ModelNotFound is 404: nobody serves the model, or the client may not use it;
// which of the two is not told.
func ModelNotFound(model string) *Error {
	return clientError(http.StatusNotFound, "model", "model_not_found",
		"The model `"+shorten(model)+"` does not exist or you do not have access to it. GET /v1/models lists the models you can use.")
}

// NotFound is 404: the gateway has no such endpoint.
func NotFound(method, path string) *Error {
	return clientError(http.StatusNotFound, "", "unknown_url",
		"Unknown request URL: "+shorten(method)+" "+shorten(path)+". Check the URL for typos; endpoints start with /v1/.")
}

// NotServed is 404: the gateway has the endpoint, but no engine that serves the
// model does.
func NotServed(model, path string) *Error {
	msg := "No server has this endpoint: " + shorten(path) + "."
	if model != "" {
		msg = "The model `" + shorten(model) + "` cannot be used with " + shorten(path) + ": no server of it has this endpoint."
	}
	return clientError(http.StatusNotFound, "", "endpoint_not_supported", msg)
}

// ResponseNotFound is 404: no backend is known to hold the response that a request
// continues or asks for.
func ResponseNotFound(id string) *Error {
	return clientError(http.StatusNotFound, "previous_response_id", "previous_response_not_found",
		"The response `"+shorten(id)+"` was not found: the server that made it is gone, or no server ever did. Send the whole conversation as input instead.")
}

// MethodNotAllowed is 405: the endpoint exists for other methods. The caller sends Allow.
func MethodNotAllowed(method, path string) *Error {
	return clientError(http.StatusMethodNotAllowed, "", "method_not_supported",
		"Not allowed to "+shorten(method)+" on "+shorten(path)+". Use a different HTTP method.")
}

// RequestTimeout is 408: the client did not send its request in time.
func RequestTimeout() *Error {
	return clientError(http.StatusRequestTimeout, "", "request_timeout",
		"The request was not received in time.")
}

// BodyTooLarge is 413: the request body is larger than limit bytes.
func BodyTooLarge(limit int64) *Error {
	return clientError(http.StatusRequestEntityTooLarge, "", "request_too_large",
		fmt.Sprintf("The request body is larger than the %d bytes that are allowed.", limit))
}

// UnsupportedMedia is 415: the body is not plain JSON.
func UnsupportedMedia() *Error {
	return clientError(http.StatusUnsupportedMediaType, "", "unsupported_media_type",
		"The request must have Content-Type: application/json and no Content-Encoding.")
}

// UnsupportedForm is 415: the body is not a form, or one that cannot be read.
func UnsupportedForm() *Error {
	return clientError(http.StatusUnsupportedMediaType, "", "unsupported_media_type",
		"The request must have Content-Type: multipart/form-data with a boundary, and no Content-Encoding.")
}

// HeadersTooLarge is 431: the request's header block does not fit.
func HeadersTooLarge() *Error {
	return clientError(http.StatusRequestHeaderFieldsTooLarge, "", "headers_too_large",
		"The request headers are too large.")
}

// Overloaded is 429: every server of the model refuses more work for now.
func Overloaded(retryAfter time.Duration) *Error {
	return &Error{
		Status: http.StatusTooManyRequests, Type: "rate_limit_error", Code: "overloaded",
		Message:    "The model is overloaded. Please try again later.",
		RetryAfter: retryAfter,
	}
}

// Unavailable is 503: no server that could answer for the model is healthy.
func Unavailable(model string, retryAfter time.Duration) *Error {
	msg := "No server is available for this request. Please try again later."
	if model != "" {
		msg = "No server is available for the model `" + shorten(model) + "`. Please try again later."
	}
	return serverError(http.StatusServiceUnavailable, "service_unavailable", msg, retryAfter)
}

// KeysUnavailable is 503: whether the API key is one cannot be told at the moment.
func KeysUnavailable() *Error {
	return serverError(http.StatusServiceUnavailable, "keys_unavailable",
		"The API key cannot be checked at the moment. Please try again later.", time.Second)
}

// ShuttingDown is 503: this gateway takes no new work.
func ShuttingDown() *Error {
	return serverError(http.StatusServiceUnavailable, "shutting_down",
		"The service is restarting. Please try again.", time.Second)
}

// BadGateway is 502: the engine failed, before its answer or in the middle of it.
func BadGateway() *Error {
	return serverError(http.StatusBadGateway, "bad_gateway",
		"The inference server failed or closed the connection.", time.Second)
}

// GatewayTimeout is 504: the engine was silent for longer than is allowed.
func GatewayTimeout() *Error {
	return serverError(http.StatusGatewayTimeout, "gateway_timeout",
		"The inference server did not answer in time.", time.Second)
}

// Internal is 500: the gateway itself is at fault.
func Internal() *Error {
	return serverError(http.StatusInternalServerError, "internal_error",
		"The gateway failed to process the request.", 0)
}

func clientError(status int, param, code, msg string) *Error {
	return &Error{Status: status, Type: "invalid_request_error", Param: param, Code: code, Message: msg}
}

func serverError(status int, code, msg string, retryAfter time.Duration) *Error {
	return &Error{Status: status, Type: "server_error", Code: code, Message: msg, RetryAfter: retryAfter}
}

// shorten keeps what a client sent from blowing up the answer that quotes it.
func shorten(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// appendString quotes s as JSON. Invalid UTF-8 becomes U+FFFD, so the result is
// valid whatever a client or an engine put into a message.
func appendString(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s)
	return dst
}

func appendStringOrNull(dst []byte, s string) []byte {
	if s == "" {
		return append(dst, "null"...)
	}
	return appendString(dst, s)
}
