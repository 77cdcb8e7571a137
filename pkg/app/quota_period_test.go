package app_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/events"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// quotaClock is the time of day of a gateway.
type quotaClock struct{ at atomic.Pointer[time.Time] }

func (c *quotaClock) now() time.Time { return *c.at.Load() }

// quotaDay is a gateway with one key, whose clock the test sets.
type quotaDay struct {
	*apptest.Gateway
	limitKey
	clock  quotaClock
	zone   *time.Location
	engine *apptest.Engine
	dir    string
	yaml   string
}

// startQuotaDay runs one in a zone. The key may use 100 tokens in the period, which
// is enough for one request.
func startQuotaDay(t *testing.T, zone, period, at string) *quotaDay {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	d := &quotaDay{zone: loc, engine: apptest.StartEngine(t, mockvllm.Options{StepBase: time.Millisecond}), dir: t.TempDir()}
	d.yaml = limitConfig(t, fmt.Sprintf("data_dir: %q\nauth: {timezone: %s}\n", d.dir, zone), ", total_quota: 100, quota_reset_period: "+period)
	d.set(t, at)
	d.start(t)
	return d
}

func (d *quotaDay) start(t *testing.T) {
	t.Helper()
	d.Gateway = apptest.StartWith(t, app.Options{Now: d.clock.now}, d.yaml, d.engine)
	d.limitKey = limitKeyOf(d.Gateway, 0)
}

// set puts the clock to a local time, or to one that has its offset from UTC.
func (d *quotaDay) set(t *testing.T, to string) {
	t.Helper()
	at, err := time.ParseInLocation("2006-01-02 15:04:05.999", to, d.zone)
	if err != nil {
		at, err = time.Parse("2006-01-02 15:04:05.999 -07:00", to)
	}
	if err != nil {
		t.Fatal(err)
	}
	d.clock.at.Store(&at)
}

// quotaChat may use most of the quota of a quotaDay.
var quotaChat = fmt.Sprintf(limitChat, `"max_tokens":50,"mock_tokens":50`)

// spend asks for most of the quota, and returns whether that is let in.
func (d *quotaDay) spend(t *testing.T) bool {
	t.Helper()
	a := d.say("POST", chatPath, quotaChat)
	if a.status == http.StatusTooManyRequests && !strings.Contains(a.body, "insufficient_quota") || a.status != 200 && a.status != 429 {
		t.Fatalf("%d %s: %v", a.status, a.body, a.err)
	}
	return a.status == http.StatusOK
}

// TestQuotaPeriods: a quota that is used up opens with the first instant of the
// next period by the clocks in auth.timezone, and not a millisecond before.
func TestQuotaPeriods(t *testing.T) {
	leavesNothing(t)
	for _, w := range []struct {
		name, zone, period, spent string
		closed                    []string
		open                      string
	}{
		{"a day", "Asia/Shanghai", "daily", "2026-11-23 23:59:00", []string{"2026-11-23 23:59:59.999"}, "2026-11-24 00:00:00"},
		{"not the day of UTC", "Asia/Shanghai", "daily", "2026-11-23 07:59:00", []string{"2026-11-23 08:00:00", "2026-11-23 23:00:00"}, "2026-11-24 00:00:00"},
		{"a week", "Asia/Shanghai", "weekly", "2026-11-23 00:00:00", []string{"2026-11-24 00:00:00", "2026-11-29 23:59:59.999"}, "2026-11-30 00:00:00"},
		{"a week over new year", "Asia/Shanghai", "weekly", "2026-12-28 12:00:00", []string{"2027-01-01 00:00:00", "2027-01-03 23:59:59.999"}, "2027-01-04 00:00:00"},
		{"a month", "Asia/Shanghai", "monthly", "2028-02-01 00:00:00", []string{"2028-02-07 00:00:00", "2028-02-29 23:59:59.999"}, "2028-03-01 00:00:00"},
		{"a month over new year", "Asia/Shanghai", "monthly", "2026-12-31 23:59:59", []string{"2026-12-31 23:59:59.999"}, "2027-01-01 00:00:00"},
		{"for ever", "Asia/Shanghai", "never", "2026-11-23 12:00:00", []string{"2026-11-24 00:00:00", "2027-01-01 00:00:00", "2099-01-01 00:00:00"}, ""},
		{"a day of 23 hours", "Europe/Berlin", "daily", "2027-03-28 00:00:00", []string{"2027-03-28 03:00:00", "2027-03-28 23:59:59.999"}, "2027-03-29 00:00:00"},
		{"a day of 25 hours", "Europe/Berlin", "daily", "2026-10-25 00:00:00", []string{"2026-10-25 02:30:00 +02:00", "2026-10-25 02:30:00 +01:00", "2026-10-25 23:59:59.999"}, "2026-10-26 00:00:00"},
		{"a day without midnight", "America/Sao_Paulo", "daily", "2018-11-03 12:00:00", []string{"2018-11-03 23:59:59.999"}, "2018-11-04 01:00:00"},
		{"a day that begins twice", "America/Havana", "daily", "2026-10-31 12:00:00", []string{"2026-10-31 23:59:59.999"}, "2026-11-01 00:00:00 -04:00"},
		{"the second time", "America/Havana", "daily", "2026-11-01 00:00:00 -04:00", []string{"2026-11-01 00:00:00 -05:00", "2026-11-01 23:59:59.999"}, "2026-11-02 00:00:00"},
		{"a week that a clock change ends", "America/Havana", "weekly", "2026-11-01 00:30:00 -04:00", []string{"2026-11-01 00:30:00 -05:00", "2026-11-01 23:59:59.999"}, "2026-11-02 00:00:00"},
	} {
		t.Run(w.name, func(t *testing.T) {
			d := startQuotaDay(t, w.zone, w.period, w.spent)
			if !d.spend(t) {
				t.Fatal("the quota is used up at first")
			}
			for _, at := range w.closed {
				if d.set(t, at); d.spend(t) {
					t.Errorf("open at %s", at)
				}
			}
			if w.open == "" {
				return
			}
			if d.set(t, w.open); !d.spend(t) || d.spend(t) {
				t.Errorf("at %s it is not open for one request: %+v", w.open, quotaOf(t, d.limitKey))
			}
		})
	}
}

// TestQuotaTellsWhenItOpens: a client that waits as long as it was told is let in,
// and one that was told nothing need not wait.
func TestQuotaTellsWhenItOpens(t *testing.T) {
	leavesNothing(t)
	for period, opens := range map[string]string{
		"daily": "2026-10-26 00:00:00", "weekly": "2026-10-26 00:00:00", "monthly": "2026-11-01 00:00:00", "never": "",
	} {
		t.Run(period, func(t *testing.T) {
			d := startQuotaDay(t, "Europe/Berlin", period, "2026-10-25 00:30:00") // before the clocks are set back
			d.spend(t)
			a := d.say("POST", chatPath, quotaChat)
			u := quotaOf(t, d.limitKey)
			if opens == "" {
				if u.ResetsAt != nil || a.header.Get("Retry-After") != "" || a.header.Get("X-Should-Retry") != "false" {
					t.Errorf("it is told to come back: %+v, %v", u, a.header)
				}
				return
			}
			began := d.clock.now()
			d.set(t, opens)
			left := d.clock.now().Sub(began)
			if u.ResetsAt == nil || !u.ResetsAt.Equal(d.clock.now()) || a.wait(t) < left || a.wait(t) > left+left/9 {
				t.Errorf("told to wait for %v and until %v, it opens in %v", a.wait(t), u.ResetsAt, left)
			}
			if !d.spend(t) {
				t.Error("it does not open")
			}
		})
	}
}

// TestQuotaOfAStreamOverMidnight: a stream counts for the day in which it began,
// in this process, in the journal and in the next process.
func TestQuotaOfAStreamOverMidnight(t *testing.T) {
	leavesNothing(t)
	d := startQuotaDay(t, "Asia/Shanghai", "daily", "2026-11-23 23:59:59")
	c := dialRaw(t, d.addr)
	defer c.Close()
	c.send(d.request("POST", chatPath, fmt.Sprintf(limitChat, `"max_tokens":50,"mock_tokens":50,"stream":true`)))
	if line, err := c.br.ReadString('\n'); !strings.Contains(line, "200") {
		t.Fatalf("%q %v", line, err)
	}
	before := quotaOf(t, d.limitKey)
	d.set(t, "2026-11-24 00:00:01")
	if u := quotaOf(t, d.limitKey); u.Used != 0 || u.Reserved != 0 {
		t.Errorf("the new day begins with %+v", u)
	}
	for line := ""; line != "data: [DONE]\n"; {
		var err error
		if line, err = c.br.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if !d.spend(t) {
		t.Error("the stream used up the next day's quota")
	}
	want := quotaOf(t, d.limitKey)
	d.Close()
	terms := map[int64]int{}
	if _, err := events.Read(d.dir, func(e events.Event) error { terms[e.Record.Period]++; return nil }); err != nil {
		t.Fatal(err)
	}
	if terms[before.StartedAt.UnixNano()] != 1 || terms[want.StartedAt.UnixNano()] != 1 || before.StartedAt.Equal(want.StartedAt) {
		t.Errorf("terms in the journal: %v; the stream began in %v, the other request in %v", terms, before.StartedAt, want.StartedAt)
	}
	d.start(t)
	if u := quotaOf(t, d.limitKey); u.Used != want.Used || !u.StartedAt.Equal(want.StartedAt) || u.Used == 0 {
		t.Errorf("after a restart %+v, before it %+v", u, want)
	}
}
