//go:build !race

package redis_test

import (
	"testing"

	"github.com/llmproxy/llmproxy/pkg/redis"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// The answer is what is allocated: its text and its array.
func TestAllocationsOfRun(t *testing.T) {
	s := redistest.Start(t)
	c := connected(t, redis.Options{Addrs: []string{s.Addr()}})
	call := redis.Call{Script: asked, Keys: askedKey, Args: askedArg}
	n := testing.AllocsPerRun(2000, func() {
		if _, err := c.Run(call, long); err != nil {
			t.Fatal(err)
		}
	})
	if n > 3 {
		t.Errorf("%v allocations a call", n)
	}
}

func TestAllocationsOfRefusal(t *testing.T) {
	c := open(t, redis.Options{Addrs: []string{"127.0.0.1:1"}})
	call := redis.Call{Script: asked, Keys: askedKey, Args: askedArg}
	n := testing.AllocsPerRun(2000, func() {
		if _, err := c.Run(call, soon); err == nil {
			t.Fatal("nobody is there")
		}
	})
	if n > 1 { // of the attempts in the background
		t.Errorf("%v allocations a call", n)
	}
}
