// Package cluster is what several gateways agree on through Redis: how much of each
// limit is left over all of them, what each key has used of its quota, and who they
// are.
//
// A request asks Redis once, before it goes on; what it used is told behind it, by one
// goroutine. Nobody waits for Redis longer than the timeout: when it does not answer,
// a breaker keeps requests from asking, and the caller decides by what it knows. When
// it answers again it is first told what it may have missed. So Redis holds nothing
// that its loss would lose: the use of quotas is in the gateways' journals, and
// requests under way are known to the gateways that they are at.
package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"
	"github.com/redis/rueidis"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/quota"
	"github.com/llmproxy/llmproxy/pkg/redis"
)

// Options are what a Cluster works with.
type Options struct {
	Redis *redis.Client
	// Prefix begins the names of all keys.
	Prefix string
	// Timeout is how long a request waits for Redis.
	Timeout time.Duration
	// Self is this gateway: Node, Host, Version and Started. Node is another one for each
	// gateway, the same one after a restart, and without dots and colons.
	Self Gateway
	// Digest tells which configuration is in force.
	Digest func() string
	// Place is which of how many gateways this one was before, until Redis tells; a
	// Several of 0 is 1.
	Place, Several int
	// Rates has requests, tokens, concurrency and the global limit counted together;
	// else quotas alone are.
	Rates bool
	// Parts is into how many parts Redis can fail, at most: 1, or more for a Redis Cluster.
	Parts int
	// Accounts calls f with each account that is counted here, until f is false.
	Accounts func(f func(id [8]byte, t *quota.Term) bool)
	// Debts calls f with what was let in here of rates while Redis could not be asked and
	// was not told yet, until f is false.
	Debts func(f func(d admit.Debt, told func()) bool)
	// Observe is called with how long a request waited for Redis.
	Observe func(time.Duration)
	Log     *slog.Logger
}

// Cluster is this gateway among the others. It is an admit.Shared.
type Cluster struct {
	o      Options
	shards []*shard
	stock  *stock
	leases *xsync.Map[uint64, *lease]
	number atomic.Uint64 // of the last lease
	place  atomic.Uint64 // of this gateway in the upper half, how many there are in the lower
	seen   atomic.Pointer[[]Gateway]
	events post
	ends   [4096]ends                    // by a hash of the tag
	round  atomic.Pointer[chan struct{}] // closed when the worker has told some of what there was

	alone      atomic.Int64          // decisions without Redis
	asked      atomic.Int64          // commands that were answered
	failed     atomic.Int64          // commands that were not
	latency    atomic.Int64          // of the last beat
	skew       atomic.Int64          // of our clock
	fewer      time.Time             // the watch's: since when there are fewer gateways than place says
	complained atomic.Int64          // when, Unix ns
	cause      atomic.Pointer[error] // of the last command that was not answered
	stop       context.CancelFunc
	done       sync.WaitGroup
	closing    atomic.Bool
	resyncs    chan resync
	first      chan struct{} // closed when all shards have been told once
	ready      sync.Once

	// The worker's, to be used again.
	some  []*event
	calls []redis.Call
	of    []told
}

const (
	// leaseTime is how long what a request holds outlives its gateway, and renewAfter
	// when it is prolonged.
	leaseTime  = 30 * time.Second
	renewAfter = 10 * time.Second
	// lateness is how much later than its timeout a command may still take effect: what
	// the clocks are wrong by, with room.
	lateness = 50 * time.Millisecond
)

// New is a gateway that counts with others once Start is called.
func New(o Options) *Cluster {
	c := &Cluster{o: o, leases: xsync.NewMap[uint64, *lease](), resyncs: make(chan resync), first: make(chan struct{})}
	c.events.bell = make(chan struct{}, 1)
	c.number.Store(uint64(time.Now().UnixMicro())) // no process before this one has had these
	c.place.Store(uint64(o.Place)<<32 | uint64(max(1, o.Several)))
	c.seen.Store(new([]Gateway))
	round := make(chan struct{})
	c.round.Store(&round)
	for i := range max(1, o.Parts) {
		c.shards = append(c.shards, newShard(i, max(1, o.Parts)))
	}
	global := c.shardOf(admit.Everybody)
	c.stock = newStock(func(call redis.Call) (rueidis.RedisMessage, error) { return c.run(global, call) }, o.Prefix, time.Now)
	c.stop = func() {}
	return c
}

// Start begins to talk to Redis, and to call what is in the Options. Close ends it.
func (c *Cluster) Start() {
	var ctx context.Context
	ctx, c.stop = context.WithCancel(context.Background())
	c.done.Go(func() { c.work(ctx) })
	c.done.Go(func() { c.watch(ctx) })
}

// Ready is closed when Redis has been told everything once.
func (c *Cluster) Ready() <-chan struct{} { return c.first }

// Close tells Redis what it does not know yet, and the others that this gateway has
// gone. It takes a second at most.
func (c *Cluster) Close() {
	c.closing.Store(true)
	c.stop()
	c.done.Wait()
}

// Rates tells whether more than quotas is counted together.
func (c *Cluster) Rates() bool { return c.o.Rates }

// Place is which of how many gateways this one is, by the last that Redis said.
func (c *Cluster) Place() (place, several int) {
	p := c.place.Load()
	return int(p >> 32), int(p & (1<<32 - 1))
}

// run asks for something that a request waits for.
func (c *Cluster) run(s *shard, call redis.Call) (rueidis.RedisMessage, error) {
	if s.away() {
		return rueidis.RedisMessage{}, redis.ErrAway
	}
	begin := time.Now()
	m, err := c.o.Redis.Run(call, c.o.Timeout)
	c.o.Observe(time.Since(begin))
	c.count(s, err)
	return m, err
}

// count takes how a command went.
func (c *Cluster) count(s *shard, err error) {
	if err == nil {
		c.asked.Add(1)
	} else {
		c.failed.Add(1)
	}
	if !errors.Is(err, redis.ErrAway) { // it answers
		s.breaker.ok(time.Now())
		if err != nil {
			c.complain(time.Now(), err)
		}
		return
	}
	if errors.Is(err, redis.ErrBusy) {
		return // it was not asked
	}
	cause := err // or each call would have its err on the heap
	c.cause.Store(&cause)
	if s.breaker.failed(time.Now()) {
		c.o.Log.Warn("Redis does not answer in time; limits hold by what each gateway may let in alone", "error", err)
	}
}

// complain logs, once in a while, that there are keys that cannot be counted: somebody
// else has put something in their place.
func (c *Cluster) complain(now time.Time, err error) {
	if c.warns(now) {
		c.o.Log.Warn("Redis cannot count what it is asked to", "error", err)
	}
}

// warns tells whether it is time for a line in the log about what goes on all the time.
func (c *Cluster) warns(now time.Time) bool {
	last := c.complained.Load()
	return now.UnixNano()-last > int64(sweepEvery) && c.complained.CompareAndSwap(last, now.UnixNano())
}

// Status is how this gateway sees the others, and Redis.
type Status struct {
	// State is up, away, or partly when some nodes of a Redis Cluster are away.
	State string
	// Err is why, if it is not up.
	Err error
	// Latency is what the last beat took.
	Latency time.Duration
	// Gateways are those that were there when Redis last told, in the order of their
	// nodes, and Place is where this one stands.
	Gateways       []Gateway
	Place, Several int
	Leases         int   // requests under way that hold something
	Asked, Failed  int64 // commands
	DecidedAlone   int64 // decisions: a request may need two
	Skew           time.Duration
}

// Status returns it.
func (c *Cluster) Status() Status {
	away := 0
	for _, s := range c.shards {
		if s.away() {
			away++
		}
	}
	st := Status{
		State: "up", Latency: time.Duration(c.latency.Load()), Gateways: *c.seen.Load(), Leases: c.leases.Size(),
		Skew: time.Duration(c.skew.Load()), Asked: c.asked.Load(), Failed: c.failed.Load(), DecidedAlone: c.alone.Load(),
	}
	st.Place, st.Several = c.Place()
	if cause := c.cause.Load(); cause != nil && away > 0 {
		st.Err = *cause
	}
	switch away {
	case 0:
	case len(c.shards):
		st.State = "away"
	default:
		st.State = "partly"
	}
	return st
}

// self is what the others are told of this gateway.
func (c *Cluster) self() []byte {
	g := c.o.Self
	g.Config = c.o.Digest()
	g.Skew = time.Duration(c.skew.Load())
	b, err := json.Marshal(g)
	if err != nil {
		panic("BUG: a gateway that cannot be told of: " + err.Error())
	}
	return b
}
