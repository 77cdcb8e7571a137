package events

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/journal"
)

// request is the record of request number n.
func request(n int) *Record {
	r := &Record{
		KeyID: "k_7f3a", Name: "research", UserID: "u-1", Asked: "llama-3.3-70b", Served: "meta-llama/Llama-3.3-70B-Instruct",
		Backend: "h100-1", Endpoint: "/v1/chat/completions", Streamed: true, Status: 200, Attempts: 1,
		Prompt: int64(n), Completion: 2, Total: int64(n) + 2, TTFT: 80 * time.Millisecond, Duration: time.Second,
		Started: time.Date(2025, 11, 23, 8, 0, 0, 0, time.UTC),
	}
	r.Ended = r.Started.Add(r.Duration)
	binary.BigEndian.PutUint64(r.ID[8:], uint64(n))
	return r
}

var quiet = slog.New(slog.DiscardHandler)

// number is the inverse of request.
func number(r Record) int { return int(binary.BigEndian.Uint64(r.ID[8:])) }

func openTest(t testing.TB, dir string, o journal.Options) *Log {
	t.Helper()
	l, err := Open(dir, o, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// killed is a directory as it would be if the process died now: without what is
// only in memory.
func killed(t *testing.T, dir string) string {
	t.Helper()
	after := t.TempDir()
	if err := os.CopyFS(after, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return after
}

// recorded is what Read finds, as "number outcome" in their order; they must be
// numbered without gaps from 1 on.
func recorded(t *testing.T, dir string) (got []string) {
	t.Helper()
	report, err := Read(dir, func(e Event) error {
		if e.Number != uint64(len(got)+1) {
			t.Errorf("event %d has number %d", len(got)+1, e.Number)
		}
		got = append(got, fmt.Sprint(number(e.Record), " ", e.Record.Outcome))
		return nil
	})
	if err != nil || report.Corrupt != nil {
		t.Fatal(report, err)
	}
	return got
}

// waitFor looks until cond holds.
func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	timeout := time.After(10 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// fill makes a log fail whose journal is small, and returns how many requests
// could begin before that.
func fill(t *testing.T, l *Log) (started int) {
	t.Helper()
	for l.Start(request(started + 1)) {
		if started++; started > 10_000 {
			t.Fatal("the journal never gets full")
		}
	}
	if !l.Failing() {
		t.Fatal("a start was refused, and the log does not fail")
	}
	for !l.failing.Load() { // there was room for ends
		l.Void(request(0))
		l.flush(l.tail.Load())
	}
	return started
}

// mend makes it writable again.
func mend(t *testing.T, l *Log) {
	t.Helper()
	if err := l.journal.Ack(l.journal.Last()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the log to recover by itself", func() bool { return !l.Failing() })
}

// small is a journal that is full soon, which can take a whole batch.
func small() journal.Options { return journal.Options{Sync: journal.SyncOS, MaxSize: 1 << 20} }

func TestRefusedStartIsNeverReported(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir, small())
	started := fill(t, l)
	for n := range 100 {
		if l.Start(request(started + 2 + n)) {
			t.Error("a request began while the journal failed")
		}
	}
	mend(t, l)
	if !l.Start(request(9999)) {
		t.Fatal("the journal can be written again, and no request may begin")
	}
	l = openTest(t, killed(t, dir), small())
	if got := recorded(t, l.dir); l.Stats().Skipped != 0 || len(got) != 1 || got[0] != "9999 interrupted" { // mend has acknowledged what began before
		t.Errorf("got %q, want only the one that began after the failure", got)
	}
}

func TestStartsThatFailTogetherAreTakenBack(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir, small())
	var mu sync.Mutex
	began := map[string]bool{}
	var all sync.WaitGroup
	for g := range 16 {
		all.Go(func() {
			for n := g * 1000; !l.failing.Load(); n++ {
				if l.begin(request(n)) { // not Start, which would not try
					mu.Lock()
					began[fmt.Sprint(n, " interrupted")] = true
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	l.journal.Close() // so that nothing more is written, not by Close either
	after := killed(t, dir)
	openTest(t, after, journal.Options{})
	for _, got := range recorded(t, after) {
		if !began[got] {
			t.Errorf("reported %q, which never began", got)
		}
		delete(began, got)
	}
	if len(began) > 0 {
		t.Errorf("never reported: %v", began)
	}
}

func TestEndsWaitForTheJournal(t *testing.T) {
	const waiting = 10
	dir := t.TempDir()
	l := openTest(t, dir, small())
	fill(t, l)
	held := int(l.tail.Load() - l.written.Load())
	for range ringSize { // must not take the places of ends
		l.Mark(request(1))
	}
	var ended atomic.Int64
	end := func(n int) {
		l.End(request(n))
		ended.Add(1)
	}
	for n := range ringSize - held {
		end(n)
	}
	var all sync.WaitGroup
	for n := range waiting {
		all.Go(func() { end(ringSize - held + n) })
	}
	waitFor(t, "all to have a place in the queue", func() bool { return l.tail.Load() == l.written.Load()+ringSize+waiting })
	if got := ended.Load(); got != int64(ringSize-held) {
		t.Errorf("%d requests ended, there is room for %d", got, ringSize-held)
	}
	waitFor(t, "all to be recorded", func() bool { // it gets full again and again
		return l.journal.Ack(l.journal.Last()) == nil && l.written.Load() == l.tail.Load()
	})
	all.Wait()
	if got := int(l.Stats().Recorded); got != ringSize-held+waiting {
		t.Errorf("%d events, want %d", got, ringSize-held+waiting)
	}
	if got := len(recorded(t, dir)); got != ringSize-held+waiting {
		t.Errorf("read %d events", got)
	}
}

func TestCloseWhileBusy(t *testing.T) {
	for name, o := range map[string]journal.Options{"writable": {}, "full": small()} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := openTest(t, dir, o)
			var mu sync.Mutex
			ended := map[string]bool{}
			var all sync.WaitGroup
			var first sync.WaitGroup
			first.Add(32)
			for g := range 32 {
				all.Go(func() {
					began := sync.OnceFunc(first.Done)
					defer began()
					for n := g * 1_000_000; l.Start(request(n)); n++ {
						l.Mark(request(n))
						l.End(request(n))
						if !l.Failing() && name == "writable" {
							mu.Lock()
							ended[fmt.Sprint(n, " complete")] = true
							mu.Unlock()
						}
						began()
					}
				})
			}
			first.Wait()
			err := l.Close()
			all.Wait()
			if l.Start(request(1)) {
				t.Error("a request began on a closed log")
			}
			l.End(request(1)) // must return
			l.Void(request(1))
			if name == "writable" && l.Failing() {
				t.Error("a closed log is taken for a disk that fails")
			}
			if again := l.Close(); again != nil && err == nil && l.tail.Load() == l.written.Load() {
				t.Error(again)
			}
			for _, got := range recorded(t, dir) {
				delete(ended, got)
			}
			// What ended after Close is none of its business.
			if len(ended) > 32 {
				t.Errorf("%d ends are lost", len(ended))
			}
		})
	}
}

func TestCloseOfAFullRing(t *testing.T) {
	l := openTest(t, t.TempDir(), small())
	fill(t, l)
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for n := range ringSize / 7 {
				l.End(request(g*ringSize + n))
			}
		})
	}
	waitFor(t, "the ring to be full", func() bool { return l.tail.Load() > ringSize })
	if err := l.Close(); err == nil || !strings.Contains(err.Error(), "are lost") {
		t.Errorf("Close: %v", err)
	}
	all.Wait()
}

func TestLongRecordsDoNotStayInMemory(t *testing.T) {
	l := openTest(t, t.TempDir(), journal.Options{Sync: journal.SyncOS})
	r := request(1)
	for _, s := range []*string{&r.Name, &r.UserID, &r.Asked, &r.Served} {
		*s = strings.Repeat("x", 10<<10)
	}
	l.End(r)
	for i := range l.slots {
		if got := cap(l.slots[i].buf); got > maxSlotSize {
			t.Fatalf("a place keeps %d bytes", got)
		}
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	openTest(t, dir, journal.Options{})
	if _, err := Open(dir, journal.Options{}, quiet); err == nil || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("a log was opened twice: %v", err)
	}
	dir = t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, deliveredFile), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, journal.Options{}, quiet); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("an unreadable file: %v", err)
	}
	os.Remove(filepath.Join(dir, deliveredFile))
	openTest(t, dir, journal.Options{}) // the failure before gave the journal free
}
