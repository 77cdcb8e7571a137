package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// request is what the receiver got.
type request struct {
	header http.Header
	body   []byte
	status int             // what it was answered; 0: something else
	seqs   []int           // of the events in it
	done   <-chan struct{} // closed when the sender has gone
}

// receiver is a billing system that keeps what it got.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	requests []request
}

// newReceiver starts a receiver whose answers answer chooses by the events'
// numbers and how many requests came before; 0 leaves the answer to answer.
func newReceiver(t *testing.T, answer func(w http.ResponseWriter, n int, q request) int) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		q := request{header: req.Header, body: body, done: req.Context().Done()}
		var events []struct{ N int }
		if err := json.Unmarshal(body, &events); err != nil {
			t.Errorf("the body is no JSON array: %v: %.200s", err, body)
		}
		for _, e := range events {
			q.seqs = append(q.seqs, e.N)
		}
		r.mu.Lock()
		n := len(r.requests)
		r.requests = append(r.requests, q)
		r.mu.Unlock()
		status := answer(w, n, q)
		r.mu.Lock()
		r.requests[n].status = status
		r.mu.Unlock()
		if status != 0 {
			w.WriteHeader(status)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// script answers with statuses in turn, then with 204.
func script(statuses ...int) func(http.ResponseWriter, int, request) int {
	return func(_ http.ResponseWriter, n int, _ request) int {
		if n < len(statuses) {
			return statuses[n]
		}
		return http.StatusNoContent
	}
}

func (r *receiver) got() []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// accepted returns the numbers of the events that got a 2xx, in that order.
func (r *receiver) accepted() (seqs []int) {
	for _, q := range r.got() {
		if q.status/100 == 2 {
			seqs = append(seqs, q.seqs...)
		}
	}
	return seqs
}

// bench is a Sender whose pauses take no time, and what it was seen to do.
type bench struct {
	*Sender
	log *bytes.Buffer

	now   time.Time
	waits []time.Duration
	acks  []uint64
	// onWait is called before a pause; its error ends the pause.
	onWait func(d time.Duration) error
	onAck  func(seq uint64) error
}

var testSecret = []byte("whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

func newBench(t testing.TB, url string, change func(*Config)) *bench {
	t.Helper()
	b := &bench{log: &bytes.Buffer{}, now: time.Unix(1_750_000_000, 0)}
	c := Config{
		URL: url, Secret: testSecret, Node: "gw-1",
		MaxAge: time.Minute, Timeout: 10 * time.Second,
		DeadLetter: filepath.Join(t.TempDir(), "dead.jsonl"),
		Now:        func() time.Time { return b.now },
		Jitter:     func() float64 { return 0.5 },
		Log:        slog.New(slog.NewTextHandler(b.log, nil)),
	}
	if change != nil {
		change(&c)
	}
	var err error
	if b.Sender, err = New(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.client.CloseIdleConnections)
	b.wait = func(ctx context.Context, d time.Duration) error {
		b.waits = append(b.waits, d)
		b.now = b.now.Add(d)
		if b.onWait != nil {
			if err := b.onWait(d); err != nil {
				return err
			}
		}
		return ctx.Err()
	}
	return b
}

// send runs the Sender until all events are dealt with, and returns what Run
// did.
func (b *bench) send(t testing.TB, events []Event) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := b.Run(ctx, from(events), b.acked)
	if ctx.Err() != nil {
		t.Fatal("the sender did not come to an end")
	}
	return err
}

// sendAll is send for events that all must be accepted or dead at its end.
func (b *bench) sendAll(t testing.TB, events []Event) {
	t.Helper()
	if err := b.send(t, events); !errors.Is(err, io.EOF) {
		t.Fatalf("the sender ended with %v", err)
	}
	if last := events[len(events)-1].Seq; len(b.acks) == 0 || b.acks[len(b.acks)-1] != last {
		t.Fatalf("acknowledged %v, want %d at last", b.acks, last)
	}
	if !slices.IsSorted(b.acks) {
		t.Fatalf("acknowledged out of order: %v", b.acks)
	}
}

func (b *bench) acked(seq uint64) error {
	if b.onAck != nil {
		if err := b.onAck(seq); err != nil {
			return err
		}
	}
	b.acks = append(b.acks, seq)
	return nil
}

// from returns a next that gives events and then io.EOF. It uses its memory
// again, as a journal's reader does.
func from(events []Event) func(context.Context) (Event, error) {
	var data []byte
	return func(context.Context) (Event, error) {
		if len(events) == 0 {
			return Event{}, io.EOF
		}
		e := events[0]
		events = events[1:]
		for i := range data {
			data[i] = 'x'
		}
		data = append(data[:0], e.Data...)
		e.Data = data
		return e, nil
	}
}

// someEvents returns n events, numbered from 1.
func someEvents(n int) []Event {
	events := make([]Event, n)
	for i := range events {
		id := "id-" + strconv.Itoa(i+1)
		events[i] = Event{Seq: uint64(i + 1), ID: id, Data: fmt.Appendf(nil,
			`{"specversion":"1.0","id":%q,"source":"urn:llmproxy:gw-1","type":"io.llmproxy.usage","n":%d,"data":{"text":"<&>"}}`, id, i+1)}
	}
	return events
}

func numbers(from, to int) (ns []int) {
	for n := from; n <= to; n++ {
		ns = append(ns, n)
	}
	return ns
}
