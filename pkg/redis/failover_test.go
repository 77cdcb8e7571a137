package redis_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/redis"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

func TestSentinelFailover(t *testing.T) {
	for name, fail := range map[string]func(*redistest.Server){
		"killed": (*redistest.Server).Kill, "stopped": (*redistest.Server).Stop,
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t)
			s.Replica(t)
			c := connected(t, redis.Options{Addrs: redistest.StartSentinels(t, s, 3), Mode: redis.Sentinel, Master: "mymaster"})
			if w, err := c.Check(long); err != nil || len(w) != 1 || !strings.HasPrefix(w[0], s.Addr()) {
				t.Errorf("check: %q, %v", w, err)
			}
			start := time.Now()
			fail(s)
			before := counted(t, c, "n")
			t.Logf("the new master takes writes after %v", time.Since(start))
			// The old one comes back as a master for a moment, and must not be asked.
			s.Restart()
			const more = 50
			for range more {
				counted(t, c, "n")
			}
			if after := counted(t, c, "n"); after <= before+more {
				t.Errorf("%d of %d writes were lost", before+more+1-after, more)
			}
		})
	}
}

func TestSentinelsHaveAUserOfTheirOwn(t *testing.T) {
	s := redistest.Start(t, "--requirepass", secret)
	sentinel := redistest.StartSentinels(t, s, 1)
	direct := open(t, redis.Options{Addrs: sentinel})
	eventually(t, "the sentinel has its user", func() bool {
		_, err := direct.Do(long, "ACL", "SETUSER", "default", "resetpass", ">of-sentinels")
		return err == nil
	})
	o := redis.Options{Addrs: sentinel, Mode: redis.Sentinel, Master: "mymaster", Password: secret}
	c := open(t, o)
	eventually(t, "it is refused", func() bool { return strings.Contains(says(c, "x", long).Error(), "NOAUTH") })
	o.SentinelPassword = "of-sentinels"
	connected(t, o)
}

// counted writes until it is taken, and is the count then; no try takes longer than its time.
func counted(t *testing.T, c *redis.Client, key string) (n int64) {
	t.Helper()
	eventually(t, key+" is counted", func() bool {
		start := time.Now()
		m, err := c.Run(redis.Call{Script: count, Keys: []string{key}}, soon)
		if took := time.Since(start); took > soon+slack {
			t.Errorf("a call took %v", took)
		}
		if err != nil && !errors.Is(err, redis.ErrAway) {
			t.Errorf("got %v", err)
		}
		n, _ = m.AsInt64()
		return err == nil
	})
	return n
}

func TestClusterFailover(t *testing.T) {
	nodes := redistest.StartCluster(t, 3, 3)
	c := connected(t, redis.Options{Addrs: nodes.Addrs()[:2], Mode: redis.Cluster})
	keys := make([]string, 30)
	for i := range keys {
		keys[i] = fmt.Sprintf("llmproxy:{%d}:b", i)
		counted(t, c, keys[i])
	}
	for _, fail := range []func(*redistest.Server){(*redistest.Server).Kill, (*redistest.Server).Stop} {
		start := time.Now()
		dead := nodes.Master(keys[0])
		fail(dead)
		for _, key := range keys {
			counted(t, c, key)
		}
		t.Logf("every slot takes writes after %v", time.Since(start))
		dead.Restart()
		eventually(t, "the node has caught up, and can be promoted", func() bool {
			s, err := dead.Command("INFO", "replication")
			return err == nil && strings.Contains(s, "master_link_status:up")
		})
	}
}

// A batch over several nodes has each result in its place, also when one of them is dead.
func TestBatchOverACluster(t *testing.T) {
	nodes := redistest.StartCluster(t, 3, 0)
	c := connected(t, redis.Options{Addrs: nodes.Addrs()[:1], Mode: redis.Cluster})
	calls := make([]redis.Call, 40)
	for i := range calls {
		calls[i] = redis.Call{Script: redis.NewScript("redis.call('SET', KEYS[1], ARGV[1]) return ARGV[1]"), Keys: []string{fmt.Sprintf("{%d}", i)}, Args: []string{fmt.Sprint(i)}}
	}
	for i, r := range c.RunAll(calls, long) {
		if got, err := r.Message.ToString(); r.Err != nil || err != nil || got != fmt.Sprint(i) {
			t.Fatalf("call %d: %q, %v", i, got, r.Err)
		}
	}
	for i := range calls {
		m, err := c.Do(long, "GET", calls[i].Keys[0])
		if got, _ := m.ToString(); err != nil || got != fmt.Sprint(i) {
			t.Errorf("key %d: %q, %v", i, got, err)
		}
	}
	dead := nodes.Master(calls[0].Keys[0])
	dead.Stop()
	defer dead.Continue()
	start := time.Now()
	results := c.RunAll(calls, 200*time.Millisecond)
	if took := time.Since(start); took > 200*time.Millisecond+slack {
		t.Errorf("took %v", took)
	}
	if !errors.Is(results[0].Err, redis.ErrAway) {
		t.Errorf("a stopped node: %v", results[0].Err)
	}
}
