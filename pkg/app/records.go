package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/cluster"
	"github.com/llmproxy/llmproxy/pkg/config"
	"github.com/llmproxy/llmproxy/pkg/events"
	"github.com/llmproxy/llmproxy/pkg/gateway"
	"github.com/llmproxy/llmproxy/pkg/journal"
	"github.com/llmproxy/llmproxy/pkg/quota"
	"github.com/llmproxy/llmproxy/pkg/stats"
)

// records is the log of what requests used, and what it adds up to for each key.
// The sums are of the journal and of nothing else, so that what is limited is
// what is billed, whatever happens to the process: a file has the sums up to one
// event, and the journal keeps what comes after it.
type records struct {
	log     *events.Log
	dir     string
	logger  *slog.Logger
	gateway *gateway.Gateway
	now     func() time.Time

	mu       sync.Mutex // guards what follows; held by whoever counts, saves and reports
	tail     *events.Tail
	totals   *quota.Totals
	saved    uint64 // the last event that is in the file
	unsaved  bool   // a reset is not in the file
	opened   time.Time
	counting bool // the accounts are open

	cluster atomic.Pointer[cluster.Cluster] // nil: nobody else counts

	failing atomic.Bool // the file could not be written
	looking atomic.Bool // state is being looked at
	last    atomic.Pointer[events.Stats]
	stop    context.CancelFunc
	done    sync.WaitGroup
}

const (
	// quotaFile is in the data directory, beside the journal.
	quotaFile = "quota"
	// countEvery is how often new events are added up, saveEvery how often the sums
	// are written.
	countEvery = time.Second
	saveEvery  = 5 * time.Second
	// tidyEvery is how often what is over is forgotten.
	tidyEvery = 10 * time.Minute
)

// openRecords opens the log and adds up what it has; nil where nobody needs it.
func openRecords(c *config.Config, g *gateway.Gateway, o Options) (*records, error) {
	if !c.UsageHook.Enabled && !c.Auth.Enabled {
		return nil, nil
	}
	sync, err := journal.ParseSync(c.UsageHook.Sync)
	if err != nil {
		return nil, err
	}
	l, err := events.Open(c.DataDir, journal.Options{
		MaxSize:   int64(c.UsageHook.MaxSize),
		Retention: max(time.Duration(c.UsageHook.Retention), 1), // 0 would be the journal's default
		Sync:      sync,
	}, o.Log)
	if err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	r := &records{log: l, dir: c.DataDir, logger: o.Log, gateway: g, now: o.wallClock(), opened: time.Now()}
	if !c.UsageHook.Enabled {
		l.NoDelivery()
	}
	r.stop = func() {}
	r.state()
	if !c.Auth.Enabled {
		return r, nil // without keys there is nobody to add up for
	}
	if err := r.recover(); err != nil {
		return nil, errors.Join(fmt.Errorf("data_dir: %w", err), l.Close())
	}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	r.done.Go(func() { r.run(ctx) })
	return r, nil
}

// recover adds what the journal has to what the file had, and opens the accounts.
func (r *records) recover() (err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.totals, err = quota.LoadTotals(r.path()); err != nil {
		return err
	}
	r.tail = r.log.TailFrom(r.totals.Event)
	if err := r.count(); err != nil {
		return err
	}
	r.gateway.SetBook(quota.NewBook(r.totals))
	r.counting = true
	r.report(r.save())
	return nil
}

// counts tells whether it is added up what each key uses.
func (r *records) counts() bool { return r.tail != nil }

func (r *records) path() string { return filepath.Join(r.dir, quotaFile) }

// run keeps the sums up to date, until ctx ends.
func (r *records) run(ctx context.Context) {
	count, save, tidy := time.NewTicker(countEvery), time.NewTicker(saveEvery), time.NewTicker(tidyEvery)
	defer count.Stop()
	defer save.Stop()
	defer tidy.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-count.C:
			r.keep(false)
		case <-save.C:
			r.keep(true)
		case <-tidy.C:
			r.tidy()
		}
	}
}

// keep adds up what is new and, when it is time or the last time failed, writes it.
func (r *records) keep(write bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.count()
	if write || r.failing.Load() {
		err = errors.Join(err, r.save())
	}
	r.report(err)
}

// tidy forgets the use of keys that are no more, after a while.
func (r *records) tidy() {
	ring := r.gateway.Keys()
	if ring == nil {
		return
	}
	keep := func(id [8]byte) bool {
		_, ok := ring.Get(id)
		return ok
	}
	r.gateway.Book().Forget(keep, r.now())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.totals.Forget(keep, r.now())
}

// report tells of an error once, and of its end.
func (r *records) report(err error) {
	switch {
	case err != nil && !r.failing.Swap(true):
		r.logger.Error("the quotas cannot be kept up to date on the disk; they hold, and the journal keeps what they are made of", "directory", r.dir, "error", err)
	case err == nil && r.failing.Swap(false):
		r.logger.Info("the quotas are kept on the disk again", "directory", r.dir)
	}
}

// count adds the events that came since the last time.
func (r *records) count() error {
	last, err := r.tail.Each(func(e events.Event) {
		id, err := auth.ParseID(e.Record.KeyID)
		if err != nil || e.Record.Period == 0 {
			return
		}
		r.totals.Add(e.Number, id, e.Record.Period, e.Record.Total)
		// The journal had no room for it when this process started.
		if r.counting && e.Record.Outcome == events.Interrupted && e.Record.Started.Before(r.opened) {
			r.late(id, e.Record.Period, e.Record.Total)
		}
	})
	r.totals.Event = max(r.totals.Event, last)
	return err
}

// late counts what a process before this one could not record.
func (r *records) late(id auth.ID, start, used int64) {
	account := r.gateway.Book().Account(id)
	account.Late(start, used)
	r.publish(id, account)
}

// publish tells other gateways what an account has used.
func (r *records) publish(id auth.ID, a *quota.Account) {
	if c := r.cluster.Load(); c != nil {
		c.Publish(id, a.Last())
	}
}

// save writes the sums, and lets the journal go of what they were made of.
func (r *records) save() error {
	if r.totals.Event == r.saved && !r.unsaved {
		return nil
	}
	return r.write()
}

func (r *records) write() error {
	if err := r.totals.Save(r.path()); err != nil {
		return err
	}
	r.saved, r.unsaved = r.totals.Event, false
	r.log.Hold(r.saved)
	return nil
}

// reset begins a new term of a key's quota. Without an error that is on the disk;
// with one the term has begun all the same, and is written as soon as can be.
func (r *records) reset(id auth.ID) error {
	account := r.gateway.Book().Account(id)
	t := account.Reset(r.now())
	defer r.publish(id, account)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.totals.Reset(id, t.Start)
	r.unsaved = true
	err := r.write()
	if err != nil {
		r.report(err)
	}
	return err
}

// close adds up and writes what is left, and closes the log, once reports, which
// may be nil, has ended.
func (r *records) close(reports *usageReports) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if reports != nil {
			reports.end()
		}
		r.stop()
		r.done.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		var err error
		if r.counts() {
			err = errors.Join(r.count(), r.save())
		}
		if err = errors.Join(err, r.log.Close()); err != nil {
			r.logger.Error("the log of usage did not close well", "directory", r.dir, "error", err)
		}
	}()
	select {
	case <-closed:
	case <-time.After(closeGrace):
		r.logger.Error("the disk does not answer; what the kernel has of the journal is kept", "directory", r.dir)
	}
}

// closeGrace is how long the sender and the disk have at the end.
const closeGrace = 8 * time.Second

// lookTimeout bounds the wait for the state of the log.
const lookTimeout = 100 * time.Millisecond

// state is how the log does, or did when it was last heard of: a disk that hangs
// must not take the metrics page with it.
func (r *records) state() events.Stats {
	if r.looking.CompareAndSwap(false, true) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			s := r.log.Stats()
			r.last.Store(&s)
			r.looking.Store(false)
		}()
		select {
		case <-done:
		case <-time.After(lookTimeout):
		}
	}
	if s := r.last.Load(); s != nil {
		return *s
	}
	return events.Stats{}
}

// register shows the log in the metrics.
func (r *records) register(s *stats.Set) {
	s.Gauge("llmproxy_quota_checkpoint_failing", func() float64 { return bit(r.failing.Load()) })
	s.Gauge("llmproxy_usage_journal_failing", func() float64 { return bit(r.log.Failing()) })
	for name, f := range map[string]func() uint64{
		"llmproxy_usage_events_total":             func() uint64 { return r.state().Recorded },
		"llmproxy_usage_unreadable_records_total": func() uint64 { return r.state().Skipped },
		"llmproxy_usage_journal_bytes_total":      func() uint64 { return r.state().Journal.Bytes },
		"llmproxy_usage_journal_errors_total":     func() uint64 { return r.state().Journal.WriteErrors },
		"llmproxy_usage_journal_fsyncs_total":     func() uint64 { return r.state().Journal.Syncs },
	} {
		s.CounterFunc(name, func() int64 { return int64(f()) })
	}
	s.FloatCounterFunc("llmproxy_usage_journal_fsync_seconds_total", func() float64 { return r.state().Journal.SyncTime.Seconds() })
}
