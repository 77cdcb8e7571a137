package cluster

import (
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/redis"
)

// settlement is anything that happens after a request was let in: a part or the
// end of its answer is charged, its lease renewed or given back, what was used
// published. The zero value of each part does nothing.
//
// A charge counts as often as it is sent. The rest may be sent again and in any
// order, except that a keep behind its removal lives until its ttl is over.
type settlement struct {
	tag string
	// lease is a member to remove and keep one to put in, with a new end; both the
	// same to renew. Where there is none to remove it is put in all the same: a lease
	// that Redis lost comes back.
	lease, keep string
	ttl         time.Duration // of keep
	tokens      limit.Rate    // the tokens a minute, when something is charged
	charge      int64         // tokens, be it beyond the burst
	// quota says what the node has used. It counts unless Redis has a later term, or
	// the term begins more than a minute after now.
	quota quotaAsk
}

// call settles. Its keys begin with the prefix and are in one slot.
func (s *settlement) call(prefix string) redis.Call {
	var text [512]byte
	var ends [keys + 9]int
	return words{text[:0], ends[:0]}.
		keys(prefix, s.tag).
		common(s.ttl, s.tokens, &s.quota).
		word(s.lease).
		word(s.keep).
		number(s.charge).
		call(settleScript)
}

// settled is how things stand after a settlement.
type settled struct {
	now              int64 // µs of Redis's clock
	start, used, own int64 // as in answer
}

// read is the inverse of what the script returns.
func (r *settled) read(m rueidis.RedisMessage) error {
	values, err := m.ToArray()
	if err != nil {
		return fmt.Errorf("cannot settle in Redis: %w", err)
	}
	v := reading{values: values}
	*r = settled{now: v.number(), start: v.start(), used: v.number(), own: v.number()}
	return v.end()
}

// member is how a lease stands in Redis, with what it holds: tokens a minute, and
// tokens of the term that begins at start, as answer has it; 0 is none.
func member(lease string, held, quotaHeld, start int64) string {
	var room [96]byte
	text := append(append(room[:0], lease...), ':')
	text = append(strconv.AppendInt(text, held, 10), ':')
	text = append(strconv.AppendInt(text, quotaHeld, 10), ':')
	return string(appendStart(text, start))
}
