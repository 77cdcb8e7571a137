package keystore

import (
	"errors"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/redis"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// A server that goes on for another has cursors of its own: what was read by both is
// not all, and must not pass for it.
func TestAScanThatWasNotOfOneStoreIsNone(t *testing.T) {
	s := redistest.Start(t)
	c, err := redis.Open(redis.Options{Addrs: []string{s.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	r, err := OpenRedis(RedisOptions{Client: c, Prefix: "p:", Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	r.Hurry()
	if err := r.Load(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		if err := r.Add(numbered(0, n)); err != nil {
			t.Fatal(err)
		}
	}
	now, err := r.look()
	if err != nil {
		t.Fatal(err)
	}
	if found, err := r.scan(now); err != nil || len(found) != 3 {
		t.Fatalf("%d documents, %v", len(found), err)
	}
	for name, was := range map[string]sight{
		"there were more":      {now.epoch, now.position, now.count + 1},
		"another store":        {"other", now.position, now.count},
		"it was further along": {now.epoch, now.position + 1, now.count},
	} {
		if _, err := r.scan(was); !errors.Is(err, errMoved) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
