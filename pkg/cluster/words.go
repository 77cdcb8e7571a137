package cluster

import (
	"math"
	"strconv"
	"time"

	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/redis"
)

// keys is how many a call has, before its arguments.
const keys = 3

// digits is how long the start of a term is in Redis, so that text sorts as
// numbers do.
const digits = 20

// exact is the most that a double counts one by one: tokens, or ns, which are 104
// days.
const exact = 1 << 53

// words are the keys and arguments of a call: one string, cut where each ends. They
// are passed by value, so that both slices stay on the stack of who makes them.
type words struct {
	text []byte
	ends []int
}

func (w words) end() words {
	w.ends = append(w.ends, len(w.text))
	return w
}

func (w words) word(s string) words {
	w.text = append(w.text, s...)
	return w.end()
}

// number adds n, at least 0 and at most what a script can count exactly.
func (w words) number(n int64) words {
	w.text = strconv.AppendInt(w.text, min(max(n, 0), exact), 10)
	return w.end()
}

func (w words) flag(set bool) words {
	if set {
		return w.word("1")
	}
	return w.word("0")
}

// keys are those of the tag.
func (w words) keys(prefix, tag string) words {
	for _, kind := range [keys]string{"}:b", "}:c", "}:q"} {
		w.text = append(append(append(w.text, prefix...), '{'), tag...)
		w = w.word(kind)
	}
	return w
}

// rate adds how long a unit takes to come back, 0 for ever, and the burst.
func (w words) rate(r limit.Rate) words {
	return w.number(int64(r.Each)).number(burst(r))
}

// common are the arguments that both scripts begin with.
func (w words) common(ttl time.Duration, tokens limit.Rate, q *quotaAsk) words {
	w = w.number(ttl.Milliseconds()).number(int64(tokens.Each))
	if q.start == 0 {
		return w.word("").word("").word("").word("")
	}
	w.text = appendStart(w.text, q.start)
	w = w.end()
	end := q.end / int64(time.Microsecond)
	if q.end == math.MaxInt64 {
		end = 0
	}
	return w.number(end).word(q.node).number(q.used)
}

// call cuts the text.
func (w words) call(script *redis.Script) redis.Call {
	text, all := string(w.text), make([]string, len(w.ends))
	from := 0
	for i, to := range w.ends {
		all[i], from = text[from:to], to
	}
	return redis.Call{Script: script, Keys: all[:keys:keys], Args: all[keys:]}
}

// appendStart appends the start of a term.
func appendStart(text []byte, n int64) []byte {
	var decimal [digits]byte
	for i := digits - 1; i >= 0; i-- {
		decimal[i] = byte('0' + n%10)
		n /= 10
	}
	return append(text, decimal[:]...)
}
