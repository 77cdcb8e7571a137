package redis_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/llmproxy/llmproxy/pkg/redis"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

func TestScriptThatTheServerForgot(t *testing.T) {
	s := redistest.Start(t)
	c := connected(t, redis.Options{Addrs: []string{s.Addr()}})
	counted := func(want int64) {
		t.Helper()
		m, err := c.Run(redis.Call{Script: count, Keys: []string{"n"}}, long)
		if n, _ := m.AsInt64(); err != nil || n != want {
			t.Fatalf("got %d, %v, not %d", n, err, want)
		}
	}
	counted(1)
	s.Must("SCRIPT", "FLUSH")
	counted(2)
	s.Must("SCRIPT", "FLUSH")
	calls := make([]redis.Call, 200) // also one more than a batch that shares the connection
	for i := range calls {
		calls[i] = redis.Call{Script: echo, Args: []string{fmt.Sprint(i)}}
		if i%2 == 0 {
			calls[i] = redis.Call{Script: count, Keys: []string{"n"}}
		}
	}
	for _, size := range []int{10, len(calls)} {
		s.Must("SCRIPT", "FLUSH")
		s.Must("SET", "n", "2")
		for i, r := range c.RunAll(calls[:size], long) {
			want := fmt.Sprint(i)
			if i%2 == 0 {
				want = fmt.Sprint(3 + i/2)
			}
			if got, _ := text(r); r.Err != nil || got != want {
				t.Fatalf("call %d of %d: %q, %v, not %q", i, size, got, r.Err, want)
			}
		}
	}
	s.Restart()
	eventually(t, "it is back", func() bool { return says(c, "x", soon) == nil })
	counted(1)
}

func text(r redis.Result) (string, error) {
	if n, err := r.Message.AsInt64(); err == nil {
		return fmt.Sprint(n), nil
	}
	return r.Message.ToString()
}

func TestEachCallOfABatchHasItsOwnResult(t *testing.T) {
	s := redistest.Start(t)
	c := connected(t, redis.Options{Addrs: []string{s.Addr()}})
	fail := redis.NewScript("return redis.error_reply('EPOCH gone')")
	null := redis.NewScript("return false")
	r := c.RunAll([]redis.Call{{Script: fail}, {Script: echo, Args: []string{"a"}}, {Script: null}}, long)
	if e, ok := rueidis.IsRedisErr(r[0].Err); !ok || e.Error() != "EPOCH gone" || errors.Is(r[0].Err, redis.ErrAway) {
		t.Errorf("got %v", r[0].Err)
	}
	if got, err := r[1].Message.ToString(); r[1].Err != nil || got != "a" {
		t.Errorf("got %q, %v, %v", got, err, r[1].Err)
	}
	if r[2].Err != nil || !r[2].Message.IsNil() {
		t.Errorf("a null: %v", r[2].Err)
	}
	if got := c.RunAll(nil, long); len(got) != 0 {
		t.Errorf("nothing came to %v", got)
	}
}

func TestBatchToStoppedServerIsBackInTime(t *testing.T) {
	s := redistest.Start(t)
	c := connected(t, redis.Options{Addrs: []string{s.Addr()}})
	s.Stop()
	defer s.Continue()
	for _, size := range []int{3, 300} {
		calls := make([]redis.Call, size)
		for i := range calls {
			calls[i] = redis.Call{Script: echo, Args: []string{"x"}}
		}
		start := time.Now()
		for _, r := range c.RunAll(calls, soon) {
			if !errors.Is(r.Err, redis.ErrAway) {
				t.Fatalf("got %v", r.Err)
			}
		}
		if took := time.Since(start); took > soon+slack {
			t.Errorf("%d took %v", size, took)
		}
	}
}

func TestCommandThatBlocksIsInNobodysWay(t *testing.T) {
	s := redistest.Start(t)
	c := connected(t, redis.Options{Addrs: []string{s.Addr()}})
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			m, err := c.Do(long, "XREAD", "BLOCK", "4000", "STREAMS", "s", "$")
			if _, e := m.AsXRead(); err != nil || e != nil {
				t.Error(err, e)
			}
		})
	}
	eventually(t, "all three wait", func() bool { return strings.Contains(s.Must("INFO", "clients"), "blocked_clients:3") })
	for range 20 {
		start := time.Now()
		if err := says(c, "x", long); err != nil || time.Since(start) > slack {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
	}
	s.Must("XADD", "s", "*", "a", "b")
	all.Wait()

	start := time.Now()
	if m, err := c.Do(long, "XREAD", "BLOCK", "30", "STREAMS", "s", "$"); err != nil || !m.IsNil() {
		t.Errorf("nothing to read: %v", err)
	}
	if _, err := c.Do(soon, "XREAD", "BLOCK", "0", "STREAMS", "s", "$"); !errors.Is(err, redis.ErrAway) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 30*time.Millisecond+soon+slack {
		t.Errorf("took %v", took)
	}
}

func TestCommandsOfAnyKind(t *testing.T) {
	s := redistest.Start(t)
	c := connected(t, redis.Options{Addrs: []string{s.Addr()}, Name: "gateway-a", DB: 3})
	for _, args := range [][]string{
		{"SET", "{k}:v", "{not a key}"}, {"SET", "k", "1"}, {"PING"}, {"HSET", "h", "f", "{x}"}, {"CLIENT", "GETNAME"}, {"SET", "x", "{}"},
	} {
		if _, err := c.Do(long, args...); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
	list := s.Must("CLIENT", "LIST")
	if !strings.Contains(list, "name=gateway-a") || !strings.Contains(list, "db=3") {
		t.Errorf("the server sees\n%s", list)
	}
}

// A command that waited for a connection longer than its caller did must take nothing.
func TestCommandGivenUpIsNotSentLater(t *testing.T) {
	s := redistest.Start(t)
	gate := make(chan struct{})
	var shut atomic.Bool
	var waiting atomic.Int64
	c := connected(t, redis.Options{Addrs: []string{s.Addr()}, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if shut.Load() {
			waiting.Add(1)
			<-gate
		}
		return (&net.Dialer{}).DialContext(context.WithoutCancel(ctx), network, addr)
	}})
	counted(t, c, "n") // so that the server knows the script
	shut.Store(true)
	s.Must("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	eventually(t, "the connection is made anew", func() bool {
		_, err := c.Run(redis.Call{Script: count, Keys: []string{"n"}}, soon)
		return errors.Is(err, redis.ErrAway) && waiting.Load() > 0
	})
	before := s.Must("GET", "n")
	for range 20 {
		if _, err := c.Run(redis.Call{Script: count, Keys: []string{"n"}}, soon); !errors.Is(err, redis.ErrAway) {
			t.Fatalf("got %v", err)
		}
	}
	shut.Store(false)
	close(gate)
	eventually(t, "it answers", func() bool { return says(c, "x", soon) == nil })
	if after := s.Must("GET", "n"); after != before {
		t.Errorf("counted from %q to %q for nobody", before, after)
	}
}
