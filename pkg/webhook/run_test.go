package webhook

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// then gives events, and afterwards waits for the end of the context.
func then(events []Event) func(context.Context) (Event, error) {
	next := from(events)
	return func(ctx context.Context) (Event, error) {
		e, err := next(ctx)
		if err == nil {
			return e, nil
		}
		<-ctx.Done()
		return Event{}, ctx.Err()
	}
}

func TestBatchesAreFilled(t *testing.T) {
	sizes := func(r *receiver) (events []int, largest int) {
		for _, q := range r.got() {
			events, largest = append(events, len(q.seqs)), max(largest, len(q.body))
		}
		return events, largest
	}
	t.Run("to the number of events", func(t *testing.T) {
		r := newReceiver(t, script())
		newBench(t, r.URL, nil).sendAll(t, someEvents(1250))
		if got, _ := sizes(r); !slices.Equal(got, []int{500, 500, 250}) {
			t.Errorf("batches of %v events", got)
		}
	})
	t.Run("to the number of bytes", func(t *testing.T) {
		r := newReceiver(t, script())
		one := len(someEvents(10)[9].Data)
		newBench(t, r.URL, func(c *Config) { c.MaxBytes = 3*one + len("[,,]") }).sendAll(t, someEvents(19)[9:])
		if got, largest := sizes(r); !slices.Equal(got, []int{3, 3, 3, 1}) || largest != 3*one+len("[,,]") {
			t.Errorf("batches of %v events, of up to %d bytes; an event has %d", got, largest, one)
		}
	})
	t.Run("and an event larger than a batch goes alone", func(t *testing.T) {
		r := newReceiver(t, script())
		events := someEvents(3)
		events[1].Data = []byte(`{"n":2,"text":"` + strings.Repeat("a", 1000) + `"}`)
		newBench(t, r.URL, func(c *Config) { c.MaxBytes = 900 }).sendAll(t, events)
		if got, _ := sizes(r); !slices.Equal(got, []int{1, 1, 1}) {
			t.Errorf("batches of %v events", got)
		}
	})
}

// An event that nothing follows is sent a MaxAge later, not before and not after.
func TestBatchesLeaveByAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "http://127.0.0.1:1", func(c *Config) { c.MaxAge = time.Second })
		begin, next := time.Now(), then(someEvents(3))
		r := &run{Sender: b.Sender, ctx: t.Context(), next: func(ctx context.Context) (Event, error) {
			if _, limited := ctx.Deadline(); !limited {
				time.Sleep(time.Hour) // in the bubble's time: the first is long in coming
			}
			return next(ctx)
		}}
		events, err := r.gather()
		if took := time.Since(begin); len(events) != 3 || err != nil || took != time.Hour+time.Second {
			t.Errorf("after %v it had %d events and %v", took, len(events), err)
		}
	})
}

func TestBatchLeavesThoughNothingFollows(t *testing.T) {
	r := newReceiver(t, script())
	b := newBench(t, r.URL, func(c *Config) { c.MaxAge = 5 * time.Millisecond })
	ctx, cancel := context.WithCancel(t.Context())
	b.onAck = func(seq uint64) error {
		if seq == 3 {
			cancel()
		}
		return nil
	}
	if err := b.Run(ctx, then(someEvents(3)), b.acked); err != nil {
		t.Error(err)
	}
	if !slices.Equal(r.accepted(), numbers(1, 3)) {
		t.Errorf("accepted %v", r.accepted())
	}
}

func TestTheEnd(t *testing.T) {
	const all = 10
	for name, c := range map[string]struct {
		statuses   []int
		retryAfter string
		endAt      string // "gather", "wait", "request"
		requests   int
		acked      bool
	}{
		"while a batch fills: it is sent":                            {nil, "", "gather", 1, true},
		"while a batch fills, and it fails: it is given up":          {[]int{500, 500}, "", "gather", 1, false},
		"while it waits: the batch is tried once more":               {[]int{500}, "", "wait", 2, true},
		"while it waits, and it fails again: it is given up":         {[]int{500, 500, 500}, "", "wait", 2, false},
		"while it waits as it was told to: nothing more is sent":     {[]int{503}, "60", "wait", 1, false},
		"while the receiver answers: the answer counts":              {[]int{200}, "", "request", 1, true},
		"while the receiver answers, and it fails: it is given up":   {[]int{500, 200}, "", "request", 1, false},
		"while the receiver refuses: the other events are not tried": {[]int{413, 413, 500}, "", "request", 3, false},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r := newReceiver(t, func(w http.ResponseWriter, n int, _ request) int {
				if c.endAt == "request" {
					cancel()
				}
				if c.retryAfter != "" {
					w.Header().Set("Retry-After", c.retryAfter)
				}
				return script(c.statuses...)(w, n, request{})
			})
			b := newBench(t, r.URL, func(config *Config) { config.MaxEvents = all })
			b.onWait = func(time.Duration) error { cancel(); return nil }
			events := someEvents(all)
			if c.endAt == "gather" {
				events = events[1:] // so that there is room for one more
			}
			next := then(events)
			err := b.Run(ctx, func(inner context.Context) (Event, error) {
				e, err := next(inner)
				if c.endAt == "gather" && e.Seq == all {
					cancel()
				}
				return e, err
			}, b.acked)
			if err != nil {
				t.Errorf("it ended with %v", err)
			}
			if got := len(r.got()); got != c.requests || (len(b.acks) > 0) != c.acked {
				t.Errorf("%d requests, want %d; acknowledged %v", got, c.requests, b.acks)
			}
		})
	}
}

func TestTheEndWaitsNotLongForAnAnswer(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := newReceiver(t, func(_ http.ResponseWriter, _ int, q request) int {
		cancel()
		<-q.done
		return 0
	})
	b := newBench(t, r.URL, func(c *Config) { c.MaxEvents, c.Timeout = 1, time.Hour })
	b.grace = 20 * time.Millisecond
	if err := b.Run(ctx, then(someEvents(1)), b.acked); err != nil || len(b.acks) > 0 {
		t.Errorf("it ended with %v and acknowledged %v", err, b.acks)
	}
}

// What came before an error of the source is not lost for it.
func TestErrorOfTheSourceIsReturned(t *testing.T) {
	r := newReceiver(t, script(500))
	b := newBench(t, r.URL, nil)
	broken, next := errors.New("the journal is broken"), from(someEvents(3))
	err := b.Run(t.Context(), func(ctx context.Context) (Event, error) {
		e, err := next(ctx)
		if errors.Is(err, io.EOF) {
			err = broken
		}
		return e, err
	}, b.acked)
	if !errors.Is(err, broken) || !slices.Equal(b.acks, []uint64{3}) {
		t.Errorf("it ended with %v and acknowledged %v", err, b.acks)
	}
}

func TestProgressThatCannotBeKeptStopsNothing(t *testing.T) {
	r := newReceiver(t, script())
	b := newBench(t, r.URL, func(c *Config) { c.MaxEvents = 2 })
	b.onAck = func(seq uint64) error {
		if seq == 2 {
			return errors.New("no space left on device")
		}
		return nil
	}
	b.sendAll(t, someEvents(4))
	if !slices.Equal(r.accepted(), numbers(1, 4)) || !strings.Contains(b.log.String(), "no space left") {
		t.Errorf("accepted %v; log %s", r.accepted(), b.log)
	}
}

func TestOneConnectionServesAll(t *testing.T) {
	var conns atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, 20<<10))
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	b := newBench(t, server.URL, func(c *Config) { c.MaxEvents = 1 })
	b.sendAll(t, someEvents(20))
	if got := conns.Load(); got != 1 {
		t.Errorf("%d connections for 20 batches", got)
	}
}

// Receivers close connections that are idle for a while. That is no failure.
func TestClosedConnectionIsReplaced(t *testing.T) {
	r := newReceiver(t, script())
	b := newBench(t, r.URL, func(c *Config) { c.MaxEvents = 1 })
	b.onAck = func(uint64) error { r.CloseClientConnections(); return nil }
	b.sendAll(t, someEvents(30))
	if got := b.Stats().Attempts; got["delivered"] != 30 || got["unreachable"] != 0 {
		t.Errorf("attempts %v", got)
	}
}
