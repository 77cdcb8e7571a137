package events

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/journal"
	"github.com/llmproxy/llmproxy/pkg/webhook"
)

// told is an event as a receiver reads it.
type told struct {
	ID, Source, Sequence string
	Data                 struct {
		Outcome          string
		PromptTokens     int64 `json:"prompt_tokens"`
		CompletionTokens int64 `json:"completion_tokens"`
	}
}

// receiver is a billing system that remembers the bytes of each event it got.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	events []told            // each once, in the order in which it first came
	bytes  map[string]string // by id
	twice  int               // how many came again
	batch  int               // the events of the largest batch
}

// newReceiver starts a receiver. answer says what is answered after the events of
// a request are kept: 0 tears the connection.
func newReceiver(t testing.TB, answer func() int) *receiver {
	r := &receiver{bytes: map[string]string{}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		r.keep(t, body)
		status := answer()
		if status == 0 {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(r.Close)
	return r
}

func ok() int { return http.StatusNoContent }

func (r *receiver) keep(t testing.TB, body []byte) {
	var raw []json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil {
		t.Errorf("%v in %s", err, body)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batch = max(r.batch, len(raw))
	for _, b := range raw {
		var e told
		if err := json.Unmarshal(b, &e); err != nil {
			t.Errorf("%v in %s", err, b)
		}
		if before, again := r.bytes[e.ID]; again {
			if r.twice++; before != string(b) {
				t.Errorf("an event came again and was not the same:\n%s\n%s", before, b)
			}
			continue
		}
		if want := fmt.Sprintf("%020d", len(r.events)+1); e.Sequence != want {
			t.Errorf("event %s came as number %s", e.Sequence, want)
		}
		r.bytes[e.ID] = string(b)
		r.events = append(r.events, e)
	}
}

// has says whether so many events came.
func (r *receiver) has(n int) func() bool {
	return func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.events) >= n
	}
}

func newSender(url, node, dead string) (*webhook.Sender, error) {
	return webhook.New(webhook.Config{
		URL: url, Node: node, DeadLetter: dead, MaxEvents: 50, MaxAge: time.Millisecond,
		Jitter: func() float64 { return 0 }, // no pauses
	})
}

func senderTo(t testing.TB, url, node string) *webhook.Sender {
	t.Helper()
	s, err := newSender(url, node, filepath.Join(t.TempDir(), "dead"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// deliver runs l's delivery to a receiver until stop is called.
func deliver(t testing.TB, l *Log, url string) (stop func()) {
	t.Helper()
	return deliverBy(t, l, senderTo(t, url, l.Node()))
}

func deliverBy(t testing.TB, l *Log, s *webhook.Sender) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := l.Deliver(ctx, s); err != nil {
			t.Error(err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

// TestDeliverAgainAndAgain restarts the delivery, as reloads do, while requests
// end: the receiver checks that no event is left out, in a wrong place, or other
// bytes than before.
func TestDeliverAgainAndAgain(t *testing.T) {
	const events = 3000
	r := newReceiver(t, ok)
	l := openTest(t, t.TempDir(), journal.Options{SyncEvery: time.Millisecond})
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for n := g; n < events; n += 4 {
				l.Start(request(n))
				l.End(request(n))
			}
		})
	}
	restarts := 0
	for n := 1; n < events; n += 97 {
		stop := deliver(t, l, r.URL)
		waitFor(t, "some events", r.has(n))
		stop()
		restarts++
	}
	all.Wait()
	deliver(t, l, r.URL)
	waitFor(t, "all events", r.has(events))
	waitFor(t, "the last answer", func() bool { return l.Stats().Backlog == 0 })
	if r.twice > restarts*r.batch {
		t.Errorf("%d events came again in %d restarts", r.twice, restarts)
	}
	if s := l.Stats(); s.BacklogAge != 0 || s.Recorded != events {
		t.Errorf("%+v", s)
	}
}

// TestReloadDuringDelivery: the delivery after a reload begins before the one
// before it has ended.
func TestReloadDuringDelivery(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	r := newReceiver(t, func() int {
		asked <- struct{}{}
		<-answer
		return http.StatusNoContent
	})
	l := openTest(t, t.TempDir(), journal.Options{})
	live(t, l, "e1 e2 e3")
	stop := deliver(t, l, r.URL)
	<-asked
	deliver(t, l, r.URL)
	go stop()
	close(answer)
	live(t, l, "e4")
	<-asked
	waitFor(t, "the last answer", func() bool { return l.Stats().Backlog == 0 })
	if r.twice != 0 {
		t.Errorf("%d events came again", r.twice)
	}
}

// TestOldRequestHoldsBackNoDelivery: while one is open, others are delivered, now
// and after a restart only once; it is reported if the process dies.
func TestOldRequestHoldsBackNoDelivery(t *testing.T) {
	dir := t.TempDir()
	r := newReceiver(t, ok)
	l := openTest(t, dir, journal.Options{SegmentSize: 4 << 10, Retention: time.Nanosecond})
	live(t, l, "s1 m1")
	stop := deliver(t, l, r.URL)
	for n := 2; n <= 100; n++ {
		live(t, l, fmt.Sprintf("s%d e%d", n, n))
	}
	waitFor(t, "the others", func() bool { return l.Stats().Backlog == 0 })
	stop()
	if s := l.Stats(); l.journal.Acked() != 0 || s.BacklogBytes == 0 || s.BacklogAge != 0 {
		t.Errorf("acknowledged %d, %+v", l.journal.Acked(), s)
	}

	after := killed(t, dir)
	again := openTest(t, after, journal.Options{Retention: time.Nanosecond})
	if s := again.Stats(); s.Backlog != 1 {
		t.Errorf("after a kill: %+v", s)
	}
	deliver(t, again, r.URL)
	waitFor(t, "the interrupted request", r.has(100))
	waitFor(t, "the journal to be let go of", func() bool { return again.Stats().BacklogBytes == 0 })
	if r.twice != 0 || r.events[99].Data.Outcome != "interrupted" {
		t.Errorf("%d events came again, the last is %+v", r.twice, r.events[99])
	}
}

// TestNumbersGoOn over restarts, whatever is left of what was delivered.
func TestNumbersGoOn(t *testing.T) {
	remove := func(names ...string) func(string) {
		return func(dir string) {
			for _, name := range names {
				os.Remove(filepath.Join(dir, name))
			}
		}
	}
	for name, c := range map[string]struct {
		options journal.Options
		spoil   func(dir string)
		backlog uint64
	}{
		"all is delivered":                         {journal.Options{}, remove(), 0},
		"all is delivered, with the system's sync": {journal.Options{Sync: journal.SyncOS}, remove(), 0},
		"all is delivered and removed":             {journal.Options{Retention: 1, SegmentSize: 300}, remove(), 0},
		"a kill before the journal was told":       {journal.Options{}, remove(journalDir + "/cursor"), 0},
		"the journal is lost":                      {journal.Options{}, func(dir string) { os.RemoveAll(filepath.Join(dir, journalDir)) }, 0},
		"the number is lost, not the journal":      {journal.Options{}, remove(deliveredFile, journalDir+"/cursor"), 3},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			r := newReceiver(t, ok)
			l := openTest(t, dir, c.options)
			stop := deliver(t, l, r.URL)
			live(t, l, "s1 s2 e1 v2 s3 e3 s4 e4")
			waitFor(t, "the last answer", func() bool { return l.Stats().Backlog == 0 })
			stop()
			dir = killed(t, dir)
			c.spoil(dir)
			l = openTest(t, dir, c.options)
			if s := l.Stats(); s.Backlog != c.backlog || s.Recorded != 3 {
				t.Errorf("%+v", s)
			}
			live(t, l, "s5 e5")
			deliver(t, l, r.URL)
			waitFor(t, "the event behind them", r.has(4)) // which checks the numbers
			waitFor(t, "the last answer", func() bool { return l.Stats().Backlog == 0 })
			if r.twice != int(c.backlog) {
				t.Errorf("%d events came again, want %d", r.twice, c.backlog)
			}
		})
	}
}

// TestDamagedNumberBringsEventsAgain, and never leaves one out.
func TestDamagedNumberBringsEventsAgain(t *testing.T) {
	dir := t.TempDir()
	live(t, openTest(t, dir, journal.Options{}), "e1 e2 e3")
	if err := writeNumber(filepath.Join(dir, deliveredFile), 2); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(dir, deliveredFile))
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(good) * 8 {
		after := killed(t, dir)
		spoilt := slices.Clone(good)
		spoilt[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(filepath.Join(after, deliveredFile), spoilt, 0o600); err != nil {
			t.Fatal(err)
		}
		l := openTest(t, after, journal.Options{})
		if s := l.Stats(); s.Backlog != 3 || s.Recorded != 3 {
			t.Fatalf("bit %d: %+v", bit, s)
		}
		l.Close()
	}
}

// TestLostNumberBringsBackOnlyWhatIsNotAcknowledged, and the backlog is right.
func TestLostNumberBringsBackOnlyWhatIsNotAcknowledged(t *testing.T) {
	dir := t.TempDir()
	r := newReceiver(t, ok)
	l := openTest(t, dir, journal.Options{})
	stop := deliver(t, l, r.URL)
	live(t, l, "s1 e1 s2 e2")
	waitFor(t, "the last answer", func() bool { return l.Stats().Backlog == 0 })
	stop()
	live(t, l, "s3 e3 s4")
	dir = killed(t, dir)
	if err := os.Remove(filepath.Join(dir, deliveredFile)); err != nil {
		t.Fatal(err)
	}
	l = openTest(t, dir, journal.Options{})
	if s := l.Stats(); s.Backlog != 2 || s.Recorded != 4 {
		t.Errorf("%+v", s)
	}
	deliver(t, l, r.URL)
	waitFor(t, "the others", r.has(4))
	if r.twice != 0 {
		t.Errorf("%d events came again", r.twice)
	}
}

// TestOpenRequestsOutliveADelivery: the journal is full when they are found, so
// that their events are only in memory while others are delivered.
func TestOpenRequestsOutliveADelivery(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir, journal.Options{})
	live(t, l, "s1 s2 e2 s3 e3")
	dir = killed(t, dir)
	l = openTest(t, dir, journal.Options{MaxSize: 1})
	r := newReceiver(t, ok)
	stop := deliver(t, l, r.URL)
	waitFor(t, "the others", func() bool { return r.has(2)() && l.Stats().Backlog == 0 })
	stop()
	if !l.Failing() {
		t.Error("the journal is full, and the log does not fail")
	}
	dir = killed(t, dir)
	deliver(t, openTest(t, dir, journal.Options{}), r.URL)
	waitFor(t, "the interrupted one", r.has(3))
}

// TestRequestsToNoEngineDoNotFillTheJournal: no event comes, nothing is ever
// delivered.
func TestRequestsToNoEngineDoNotFillTheJournal(t *testing.T) {
	r := newReceiver(t, ok)
	l := openTest(t, t.TempDir(), small())
	deliver(t, l, r.URL)
	for n := range 3 * ringSize {
		if !l.Start(request(n)) {
			waitFor(t, "the journal to have room", func() bool { return !l.Failing() })
			continue
		}
		l.Void(request(n))
	}
	waitFor(t, "the last ones", func() bool {
		l.flush(l.tail.Load())
		s := l.Stats()
		return !s.Failing && s.BacklogBytes < 2*releaseEvery*slotSize
	})
}

func TestBacklog(t *testing.T) {
	var up sync.Mutex
	up.Lock()
	comeUp := sync.OnceFunc(up.Unlock)
	r := newReceiver(t, func() int {
		up.Lock()
		defer up.Unlock()
		return http.StatusNoContent
	})
	t.Cleanup(comeUp)
	l := openTest(t, t.TempDir(), journal.Options{})
	deliver(t, l, r.URL)
	live(t, l, "s1 e1 s2 e2 s3")
	waitFor(t, "an event to be on its way", func() bool { return l.Stats().BacklogAge > 0 })
	if s := l.Stats(); s.Backlog != 2 || s.Recorded != 2 || s.BacklogBytes == 0 || s.BacklogAge < time.Since(request(1).Ended)-time.Minute {
		t.Errorf("%+v", s)
	}
	comeUp()
	waitFor(t, "the answers", func() bool { return l.Stats().Backlog == 0 })
	if s := l.Stats(); s.BacklogAge != 0 || s.Recorded != 2 {
		t.Errorf("%+v", s)
	}
}

// TestDeliverEndsWithTheLog also says so.
func TestDeliverEndsWithTheLog(t *testing.T) {
	l := openTest(t, t.TempDir(), journal.Options{})
	l.Close()
	if err := l.Deliver(t.Context(), senderTo(t, "http://127.0.0.1:1", l.Node())); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Error(err)
	}
}
