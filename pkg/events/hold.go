package events

import (
	"fmt"
	"path/filepath"

	"github.com/llmproxy/llmproxy/pkg/journal"
)

// releaseEvery is after how many records without an event the journal is told
// that they are not needed.
const releaseEvery = 1024

// needs is who still needs which records of the journal: a delivery and a Tail,
// each only what comes after a record, and no record that both are done with.
type needs struct {
	deliveredTo uint64 // the delivery is done with all up to this record
	heldTo      uint64 // and the Tail
	held        uint64 // number of the last event that Hold was told
	nobody      bool   // delivers: deliveredTo does not count
	once        bool   // somebody did, in a process before this one
	tailed      bool   // there is a Tail: heldTo counts
	read        []mark // how far a Tail has read, further than what is held; the numbers rise
}

// mark is an event, and the last record that was read with it.
type mark struct{ event, seq uint64 }

// least is the record up to which nothing is needed.
func (n *needs) least() uint64 {
	switch {
	case n.nobody:
		return n.heldTo
	case n.tailed:
		return min(n.heldTo, n.deliveredTo)
	}
	return n.deliveredTo
}

// note remembers how far a Tail has read.
func (n *needs) note(m mark) {
	last := len(n.read) - 1
	switch {
	case last < 0 || n.read[last].event < m.event:
		n.read = append(n.read, m)
	case n.read[last].event == m.event:
		n.read[last].seq = max(n.read[last].seq, m.seq)
	} // else a Tail began anew, and is not as far as the one before it
	n.settle()
}

// settle finds out what the Tail is done with.
func (n *needs) settle() {
	for len(n.read) > 0 && n.read[0].event <= n.held {
		n.heldTo, n.read = max(n.heldTo, n.read[0].seq), n.read[1:]
	}
}

// Tail reads the events of a Log in their order, for one goroutine.
type Tail struct {
	log    *Log
	reader *journal.Reader
	last   uint64 // number of the last event that was given
}

// Tail begins to read the events that Hold was not told of yet, in this process
// or those before it. From the first Tail on the journal keeps them: call it
// before Deliver, which else lets go of what it has delivered.
func (l *Log) Tail() *Tail {
	l.mu.Lock()
	l.needs.tailed = true
	held := l.needs.held
	l.mu.Unlock()
	return &Tail{log: l, reader: l.journal.Reader(l.journal.Acked()), last: held}
}

// TailFrom is Tail for who has lost what it had kept, or has an older copy of it,
// up to number event: it gives what comes after that, as far as the journal still
// has it, see journal.Options.Retention.
func (l *Log) TailFrom(event uint64) *Tail {
	t := l.Tail()
	if event < t.last {
		l.log.Warn("reading again what the journal still has", "first", event+1, "last", t.last)
		t.last, t.reader = event, l.journal.Reader(0)
	}
	return t
}

// Each calls f with every event that the journal holds by now and that this Tail
// has not given yet, and returns the number of the last one it ever gave: where it
// gave none, of the one that was held before. It does not wait for events, so it
// is called now and then; with sync interval or always it gives what would outlive
// a power loss, which is all but the last milliseconds. After an error, one of the
// disk or os.ErrClosed, the next call goes on where this one ended.
//
// f may call Hold, for an event of an earlier Each.
func (t *Tail) Each(f func(Event)) (last uint64, err error) {
	var read uint64
	for {
		seq, raw, err := t.reader.TryNext()
		if err != nil || seq == 0 {
			if read > 0 {
				t.log.tailRead(mark{t.last, read})
			}
			return t.last, err
		}
		if e, ok := t.log.event(seq, raw, t.last); ok {
			t.last = e.event
			f(Event{Number: e.event, Record: e.record})
		}
		read = seq
	}
}

// event reads a record, and says whether it is an event later than number after.
func (l *Log) event(seq uint64, raw []byte, after uint64) (entry, bool) {
	if len(raw) == 0 || kind(raw[0]) != kindEnd {
		return entry{}, false
	}
	e, err := parseEntry(raw)
	if err != nil {
		l.skip(seq, err)
		return entry{}, false
	}
	return e, e.event > after
}

// tailRead notes how far a Tail has come, and lets go of records between events:
// requests that come to no engine must not fill the journal while there is none.
func (l *Log) tailRead(m mark) {
	l.mu.Lock()
	l.needs.note(m)
	to := l.needs.heldTo
	l.mu.Unlock()
	if to >= l.journal.Acked()+releaseEvery {
		_ = l.release() // the next time stands for this one
	}
}

// Hold says that the caller has kept what it needs of all events up to number
// event, durably: the journal keeps for it what comes after that. The number is
// one that Each has returned; for another, Hold goes by the one returned before.
// A lower number than before changes nothing. When it cannot be kept, which is
// logged, the next Hold stands for this one.
//
// A number that no event has had means that the journal is lost while what was
// made of it is not. Then the events to come are numbered behind it.
func (l *Log) Hold(event uint64) {
	l.holding.Lock()
	defer l.holding.Unlock()
	l.mu.Lock()
	before, events := l.needs.held, l.events
	l.events = max(events, event)
	l.mu.Unlock()
	if event <= before {
		return
	}
	if event > events {
		l.log.Error("the journal has lost events: the next ones are numbered behind them", "first", events+1, "last", event)
	}
	err := writeNumber(filepath.Join(l.dir, heldFile), event) // first: else numbers could come again
	if err == nil {
		l.mu.Lock()
		l.needs.held = event
		l.needs.settle()
		l.mu.Unlock()
		err = l.release()
	}
	if err != nil && !l.holdFails {
		l.log.Error("the journal cannot let go of what is not needed any more; trying again", "error", err)
	}
	l.holdFails = err != nil
}

// NoDelivery says that nobody is going to call Deliver: an event that is not
// delivered is then no reason to keep it, and Hold alone lets the journal go of
// events. Call it where usage is not reported to anybody; without it, or a
// Deliver, the journal keeps everything until it is full.
//
// Events that a process before this one has not delivered are let go of as well.
// Read has them for as long as journal.Options.Retention says; a later Deliver
// begins with what Hold was not told of by then, and their numbers are a gap in
// what it sends.
func (l *Log) NoDelivery() {
	l.mu.Lock()
	l.needs.nobody = true
	waiting, once := l.events-min(l.events, l.delivered.Load()), l.needs.once
	l.mu.Unlock()
	if once && waiting > 0 {
		l.log.Warn("usage is not reported any more: the events that wait for it are kept for the retention only", "events", waiting)
	}
}

// deliverFrom is the record after which a Deliver begins.
func (l *Log) deliverFrom() uint64 {
	acked := l.journal.Acked()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.needs.nobody = false
	return max(acked, l.needs.deliveredTo)
}

// deliveredTo notes that the delivery is done with all up to a record.
func (l *Log) deliveredTo(seq uint64) error {
	l.mu.Lock()
	l.needs.deliveredTo = max(l.needs.deliveredTo, seq)
	l.mu.Unlock()
	return l.release()
}

// release lets the journal go of what nobody needs, but not of the beginning of
// an open request: that is needed to report it if this process dies.
func (l *Log) release() error {
	l.mu.Lock()
	seq := l.needs.least()
	for _, b := range l.open {
		seq = min(seq, b.seq-1)
	}
	l.mu.Unlock()
	if err := l.journal.Ack(seq); err != nil {
		return fmt.Errorf("cannot let go of the journal's records: %w", err)
	}
	if l.tight.Load() {
		l.look()
	}
	return nil
}
