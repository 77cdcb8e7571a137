package events

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/journal"
)

// live does what a script of words says: s1 starts request 1, m1 marks it, e1
// ends it, v1 voids it. Then all of that is written.
func live(t *testing.T, l *Log, script string) {
	t.Helper()
	for word := range strings.FieldsSeq(script) {
		var n int
		if _, err := fmt.Sscan(word[1:], &n); err != nil {
			t.Fatal(word, err)
		}
		r := request(n)
		switch word[0] {
		case 's':
			if !l.Start(r) {
				t.Fatal("cannot start")
			}
		case 'm':
			l.Mark(r)
		case 'e':
			l.End(r)
		case 'v':
			l.Void(r)
		}
	}
	if !l.flush(l.tail.Load()) {
		t.Fatal("cannot write")
	}
}

func TestRecovery(t *testing.T) {
	for name, c := range map[string]struct {
		before string
		want   []string
	}{
		"nothing is reported of an empty log":          {"", nil},
		"an open request got lost":                     {"s1", []string{"1 interrupted"}},
		"a request that ended is reported again":       {"s1 e1", []string{"1 complete"}},
		"a request that came to no engine is billed":   {"s1 v1", nil},
		"the wrong one of two is open":                 {"s1 s2 e1", []string{"1 complete", "2 interrupted"}},
		"open requests are out of order":               {"s3 s1 s2 s4 e2", []string{"2 complete", "3 interrupted", "1 interrupted", "4 interrupted"}},
		"a mark makes a request":                       {"m1 s2 e2 m2", []string{"2 complete"}},
		"an end without a start gets lost":             {"e1 v2", []string{"1 complete"}},
		"numbers have a gap where a void or a mark is": {"s1 s2 v1 m2 e2 s3 e3", []string{"2 complete", "3 complete"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			live(t, openTest(t, dir, journal.Options{}), c.before)
			for range 3 { // once and for all
				dir = killed(t, dir)
				openTest(t, dir, journal.Options{})
				if got := recorded(t, dir); !slices.Equal(got, c.want) {
					t.Fatalf("got %q, want %q", got, c.want)
				}
			}
		})
	}
}

func TestInterruptedRequestHasTheTokensOfItsLastMark(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir, journal.Options{})
	r := request(7)
	r.Period = 1_800_000_000_000_000_000
	r.Prompt, r.Completion, r.Total, r.TTFT, r.Duration = 0, 0, 0, 0, 0
	l.Start(r)
	for n := int64(1); n <= 3; n++ {
		r.Prompt, r.Cached, r.Completion, r.Reasoning, r.Seconds = 100, 60, 10*n, n, 1.5
		r.TTFT, r.Duration = time.Second, time.Duration(n)*time.Second
		l.Mark(r)
	}
	l.flush(l.tail.Load())
	dir = killed(t, dir)
	openTest(t, dir, journal.Options{})
	want := *request(7)
	want.Period = r.Period
	want.Outcome, want.Estimated = Interrupted, true
	want.Prompt, want.Cached, want.Completion, want.Reasoning, want.Total, want.Seconds = 100, 60, 30, 3, 130, 1.5
	want.TTFT, want.Duration, want.Ended = time.Second, 3*time.Second, want.Started.Add(3*time.Second)
	if _, err := Read(dir, func(e Event) error {
		if e.Record != want {
			t.Errorf("got %+v\nwant %+v", e.Record, want)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestKilledDuringRecovery cuts what a recovery wrote short, anywhere, and
// recovers again: every request exactly once, under one number.
func TestKilledDuringRecovery(t *testing.T) {
	dir := t.TempDir()
	live(t, openTest(t, dir, journal.Options{}), "s1 s2 e2 s3 s4 s5 m3")
	dir = killed(t, dir)
	before := segmentSize(t, dir)
	openTest(t, dir, journal.Options{})
	dir = killed(t, dir)
	after := segmentSize(t, dir)
	want := recorded(t, dir)
	for size := before; size <= after; size += 37 {
		again := killed(t, dir)
		if err := os.Truncate(segment(t, again), size); err != nil {
			t.Fatal(err)
		}
		openTest(t, again, journal.Options{}).Close()
		if got := recorded(t, again); !slices.Equal(got, want) {
			t.Fatalf("killed at byte %d of %d: got %q, want %q", size-before, after-before, got, want)
		}
	}
}

// segment is the newest file of the journal.
func segment(t *testing.T, dir string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, journalDir, "0*.journal"))
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	return paths[len(paths)-1]
}

func segmentSize(t *testing.T, dir string) int64 {
	t.Helper()
	info, err := os.Stat(segment(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// TestDamageDoesNotStopTheStart: the last record is damaged, and nothing is
// behind it. Whoever waits for it waits for ever.
func TestDamageDoesNotStopTheStart(t *testing.T) {
	dir := t.TempDir()
	live(t, openTest(t, dir, journal.Options{SegmentSize: 600}), "s1 e1 s2 e2")
	dir = killed(t, dir)
	if err := os.Truncate(segment(t, dir), 28); err != nil { // its header
		t.Fatal(err)
	}
	paths, _ := filepath.Glob(filepath.Join(dir, journalDir, "0*.journal"))
	path := paths[len(paths)-2]
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)-1] ^= 1
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	l := openTest(t, dir, journal.Options{})
	if got := l.Stats(); got.Recorded == 0 {
		t.Errorf("%+v", got)
	}
	live(t, l, "s3 e3")
}

// TestUnreadableRecordsArePassedOver: they are of another version, or a bug's.
func TestUnreadableRecordsArePassedOver(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir, journal.Options{})
	live(t, l, "s1")
	var b journal.Batch
	for _, raw := range [][]byte{{}, {byte(kindEnd)}, {byte(kindEnd), version + 1, 1, 2, 3}, {99, version}, request(5).append(nil, kindStart)[:40]} {
		if err := b.Add(raw); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.journal.Write(&b); err != nil {
		t.Fatal(err)
	}
	live(t, l, "s2 e2")
	dir = killed(t, dir)
	var log strings.Builder
	l, err := Open(dir, journal.Options{}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got, want := recorded(t, dir), []string{"2 complete", "1 interrupted"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := l.Stats().Skipped; got != 5 || strings.Count(log.String(), "cannot be read") != 1 {
		t.Errorf("skipped %d, logged %s", got, log.String())
	}
}

// TestRecordedByTheFirstVersion: a gateway is updated, and goes on with what the
// one before it has written, which is in testdata as it was left by a kill.
func TestRecordedByTheFirstVersion(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/v1")); err != nil {
		t.Fatal(err)
	}
	l := openTest(t, dir, journal.Options{})
	tail := l.Tail()
	live(t, l, "s5 e5")
	if got, want := recorded(t, dir), []string{"1 complete", "3 complete", "2 interrupted", "5 complete"}; !slices.Equal(got, want) || l.Stats().Skipped != 0 {
		t.Errorf("got %q, want %q; %d are passed over", got, want, l.Stats().Skipped)
	}
	written(t, l)
	if _, err := tail.Each(func(e Event) {
		want := *request(number(e.Record))
		if e.Record.Outcome == Interrupted {
			want.Outcome, want.Estimated = Interrupted, true
		}
		if e.Record != want {
			t.Errorf("got %+v, want %+v", e.Record, want)
		}
	}); err != nil {
		t.Error(err)
	}
	r := newReceiver(t, ok)
	deliver(t, l, r.URL)
	waitFor(t, "all events", r.has(4))
}

// TestRecoveryOnAFullDisk: a gateway that does not start can deliver nothing, and
// the journal stays full.
func TestRecoveryOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir, small())
	started := fill(t, l)
	dir = killed(t, dir)
	l = openTest(t, dir, small())
	if !l.Failing() || l.Start(request(0)) {
		t.Error("the journal is full, and requests may begin")
	}
	again := killed(t, dir) // nothing could be written: they are all still open
	if l = openTest(t, again, journal.Options{}); l.Failing() {
		t.Error("the journal has room, and the log fails")
	}
	if got := len(recorded(t, again)); got != started {
		t.Errorf("%d of %d interrupted requests are reported", got, started)
	}
}

func TestMoreInterruptedThanTheRingHolds(t *testing.T) {
	const more = ringSize + 100
	dir := t.TempDir()
	l := openTest(t, dir, journal.Options{})
	for n := range more {
		l.put(request(n), kindStart)
	}
	l.flush(more)
	dir = killed(t, dir)
	openTest(t, killed(t, dir), journal.Options{MaxSize: 1}) // must not wait
	openTest(t, dir, journal.Options{})
	if got := len(recorded(t, dir)); got != more {
		t.Errorf("%d of %d are reported", got, more)
	}
}

func TestNodeAndFilesAreKept(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir, journal.Options{})
	node := l.Node()
	live(t, l, "s1 e1")
	l.Close()
	if l = openTest(t, dir, journal.Options{}); l.Node() != node || len(node) != 16 {
		t.Errorf("node %q, before %q", l.Node(), node)
	}
	for _, name := range []string{"node", journalDir} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: others may read it: %v %v", name, info.Mode(), err)
		}
	}
}
