//go:build !race

package quota_test

import (
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/quota"
)

// Only the first that is heard of an account is kept in memory of its own.
func TestAllocationsOfHearing(t *testing.T) {
	var a quota.Account
	term := a.Term(noon, quota.Daily, time.UTC)
	term.Heard(1, 0, 0)
	used := int64(0)
	if n := testing.AllocsPerRun(100, func() {
		used++
		term.Heard(used, 0, 5)
		if term.Used() != used || !term.ReserveShare(10, 1000, 1, 3) || a.Follow(term.Start) != term || a.Last() != term {
			t.Fail()
		}
		term.Settle(10, 0)
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
