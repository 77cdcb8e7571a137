package quota_test

import (
	"testing"
	"time"
	_ "time/tzdata" // not every machine that tests has zones

	"github.com/llmproxy/llmproxy/pkg/quota"
)

var periods = []quota.Period{quota.Daily, quota.Weekly, quota.Monthly, quota.Never}

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func TestPeriodNames(t *testing.T) {
	for _, p := range periods {
		if got, err := quota.ParsePeriod(p.String()); err != nil || got != p {
			t.Errorf("%v is read as %v, %v", p, got, err)
		}
	}
	for _, s := range []string{"", "Daily", "day", "hourly"} {
		if p, err := quota.ParsePeriod(s); err == nil {
			t.Errorf("%q is read as %v, want an error", s, p)
		}
	}
}

// TestBounds has the days on which time.Date, 24 hours or seven days are wrong.
func TestBounds(t *testing.T) {
	for _, c := range []struct {
		name, zone, at string
		period         quota.Period
		start, end     string
	}{
		{"a day of 23 hours", "Europe/Berlin", "2026-03-29T12:00:00+02:00", quota.Daily, "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"},
		{"a day of 25 hours", "Europe/Berlin", "2026-10-25T12:00:00+01:00", quota.Daily, "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"},
		{"a week with a change", "Europe/Berlin", "2026-10-25T23:59:59+01:00", quota.Weekly, "2026-10-19T00:00:00+02:00", "2026-10-26T00:00:00+01:00"},
		{"a month with a change", "Europe/Berlin", "2026-03-31T23:59:59+02:00", quota.Monthly, "2026-03-01T00:00:00+01:00", "2026-04-01T00:00:00+02:00"},
		{"a missing midnight", "America/Sao_Paulo", "2018-11-04T01:00:00-02:00", quota.Daily, "2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00"},
		{"before a missing midnight", "America/Sao_Paulo", "2018-11-03T23:59:59-03:00", quota.Daily, "2018-11-03T00:00:00-03:00", "2018-11-04T01:00:00-02:00"},
		{"the second 23:30", "America/Sao_Paulo", "2019-02-16T23:30:00-03:00", quota.Daily, "2019-02-16T00:00:00-02:00", "2019-02-17T00:00:00-03:00"},
		{"midnight twice", "America/St_Johns", "2010-11-07T00:00:30-02:30", quota.Daily, "2010-11-07T00:00:00-02:30", "2010-11-08T00:00:00-03:30"},
		{"a day after its end", "America/St_Johns", "2010-11-06T23:30:00-03:30", quota.Daily, "2010-11-07T00:00:00-02:30", "2010-11-08T00:00:00-03:30"},
		{"a week after its end", "America/St_Johns", "2009-11-01T23:59:00-03:30", quota.Weekly, "2009-10-26T00:00:00-02:30", "2009-11-02T00:00:00-03:30"},
		{"a month after its end", "America/St_Johns", "2009-10-31T23:30:00-03:30", quota.Monthly, "2009-11-01T00:00:00-02:30", "2009-12-01T00:00:00-03:30"},
		{"half an hour", "Australia/Lord_Howe", "2026-04-05T12:00:00+10:30", quota.Daily, "2026-04-05T00:00:00+11:00", "2026-04-06T00:00:00+10:30"},
		{"before a day that never was", "Pacific/Apia", "2011-12-29T12:00:00-10:00", quota.Daily, "2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00"},
		{"after a day that never was", "Pacific/Apia", "2011-12-31T00:00:00+14:00", quota.Daily, "2011-12-31T00:00:00+14:00", "2012-01-01T00:00:00+14:00"},
		{"no change", "Asia/Shanghai", "2026-11-23T07:59:59Z", quota.Daily, "2026-11-23T00:00:00+08:00", "2026-11-24T00:00:00+08:00"},
		{"Sunday ends the week", "Asia/Shanghai", "2026-11-22T23:59:59+08:00", quota.Weekly, "2026-11-16T00:00:00+08:00", "2026-11-23T00:00:00+08:00"},
		{"Monday begins it", "Asia/Shanghai", "2026-11-23T00:00:00+08:00", quota.Weekly, "2026-11-23T00:00:00+08:00", "2026-11-30T00:00:00+08:00"},
		{"a week over the year's end", "UTC", "2026-01-01T00:00:00Z", quota.Weekly, "2025-12-29T00:00:00Z", "2026-01-05T00:00:00Z"},
		{"a leap day", "UTC", "2028-02-29T23:59:59.999999999Z", quota.Monthly, "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"},
		{"December", "UTC", "2026-12-31T12:00:00Z", quota.Monthly, "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{"never", "Europe/Berlin", "2026-11-23T00:00:00Z", quota.Never, "1970-01-01T00:00:00Z", "2262-04-11T23:47:16.854775807Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			start, end := c.period.Bounds(at(t, c.at), zone(t, c.zone))
			if !start.Equal(at(t, c.start)) || !end.Equal(at(t, c.end)) {
				t.Errorf("%v at %v is from %v to %v, want %v to %v", c.period, c.at, start, end, c.start, c.end)
			}
			if start.Location().String() != c.zone {
				t.Errorf("the start is in %v", start.Location())
			}
		})
	}
}

func at(t testing.TB, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestBoundsAreAPartition walks through ten years in zones with every kind of
// change. Where periods begin is found a second time by looking at the clock
// every few minutes: when it shows a later day than ever before.
func TestBoundsAreAPartition(t *testing.T) {
	for _, c := range []struct {
		zone string
		from int           // year
		step time.Duration // divides every change
	}{
		{"UTC", 2020, time.Hour},
		{"Europe/Berlin", 2020, time.Hour},
		{"Europe/Berlin", 2040, time.Hour}, // by a rule rather than a list
		{"America/Sao_Paulo", 2010, time.Hour},
		{"America/St_Johns", 2003, time.Minute},
		{"America/Havana", 2020, time.Hour},
		{"Africa/Cairo", 2005, time.Hour},
		{"Asia/Beirut", 2020, time.Hour},
		{"Asia/Shanghai", 1985, time.Hour},
		{"Asia/Kathmandu", 1980, 15 * time.Minute},
		{"Australia/Lord_Howe", 2020, 30 * time.Minute},
		{"Pacific/Apia", 2006, time.Hour},
		{"Pacific/Kwajalein", 1988, time.Hour},
	} {
		t.Run(c.zone, func(t *testing.T) {
			t.Parallel()
			loc := zone(t, c.zone)
			from := time.Date(c.from, 1, 1, 12, 0, 0, 0, time.UTC)
			to := from.AddDate(10, 0, 0)
			days := firstShown(loc, from, to, c.step)
			for _, p := range []quota.Period{quota.Daily, quota.Weekly, quota.Monthly} {
				walk(t, p, loc, from, to)
				compareStarts(t, p, loc, days)
			}
		})
	}
}

// walk checks every hour that it is in a period, the same one as the hour before
// or the one that begins where that ends.
func walk(t *testing.T, p quota.Period, loc *time.Location, from, to time.Time) {
	t.Helper()
	start, end := p.Bounds(from, loc)
	for at := from; at.Before(to); at = at.Add(time.Hour) {
		s, e := p.Bounds(at, loc)
		if at.Before(s) || !at.Before(e) {
			t.Fatalf("%v: %v is not from %v to %v", p, at, s, e)
		}
		if !s.Equal(start) && !s.Equal(end) || s.Equal(start) != e.Equal(end) {
			t.Fatalf("%v: at %v it is from %v to %v, after %v to %v", p, at, s, e, start, end)
		}
		start, end = s, e
	}
}

// firstShown are the times at which clocks show a day for the first time.
func firstShown(loc *time.Location, from, to time.Time, step time.Duration) (days []time.Time) {
	shown := 0
	for at := from; at.Before(to); at = at.Add(step) {
		y, m, d := at.In(loc).Date()
		if n := y*10000 + int(m)*100 + d; n > shown {
			shown = n
			days = append(days, at.In(loc))
		}
	}
	return days[1:] // the first is only where the search began
}

func compareStarts(t *testing.T, p quota.Period, loc *time.Location, days []time.Time) {
	t.Helper()
	year, week := days[0].ISOWeek()
	month, found := days[0].Month(), 0
	for _, d := range days[1:] {
		y, w := d.ISOWeek()
		begins := p == quota.Daily || p == quota.Weekly && (y != year || w != week) || p == quota.Monthly && d.Month() != month
		year, week, month = y, w, d.Month()
		start, _ := p.Bounds(d, loc)
		_, end := p.Bounds(d.Add(-1), loc)
		if start.Equal(d) != begins || end.Equal(d) != begins {
			t.Fatalf("%v: at %v one begins: %v; got one from %v, and the end of one at %v", p, d, begins, start, end)
		}
		if begins {
			found++
		}
	}
	if found < 119 { // the months of ten years, but the first
		t.Fatalf("%v: only %d begin", p, found)
	}
}
