package keystore_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/keystore"
	"github.com/llmproxy/llmproxy/pkg/redis"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// through is a gateway that reaches Redis in another way than one address.
func through(t testing.TB, o redis.Options) *gate {
	t.Helper()
	c, err := redis.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{t: t, dir: t.TempDir()}
	g.Redis, err = keystore.OpenRedis(keystore.RedisOptions{
		Client: c, Prefix: "llmproxy:", Place: "redis://many", Dir: g.dir, MaxAge: time.Minute, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	g.Hurry()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { g.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		c.Close()
	})
	g.synced()
	return g
}

// failsOver makes changes on both sides of the death of a master.
func failsOver(t *testing.T, o redis.Options, master func() *redistest.Server) {
	a, b := through(t, o), through(t, o)
	one, two := at(1, "one"), at(2, "two")
	add(t, a, one)
	add(t, a, two)
	has(t, "one two", b)
	remove(t, b, one)
	has(t, "two", a)
	master().Kill()
	eventually(t, "a key can be made again", func() bool { return a.Add(at(3, "three")) == nil || names(a) == "two three" })
	a.synced()
	b.synced()
	has(t, "two three", a, b)
	remove(t, b, two)
	has(t, "three", a, b)
}

func TestSentinelsFailOver(t *testing.T) {
	s := redistest.Start(t)
	s.Replica(t)
	addrs := redistest.StartSentinels(t, s, 3)
	failsOver(t, redis.Options{Addrs: addrs, Mode: redis.Sentinel, Master: "mymaster"}, func() *redistest.Server { return s })
}

func TestAClusterFailsOver(t *testing.T) {
	n := redistest.StartCluster(t, 3, 1)
	failsOver(t, redis.Options{Addrs: n.Addrs(), Mode: redis.Cluster}, func() *redistest.Server { return n.Master("llmproxy:{keys}:keys") })
}
