package cluster

import (
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/redis"
)

var (
	//go:embed count.lua
	countLua string
	//go:embed admit.lua
	admitLua string
	//go:embed settle.lua
	settleLua string

	admitScript  = redis.NewScript(countLua + admitLua)
	settleScript = redis.NewScript(countLua + settleLua)
)

// ask is what one request wants to take of the limits that a tag has on all
// gateways together: all of it, or nothing.
type ask struct {
	tag      string        // whose limits; without braces
	limits   *limit.Limits // zero rates, and a Concurrent of 0, limit nothing
	requests int64         // 1; 0 looks and takes nothing
	tokens   int64         // to hold of the tokens a minute; see held
	lease    string        // "<node>.<n>", which is used once; "" makes none, and nothing is held
	ttl      time.Duration // of the lease
	notAfter int64         // µs of Redis's clock, after which nothing is done; 0 is no bound
	quota    quotaAsk
}

// quotaAsk is one node's view of the term of a quota. The zero quotaAsk is no quota.
type quotaAsk struct {
	node       string
	start, end int64 // Unix ns; an end of math.MaxInt64 never comes
	used       int64 // tokens that this node has used in the term so far
	limit      int64 // tokens in the term, 0 is none
	hold       int64 // tokens; see ask.heldOfQuota
	tooMuch    bool  // refuse, whatever is left
}

// held is what a lease of a holds of the tokens a minute: at most a burst, as
// limit.Tokens does.
func (a *ask) held() int64 {
	if !a.limits.Tokens.Limited() {
		return 0
	}
	return min(max(a.tokens, 0), burst(a.limits.Tokens))
}

// heldOfQuota is what a lease of a holds of the quota: at most all of it, as
// quota.Term does.
func (a *ask) heldOfQuota() int64 {
	switch q := &a.quota; {
	case q.start == 0:
		return 0
	case q.limit > 0:
		return min(max(q.hold, 0), q.limit)
	default:
		return max(q.hold, 0)
	}
}

// burst is that of a limited rate, which lets one pass at least.
func burst(r limit.Rate) int64 { return max(r.Burst, 1) }

// call asks. Its keys begin with the prefix and are in one slot.
func (a *ask) call(prefix string) redis.Call {
	var text [512]byte
	var ends [keys + 19]int
	return words{text[:0], ends[:0]}.
		keys(prefix, a.tag).
		common(a.ttl, a.limits.Tokens, &a.quota).
		number(a.notAfter).
		rate(a.limits.PerSecond).
		rate(a.limits.PerMinute).
		number(burst(a.limits.Tokens)).
		number(a.held()).
		number(a.limits.Concurrent).
		number(a.requests).
		word(a.lease).
		number(a.quota.limit).
		number(a.heldOfQuota()).
		flag(a.quota.tooMuch && a.quota.start != 0).
		call(admitScript)
}

// answer is what became of an ask, and how things stand after it.
type answer struct {
	now  int64 // µs of Redis's clock
	late bool  // it was after notAfter: nothing was done, and the rest is zero
	// The limit that refuses for the longest time, that time, and of a Quota whether
	// what was used leaves no room: as in admit.Refusal.
	by        admit.Limit
	wait      time.Duration
	exhausted bool
	// How long until each rate is full; that of tokens without what is reserved.
	second, minute, tokens time.Duration
	reserved, inFlight     int64 // of the tokens a minute, and requests, of all gateways
	// The term that counts, be it another than was asked for; 0 is none. Its tokens
	// used by all nodes, those that leases hold, and those that this node has used.
	start, used, quotaReserved, own int64
}

var errAnswer = errors.New("cannot read the answer of a script in Redis: this program did not write it")

// read is the inverse of what the script returns.
func (r *answer) read(m rueidis.RedisMessage) error {
	values, err := m.ToArray()
	if err != nil {
		return fmt.Errorf("cannot ask for limits in Redis: %w", err)
	}
	*r = answer{}
	v := reading{values: values}
	if len(values) == 1 {
		r.now, r.late = v.number(), true
		return v.end()
	}
	r.now = v.number()
	by := v.number()
	if by >= int64(admit.NLimits) {
		return errAnswer
	}
	r.by, r.wait, r.exhausted = admit.Limit(by), v.micros(), v.number() == 1
	r.second, r.minute, r.tokens = v.micros(), v.micros(), v.micros()
	r.reserved, r.inFlight = v.number(), v.number()
	r.start, r.used, r.quotaReserved, r.own = v.start(), v.number(), v.number(), v.number()
	return v.end()
}

// reading is the rest of an answer. Nothing in one is negative.
type reading struct {
	values []rueidis.RedisMessage
	failed bool
}

func (v *reading) next() *rueidis.RedisMessage {
	if len(v.values) == 0 {
		v.failed = true
		return &rueidis.RedisMessage{}
	}
	m := &v.values[0]
	v.values = v.values[1:]
	return m
}

func (v *reading) number() int64 {
	n, err := v.next().ToInt64()
	if err != nil || n < 0 {
		v.failed = true
		return 0
	}
	return n
}

// longest is the longest time that the scripts tell, in µs.
const longest = 1 << 51

func (v *reading) micros() time.Duration {
	n := v.number()
	if n > longest {
		v.failed = true
		return 0
	}
	return time.Duration(n) * time.Microsecond
}

// start is that of a term, 0 where there is none.
func (v *reading) start() int64 {
	s, err := v.next().ToString()
	if err != nil || s == "" {
		v.failed = v.failed || err != nil
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || len(s) != digits {
		v.failed = true
	}
	return int64(n)
}

// end is the error of all that was read, or of what was not.
func (v *reading) end() error {
	if v.failed || len(v.values) > 0 {
		return errAnswer
	}
	return nil
}
