package redis_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/redis"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

func TestSlotIsThatOfRedis(t *testing.T) {
	s := redistest.Start(t, "--cluster-enabled", "yes")
	for _, key := range []string{
		"", "foo", "123456789", "llmproxy:{0123456789abcdef}:b", "{global}:g", "{}x", "{}{a}", "a{b", "a}b{c}d", "{a{b}c}", "\x00\xff",
		"}{", "{a}{b}",
	} {
		want := s.Must("CLUSTER", "KEYSLOT", key)
		if got := strconv.Itoa(int(redis.Slot(key))); got != want {
			t.Errorf("%q: slot %s, not %s", key, got, want)
		}
	}
}

func FuzzSlot(f *testing.F) {
	f.Add("llmproxy:", "0123456789abcdef", ":b")
	f.Add("", "", "{}")
	f.Fuzz(func(t *testing.T, before, tag, after string) {
		if redis.Slot(before+tag+after) > 16383 {
			t.Fatal("no such slot")
		}
		if tag == "" || strings.ContainsAny(before+tag, "{}") {
			return
		}
		if got, want := redis.Slot(before+"{"+tag+"}"+after), redis.Slot(tag); got != want {
			t.Fatalf("a key of {%s} is in slot %d, not %d", tag, got, want)
		}
	})
}
