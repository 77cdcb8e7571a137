package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/llmproxy/llmproxy/pkg/config"
	"github.com/llmproxy/llmproxy/pkg/events"
	"github.com/llmproxy/llmproxy/pkg/stats"
	"github.com/llmproxy/llmproxy/pkg/webhook"
)

// usageReports sends what requests used to the billing system: one sender at a
// time, another one after a change of the hook. use and close are the App's,
// which calls one at a time.
type usageReports struct {
	log       *events.Log
	state     func() events.Stats // of the log
	dir       string
	userAgent string
	logger    *slog.Logger
	opened    time.Time

	hook config.UsageHook // of the last sender
	stop func()           // ends its run
	done chan struct{}    // closed when that has ended

	mu     sync.Mutex      // guards what follows
	sender *webhook.Sender // the one at work
	past   webhook.Stats   // of those before it
}

// deadLetterFile is in the data directory, beside the journal.
const deadLetterFile = "dead-letter.jsonl"

// openUsage begins to send what the log has; nil when the hook is off.
func openUsage(c *config.Config, r *records, o Options) (*usageReports, error) {
	h := c.UsageHook
	if !h.Enabled {
		return nil, nil
	}
	u := &usageReports{
		log: r.log, state: r.state, dir: c.DataDir, userAgent: "llmproxy/" + o.Version, logger: o.Log, opened: time.Now(),
		stop: func() {}, done: make(chan struct{}),
	}
	close(u.done) // there is none before the first
	var err error
	if u.sender, err = u.newSender(h); err != nil {
		return nil, fmt.Errorf("usage_hook: %w", err)
	}
	u.use(h, u.sender)
	return u, nil
}

func (u *usageReports) newSender(h config.UsageHook) (*webhook.Sender, error) {
	c := webhook.Config{
		URL: h.URL, Node: u.log.Node(),
		Timeout: time.Duration(h.Timeout), Retry: h.Retry,
		MaxEvents: h.MaxEvents, MaxBytes: int(h.MaxBytes), MaxAge: time.Duration(h.MaxAge),
		DeadLetter: filepath.Join(u.dir, deadLetterFile), UserAgent: u.userAgent, Log: u.logger,
	}
	if h.Secret != "" {
		c.Secret = []byte(h.Secret)
	}
	return webhook.New(c)
}

// next returns the sender for a configuration, nil where the one at work serves
// it: not when its receiver has told it to stop.
func (u *usageReports) next(c *config.Config) (*webhook.Sender, error) {
	if !c.UsageHook.Enabled || c.UsageHook == u.hook && !u.delivery().Stopped {
		return nil, nil
	}
	s, err := u.newSender(c.UsageHook)
	if err != nil {
		return nil, fmt.Errorf("usage_hook: %w", err)
	}
	return s, nil
}

// use has s deliver, once the sender before it has ended: events stay in their
// order, and none is passed over.
func (u *usageReports) use(h config.UsageHook, s *webhook.Sender) {
	u.stop()
	ctx, stop := context.WithCancel(context.Background())
	before, done := u.done, make(chan struct{})
	u.hook, u.stop, u.done = h, stop, done
	go func() {
		defer close(done)
		<-before
		u.mu.Lock()
		if s != u.sender {
			u.past, u.sender = sum(u.past, u.sender.Stats()), s
		}
		u.mu.Unlock()
		u.deliver(ctx, s)
	}()
}

// readAgain is how long a disk that could not be read is left alone.
const readAgain = 10 * time.Second

func (u *usageReports) deliver(ctx context.Context, s *webhook.Sender) {
	for ctx.Err() == nil {
		err := u.log.Deliver(ctx, s)
		if err == nil || errors.Is(err, webhook.ErrGone) { // of which the sender has told
			return
		}
		u.logger.Error("usage cannot be read from the journal, and is not reported; trying again", "directory", u.dir, "error", err)
		select {
		case <-time.After(readAgain):
		case <-ctx.Done():
		}
	}
}

// end ends the sender, which tries the batch in hand once more. What is not
// delivered then, the next process delivers. It returns when the sender has ended.
func (u *usageReports) end() {
	u.stop()
	<-u.done
}

// delivery is what all senders have done.
func (u *usageReports) delivery() webhook.Stats {
	u.mu.Lock()
	defer u.mu.Unlock()
	return sum(u.past, u.sender.Stats())
}

// sum adds up what two senders did of which b is the later.
func sum(a, b webhook.Stats) webhook.Stats {
	for result, n := range a.Attempts {
		b.Attempts[result] += n
	}
	b.Events += a.Events
	b.Batches += a.Batches
	b.Dead += a.Dead
	b.AttemptTime += a.AttemptTime
	if b.LastSuccess.IsZero() {
		b.LastSuccess = a.LastSuccess
	}
	return b
}

// lastDelivery is when the receiver last accepted something; until it has, when
// the gateway started.
func (u *usageReports) lastDelivery() time.Time {
	if t := u.delivery().LastSuccess; !t.IsZero() {
		return t
	}
	return u.opened
}

// register shows the log and the senders in the metrics.
func (u *usageReports) register(s *stats.Set) {
	for name, f := range map[string]func() float64{
		"llmproxy_usage_backlog_events":                  func() float64 { return float64(u.state().Backlog) },
		"llmproxy_usage_backlog_bytes":                   func() float64 { return float64(u.state().BacklogBytes) },
		"llmproxy_usage_backlog_seconds":                 func() float64 { return u.state().BacklogAge.Seconds() },
		"llmproxy_usage_delivery_stopped":                func() float64 { return bit(u.delivery().Stopped) },
		"llmproxy_usage_last_delivery_timestamp_seconds": func() float64 { return float64(u.lastDelivery().Unix()) },
	} {
		s.Gauge(name, f)
	}
	for name, f := range map[string]func() uint64{
		"llmproxy_usage_delivered_total": func() uint64 { return u.delivery().Events },
		"llmproxy_usage_dead_total":      func() uint64 { return u.delivery().Dead },
	} {
		s.CounterFunc(name, func() int64 { return int64(f()) })
	}
	for result := range u.delivery().Attempts {
		s.CounterFunc(fmt.Sprintf("llmproxy_usage_delivery_attempts_total{result=%q}", result),
			func() int64 { return int64(u.delivery().Attempts[result]) })
	}
}
