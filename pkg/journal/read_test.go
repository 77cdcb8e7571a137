package journal

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestReaderFollowsAcrossRotationAndRestart(t *testing.T) {
	dir := t.TempDir()
	const n = 300
	for start := range 3 { // numbers go on; the reader goes on where the last one acknowledged
		j := openTest(t, dir, Options{SegmentSize: 512, SyncEvery: time.Millisecond})
		first := start*n + 1
		go func() {
			for i := first; i < first+n; i += 3 {
				if err := j.Write(batch(numbered(i, i+2)...)); err != nil {
					t.Error(err)
				}
			}
		}()
		r := j.Reader(j.Acked())
		for i := first; i < first+n; i++ {
			wantNext(t, r, uint64(i), strconv.Itoa(i))
			if i%7 == 0 || i == first+n-1 {
				if err := j.Ack(uint64(i)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if records, bytes, oldest := j.Backlog(); records != 0 || bytes != 0 || !oldest.IsZero() {
			t.Errorf("all is acknowledged, the backlog is %d records, %d bytes, since %v", records, bytes, oldest)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.Next(t.Context()); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Next on a closed journal: %v", err)
		}
	}
	got, r := scanned(t, dir)
	if !slices.Equal(got, numbered(1, 3*n)) || r.Segments < 3 || r.Torn != 0 || r.Corrupt != nil {
		t.Errorf("scanned %d records, %+v", len(got), r)
	}
}

// TestTryNext never waits: not before there is a record, not for one that a power
// loss could take, and not behind the last one of a closed journal.
func TestTryNext(t *testing.T) {
	j := openTest(t, t.TempDir(), Options{SegmentSize: 256, SyncEvery: time.Hour})
	r := j.Reader(0)
	try := func(want uint64, wantErr error) {
		t.Helper()
		seq, record, err := r.TryNext()
		if seq != want || !errors.Is(err, wantErr) || want > 0 && string(record) != strconv.FormatUint(want, 10) {
			t.Fatalf("got record %d, %q, %v, want %d, %v", seq, record, err, want, wantErr)
		}
	}
	try(0, nil)
	write(t, j, "1")
	wantNext(t, j.Reader(0), 1, "1") // now it is synced, and nothing will be for an hour
	try(1, nil)
	write(t, j, "2")
	try(0, nil)
	if err := j.Flush(); err != nil {
		t.Fatal(err)
	}
	try(2, nil)
	write(t, j, "3")
	try(0, nil)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	try(3, nil)
	try(0, os.ErrClosed)
	try(0, os.ErrClosed)
	if err := j.Flush(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Flush of a closed journal: %v", err)
	}
}

func TestReaderStartsInTheMiddle(t *testing.T) {
	j := openTest(t, t.TempDir(), Options{SegmentSize: 256, Sync: SyncOS})
	for i := 1; i <= 50; i++ {
		write(t, j, strconv.Itoa(i))
	}
	for after := range 50 {
		wantNext(t, j.Reader(uint64(after)), uint64(after+1), strconv.Itoa(after+1))
	}
}

func TestNextWaitsNoLongerThanItsContext(t *testing.T) {
	j := openTest(t, t.TempDir(), Options{})
	r := j.Reader(0)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, _, err := r.Next(ctx)
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	write(t, j, "later")
	wantNext(t, r, 1, "later")
}

func TestRetention(t *testing.T) {
	cases := []struct {
		name      string
		retention time.Duration
		acked     uint64
		left      func(segments int) bool
	}{
		{"an acknowledged segment went before its time", time.Hour, 30, func(n int) bool { return n > 5 }},
		{"an acknowledged segment stays for ever", time.Nanosecond, 30, func(n int) bool { return n < 7 }},
		{"a record went that was not acknowledged", time.Nanosecond, 0, func(n int) bool { return n > 5 }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			j := openTest(t, dir, Options{SegmentSize: 128, Retention: c.retention, Sync: SyncOS})
			for i := 1; i <= 30; i++ {
				write(t, j, strconv.Itoa(i))
			}
			for _, seq := range []uint64{c.acked / 2, c.acked} {
				if err := j.Ack(seq); err != nil {
					t.Fatal(err)
				}
			}
			if got := segments(t, dir); !c.left(len(got)) {
				t.Errorf("%d segments are left", len(got))
			}
			j.Close()
			j = openTest(t, dir, Options{}) // numbers go on although the files have gone
			write(t, j, "31")
			if j.Last() != 31 || j.Acked() != c.acked {
				t.Errorf("last %d, acknowledged %d", j.Last(), j.Acked())
			}
		})
	}
}

func TestAckedOldSegmentsGoAfterRestart(t *testing.T) {
	dir := t.TempDir()
	j := openTest(t, dir, Options{SegmentSize: 128})
	for i := 1; i <= 30; i++ {
		write(t, j, strconv.Itoa(i))
	}
	before := len(segments(t, dir))
	if err := j.Ack(20); err != nil {
		t.Fatal(err)
	}
	j.Close()
	yesterday := time.Now().Add(-25 * time.Hour)
	for _, path := range segments(t, dir)[:2] {
		if err := os.Chtimes(path, yesterday, yesterday); err != nil {
			t.Fatal(err)
		}
	}
	openTest(t, dir, Options{})
	if got := len(segments(t, dir)); got != before-2 {
		t.Errorf("%d of %d segments are left, want two to have gone", got, before)
	}
}

func TestMaxSizeActsLikeAFullDisk(t *testing.T) {
	j := openTest(t, t.TempDir(), Options{MaxSize: 10 * (frameSize + 100), Sync: SyncOS})
	record := strings.Repeat("x", 100)
	for range 10 {
		write(t, j, record)
	}
	var failed *WriteError
	if err := j.Write(batch(record)); !errors.As(err, &failed) || !strings.Contains(err.Error(), "limit") || !j.Failing() {
		t.Fatalf("got %v, failing %v", err, j.Failing())
	}
	if records, bytes, oldest := j.Backlog(); records != 10 || bytes != 10*(frameSize+100) || time.Since(oldest) > time.Minute {
		t.Errorf("the backlog is %d records, %d bytes, since %v", records, bytes, oldest)
	}
	if err := j.Ack(3); err != nil {
		t.Fatal(err)
	}
	if records, bytes, _ := j.Backlog(); records != 7 || bytes != 7*(frameSize+100) || j.Failing() {
		t.Errorf("the backlog is %d records, %d bytes, failing %v", records, bytes, j.Failing())
	}
	write(t, j, record, record, record)
	if err := j.Write(batch(record)); err == nil {
		t.Error("more than MaxSize was written")
	}
	if got := j.Stats(); got.Records != 13 || got.Bytes != 13*(frameSize+100) || got.WriteErrors != 2 {
		t.Errorf("%+v", got)
	}
}

func TestAckRefusesWhatWasNeverWritten(t *testing.T) {
	j := openTest(t, t.TempDir(), Options{})
	write(t, j, "1", "2")
	if err := j.Ack(3); err == nil {
		t.Error("a record that does not exist was acknowledged")
	}
	for _, seq := range []uint64{2, 1} { // going back changes nothing
		if err := j.Ack(seq); err != nil || j.Acked() != 2 {
			t.Errorf("Ack(%d): %v, acknowledged %d", seq, err, j.Acked())
		}
	}
}
