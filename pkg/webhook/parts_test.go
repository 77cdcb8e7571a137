package webhook

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"
)

// letters reads the dead-letter file.
func letters(t *testing.T, b *bench) (all []letter) {
	t.Helper()
	text, err := os.ReadFile(b.config.DeadLetter)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var l letter
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, l)
	}
	return all
}

// refuse answers status to a batch with a poisoned event in it.
func refuse(status int, poisoned ...int) func(http.ResponseWriter, int, request) int {
	return func(_ http.ResponseWriter, _ int, q request) int {
		if slices.ContainsFunc(q.seqs, func(n int) bool { return slices.Contains(poisoned, n) }) {
			return status
		}
		return http.StatusOK
	}
}

func TestPoisonedEventsAreFound(t *testing.T) {
	var someApart []int // more than may die in a row
	for n := 25; n <= 500; n += 25 {
		someApart = append(someApart, n)
	}
	for _, status := range []int{400, 422} {
		for _, poisoned := range [][]int{{1}, {500}, {250}, {1, 500}, {100, 101}, {7, 77, 177, 377, 477}, numbers(241, 250), someApart} {
			t.Run(fmt.Sprint(status, poisoned), func(t *testing.T) {
				r := newReceiver(t, refuse(status, poisoned...))
				b := newBench(t, r.URL, nil)
				b.sendAll(t, someEvents(500))
				var dead []int
				for _, l := range letters(t, b) {
					dead = append(dead, int(l.Seq))
				}
				if !slices.Equal(dead, poisoned) {
					t.Errorf("dead are %v, want %v", dead, poisoned)
				}
				alive := slices.DeleteFunc(numbers(1, 500), func(n int) bool { return slices.Contains(poisoned, n) })
				if !slices.Equal(r.accepted(), alive) {
					t.Errorf("accepted %v", r.accepted())
				}
				if got, most := len(r.got()), 1+2*9*len(poisoned); got > most { // 9: half of 500 so often is 1
					t.Errorf("%d requests, want at most %d", got, most)
				}
				if len(b.waits) > 0 {
					t.Errorf("it waited %v", b.waits)
				}
				if s := b.Stats(); s.Dead != uint64(len(poisoned)) || s.Events != uint64(len(alive)) {
					t.Errorf("statistics %+v", s)
				}
			})
		}
	}
}

// A receiver that answers 400 to a wrong signature must not empty the journal
// into the dead-letter file.
func TestReceiverThatRefusesAllIsWaitedFor(t *testing.T) {
	var repaired atomic.Bool
	r := newReceiver(t, func(http.ResponseWriter, int, request) int {
		if repaired.Load() {
			return http.StatusOK
		}
		return http.StatusBadRequest
	})
	b := newBench(t, r.URL, func(c *Config) { c.MaxEvents = 50 })
	b.onWait = func(time.Duration) error { repaired.Store(len(b.waits) == 3); return nil }
	b.sendAll(t, someEvents(100))
	if want := []time.Duration{slow, 2 * slow, 4 * slow}; !slices.Equal(b.waits, want) {
		t.Errorf("it waited %v, want %v", b.waits, want)
	}
	if got := len(letters(t, b)); got != maxDeadRow+2 {
		t.Errorf("%d events died, want %d", got, maxDeadRow+2)
	}
	if !slices.Equal(r.accepted(), numbers(maxDeadRow+3, 100)) {
		t.Errorf("accepted %v", r.accepted())
	}
}

func TestTooLargeIsHalved(t *testing.T) {
	events := someEvents(40)
	events[17].Data = fmt.Appendf(nil, `{"n":18,"text":%q}`, strings.Repeat("a", 5000))
	r := newReceiver(t, func(_ http.ResponseWriter, _ int, q request) int {
		if len(q.body) > 1500 {
			return http.StatusRequestEntityTooLarge
		}
		return http.StatusOK
	})
	b := newBench(t, r.URL, nil)
	b.sendAll(t, events)
	if want := slices.Concat(numbers(1, 17), numbers(19, 40)); !slices.Equal(r.accepted(), want) {
		t.Errorf("accepted %v", r.accepted())
	}
	dead := letters(t, b)
	if len(dead) != 1 || dead[0].Seq != 18 || dead[0].Reason != tooLarge || dead[0].Status != 413 {
		t.Errorf("dead: %+v", dead)
	}
}

// Whatever the receiver does, it gets each event in order, and a batch that
// comes again is the same bytes.
func TestOrderAndBytesThroughTrouble(t *testing.T) {
	r := newReceiver(t, func(w http.ResponseWriter, n int, q request) int {
		switch rand.New(rand.NewPCG(1, uint64(n))).IntN(6) {
		case 0:
			return http.StatusInternalServerError
		case 1:
			if len(q.seqs) > 1 {
				return http.StatusRequestEntityTooLarge
			}
		case 2: // it has the batch, and the answer is lost
			panic(http.ErrAbortHandler)
		case 3:
			w.Header().Set("Retry-After", "3")
			return http.StatusTooManyRequests
		}
		return http.StatusOK
	})
	b := newBench(t, r.URL, func(c *Config) { c.MaxEvents, c.Retry = 20, 2 })
	b.sendAll(t, someEvents(400))
	if !slices.Equal(r.accepted(), numbers(1, 400)) {
		t.Errorf("accepted %v", r.accepted())
	}
	first, again := map[string]request{}, 0
	for _, q := range r.got() {
		id := q.header.Get("Webhook-Id")
		if q.header.Get("Idempotency-Key") != id {
			t.Errorf("%s has the key %s", id, q.header.Get("Idempotency-Key"))
		}
		if want := fmt.Sprintf("gw-1-%d-%d", q.seqs[0], q.seqs[len(q.seqs)-1]); id != want {
			t.Errorf("id %s, want %s", id, want)
		}
		before, ok := first[id]
		if !ok {
			first[id] = q
			continue
		}
		again++
		if !bytes.Equal(before.body, q.body) {
			t.Errorf("%s came with other bytes", id)
		}
	}
	if again == 0 {
		t.Error("nothing came twice: the test does not test")
	}
}

func TestDeadLetterFile(t *testing.T) {
	events := someEvents(3)
	r := newReceiver(t, func(w http.ResponseWriter, _ int, q request) int {
		if !slices.Contains(q.seqs, 2) {
			return http.StatusOK
		}
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = w.Write([]byte("no such key \xff\xfe " + strings.Repeat("é", 1000)))
		return 0
	})
	b := newBench(t, r.URL, nil)
	torn := []byte(`{"seq":1,"id":"to`)
	if err := os.WriteFile(b.config.DeadLetter, torn, 0o600); err != nil {
		t.Fatal(err)
	}
	b.sendAll(t, events)
	text, err := os.ReadFile(b.config.DeadLetter)
	if err != nil {
		t.Fatal(err)
	}
	line, ok := bytes.CutPrefix(text, append(torn, '\n'))
	if !ok || bytes.Count(line, []byte("\n")) != 1 {
		t.Fatalf("a torn line spoils the next: %s", text)
	}
	if !bytes.Contains(line, append([]byte(`"event":`), events[1].Data...)) {
		t.Errorf("the event is not there as it was: %s", line)
	}
	var l letter
	if err := json.Unmarshal(line, &l); err != nil {
		t.Fatal(err)
	}
	if l.Seq != 2 || l.ID != "id-2" || l.Status != 422 || l.Reason != rejected || !l.Time.Equal(b.now) {
		t.Errorf("the reason is not there: %+v", l)
	}
	if !utf8.Valid(line) || !strings.HasPrefix(l.Answer, "no such key ") || len(l.Answer) < 1000 || len(l.Answer) > 1100 {
		t.Errorf("the answer is not there as text, or not cut: %d bytes, %q", len(l.Answer), l.Answer)
	}
}

func TestDeadLetterFileIsPrivate(t *testing.T) {
	r := newReceiver(t, refuse(400, 1))
	b := newBench(t, r.URL, nil)
	b.sendAll(t, someEvents(2))
	info, err := os.Stat(b.config.DeadLetter)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("the mode is %v", info.Mode())
	}
}

func TestEventThatIsNoJSONCanDie(t *testing.T) {
	b := newBench(t, "http://127.0.0.1:1", nil)
	if err := b.addLetter(letter{Event: []byte("{\"a\":\n\xff")}); err != nil {
		t.Fatal(err)
	}
	if got := string(letters(t, b)[0].Event); got != `"{\"a\":\n\ufffd"` {
		t.Errorf("the event became %s", got)
	}
}

// An event is not forgotten where the dead-letter file cannot be written.
func TestFullDiskKeepsTheDeadEvent(t *testing.T) {
	r := newReceiver(t, refuse(400, 2))
	var dir string
	b := newBench(t, r.URL, func(c *Config) {
		dir = filepath.Join(filepath.Dir(c.DeadLetter), "sub")
		c.DeadLetter = filepath.Join(dir, "dead.jsonl")
	})
	b.onWait = func(time.Duration) error {
		if slices.Contains(b.acks, 2) {
			t.Error("acknowledged before it was written")
		}
		if len(b.waits) == 3 {
			return os.Mkdir(dir, 0o700)
		}
		return nil
	}
	b.sendAll(t, someEvents(3))
	if dead := letters(t, b); len(dead) != 1 || dead[0].Seq != 2 {
		t.Errorf("dead: %+v", dead)
	}
	if !slices.Equal(r.accepted(), []int{1, 3}) || !strings.Contains(b.log.String(), dir) {
		t.Errorf("accepted %v; log %s", r.accepted(), b.log)
	}
}
