package quota_test

import (
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/quota"
)

func TestLateCountsInItsOwnTermOnly(t *testing.T) {
	now := time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		guards string
		start  func(t *quota.Term) int64
		want   int64
	}{
		{"the term that is open", func(t *quota.Term) int64 { return t.Start }, 17},
		{"a term that is over", func(t *quota.Term) int64 { return t.Start - 1 }, 10},
	} {
		var a quota.Account
		term := a.Term(now, quota.Daily, time.UTC)
		term.Settle(0, 10)
		a.Late(c.start(term), 7)
		if got := a.Term(now, quota.Daily, time.UTC).Used(); got != c.want {
			t.Errorf("%s: %d used, want %d", c.guards, got, c.want)
		}
	}
}

func TestLateOpensTheTermOfAnAccountThatNobodyAskedFor(t *testing.T) {
	now := time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
	start, _ := quota.Daily.Bounds(now, time.UTC)
	var a quota.Account
	a.Late(start.UnixNano(), 7)
	a.Late(start.UnixNano(), 5)
	if got := a.Term(now, quota.Daily, time.UTC); got.Used() != 12 || got.Start != start.UnixNano() {
		t.Errorf("%d used since %d, want 12", got.Used(), got.Start)
	}
	if got := a.Term(now.AddDate(0, 0, 1), quota.Daily, time.UTC).Used(); got != 0 {
		t.Errorf("%d used on the next day", got)
	}
}
