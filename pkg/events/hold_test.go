package events

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/journal"
)

// each is what a Tail gives now, as "event:number outcome", and the last event.
func each(t testing.TB, tail *Tail) (got []string, last uint64) {
	t.Helper()
	last, err := tail.Each(func(e Event) {
		got = append(got, fmt.Sprintf("%d:%d %s", e.Number, number(e.Record), e.Record.Outcome))
	})
	if err != nil {
		t.Fatal(err)
	}
	return got, last
}

// written waits until a Reader sees all that is written.
func written(t testing.TB, l *Log) {
	t.Helper()
	if last := l.journal.Last(); last > 0 {
		if _, _, err := l.journal.Reader(last - 1).Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// fileGone removes a file of a data directory.
func fileGone(name string) func(string) {
	return func(dir string) { os.RemoveAll(filepath.Join(dir, name)) }
}

// TestTailAfterAKill: what was held never comes again, and all else comes once,
// what the recovery writes included.
func TestTailAfterAKill(t *testing.T) {
	for name, c := range map[string]struct {
		before string
		hold   bool
		after  string
		spoil  func(dir string)
		want   []string
	}{
		"nothing there":            {"", false, "", nil, nil},
		"nothing held":             {"s1 e1", false, "s2 e2", nil, []string{"1:1 complete", "2:2 complete"}},
		"all held":                 {"s1 e1 s2 e2", true, "", nil, nil},
		"some held":                {"s1 e1 s2 e2", true, "s3 e3 s4 e4", nil, []string{"3:3 complete", "4:4 complete"}},
		"an open one is forgotten": {"s1 m1 s2 e2", true, "", nil, []string{"2:1 interrupted"}},
		"an open one comes first":  {"s1 s2 e2", true, "s3 e3 s4", nil, []string{"2:3 complete", "3:1 interrupted", "4:4 interrupted"}},
		"a void is an event":       {"s1 e1 s2 v2", true, "s3 v3", nil, nil},
		"the open one held as well, and the journal not told": {
			"s1 e1 s2 e2", true, "s3",
			fileGone(journalDir + "/cursor"),
			[]string{"3:3 interrupted"},
		},
		"numbers begin anew when the journal is lost": {"s1 e1 s2 e2", true, "", fileGone(journalDir), nil},
		"the number is lost: what the journal has comes, or goes by what it was told": {
			"s1 e1 s2 e2", true, "s3 e3",
			fileGone(heldFile),
			[]string{"3:3 complete"},
		},
		"both are lost: all comes again": {
			"s1 e1", true, "s3 e3",
			func(dir string) { fileGone(heldFile)(dir); fileGone(journalDir + "/cursor")(dir) },
			[]string{"1:1 complete", "2:3 complete"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := openTest(t, dir, journal.Options{})
			l.NoDelivery()
			tail := l.Tail()
			live(t, l, c.before)
			events := uint64(0)
			if c.hold {
				written(t, l)
				_, events = each(t, tail)
				l.Hold(events)
			}
			live(t, l, c.after)
			dir = killed(t, dir)
			if c.spoil != nil {
				c.spoil(dir)
			}
			for range 2 { // a start that ends before the first Hold changes nothing
				l = openTest(t, dir, journal.Options{SyncEvery: time.Hour})
				l.NoDelivery()
				tail = l.Tail()
				got, last := each(t, tail)
				if !slices.Equal(got, c.want) {
					t.Fatalf("got %q, want %q", got, c.want)
				}
				if again, same := each(t, tail); again != nil || same != last {
					t.Errorf("again %q up to %d", again, same)
				}
				if recorded := l.Stats().Recorded; recorded != max(last, events) {
					t.Errorf("%d events are recorded, the last is %d, held was %d", recorded, last, events)
				}
				dir = killed(t, dir)
			}
		})
	}
}

// TestWhoLetsGo: the journal keeps what any of them needs, and nothing for who is
// not there.
func TestWhoLetsGo(t *testing.T) {
	const events = 10
	for name, c := range map[string]struct {
		nobody, tail      bool
		delivered, held   uint64 // events
		acked             uint64 // records, two for an event
		backlog           uint64 // events
		backlogOfARestart uint64
	}{
		"a delivery alone":                           {false, false, 7, 0, 14, 3, 3},
		"a tail that lags":                           {false, true, 7, 4, 8, 3, 3},
		"a tail that holds everything":               {false, true, 7, 0, 0, 3, 3},
		"a delivery that lags":                       {false, true, 2, 9, 4, 8, 8},
		"a delivery that did not begin":              {false, true, 0, 9, 0, 10, 10},
		"nobody delivers":                            {true, true, 0, 9, 18, 0, 1},
		"nobody delivers, and nothing is held":       {true, true, 0, 0, 0, 0, 10},
		"nobody delivers, not even what was already": {true, true, 3, 9, 18, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := openTest(t, dir, journal.Options{})
			if c.nobody {
				l.NoDelivery()
			}
			for n := range events {
				live(t, l, fmt.Sprintf("s%d e%d", n, n))
				written(t, l)
				if c.tail {
					each(t, l.Tail()) // each begins anew
				}
			}
			d := delivery{log: l, reader: l.journal.Reader(0)}
			for range c.delivered {
				e, err := d.next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if err := d.ack(e.Seq); err != nil {
					t.Fatal(err)
				}
			}
			l.Hold(c.held)
			if c.held > 0 {
				l.Hold(c.held - 1) // changes nothing
			}
			if got := l.journal.Acked(); got != c.acked || l.Stats().Backlog != c.backlog {
				t.Errorf("let go of %d records, want %d; backlog %d, want %d", got, c.acked, l.Stats().Backlog, c.backlog)
			}
			again := openTest(t, killed(t, dir), journal.Options{})
			if got := again.Stats(); got.Backlog != c.backlogOfARestart || got.Recorded != events {
				t.Errorf("after a restart %+v, want a backlog of %d", got, c.backlogOfARestart)
			}
			if got, _ := each(t, again.Tail()); len(got) != int(events-max(c.held, c.acked/2)) {
				t.Errorf("after a restart %q come again", got)
			}
		})
	}
}

// TestTailAmongDeliveries: a Tail gives each event once, in order, while requests
// end and deliveries come and go, and neither takes what the other still needs.
func TestTailAmongDeliveries(t *testing.T) {
	const events = 3000
	l := openTest(t, t.TempDir(), journal.Options{SegmentSize: 16 << 10, Retention: 1, SyncEvery: time.Millisecond})
	tail, r := l.Tail(), newReceiver(t, ok)
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for n := g; n < events; n += 4 {
				l.Start(request(n))
				l.End(request(n))
			}
		})
	}
	all.Go(func() {
		for n := 1; n < events; n += 500 {
			stop := deliver(t, l, r.URL)
			waitFor(t, "some events", r.has(n))
			stop()
		}
	})
	given := uint64(0)
	waitFor(t, "all events", func() bool {
		last, err := tail.Each(func(e Event) {
			if given++; e.Number != given {
				t.Errorf("event %d came as number %d", e.Number, given)
			}
		})
		if err != nil || last != given {
			t.Errorf("gave %d events up to %d, %v", given, last, err)
		}
		l.Hold(given - given%7) // not always all
		return given == events
	})
	all.Wait()
	deliver(t, l, r.URL)
	waitFor(t, "the last answer", func() bool { return l.Stats().Backlog == 0 })
	l.Hold(given)
	waitFor(t, "all to be let go of", func() bool { return l.Stats().BacklogBytes == 0 })
	if s := l.Stats(); s.Skipped != 0 {
		t.Errorf("%+v", s)
	}
}

// TestHoldOfWhatWasNotRead goes by what was: else records of later events go.
func TestHoldOfWhatWasNotRead(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir, journal.Options{})
	l.NoDelivery()
	tail := l.Tail()
	live(t, l, "e1 e2")
	written(t, l)
	each(t, tail)
	live(t, l, "e3 e4 e5 s6 v6")
	written(t, l)
	l.Hold(4)
	if got := l.journal.Acked(); got != 2 {
		t.Errorf("let go of %d records, want 2", got)
	}
	if got, _ := each(t, tail); len(got) != 3 {
		t.Errorf("got %q, want three", got)
	}
	if got, _ := each(t, openTest(t, killed(t, dir), journal.Options{}).Tail()); !slices.Equal(got, []string{"5:5 complete"}) {
		t.Errorf("got %q", got)
	}
	live(t, l, "s7 v7")
	written(t, l)
	each(t, tail)
	l.Hold(5)
	if got := l.journal.Acked(); got != 9 { // with what comes after the event and is none
		t.Errorf("let go of %d records, want 9", got)
	}
}

// TestDeliveryAfterAll: the journal must not let go of what waits for it.
func TestDeliveryAfterAll(t *testing.T) {
	l := openTest(t, t.TempDir(), journal.Options{})
	l.NoDelivery()
	tail := l.Tail()
	for n, want := range []uint64{1, 1, 1} {
		live(t, l, fmt.Sprint("e", n))
		written(t, l)
		_, last := each(t, tail)
		l.Hold(last)
		if got := l.journal.Acked(); got != want {
			t.Errorf("let go of %d records, want %d", got, want)
		}
		l.deliverFrom()
	}
}

// TestJournalLostButNotTheTotals: events numbered from 1 on would be taken for old
// ones, and what they used would count for nobody.
func TestJournalLostButNotTheTotals(t *testing.T) {
	var log strings.Builder
	dir := t.TempDir()
	l, err := Open(dir, journal.Options{}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tail := l.Tail()
	l.Hold(41)
	live(t, l, "s1 e1")
	written(t, l)
	if got, last := each(t, tail); last != 42 || !slices.Equal(got, []string{"42:1 complete"}) {
		t.Errorf("got %q", got)
	}
	if !strings.Contains(log.String(), "has lost events") {
		t.Errorf("logged %q", log.String())
	}
	live(t, openTest(t, killed(t, dir), journal.Options{}), "s2 e2")
}

// TestHoldThatCannotBeKept keeps everything, says so once, and is made up for.
func TestHoldThatCannotBeKept(t *testing.T) {
	var log strings.Builder
	dir := t.TempDir()
	l, err := Open(dir, journal.Options{}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.NoDelivery()
	tail := l.Tail()
	live(t, l, "e1 e2 e3")
	written(t, l)
	each(t, tail)
	if err := os.Mkdir(filepath.Join(dir, heldFile), 0o700); err != nil {
		t.Fatal(err)
	}
	l.Hold(2)
	l.Hold(3)
	if got := strings.Count(log.String(), "cannot let go"); got != 1 || l.journal.Acked() != 0 {
		t.Errorf("told %d times, let go of %d records", got, l.journal.Acked())
	}
	os.Remove(filepath.Join(dir, heldFile))
	l.Hold(3)
	if got := l.journal.Acked(); got != 3 {
		t.Errorf("let go of %d records, want 3", got)
	}
}

// TestDeliveryTurnedOff and on again: the events that were not delivered can be
// read for as long as the retention says, and only later ones are delivered.
func TestDeliveryTurnedOff(t *testing.T) {
	dir := t.TempDir()
	live(t, openTest(t, dir, journal.Options{}), "e1 e2 e3")
	if err := writeNumber(filepath.Join(dir, deliveredFile), 1); err != nil {
		t.Fatal(err)
	}

	dir = killed(t, dir)
	var log strings.Builder
	l, err := Open(dir, journal.Options{}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.NoDelivery()
	if !strings.Contains(log.String(), "events=2") {
		t.Errorf("nobody is told of 2 events that wait: %q", log.String())
	}
	tail := l.Tail()
	live(t, l, "e4")
	written(t, l)
	_, last := each(t, tail)
	l.Hold(last)
	live(t, l, "e5")
	if got := recorded(t, dir); len(got) != 5 {
		t.Errorf("read %q", got)
	}

	again := openTest(t, killed(t, dir), journal.Options{})
	if s := again.Stats(); s.Backlog != 1 || s.Recorded != 5 {
		t.Errorf("%+v", s)
	}
	d := delivery{log: again, reader: again.journal.Reader(again.deliverFrom())}
	if e, err := d.next(t.Context()); err != nil || e.Seq != 5 {
		t.Errorf("delivered is %d, %v", e.Seq, err)
	}
}

func TestTailEndsWithTheLog(t *testing.T) {
	l := openTest(t, t.TempDir(), journal.Options{})
	tail := l.Tail()
	live(t, l, "e1")
	l.Close()
	given := 0
	for range 2 {
		if last, err := tail.Each(func(Event) { given++ }); last != 1 || given != 1 || !strings.Contains(fmt.Sprint(err), "closed") {
			t.Errorf("gave %d events up to %d, %v", given, last, err)
		}
	}
	l.Hold(1) // must return
}
