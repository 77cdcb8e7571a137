package keystore_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/keystore"
	"github.com/llmproxy/llmproxy/pkg/redis"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// gate is one of the gateways that share a Redis.
type gate struct {
	*keystore.Redis
	t       testing.TB
	dir     string
	place   atomic.Pointer[string] // the address of the server now
	changes atomic.Int64           // calls of Changed
	log     buffer
	stop    func() // as the process ends; it may be called again
}

// buffer is a log that can be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *buffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *buffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// client is a connection that can be led to another server.
func client(t testing.TB, place *atomic.Pointer[string]) *redis.Client {
	t.Helper()
	c, err := redis.Open(redis.Options{
		Addrs: []string{"redis:6379"},
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, *place.Load())
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// gateOf is a gateway that has not asked Redis yet, with a snapshot in dir.
func gateOf(t testing.TB, addr, dir string, change ...func(*keystore.RedisOptions)) *gate {
	t.Helper()
	g := &gate{t: t, dir: dir}
	g.place.Store(&addr)
	o := keystore.RedisOptions{
		Client: client(t, &g.place), Prefix: "llmproxy:", Place: "redis://redis:6379/0", Dir: dir, MaxAge: 10 * time.Minute,
		Now: time.Now, Log: slog.New(slog.NewTextHandler(&g.log, nil)), Changed: func() { g.changes.Add(1) },
	}
	for _, c := range change {
		c(&o)
	}
	var err error
	if g.Redis, err = keystore.OpenRedis(o); err != nil {
		t.Fatal(err)
	}
	g.Hurry()
	g.stop = sync.OnceFunc(o.Client.Close)
	t.Cleanup(func() { g.stop() })
	return g
}

// run follows until the test, or stop, ends it.
func (g *gate) run() *gate {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { g.Run(ctx) })
	leave := g.stop
	g.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		leave()
	})
	return g
}

// runs is a gateway that has all keys of the Redis.
func runs(t testing.TB, s *redistest.Server) *gate {
	t.Helper()
	g := gateOf(t, s.Addr(), t.TempDir()).run()
	g.synced()
	return g
}

// synced waits until the gateway is in step with the store.
func (g *gate) synced() {
	g.t.Helper()
	began := time.Now()
	eventually(g.t, "all is well", func() bool {
		s := g.State()
		return s.Source == "redis" && s.Complete && !s.Lost && !s.Foreign && s.Err == nil && s.Synced.After(began)
	})
}

// has waits until the gateways' keys have these names.
func has(t testing.TB, want string, gates ...*gate) {
	t.Helper()
	for i, g := range gates {
		eventually(t, fmt.Sprintf("gateway %d has %q", i, want), func() bool { return names(g) == want })
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	end := time.NewTimer(20 * time.Second)
	defer end.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-end.C:
			t.Fatal("not so after 20 s: " + what)
		case <-tick.C:
		}
	}
}

func disable(k auth.Key) (*auth.Key, error) {
	k.Disabled = true
	return &k, nil
}

func enable(k auth.Key) (*auth.Key, error) {
	k.Disabled = false
	return &k, nil
}

func remove(t testing.TB, s keystore.Store, k *auth.Key) {
	t.Helper()
	if removed, err := s.Remove(k.ID()); err != nil || removed.ID() != k.ID() || removed.Name != k.Name {
		t.Fatalf("removed %+v, %v", removed, err)
	}
}

func replace(t testing.TB, s keystore.Store, k *auth.Key, edit func(auth.Key) (*auth.Key, error)) *auth.Key {
	t.Helper()
	replaced, err := s.Replace(k.ID(), edit)
	if err != nil {
		t.Fatal(err)
	}
	return replaced
}

// at is a key made at a second of its own: they are listed in this order.
func at(second int, name string) *auth.Key {
	k := key("sk-key-"+name, name)
	k.Created = auth.At(noon.Add(time.Duration(second) * time.Second))
	return k
}
