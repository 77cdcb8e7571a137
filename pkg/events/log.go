package events

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llmproxy/llmproxy/pkg/journal"
)

// journalDir is where in the data directory the journal is.
const journalDir = "journal"

const (
	// ringSize bounds the records that wait for the journal, a power of two. While
	// it can be written hardly any do; while it cannot, so many requests can end
	// without waiting.
	ringSize = 1 << 14
	// batchSize bounds the records of one write.
	batchSize = 512
	// drainEvery is when marks, for which nobody waits, are written at the latest,
	// and when a journal that could not be written is tried again.
	drainEvery = 100 * time.Millisecond
	// slotSize is the room for a record of usual length, maxSlotSize what a place
	// keeps after a longer one. In bytes.
	slotSize, maxSlotSize = 320, 1024
)

// Log takes records from the requests and keeps them in a journal. Its methods
// are safe for concurrent use.
//
// Records go through a ring without locks. Who needs to know that a record is in
// the kernel's hands writes what the ring holds, for all that wait: the first to
// come writes, and those who come meanwhile find theirs written, or write the
// next batch. So one request alone pays one write(2), and many pay one together.
type Log struct {
	journal *journal.Journal
	node    string
	dir     string
	log     *slog.Logger

	slots   [ringSize]slot
	tail    atomic.Uint64 // places handed out
	written atomic.Uint64 // places whose record is in the journal
	failing atomic.Bool   // the last write failed
	tight   atomic.Bool   // the journal's room is for the ends of open requests, see weigh

	mu     sync.Mutex // one writer at a time; guards what follows
	room   *sync.Cond // places were freed
	batch  journal.Batch
	events uint64             // number of the last event
	open   map[[16]byte]begun // requests that have begun and not ended
	ends   int64              // bytes of the journal that their ends may need
	margin int64              // and those that begin at this moment
	needs  needs              // who still needs which records
	closed bool

	holding    sync.Mutex    // guards the file of what is held, and holdFails
	holdFails  bool          // the file could not be written the last time
	delivering sync.Mutex    // held by a Deliver
	delivered  atomic.Uint64 // number of the last event that was delivered
	oldest     atomic.Int64  // when the first event that waits for delivery ended, unix nanoseconds; 0: none is known
	skipped    atomic.Uint64 // records that could not be read back
	stop       context.CancelFunc
	done       sync.WaitGroup
}

// slot is a place in the ring. Its turn is the place's number while it is free,
// one more while it holds a record, and the number of its next place after that.
type slot struct {
	turn atomic.Uint64
	buf  []byte
}

// begun is a request that is open: where in the journal it began, and how many
// bytes its end may need there.
type begun struct {
	seq uint64
	end int64
}

// moreAtEnd is by how much an end, with its frame in the journal, may be longer
// than its start, in bytes.
const moreAtEnd = 256

// Open opens the log in dir, see journal.Open, and ends the requests that the
// process before this one left open: each becomes an event of its own. Only one
// Log of a directory can be open.
func Open(dir string, o journal.Options, log *slog.Logger) (*Log, error) {
	o.Log = func(msg string, args ...any) { log.Warn(msg, args...) }
	j, err := journal.Open(filepath.Join(dir, journalDir), o)
	if err != nil {
		return nil, err
	}
	l := &Log{journal: j, dir: dir, log: log, open: map[[16]byte]begun{}, margin: batchSize * slotSize}
	if o.MaxSize > 0 {
		l.margin = min(l.margin, o.MaxSize/8)
	}
	l.room = sync.NewCond(&l.mu)
	for i := range l.slots {
		l.slots[i].turn.Store(uint64(i))
	}
	left, err := l.recover()
	if err != nil {
		_ = j.Close() // the error that came first says more
		return nil, fmt.Errorf("cannot recover the journal in %s: %w", dir, err)
	}
	l.interrupt(left)
	l.look()
	var ctx context.Context
	ctx, l.stop = context.WithCancel(context.Background())
	l.done.Go(func() { l.tend(ctx) })
	return l, nil
}

// Start says that a request is about to go to an engine. When it returns true
// the kernel has it: if the process dies the request will be reported as
// interrupted. When it returns false the journal cannot be written, or has no room
// for more requests, and nothing was begun.
func (l *Log) Start(r *Record) bool { return !l.Failing() && l.begin(r) }

func (l *Log) begin(r *Record) bool {
	n := l.put(r, kindStart)
	return l.flush(n) || !l.withdraw(n)
}

// Mark says what a request has used so far. It may get lost: while no request may
// begin, the places of the ring and of the journal are for ends.
func (l *Log) Mark(r *Record) {
	if !l.Failing() {
		l.put(r, kindMark)
	}
}

// Void says that a request that was started came to no engine. If the process
// dies within a tenth of a second the request is reported as interrupted.
func (l *Log) Void(r *Record) { l.put(r, kindVoid) }

// End says how a request that was started ended, and returns when the kernel has
// it: nothing that happens to this process can lose it any more. While the
// journal cannot be written the record waits in memory, and End only when
// too many do; if the process dies then, the request is reported as interrupted.
func (l *Log) End(r *Record) {
	n := l.put(r, kindEnd)
	if !l.failing.Load() {
		l.flush(n)
	}
}

// Failing reports whether no request may begin at the moment: the journal cannot
// be written, or what room it has is for the ends of those that are open.
func (l *Log) Failing() bool { return l.failing.Load() || l.tight.Load() }

// put encodes a record into the next place of the ring, and returns how many
// places are handed out with it. It waits for a place when none is free.
func (l *Log) put(r *Record, k kind) uint64 {
	n := l.tail.Add(1)
	place := n - 1
	s := &l.slots[place%ringSize]
	if s.turn.Load() != place && !l.waitFor(s, place) {
		return n
	}
	s.buf = r.append(slices.Grow(s.buf[:0], slotSize), k)
	s.turn.Store(n)
	return n
}

// waitFor returns true when a place is free, and false when it never will be.
func (l *Log) waitFor(s *slot, place uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !l.closed {
		if s.turn.Load() == place {
			return true
		}
		if !l.drain() || s.turn.Load() != place {
			l.room.Wait()
		}
	}
	return false
}

// flush returns true when the first n records are written, and false when they
// cannot be.
func (l *Log) flush(n uint64) bool {
	for l.written.Load() < n {
		l.mu.Lock()
		ok := l.written.Load() >= n || l.drain()
		l.mu.Unlock()
		if !ok {
			return false
		}
		if l.written.Load() < n {
			runtime.Gosched() // somebody before us is not done with encoding
		}
	}
	return true
}

// withdraw takes back the start that put has given n for. It returns false when
// that has been written after all.
func (l *Log) withdraw(n uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.written.Load() >= n {
		return false
	}
	if s := &l.slots[(n-1)%ringSize]; s.turn.Load() == n { // else the log was closed before it got its place
		s.buf = s.buf[:offEvent]
		s.buf[0] = byte(kindVoid)
	}
	return true
}

// drain writes what the ring holds, up to batchSize. It returns false when the
// journal cannot be written; what was to be written stays in the ring. The caller
// holds l.mu.
func (l *Log) drain() bool {
	if l.closed {
		return false
	}
	if l.failing.Load() && l.journal.Failing() {
		return false // it finds out by itself when it can be written again
	}
	head, events := l.written.Load(), l.events
	next := head
	l.batch.Reset()
	for ; next < head+batchSize; next++ {
		s := &l.slots[next%ringSize]
		if s.turn.Load() != next+1 {
			break
		}
		if kind(s.buf[0]) == kindEnd {
			events++
			binary.LittleEndian.PutUint64(s.buf[offEvent:], events)
		}
		if err := l.batch.Add(s.buf); err != nil {
			panic("BUG: " + err.Error()) // all that a record holds is bounded
		}
	}
	if next == head {
		return true
	}
	if err := l.journal.Write(&l.batch); err != nil {
		if !l.failing.Swap(true) {
			l.log.Error("usage cannot be recorded", "error", err)
		}
		return false
	}
	if l.failing.Swap(false) {
		l.log.Info("usage is recorded again")
	}
	l.events = events
	seq := l.journal.Last() - (next - head)
	for place := head; place < next; place++ {
		s := &l.slots[place%ringSize]
		seq++
		l.follow(s.buf, seq)
		if cap(s.buf) > maxSlotSize {
			s.buf = nil
		}
		s.turn.Store(place + ringSize)
	}
	l.written.Store(next)
	l.room.Broadcast()
	l.weigh()
	return true
}

// follow keeps the list of open requests.
func (l *Log) follow(b []byte, seq uint64) {
	id := [16]byte(b[offID:])
	switch kind(b[0]) {
	case kindStart:
		l.ends -= l.open[id].end
		l.open[id] = begun{seq, int64(len(b)) + moreAtEnd}
		l.ends += l.open[id].end
	case kindEnd, kindVoid:
		l.ends -= l.open[id].end
		delete(l.open, id)
	}
}

// weigh finds out whether more requests may begin. The ends of those that are open
// must have room. Without it the journal would be full for ever: it keeps all from
// the beginning of an open request on, which could not end. The caller holds l.mu.
func (l *Log) weigh() {
	need := l.ends + l.margin
	if l.tight.Load() {
		need += l.margin // else it would be so again after the next request
	}
	tight := l.journal.Room() < need
	switch before := l.tight.Swap(tight); {
	case tight && !before:
		l.log.Error("usage cannot be recorded", "error", errTight)
	case before && !tight:
		l.log.Info("usage is recorded again")
	}
}

var errTight = errors.New("as much as the journal may hold waits to be acknowledged: see why its reader does not go on, or raise its size limit")

// look is weigh for who does not hold l.mu.
func (l *Log) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.weigh()
}

// tend writes what nobody waits for, until ctx ends.
func (l *Log) tend(ctx context.Context) {
	tick := time.NewTicker(drainEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			l.flush(l.tail.Load())
		case <-ctx.Done():
			return
		}
	}
}

// Close writes what is left and closes the journal. A request that is open is
// reported as interrupted when the log is opened again. The error says that
// records are lost, or may be by a power loss.
func (l *Log) Close() error {
	l.stop()
	l.done.Wait()
	l.flush(l.tail.Load())
	l.mu.Lock()
	left := l.tail.Load() - l.written.Load()
	l.closed = true
	l.room.Broadcast()
	l.mu.Unlock()
	err := l.journal.Close()
	if left > 0 {
		return fmt.Errorf("cannot record how the last requests ended: %d records are lost, their requests will be reported as interrupted", left)
	}
	return err
}
