package redis_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/redis"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

const (
	soon = 20 * time.Millisecond
	// slack is what a busy machine may add; what these tests guard against is a second and more.
	slack = 200 * time.Millisecond
	long  = 5 * time.Second
)

var (
	echo  = redis.NewScript("return ARGV[1]")
	count = redis.NewScript("return redis.call('INCR', KEYS[1])")
)

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline.C:
			t.Fatal("never happened: " + what)
		case <-tick.C:
		}
	}
}

func open(t testing.TB, o redis.Options) *redis.Client {
	t.Helper()
	c, err := redis.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func connected(t testing.TB, o redis.Options) *redis.Client {
	t.Helper()
	c := open(t, o)
	eventually(t, "redis answers", func() bool { return says(c, "hello", long) == nil })
	return c
}

// says is nil when Redis says word, and nothing else.
func says(c *redis.Client, word string, timeout time.Duration) error {
	m, err := c.Run(redis.Call{Script: echo, Args: []string{word}}, timeout)
	if err != nil {
		return err
	}
	s, err := m.ToString()
	if err == nil && s != word {
		err = fmt.Errorf("%q for %q", s, word)
	}
	return err
}

// journal is a log that many write and a test reads.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

func (j *journal) log() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

func (j *journal) check(t *testing.T, goes, comes int) {
	t.Helper()
	eventually(t, "what happened is in the log", func() bool {
		return strings.Count(j.String(), "redis is away") >= goes && strings.Count(j.String(), "redis answers") >= comes
	})
	if s := j.String(); strings.Count(s, "\n") != goes+comes {
		t.Errorf("the log is not %d times away and %d times back:\n%s", goes, comes, s)
	}
}

func TestServerThatIsNotThereAtStart(t *testing.T) {
	s := redistest.Start(t)
	s.Kill()
	var j journal
	c := open(t, redis.Options{Addrs: []string{s.Addr()}, Log: j.log()})
	eventually(t, "the cause is known", func() bool {
		err := says(c, "x", long)
		return errors.Is(err, redis.ErrAway) && strings.Contains(err.Error(), "refused")
	})
	start := time.Now()
	for range 100 {
		if _, err := c.Do(long, "PING"); !errors.Is(err, redis.ErrAway) {
			t.Fatalf("got %v", err)
		}
	}
	if took := time.Since(start); took > slack {
		t.Errorf("a call waited for a connection: 100 took %v", took)
	}
	if r := c.RunAll([]redis.Call{{Script: echo}}, soon); !errors.Is(r[0].Err, redis.ErrAway) {
		t.Errorf("got %v", r[0].Err)
	}
	if _, err := c.Check(soon); !errors.Is(err, redis.ErrAway) {
		t.Errorf("got %v", err)
	}
	s.Restart()
	eventually(t, "redis answers", func() bool { return says(c, "x", soon) == nil })
	j.check(t, 1, 1)
}

func TestKilledServerIsFoundAgain(t *testing.T) {
	s := redistest.Start(t)
	var j journal
	c := connected(t, redis.Options{Addrs: []string{s.Addr()}, Log: j.log()})
	for n := range 3 {
		s.Kill()
		eventually(t, "it is away", func() bool { return errors.Is(says(c, "x", soon), redis.ErrAway) })
		j.check(t, n+1, n+1)
		s.Restart()
		eventually(t, "it is back", func() bool { return says(c, "x", soon) == nil })
		j.check(t, n+1, n+2)
	}
}

// The reply of a call that was given up must not reach the next one.
func TestStoppedServerAnswersNobodyElse(t *testing.T) {
	s := redistest.Start(t)
	c := connected(t, redis.Options{Addrs: []string{s.Addr()}})
	for round := range 3 {
		s.Stop()
		for i := range 20 {
			start := time.Now()
			err := says(c, fmt.Sprint("lost ", round, i), soon)
			if took := time.Since(start); !errors.Is(err, redis.ErrAway) || took > soon+slack {
				t.Fatalf("%v after %v", err, took)
			}
		}
		s.Continue()
		eventually(t, "it answers", func() bool { return says(c, "again", soon) == nil })
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				for n := range 20 {
					if err := says(c, fmt.Sprint(round, i, n), long); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
	}
}

func TestManyCallersOfStoppedServer(t *testing.T) {
	s := redistest.Start(t)
	c := connected(t, redis.Options{Addrs: []string{s.Addr()}})
	before := runtime.NumGoroutine()
	s.Stop()
	var longest, busy atomic.Int64
	var all sync.WaitGroup
	for range 4000 {
		all.Go(func() {
			start := time.Now()
			err := says(c, "x", soon)
			if !errors.Is(err, redis.ErrAway) {
				t.Errorf("got %v", err)
			} else if errors.Is(err, redis.ErrBusy) {
				busy.Add(1)
			}
			for took := int64(time.Since(start)); ; {
				if l := longest.Load(); took <= l || longest.CompareAndSwap(l, took) {
					break
				}
			}
		})
	}
	all.Wait()
	t.Logf("the longest of 4000 waited %v", time.Duration(longest.Load()))
	if longest.Load() > int64(soon+slack) {
		t.Errorf("one waited %v", time.Duration(longest.Load()))
	}
	// A place is free again when its command was not even sent in time.
	if n := busy.Load(); n == 0 || n > 4000-2048 {
		t.Errorf("%d found too many in flight", n)
	}
	s.Continue()
	eventually(t, "it answers", func() bool { return says(c, "x", soon) == nil })
	eventually(t, "all goroutines are gone", func() bool { return runtime.NumGoroutine() <= before+2 })
}

// A stopped server still takes connections: without an end of the silent one, what is in flight would stay so.
func TestSilentConnectionIsGivenUp(t *testing.T) {
	s := redistest.Start(t)
	var j journal
	c := connected(t, redis.Options{Addrs: []string{s.Addr()}, Log: j.log()})
	s.Stop()
	var all sync.WaitGroup
	for range 2048 {
		all.Go(func() { says(c, "x", slack) })
	}
	all.Wait()
	eventually(t, "there is no room", func() bool { return errors.Is(says(c, "x", soon), redis.ErrBusy) })
	eventually(t, "there is room", func() bool { return !errors.Is(says(c, "x", soon), redis.ErrBusy) })
	s.Continue()
	eventually(t, "it answers", func() bool { return says(c, "x", soon) == nil })
	j.check(t, 1, 2)
}

func TestCloseWhileCallersWait(t *testing.T) {
	before := runtime.NumGoroutine()
	s := redistest.Start(t)
	c := connected(t, redis.Options{Addrs: []string{s.Addr()}})
	s.Stop()
	var all sync.WaitGroup
	started := make(chan struct{}, 100)
	for i := range 100 {
		all.Go(func() {
			started <- struct{}{}
			var err error
			switch i % 3 {
			case 0:
				err = says(c, "x", time.Hour)
			case 1:
				_, err = c.Do(time.Hour, "XREAD", "BLOCK", "0", "STREAMS", "s", "$")
			case 2:
				err = c.RunAll([]redis.Call{{Script: echo}, {Script: echo}}, time.Hour)[1].Err
			}
			if !errors.Is(err, redis.ErrAway) {
				t.Errorf("got %v", err)
			}
		})
	}
	for range 100 {
		<-started
	}
	start := time.Now()
	c.Close()
	all.Wait()
	if took := time.Since(start); took > time.Second {
		t.Errorf("a stopped server held Close up for %v", took)
	}
	if err := says(c, "x", soon); !errors.Is(err, redis.ErrAway) {
		t.Errorf("closed: %v", err)
	}
	eventually(t, "all goroutines are gone", func() bool { return runtime.NumGoroutine() <= before+2 })
}

func TestCloseBeforeThereWasAnybody(t *testing.T) {
	s := redistest.Start(t)
	s.Stop()
	c, err := redis.Open(redis.Options{Addrs: []string{s.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	c.Close()
	if took := time.Since(start); took > time.Second {
		t.Errorf("a stopped server held Close up for %v", took)
	}
}

// A connection is made, and kept, over a network that is slower than any call may be.
func TestSlowNetwork(t *testing.T) {
	s := redistest.Start(t)
	p := redistest.NewProxy(t, s.Addr())
	p.SetDelay(100 * time.Millisecond)
	c := connected(t, redis.Options{Addrs: []string{p.Addr()}})
	if err := says(c, "x", soon); !errors.Is(err, redis.ErrAway) {
		t.Fatalf("got %v", err)
	}
	p.SetDelay(0)
	eventually(t, "it is fast", func() bool { return says(c, "x", soon) == nil })
	p.Cut()
	eventually(t, "it is cut", func() bool { return errors.Is(says(c, "x", long), redis.ErrAway) })
	p.Mend()
	eventually(t, "it is mended", func() bool { return says(c, "x", soon) == nil })
}

func TestOptionsThatCanNeverWork(t *testing.T) {
	ok := []string{"127.0.0.1:6379"}
	for name, o := range map[string]redis.Options{
		"no address":               {},
		"no port":                  {Addrs: []string{"localhost"}},
		"port 0":                   {Addrs: []string{"localhost:0"}},
		"no host":                  {Addrs: []string{":6379"}},
		"two single servers":       {Addrs: []string{"a:1", "b:1"}},
		"unknown mode":             {Addrs: ok, Mode: "ring"},
		"sentinel without master":  {Addrs: ok, Mode: redis.Sentinel},
		"master without sentinel":  {Addrs: ok, Master: "m"},
		"user of no sentinel":      {Addrs: ok, SentinelPassword: "p"},
		"database of a cluster":    {Addrs: ok, Mode: redis.Cluster, DB: 1},
		"database below 0":         {Addrs: ok, DB: -1},
		"name with a space":        {Addrs: ok, Name: "a b"},
		"user without a password":  {Addrs: ok, Username: "u"},
		"sentinel user without it": {Addrs: ok, Mode: redis.Sentinel, Master: "m", SentinelUsername: "u"},
	} {
		if c, err := redis.Open(o); err == nil {
			c.Close()
			t.Errorf("%s is taken", name)
		}
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}
