package cluster

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/llmproxy/llmproxy/pkg/redis"
)

// slots is into how many Redis Cluster divides its keys.
const slots = 16384

// shard is a part of the keys which fails as one: all of them, but in a Redis Cluster.
type shard struct {
	tag     string // of a key that is in it
	breaker breaker
	told    atomic.Bool  // Redis has been told everything once
	stale   atomic.Bool  // it may have missed something
	lost    atomic.Bool  // it is not what it was: it has lost something, or found it again
	swept   atomic.Int64 // when it was last told everything, Unix ns
	ahead   atomic.Int64 // µs that Redis's clock is ahead of ticks, at least

	// What follows is the watch's.
	beat  int64  // the last that Redis has
	runID string // of the server that had it
	good  int    // beats in a row that were answered

	// The worker's: members that are to be removed, and those that were, as long as one
	// that takes Redis's place may have them.
	owed, removed []owed
}

// owed is a member that may be in Redis and should not.
type owed struct {
	tag, member string
	since       time.Time
}

// without is all but the oldest, so that there is room for one more, and none is over by
// itself before the time.
func without(all []owed, before time.Time) []owed {
	for len(all) > 0 && (len(all) >= mostOwed || all[0].since.Before(before)) {
		all = all[1:]
	}
	return all
}

// newShard is the i-th of n.
func newShard(i, n int) *shard {
	s := &shard{tag: "gateways"}
	if n == 1 {
		return s
	}
	for j := 0; ; j++ { // some tag hashes to every part
		if s.tag = "gateways" + strconv.Itoa(j); int(redis.Slot("{"+s.tag+"}"))*n/slots == i {
			return s
		}
	}
}

func (c *Cluster) shardOf(tag string) *shard {
	if len(c.shards) == 1 {
		return c.shards[0]
	}
	return c.shards[int(redis.Slot("{"+tag+"}"))*len(c.shards)/slots]
}

// away tells that it is not to be asked.
func (s *shard) away() bool { return !s.told.Load() || s.breaker.open() }

// clock is Redis's, in µs, by what is known: not later than it is.
func (s *shard) clock(now time.Time) int64 { return ticks(now) + s.ahead.Load() }

var epoch = time.Now()

// ticks is a time in µs that nobody sets.
func ticks(t time.Time) int64 { return t.Sub(epoch).Microseconds() }
