// Package journal keeps records in a directory, in order, until a reader has acknowledged them.
//
// Records are byte strings of up to 64 KiB; each has a sequence number. They stand in segments: files that are only
// appended to, each frame with a CRC-32C. What a finished Write has written outlives kill -9 in every mode, and a power
// loss as Sync says. A Reader sees a record once it would outlive a power loss too (with SyncOS: once it is written), so
// nothing is passed on that can still go away.
//
// A record whose Write failed is never seen by a Reader of this process, unless a later Write brings it again; when the
// process dies right then it may be there, whole, at the next start, as with any database.
//
// When fsync fails, what the kernel had not yet synced may be gone although a later fsync succeeds. So the segment is
// left as it is known to be good, and everything after that point, which is kept in memory until fsync succeeds, goes
// into a new one. With SyncOS nothing is kept and such a failure is only logged.
package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// Sync says what outlives a power loss or a crash of the machine.
type Sync int

const (
	SyncInterval Sync = iota // all but the last SyncEvery
	SyncAlways               // everything: Write returns after fsync
	SyncOS                   // what the kernel happened to write; a number may come again for another record
)

// ParseSync reads interval, always or os.
func ParseSync(s string) (Sync, error) {
	switch s {
	case "interval":
		return SyncInterval, nil
	case "always":
		return SyncAlways, nil
	case "os":
		return SyncOS, nil
	}
	return 0, fmt.Errorf("cannot sync %q: it is interval, always or os", s)
}

// Options of a journal; zero values mean the defaults.
type Options struct {
	SegmentSize int64         // bytes after which a segment is closed; 64 MiB
	MaxSize     int64         // bytes not yet acknowledged beyond which Write fails like a full disk; 10 GiB
	Retention   time.Duration // how long a segment is kept, at least, after its last record was acknowledged; 24 h
	Sync        Sync
	SyncEvery   time.Duration // the shortest time between two fsyncs with SyncInterval; 10 ms

	// Log is told of damage, failures and recovery, with the arguments of slog. Default: nobody.
	Log func(msg string, args ...any)
}

func (o Options) withDefaults() Options {
	if o.SegmentSize <= 0 {
		o.SegmentSize = 64 << 20
	}
	if o.MaxSize <= 0 {
		o.MaxSize = 10 << 30
	}
	if o.Retention <= 0 {
		o.Retention = 24 * time.Hour
	}
	if o.SyncEvery <= 0 {
		o.SyncEvery = 10 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	return o
}

// Journal is an open directory of records. Its methods are safe for concurrent use; Replay comes before the first Write.
type Journal struct {
	dir  string
	o    Options
	disk disk
	lock *os.File

	mu       sync.Mutex // guards all down to oldest; held while writing, not while reading or (SyncInterval) syncing
	cond     *sync.Cond // something of what follows has changed
	segs     []*segment // oldest first; the last one is written to
	f        file       // the last of segs
	number   uint64     // the highest that a segment ever had
	last     uint64     // the last record written
	shown    uint64     // the last record that a Reader may see
	unsynced []byte     // the frames of the records after shown
	stale    bool       // f must not be written to any more: a new segment has to take its place
	syncing  bool       // f is being synced without the mutex
	closed   bool
	acked    uint64
	ackedIn  uint64    // number of the segment where the oldest record not acknowledged is, or will be
	ackedAt  int64     // and where it begins there
	oldest   time.Time // when it was written

	ackMu  sync.Mutex // guards the cursor file and the two below; taken before mu
	cursor *Reader    // follows the acknowledged
	head   frame      // what cursor read last: not acknowledged yet, unless seq is 0

	broken atomic.Bool // the last Write, or the syncing after it, failed
	full   atomic.Bool // the last Write found MaxSize reached
	stats  counters

	dirty chan struct{} // wakes tend
	stop  chan struct{}
	done  chan struct{}
}

// Open opens the journal in dir and makes it if there is none (0700, its files 0600). It fails when another process has
// it, when a newer version wrote it, and when the directory cannot be read or written. A tail that a crash left half
// written is cut off, damage elsewhere skipped; both are logged.
func Open(dir string, o Options) (*Journal, error) { return open(dir, o, realDisk()) }

func open(dir string, o Options, d disk) (_ *Journal, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the journal's directory: %w", err)
	}
	_ = d.syncDir(filepath.Dir(dir)) // not every user may; the file system does it anyway, later
	j := &Journal{
		dir: dir, o: o.withDefaults(), disk: d,
		dirty: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	j.cond = sync.NewCond(&j.mu)
	if j.lock, err = lock(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			if j.f != nil {
				j.f.Close()
			}
			j.lock.Close()
		}
	}()
	var lost []*segment
	if j.segs, lost, j.number, err = list(dir, d); err != nil {
		return nil, err
	}
	for _, s := range lost {
		j.o.Log("a file of the journal has no readable record; move it away", "file", s.path, "bytes", s.size)
	}
	for _, s := range j.segs {
		if !s.whole {
			j.o.Log("a file of the journal has a damaged header, its records can be read; check the disk", "file", s.path)
		}
	}
	if err := j.resume(); err != nil {
		return nil, err
	}
	go j.tend()
	return j, nil
}

// resume finds out where the journal ended and makes it ready to be written and acknowledged.
func (j *Journal) resume() error {
	acked, err := j.readCursor()
	if err != nil {
		return err
	}
	if len(j.segs) > 0 {
		j.acked = j.segs[0].first - 1
		if err := j.repair(j.newest()); err != nil {
			return err
		}
	}
	j.acked = max(acked, j.acked)
	// Numbers that were acknowledged are taken, even if a power loss took their records.
	j.stale = j.stale || j.f == nil || j.last < j.acked
	j.last = max(j.last, j.acked)
	j.shown = j.last
	if j.stale {
		if err := j.startSegment(); err != nil {
			return fmt.Errorf("cannot open the journal: %w", failure(j.dir, err))
		}
	}
	j.cursor = j.Reader(j.acked)
	j.advance(j.acked)
	return nil
}

// repair checks the newest segment, cuts its torn tail and opens it for writing.
func (j *Journal) repair(seg *segment) (err error) {
	if j.f, err = j.disk.open(seg.path); err != nil {
		return fmt.Errorf("cannot open the journal: %w", err)
	}
	j.last = seg.first - 1
	tr := trail{last: j.last}
	var t tape
	t.rewind(j.f, seg)
	for {
		fr, skipped, err := t.next(seg.size, 0)
		tr.skip(seg.path, fr.at-skipped, skipped)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("cannot read %s: %w: copy the directory to a good disk", seg.path, err)
		}
		tr.see(seg.path, fr) // a Reader logs what is lost
		j.last = fr.seq
	}
	if torn := tr.gap.Bytes; torn > 0 {
		seg.size -= torn
		j.o.Log("cut the journal's torn tail, which a crash left half written", "file", seg.path, "offset", seg.size, "bytes", torn)
	}
	seg.shown = seg.size
	if !seg.whole {
		j.stale = true
		return nil
	}
	if err := errors.Join(j.f.Truncate(seg.size), j.f.Sync()); err != nil {
		return fmt.Errorf("cannot open the journal: %w", failure(seg.path, err))
	}
	return nil
}

func (j *Journal) newest() *segment { return j.segs[len(j.segs)-1] }

// Last is the number of the last record written, 0 if there never was one.
func (j *Journal) Last() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last
}

// Failing says that the last Write, or what had to be done to keep its promise, failed, or that MaxSize is reached. The
// journal tries again by itself, once a second and at each Write, until that succeeds.
func (j *Journal) Failing() bool { return j.broken.Load() || j.full.Load() }

// Close syncs and closes the journal and gives the directory free. A waiting Next returns os.ErrClosed. The error tells
// that the last records would not outlive a power loss.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	err := j.flush()
	if err == nil && j.o.Sync == SyncOS {
		err = j.fsync(j.f)
	}
	j.closed = true
	j.cond.Broadcast()
	j.mu.Unlock()
	close(j.stop)
	<-j.done
	j.f.Close()
	j.lock.Close()
	if err != nil {
		return fmt.Errorf("cannot close the journal: %w", failure(j.dir, err))
	}
	return nil
}

// Stats are totals since Open.
type Stats struct {
	Records     uint64 // appended
	Bytes       uint64 // appended, frames included
	Syncs       uint64 // calls of fsync on segments
	SyncTime    time.Duration
	WriteErrors uint64 // Writes that failed, and fsyncs
}

type counters struct {
	records, bytes, syncs, syncNanos, errors atomic.Uint64
}

// Stats is a snapshot for metrics.
func (j *Journal) Stats() Stats {
	return Stats{
		Records: j.stats.records.Load(), Bytes: j.stats.bytes.Load(),
		Syncs: j.stats.syncs.Load(), SyncTime: time.Duration(j.stats.syncNanos.Load()),
		WriteErrors: j.stats.errors.Load(),
	}
}
