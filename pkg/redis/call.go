package redis

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// mostInFlight is how many commands may wait for an answer, given up or not. The queue of a connection has more places:
// none ever waits for one.
const mostInFlight = 2048

// Script is a Lua script that Redis knows by its digest.
type Script struct{ lua, sha string }

// NewScript makes a Script of its source.
func NewScript(lua string) *Script {
	sum := sha1.Sum([]byte(lua))
	return &Script{lua: lua, sha: hex.EncodeToString(sum[:])}
}

// Call is one run of a Script. In a Cluster all keys are of one slot, which a common hash tag makes sure of; Run panics
// when they are not.
type Call struct {
	Script     *Script
	Keys, Args []string
}

// known is the command for a server that has seen the script, full the one for a server that has not.
func (c *Call) known(b rueidis.Builder) rueidis.Completed {
	return b.Evalsha().Sha1(c.Script.sha).Numkeys(int64(len(c.Keys))).Key(c.Keys...).Arg(c.Args...).Build()
}

func (c *Call) full(b rueidis.Builder) rueidis.Completed {
	return b.Eval().Script(c.Script.lua).Numkeys(int64(len(c.Keys))).Key(c.Keys...).Arg(c.Args...).Build()
}

// Result is what one Call of several came to.
type Result struct {
	Message rueidis.RedisMessage
	Err     error
}

// Run does one call and is back within timeout, give or take the scheduler, whatever the server does. With 2048 in
// flight it is ErrAway at once. When it is ErrAway the script may have run all the same, or may yet run: a server that
// was stopped does later what lies in its buffer.
func (c *Client) Run(call Call, timeout time.Duration) (rueidis.RedisMessage, error) {
	to := c.client.Load()
	if to == nil {
		return rueidis.RedisMessage{}, *c.cause.Load()
	}
	start := time.Now()
	m, err := c.ask(*to, call.known((*to).B()), timeout)
	if isNoScript(err) {
		return c.ask(*to, call.full((*to).B()), timeout-time.Since(start))
	}
	return m, err
}

// RunAll does the calls together, each with its own result, in the order given; it is back within timeout. More than 64
// go down a connection of their own, so that a call of Run does not wait for them. A script that the server does not
// know is run after the others.
func (c *Client) RunAll(calls []Call, timeout time.Duration) []Result {
	results := make([]Result, len(calls))
	to := c.client.Load()
	if to == nil {
		for i := range results {
			results[i].Err = *c.cause.Load()
		}
		return results
	}
	start := time.Now()
	left := make([]int, len(calls)) // those to do
	commands := make([]rueidis.Completed, len(calls))
	for i := range calls {
		left[i], commands[i] = i, calls[i].known((*to).B())
	}
	c.askAll(*to, commands, left, results, timeout)
	left, commands = left[:0:0], commands[:0:0] // the old ones may still be on their way
	for i := range results {
		if isNoScript(results[i].Err) {
			left, commands = append(left, i), append(commands, calls[i].full((*to).B()))
		}
	}
	c.askAll(*to, commands, left, results, timeout-time.Since(start))
	return results
}

// Do does any command but a subscription, for what is rare: it takes a connection of its own, so that one that blocks or has a long answer
// is in nobody's way, and is back within timeout. In a Cluster it goes to the node of the first argument with a hash
// tag ({...}), and without one to any node.
func (c *Client) Do(timeout time.Duration, args ...string) (rueidis.RedisMessage, error) {
	to := c.client.Load()
	if to == nil {
		return rueidis.RedisMessage{}, *c.cause.Load()
	}
	one := command((*to).B(), args)
	f, err := c.board(*to, timeout)
	if err != nil {
		return rueidis.RedisMessage{}, err
	}
	f.one = one
	// A true deadline: here it may close the connection.
	ctx, cancel := context.WithTimeout(c.ctx, timeout)
	f.ctx, f.cancel = ctx, cancel
	if err := f.wait(); err != nil {
		return rueidis.RedisMessage{}, err
	}
	defer c.land(f)
	return c.read(f.result)
}

func command(b rueidis.Builder, args []string) rueidis.Completed {
	for i, a := range args {
		if open := strings.IndexByte(a, '{'); i > 0 && open >= 0 && strings.IndexByte(a[open:], '}') > 1 {
			return b.Arbitrary(args[:i]...).Keys(a).Args(args[i+1:]...).Blocking()
		}
	}
	return b.Arbitrary(args...).Blocking()
}

func isNoScript(err error) bool {
	e, ok := rueidis.IsRedisErr(err)
	return ok && e.IsNoScript()
}
