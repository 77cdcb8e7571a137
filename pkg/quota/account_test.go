package quota_test

import (
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/quota"
)

const aDay = 24 * time.Hour

// TestClock moves the clock, and looks after each move how much is used. Each step
// uses 1, so that a number is how often the same term was met.
func TestClock(t *testing.T) {
	type move struct {
		to   time.Duration // since noon on a Monday
		want int64
	}
	for _, c := range []struct {
		name   string
		period quota.Period
		moves  []move
	}{
		{"a day ends at midnight", quota.Daily, []move{{0, 1}, {12*time.Hour - 1, 2}, {12 * time.Hour, 1}, {36 * time.Hour, 1}}},
		{"a term that ended long ago", quota.Daily, []move{{0, 1}, {100 * aDay, 1}, {100 * aDay, 2}}},
		{"a second back over midnight", quota.Daily, []move{{0, 1}, {12 * time.Hour, 1}, {12*time.Hour - time.Second, 2}, {12 * time.Hour, 3}, {12*time.Hour + time.Second, 4}, {36 * time.Hour, 1}}},
		{"back and forth over midnight", quota.Daily, []move{{0, 1}, {12 * time.Hour, 1}, {0, 2}, {12 * time.Hour, 3}, {1, 4}, {12*time.Hour + 1, 5}, {36 * time.Hour, 1}}},
		{"a day back", quota.Daily, []move{{aDay, 1}, {0, 2}, {12 * time.Hour, 3}, {35 * time.Hour, 4}, {36 * time.Hour, 1}}},
		{"back to before the first term", quota.Daily, []move{{0, 1}, {-aDay, 2}, {-12 * time.Hour, 3}, {0, 4}, {12 * time.Hour, 1}}},
		{"ahead by a year, and right again", quota.Daily, []move{{0, 1}, {365 * aDay, 1}, {0, 2}, {12*time.Hour - 1, 3}, {12 * time.Hour, 1}, {36 * time.Hour, 1}, {60 * time.Hour, 1}}},
		{"ahead by a year, twice", quota.Daily, []move{{0, 1}, {365 * aDay, 1}, {0, 2}, {365 * aDay, 3}, {0, 4}, {365 * aDay, 5}, {366 * aDay, 1}}},
		{"ahead by two days, and right again", quota.Daily, []move{{0, 1}, {2 * aDay, 1}, {0, 2}, {12 * time.Hour, 1}, {36 * time.Hour, 2}, {60 * time.Hour, 1}}},
		{"in 1970 until the clock is set", quota.Daily, []move{{time.Since(noon) - time.Since(time.Unix(5, 0)), 1}, {0, 1}, {1, 2}}},
		{"a week", quota.Weekly, []move{{0, 1}, {6*aDay + 12*time.Hour - 1, 2}, {6*aDay + 12*time.Hour, 1}, {0, 2}, {13 * aDay, 3}, {14 * aDay, 1}}},
		{"a month", quota.Monthly, []move{{0, 1}, {7*aDay + 12*time.Hour - 1, 2}, {7*aDay + 12*time.Hour, 1}, {0, 2}, {38 * aDay, 3}, {39 * aDay, 1}}},
		{"never", quota.Never, []move{{0, 1}, {10000 * aDay, 2}, {-10000 * aDay, 3}, {0, 4}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var a quota.Account
			last := int64(0)
			for i, m := range c.moves {
				term := a.Term(noon.Add(m.to), c.period, time.UTC)
				term.Settle(0, 1)
				if term.Used() != m.want {
					t.Fatalf("move %d, to %v: met %d times, want %d", i, noon.Add(m.to), term.Used(), m.want)
				}
				if begins := m.want == 1; begins != (term.Start > last) {
					t.Fatalf("move %d, to %v: start %v after %v", i, noon.Add(m.to), term.Start, last)
				}
				last = term.Start
			}
		})
	}
}

func TestATermBeginsWithItsPeriod(t *testing.T) {
	for _, p := range periods {
		start, end := p.Bounds(noon, time.UTC)
		term := new(quota.Account).Term(noon, p, time.UTC)
		if term.Start != max(1, start.UnixNano()) || term.End != end.UnixNano() {
			t.Errorf("%v: from %d to %d, want %v to %v", p, term.Start, term.End, start, end)
		}
	}
}

// An event that counts in no term has 0 for its start: no term may.
func TestStartIsNeverZero(t *testing.T) {
	var zero, reset quota.Account
	for _, at := range []time.Time{time.Unix(0, 0), time.Unix(5, 0), noon} {
		for _, p := range periods {
			if term := zero.Term(at, p, time.UTC); term.Start <= 0 {
				t.Errorf("%v at %v has the start %d", p, at, term.Start)
			}
		}
	}
	if term := reset.Reset(time.Unix(0, 0)); term.Start <= 0 {
		t.Errorf("after a reset the start is %d", term.Start)
	}
}

func TestAnotherPeriodOrLocation(t *testing.T) {
	berlin, shanghai := zone(t, "Europe/Berlin"), zone(t, "Asia/Shanghai")
	for _, c := range []struct {
		name     string
		from, to quota.Period
		was, is  *time.Location
		after    time.Duration
		stays    bool
		end      string
	}{
		{"daily to weekly", quota.Daily, quota.Weekly, time.UTC, time.UTC, 0, true, "2026-11-30T00:00:00Z"},
		{"daily to monthly", quota.Daily, quota.Monthly, time.UTC, time.UTC, 0, true, "2026-12-01T00:00:00Z"},
		{"daily to never", quota.Daily, quota.Never, time.UTC, time.UTC, 0, true, "2262-04-11T23:47:16.854775807Z"},
		{"monthly to daily", quota.Monthly, quota.Daily, time.UTC, time.UTC, 0, false, "2026-11-24T00:00:00Z"},
		{"monthly to weekly", quota.Monthly, quota.Weekly, time.UTC, time.UTC, 0, false, "2026-11-30T00:00:00Z"},
		{"never to monthly", quota.Never, quota.Monthly, time.UTC, time.UTC, 0, false, "2026-12-01T00:00:00Z"},
		{"daily to monthly after a month", quota.Daily, quota.Monthly, time.UTC, time.UTC, 30 * aDay, false, "2027-01-01T00:00:00Z"},
		{"Berlin to Shanghai at noon", quota.Daily, quota.Daily, berlin, shanghai, 0, true, "2026-11-23T16:00:00Z"},
		{"Shanghai to Berlin at noon", quota.Daily, quota.Daily, shanghai, berlin, 0, false, "2026-11-23T23:00:00Z"},
		{"Berlin to Shanghai when there it is Tuesday", quota.Daily, quota.Daily, berlin, shanghai, 5 * time.Hour, false, "2026-11-24T16:00:00Z"},
		{"the same zone, loaded again", quota.Daily, quota.Daily, berlin, zone(t, "Europe/Berlin"), time.Hour, true, "2026-11-23T23:00:00Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var a quota.Account
			first := a.Term(noon, c.from, c.was)
			first.Settle(0, 7)
			now := noon.Add(c.after)
			second := a.Term(now, c.to, c.is)
			if stays := second.Used() == 7; stays != c.stays || stays != (second.Start == first.Start) || second.Start < first.Start {
				t.Errorf("used %d, from %d after %d", second.Used(), second.Start, first.Start)
			}
			if second.End != at(t, c.end).UnixNano() {
				t.Errorf("it ends %v, want %v", time.Unix(0, second.End).UTC(), c.end)
			}
			// An old and a new view of the configuration serve requests side by side.
			a.Term(now, c.from, c.was)
			last := a.Term(now, c.to, c.is)
			last.Settle(0, 1)
			used := last.Used()
			for range 5 {
				back := a.Term(now, c.from, c.was)
				again := a.Term(now, c.to, c.is)
				if back.Used() != used || again.Used() != used {
					t.Fatalf("changed back and forth, used %d and %d, want %d", back.Used(), again.Used(), used)
				}
			}
		})
	}
}

// Two views, each with another end of the day, must not make two days of one.
func TestSharedUseIsOneNumber(t *testing.T) {
	var a quota.Account
	daily := a.Term(noon, quota.Daily, time.UTC)
	monthly := a.Term(noon, quota.Monthly, time.UTC)
	if !daily.Reserve(60, 100) || monthly.Reserve(60, 100) {
		t.Error("120 are reserved of 100")
	}
	monthly.Settle(60, 90)
	checkUse(t, daily, 90, 0)
}

func TestReset(t *testing.T) {
	var a quota.Account
	old := a.Term(noon, quota.Daily, time.UTC)
	if !old.Reserve(100, 100) || old.Reserve(1, 100) {
		t.Fatal("the limit does not hold")
	}
	// Twice in one tick of the clock, and once by a clock that was set back.
	for _, now := range []time.Time{noon, noon, noon.Add(-time.Hour)} {
		before := a.Term(noon, quota.Daily, time.UTC)
		got := a.Reset(now)
		if got.Start <= before.Start || got.End != before.End || got.Used() != 0 || got.Reserved() != 0 {
			t.Fatalf("after %+v it is %+v", before, got)
		}
		if a.Term(noon, quota.Daily, time.UTC) != got {
			t.Fatal("the account has another term than the reset gave")
		}
		if !got.Reserve(100, 100) || got.Reserve(1, 100) {
			t.Fatal("the whole limit is not there again")
		}
		got.Settle(100, 30)
	}
	old.Settle(100, 80) // it began before
	checkUse(t, old, 80, 0)
	checkUse(t, a.Term(noon, quota.Daily, time.UTC), 30, 0)
	if next := a.Term(noon.Add(aDay), quota.Daily, time.UTC); next.Used() != 0 {
		t.Errorf("the next day begins with %d", next.Used())
	}
}

func TestResetOfAnAccountWithoutTerm(t *testing.T) {
	for name, resetAt := range map[string]time.Time{"never asked": noon, "asked a month ago": noon.Add(time.Minute)} {
		t.Run(name, func(t *testing.T) {
			var a quota.Account
			if resetAt != noon {
				a.Term(noon.Add(-30*aDay), quota.Daily, time.UTC).Settle(0, 5)
			}
			got := a.Reset(resetAt)
			got.Settle(0, 3)
			term := a.Term(resetAt, quota.Daily, time.UTC)
			if _, end := quota.Daily.Bounds(noon, time.UTC); term.End != end.UnixNano() || term.Start != got.Start {
				t.Errorf("from %d to %d after a reset from %d", term.Start, term.End, got.Start)
			}
			checkUse(t, term, 3, 0)
		})
	}
}

func TestARequestSettlesWhereItBegan(t *testing.T) {
	var a quota.Account
	old := a.Term(noon, quota.Daily, time.UTC)
	if !old.Reserve(70, 100) {
		t.Fatal("refused")
	}
	next := a.Term(noon.Add(aDay), quota.Daily, time.UTC)
	if !next.Reserve(100, 100) {
		t.Error("yesterday's reservation counts today")
	}
	old.Settle(70, 90)
	checkUse(t, old, 90, 0)
	checkUse(t, next, 0, 100)
}
