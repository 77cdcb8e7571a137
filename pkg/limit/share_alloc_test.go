//go:build !race

package limit_test

import (
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/limit"
)

func TestAllocationsOfAShare(t *testing.T) {
	var b limit.Bucket
	var tokens limit.Tokens
	l := limit.Limits{PerSecond: limit.PerSecond(1000, 0), Tokens: limit.PerMinute(1e6), Concurrent: 10}
	now := int64(0)
	if n := testing.AllocsPerRun(100, func() {
		now += second
		share := l.Share(1, 3)
		b.Set(now, l.PerSecond, time.Millisecond, now%2 == 0)
		tokens.Set(now, l.Tokens, time.Millisecond, 100, false)
		tokens.Hold(5)
		if b.Take(now, share.PerSecond, 1) != 0 || share.Concurrent != 3 {
			t.Fail()
		}
		tokens.Charge(now, share.Tokens, 5, 5)
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
