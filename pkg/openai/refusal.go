package openai

import (
	"fmt"
	"net/http"
	"time"
)

// NoKey is 401: the request carries no API key.
func NoKey() *Error {
	return clientError(http.StatusUnauthorized, "", "invalid_api_key",
		"You didn't provide an API key. Send it in the header Authorization: Bearer YOUR_KEY.")
}

// WrongKey is 401: the key opens nothing, whatever the reason.
func WrongKey() *Error {
	return clientError(http.StatusUnauthorized, "", "invalid_api_key",
		"Incorrect API key provided. Check the key, or ask whoever runs this service for another one.")
}

// AddressNotAllowed is 403: the key may not be used from where the client is.
func AddressNotAllowed() *Error {
	return clientError(http.StatusForbidden, "", "ip_not_authorized",
		"This API key cannot be used from your network address.")
}

// ModelRequired is 403: the key may use some models only, and the request names
// none.
func ModelRequired() *Error {
	return clientError(http.StatusForbidden, "model", "model_required",
		"This API key may use certain models only, and the request does not say which one it is for. GET /v1/models lists the models you can use.")
}

// The types of OpenAI's own 429s say what there is too much of.
const (
	typeRequests = "requests"
	typeTokens   = "tokens"
	typeQuota    = "insufficient_quota"
	codeLimited  = "rate_limit_exceeded"
)

// GloballyLimited is 429: all clients together send more than the service takes.
func GloballyLimited(wait time.Duration) *Error {
	return &Error{
		Status: http.StatusTooManyRequests, Type: typeRequests, Param: "global", Code: codeLimited, RetryAfter: wait,
		Message: "The service receives more requests than it takes at the moment, from all clients together." + again(wait),
	}
}

// RateLimited is 429: the client sends more requests than its limit of that name
// allows; what says in which unit most is.
func RateLimited(name string, most int64, what string, wait time.Duration) *Error {
	return &Error{
		Status: http.StatusTooManyRequests, Type: typeRequests, Param: name, Code: codeLimited, RetryAfter: wait,
		Message: fmt.Sprintf("Rate limit reached: your limit is %d %s.%s", most, what, again(wait)),
	}
}

// TokensLimited is 429: the request would use more tokens than are left of the
// limit a minute.
func TokensLimited(most, needed int64, wait time.Duration) *Error {
	return &Error{
		Status: http.StatusTooManyRequests, Type: typeTokens, Param: "tokens_per_minute", Code: codeLimited, RetryAfter: wait,
		Message: fmt.Sprintf("Rate limit reached: your limit is %d tokens per minute, and this request is expected to use %d.%s", most, needed, again(wait)),
	}
}

// Quota is what a client is told of its quota.
type Quota struct {
	Limit, Left, Needed int64 // tokens
	Period              string
	Exhausted           bool      // waiting for requests under way does not help
	TooMuch             bool      // nor does anything: it is more than the whole quota
	Resets              time.Time // zero: never
}

// QuotaExceeded is 429: the request would use more tokens than are left of the
// client's quota, or than requests under way have left of it.
func QuotaExceeded(q Quota, wait time.Duration) *Error {
	if !q.Exhausted {
		return &Error{
			Status: http.StatusTooManyRequests, Type: typeTokens, Param: "total_quota", Code: codeLimited, RetryAfter: wait,
			Message: fmt.Sprintf("Your other requests hold what is left of your quota of %d tokens, and this one is expected to use %d.%s", q.Limit, q.Needed, again(wait)),
		}
	}
	e := &Error{
		Status: http.StatusTooManyRequests, Type: typeQuota, Param: "total_quota", Code: typeQuota, Final: true,
		Message: fmt.Sprintf("You exceeded your quota: %d of %d tokens (%s) are left, and this request is expected to use %d.", q.Left, q.Limit, q.Period, q.Needed),
	}
	switch {
	case q.TooMuch:
		e.Message += " Ask for fewer tokens, by max_tokens."
	case !q.Resets.IsZero():
		e.RetryAfter = wait
		e.Message += " It starts anew at " + q.Resets.Format(time.RFC3339) + "."
	}
	return e
}

// again says when to try again.
func again(wait time.Duration) string {
	if wait < time.Second {
		return fmt.Sprintf(" Please try again in %dms.", max(1, wait.Milliseconds()))
	}
	return fmt.Sprintf(" Please try again in %s.", wait.Round(100*time.Millisecond))
}
