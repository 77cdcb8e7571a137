package events

import (
	"context"
	"encoding/hex"
	"path/filepath"
	"time"

	"github.com/llmproxy/llmproxy/pkg/journal"
	"github.com/llmproxy/llmproxy/pkg/webhook"
)

// Node is the name of this gateway in its events.
func (l *Log) Node() string { return l.node }

// Deliver sends the events that were not delivered yet, and those to come, in
// their order, until ctx ends. It waits for the Deliver before it to end. It ends
// what NoDelivery began. See webhook.Sender.Run for its errors.
func (l *Log) Deliver(ctx context.Context, s *webhook.Sender) error {
	l.delivering.Lock()
	defer l.delivering.Unlock()
	d := delivery{log: l, reader: l.journal.Reader(l.deliverFrom())}
	return s.Run(ctx, d.next, d.ack)
}

// delivery is one run of a sender.
type delivery struct {
	log    *Log
	reader *journal.Reader
	sent   []sent // events on their way, in order
	buf    []byte
}

// sent is an event, and where in the journal it stands.
type sent struct {
	event, seq uint64
	ended      time.Time
}

// next waits for the next event. Its Data is good until the following call.
func (d *delivery) next(ctx context.Context) (webhook.Event, error) {
	for {
		seq, raw, err := d.reader.Next(ctx)
		if err != nil {
			return webhook.Event{}, err
		}
		e, ok := d.log.event(seq, raw, d.log.delivered.Load())
		if !ok {
			d.pass(seq)
			continue
		}
		d.sent = append(d.sent, sent{e.event, seq, e.record.Ended})
		d.log.oldest.Store(d.sent[0].ended.UnixNano())
		d.buf = e.record.appendEvent(d.buf[:0], d.log.node, e.event)
		return webhook.Event{Seq: e.event, ID: hex.EncodeToString(e.record.ID[:]), Data: d.buf}, nil
	}
}

// pass lets go of records between events: requests that come to no engine must
// not fill the journal while there is no event.
func (d *delivery) pass(seq uint64) {
	if len(d.sent) == 0 && seq%releaseEvery == 0 {
		_ = d.log.deliveredTo(seq) // the next time stands for this one
	}
}

// ack remembers that all events up to one are delivered, and lets go of what
// nobody needs any more.
func (d *delivery) ack(event uint64) error {
	l := d.log
	l.delivered.Store(event)
	if err := writeNumber(filepath.Join(l.dir, deliveredFile), event); err != nil {
		return err
	}
	var seq uint64
	for len(d.sent) > 0 && d.sent[0].event <= event {
		seq, d.sent = d.sent[0].seq, d.sent[1:]
	}
	l.oldest.Store(0)
	if len(d.sent) > 0 {
		l.oldest.Store(d.sent[0].ended.UnixNano())
	}
	return l.deliveredTo(seq)
}

// Stats is the state of the log for metrics.
type Stats struct {
	Backlog      uint64        // events that wait for delivery; 0 after NoDelivery
	BacklogBytes int64         // of the journal that is kept for them, for what is held, and for open requests
	BacklogAge   time.Duration // since the request of the first of them ended; 0 before a Deliver has seen it
	Recorded     uint64        // events, since there is this directory
	Skipped      uint64        // records that could not be read back
	Failing      bool          // see Log.Failing
	Journal      journal.Stats
}

// Stats returns the state of this moment.
func (l *Log) Stats() Stats {
	delivered, oldest := l.delivered.Load(), l.oldest.Load()
	l.mu.Lock()
	s := Stats{Recorded: l.events}
	nobody := l.needs.nobody
	l.mu.Unlock()
	s.Skipped, s.Failing, s.Journal = l.skipped.Load(), l.Failing(), l.journal.Stats()
	_, s.BacklogBytes, _ = l.journal.Backlog()
	if nobody {
		return s
	}
	if s.Backlog = s.Recorded - min(s.Recorded, delivered); s.Backlog > 0 && oldest != 0 {
		s.BacklogAge = max(0, time.Since(time.Unix(0, oldest)))
	}
	return s
}
