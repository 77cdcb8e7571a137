// Package quota counts the tokens that keys use in a day, a week, a month or ever.
//
// An Account has one Term at a time. A request reserves in the term in which it
// begins and settles in the same one, whatever term the account has by then. What
// a term begins with outlives the process in Totals, which add up the journal.
package quota

import (
	"fmt"
	"slices"
	"time"
)

// Period is how long a quota lasts.
type Period uint8

// The periods. Weeks begin on Monday.
const (
	Daily Period = iota
	Weekly
	Monthly
	Never // it is not renewed
)

var periodNames = []string{"daily", "weekly", "monthly", "never"}

// ParsePeriod is the inverse of String; its error names what there is.
func ParsePeriod(s string) (Period, error) {
	if i := slices.Index(periodNames, s); i >= 0 {
		return Period(i), nil
	}
	return Daily, fmt.Errorf("unknown period %q: it is daily, weekly, monthly or never", s)
}

func (p Period) String() string { return periodNames[p] }

const day = 24 * 60 * 60 // seconds of one that no clock change makes longer or shorter

// Bounds are the first instant of the period that t is in, by clocks in loc, and
// that of the next one. All periods together have no gap and no overlap: where
// clocks skip midnight, or a whole day, a period begins with the jump, and where
// they show midnight twice it begins with the first. Never is from 1970 until the
// last nanosecond that an int64 counts. t is in the years 1970 to 2261.
func (p Period) Bounds(t time.Time, loc *time.Location) (start, end time.Time) {
	if p == Never {
		return time.Unix(0, 0).In(loc), time.Unix(0, 1<<63-1).In(loc)
	}
	y, m, d := t.In(loc).Date()
	for !t.Before(begin(y, m, d+1, loc)) { // set back over midnight: clocks show a day that has ended
		d++
	}
	switch p {
	case Weekly:
		d -= (int(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Weekday()) + 6) % 7
		return begin(y, m, d, loc), begin(y, m, d+7, loc)
	case Monthly:
		y, m, _ = time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Date()
		return begin(y, m, 1, loc), begin(y, m+1, 1, loc)
	default:
		return begin(y, m, d, loc), begin(y, m, d+1, loc)
	}
}

// begin is the first instant at which clocks in loc show midnight of that day or
// anything later. time.Date would pick either of two midnights, and where there is
// none, one before or one after the jump.
func begin(year int, month time.Month, d int, loc *time.Location) time.Time {
	midnight := time.Date(year, month, d, 0, 0, 0, 0, time.UTC).Unix()
	t := time.Unix(midnight-2*day, 0).In(loc) // no clock is two days from UTC
	for {
		_, offset := t.Zone()
		at := midnight - int64(offset)
		if at < t.Unix() {
			return t
		}
		_, change := t.ZoneBounds()
		if change.IsZero() {
			return time.Unix(at, 0).In(loc)
		}
		// On the last day of a leap year the zone may seem to have ended already, see
		// https://go.dev/issue/81583.
		if !change.After(t) {
			change = t.Add(time.Hour)
		}
		if at < change.Unix() {
			return time.Unix(at, 0).In(loc)
		}
		t = change
	}
}
