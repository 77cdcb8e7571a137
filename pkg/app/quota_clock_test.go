package app_test

import (
	"testing"
)

// quotaStep is a time that the clock shows, and whether a request that is most of
// the quota is let in then. up says that the gateway was running at that time: a
// start cannot know when a term ended that a clock far ahead has begun.
type quotaStep struct {
	at       string
	open, up bool
}

// TestQuotaClockJumps: a clock that is set forward and back must not give a period's
// quota twice; nor may it keep a client out for longer than until the next period
// begins by the clock as it is then.
func TestQuotaClockJumps(t *testing.T) {
	leavesNothing(t)
	for _, w := range []struct {
		name, period string
		steps        []quotaStep
	}{
		{"an hour forward and back", "daily", []quotaStep{
			{at: "2026-11-23 12:00:00", open: true}, {at: "2026-11-23 13:00:00"}, {at: "2026-11-23 12:00:00"}, {at: "2026-11-23 11:00:00"},
		}},
		{"an hour back over midnight", "daily", []quotaStep{
			{at: "2026-11-24 00:30:00", open: true},
			{at: "2026-11-23 23:30:00"},
			{at: "2026-11-24 00:00:00"},
			{at: "2026-11-24 00:30:00"},
			{at: "2026-11-25 00:00:00", open: true},
		}},
		{"an hour forward over midnight and back", "daily", []quotaStep{
			{at: "2026-11-23 23:30:00", open: true},
			{at: "2026-11-24 00:30:00", open: true},
			{at: "2026-11-23 23:30:00"},
			{at: "2026-11-24 00:00:00"},
			{at: "2026-11-24 23:59:59"},
			{at: "2026-11-25 00:00:00", open: true},
		}},
		{"to and fro over one midnight", "daily", []quotaStep{
			{at: "2026-11-23 23:59:59", open: true},
			{at: "2026-11-24 00:00:00", open: true},
			{at: "2026-11-23 23:59:59"},
			{at: "2026-11-24 00:00:00"},
			{at: "2026-11-23 23:59:59"},
			{at: "2026-11-24 00:00:01"},
		}},
		{"nothing was used in the hour ahead", "daily", []quotaStep{
			{at: "2026-11-23 23:30:00", open: true}, {at: "2026-11-23 22:30:00"}, {at: "2026-11-23 23:59:59"}, {at: "2026-11-24 00:00:00", open: true},
		}},
		{"an hour forward over the end of a month and back", "monthly", []quotaStep{
			{at: "2026-11-30 23:30:00", open: true},
			{at: "2026-12-01 00:30:00", open: true},
			{at: "2026-11-30 23:30:00"},
			{at: "2026-12-01 00:00:00"},
			{at: "2026-12-31 23:59:59"},
			{at: "2027-01-01 00:00:00", open: true},
		}},
		{"an hour forward over the end of a week and back", "weekly", []quotaStep{
			{at: "2026-11-29 23:30:00", open: true},
			{at: "2026-11-30 00:30:00", open: true},
			{at: "2026-11-29 23:30:00"},
			{at: "2026-11-30 00:00:00"},
			{at: "2026-12-06 23:59:59"},
			{at: "2026-12-07 00:00:00", open: true},
		}},
		{"a day that clocks made shorter, back and forth", "daily", []quotaStep{
			{at: "2027-03-28 03:30:00", open: true},
			{at: "2027-03-28 01:30:00"},
			{at: "2027-03-28 03:30:00"},
			{at: "2027-03-29 00:00:00", open: true},
			{at: "2027-03-28 23:30:00"},
			{at: "2027-03-29 00:00:00"},
		}},
		{"ten days ahead at first", "daily", []quotaStep{
			{at: "2026-12-03 12:00:00", open: true},
			{at: "2026-11-23 12:00:00"},
			{at: "2026-11-23 23:59:59"},
			{at: "2026-11-24 00:00:00", open: true, up: true},
			{at: "2026-11-24 23:59:59"},
			{at: "2026-11-25 00:00:00", open: true, up: true},
		}},
	} {
		for _, again := range []struct {
			name    string
			restart bool
		}{{"", false}, {", restarted after each", true}} {
			t.Run(w.name+again.name, func(t *testing.T) {
				d := startQuotaDay(t, "Europe/Berlin", w.period, w.steps[0].at)
				d.steps(t, again.restart, w.steps)
			})
		}
	}
}

// steps sets the clock to one time after the other.
func (d *quotaDay) steps(t *testing.T, restart bool, steps []quotaStep) {
	t.Helper()
	began := quotaOf(t, d.limitKey).StartedAt
	for n, step := range steps {
		d.set(t, step.at)
		if restart && !step.up {
			d.Close()
			d.start(t)
		}
		before := quotaOf(t, d.limitKey)
		if got := d.spend(t); got != step.open {
			t.Fatalf("step %d, %s: let in: %t, the key is told of %+v, before of %+v", n, step.at, got, quotaOf(t, d.limitKey), before)
		}
		u := quotaOf(t, d.limitKey)
		if u.StartedAt.Before(began) || u.ResetsAt == nil || !u.ResetsAt.After(d.clock.now()) {
			t.Errorf("step %d, %s: %+v, in a term that began at %v", n, step.at, u, began)
		}
		began = u.StartedAt
	}
}
