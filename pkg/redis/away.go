package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/rueidis"
)

// ErrAway is wrapped by every error that means that Redis cannot be asked now: there is no connection, no answer within
// the deadline, too much in flight, or a server that refuses (it loads, is a replica, is full, does not know the user).
// Whether the command was done is not known. An error that a script itself answers with is not ErrAway but a
// *rueidis.RedisError.
var ErrAway = errors.New("redis cannot be asked now")

// ErrBusy says that too much is in flight for one call more; it was not sent, and tells nothing of Redis.
var ErrBusy = fmt.Errorf("%w: %d calls in flight already", ErrAway, mostInFlight)

var (
	errNotYet = fmt.Errorf("%w: not connected yet", ErrAway)
	errLate   = fmt.Errorf("%w: no answer within the deadline", ErrAway)
	errClosed = fmt.Errorf("%w: closed", ErrAway)
)

// away makes one ErrAway of err. A server that does not know a command says with which arguments it was called, which
// may be a password.
func away(err error) error {
	if errors.Is(err, ErrAway) {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return errLate
	}
	text, _, _ := strings.Cut(err.Error(), ", with args")
	return fmt.Errorf("%w: %s", ErrAway, text)
}

// read tells an answer from an error of ours and from Redis's being away. A null is an answer.
func (c *Client) read(r rueidis.RedisResult) (rueidis.RedisMessage, error) {
	if err := r.NonRedisError(); err != nil {
		if !errors.Is(err, context.DeadlineExceeded) {
			select {
			case c.suspect <- struct{}{}:
			default:
			}
		}
		return rueidis.RedisMessage{}, away(err)
	}
	m, err := r.ToMessage()
	switch {
	case err == nil, rueidis.IsRedisNil(err):
		return m, nil
	case refuses(err.Error()):
		return m, away(err)
	}
	return m, err
}

// refuses tells a server that does not serve by its error, which rueidis has taken an "ERR" off: of the command, or of
// one inside a script. Redis before 7 has the latter somewhere in the text, after a dash.
func refuses(text string) bool {
	code, _, _ := strings.Cut(text, " ")
	if refusal(code) || strings.HasPrefix(text, forbidden) {
		return true
	}
	if !strings.HasPrefix(text, "Error running script") {
		return false
	}
	if strings.Contains(text, forbidden) {
		return true
	}
	for word := range strings.FieldsSeq(text) {
		if inner, ok := strings.CutPrefix(word, "-"); ok && refusal(inner) {
			return true
		}
	}
	return false
}

// forbidden is what NOPERM is called inside a script.
const forbidden = "The user executing the script can't "

func refusal(code string) bool {
	switch code {
	case "LOADING", "BUSY", "CLUSTERDOWN", "READONLY", "MASTERDOWN", "OOM", "MISCONF", "TRYAGAIN", "NOAUTH", "WRONGPASS",
		"NOPERM", "NOREPLICAS", "UNBLOCKED", "MOVED", "ASK":
		return true
	}
	return false
}
