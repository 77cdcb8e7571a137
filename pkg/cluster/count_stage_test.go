package cluster

import (
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/redis"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

const promptly = 10 * time.Second

// stage is a real server, on which the scripts see the clock that the test sets.
type stage struct {
	t      testing.TB
	server *redistest.Server
	client *redis.Client
	now    int64 // µs
	tags   int
}

// realClock is what the scripts begin with, and virtualClock what stands there on
// a stage.
const (
	realClock = "local time = redis.call('TIME')\n" +
		"local now = time[1] * 1000000 + time[2] -- µs\n"
	virtualClock = "local now = tonumber(ARGV[#ARGV])\n"
)

var (
	virtualAdmit  = virtual(countLua + admitLua)
	virtualSettle = virtual(countLua + settleLua)
)

func virtual(lua string) *redis.Script {
	if strings.Count(lua, realClock) != 1 || strings.Count(lua, "'TIME'") != 1 {
		panic("the scripts read their clock in another way")
	}
	return redis.NewScript(strings.Replace(lua, realClock, virtualClock, 1))
}

func newStage(t testing.TB) *stage {
	t.Helper()
	s := &stage{t: t, server: redistest.Start(t), now: time.Now().UnixMicro()}
	s.client = connected(t, s.server)
	return s
}

// connected returns a client when it can ask.
func connected(t testing.TB, server *redistest.Server) *redis.Client {
	t.Helper()
	client, err := redis.Open(redis.Options{Addrs: []string{server.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	for end := time.Now().Add(promptly); ; {
		_, err := client.Do(promptly, "PING")
		if err == nil {
			return client
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// tag is one that nobody has used.
func (s *stage) tag() string {
	s.tags++
	return "t" + strconv.Itoa(s.tags)
}

func (s *stage) pass(d time.Duration) { s.now += d.Microseconds() }

func (s *stage) admit(a ask) (got answer) {
	s.t.Helper()
	if a.limits == nil {
		a.limits = new(limit.Limits)
	}
	call := a.call("p:")
	call.Script, call.Args = virtualAdmit, append(call.Args, strconv.FormatInt(s.now, 10))
	m, err := s.client.Run(call, promptly)
	if err == nil {
		err = got.read(m)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

func (s *stage) settle(w settlement) (got settled) {
	s.t.Helper()
	call := w.call("p:")
	call.Script, call.Args = virtualSettle, append(call.Args, strconv.FormatInt(s.now, 10))
	m, err := s.client.Run(call, promptly)
	if err == nil {
		err = got.read(m)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

// look asks without taking anything.
func (s *stage) look(tag string, l *limit.Limits) answer {
	s.t.Helper()
	return s.admit(ask{tag: tag, limits: l})
}

// daily is a term around the stage's clock.
func (s *stage) daily(node string, used, most, hold int64) quotaAsk {
	return quotaAsk{node: node, start: s.at(-time.Hour), end: s.at(23 * time.Hour), used: used, limit: most, hold: hold}
}

// at is the stage's clock and d, in Unix ns of the second.
func (s *stage) at(d time.Duration) int64 {
	return (s.now/1e6 + int64(d/time.Second)) * int64(time.Second)
}

// left is how long a key lives, -1 for ever, -2 when there is none.
func (s *stage) left(key string) time.Duration {
	s.t.Helper()
	ms, err := strconv.ParseInt(s.server.Must("PTTL", key), 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	if ms < 0 {
		return time.Duration(ms)
	}
	return time.Duration(ms) * time.Millisecond
}

// never is the end of a term that has none.
const never = math.MaxInt64
