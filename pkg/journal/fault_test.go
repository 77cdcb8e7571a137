package journal

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// faultyDisk is the file system with faults, and with a memory of what would be left after a power loss: what a good
// fsync has covered. What a failed fsync was to cover is gone for good, as on Linux.
type faultyDisk struct {
	mu       sync.Mutex
	calls    int
	from, to int              // the calls that fail
	reads    bool             // whether reading counts as a call
	names    map[string]*node // now
	durable  map[string]*node // after a power loss
}

type node struct {
	content []byte // after a power loss
	frozen  bool   // an fsync failed
}

func newFaultyDisk(from, to int) *faultyDisk {
	return &faultyDisk{from: from, to: to, names: map[string]*node{}, durable: map[string]*node{}}
}

func (d *faultyDisk) disk() disk {
	real := realDisk()
	opened := func(open func(string) (file, error), reads, makes bool) func(string) (file, error) {
		return func(path string) (file, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			if err := d.hit(syscall.ENOSPC, reads); err != nil {
				return nil, &os.PathError{Op: "open", Path: path, Err: err}
			}
			f, err := open(path)
			if err != nil {
				return nil, err
			}
			if makes || d.names[path] == nil {
				d.names[path] = new(node)
			}
			return &faultyFile{file: f, d: d, node: d.names[path]}, nil
		}
	}
	return disk{
		read: opened(real.read, true, false), open: opened(real.open, false, false), create: opened(real.create, false, true),
		rename: func(from, to string) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			if err := d.hit(syscall.EIO, false); err != nil {
				return err
			}
			d.names[to] = d.names[from]
			delete(d.names, from)
			return real.rename(from, to)
		},
		syncDir: func(string) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			if err := d.hit(syscall.EIO, false); err != nil {
				return err
			}
			d.durable = maps.Clone(d.names)
			return nil
		},
	}
}

// hit counts a call, and is err if it is one of those that fail.
func (d *faultyDisk) hit(err error, read bool) error {
	if read && !d.reads {
		return nil
	}
	if d.calls++; d.from <= d.calls && d.calls < d.to {
		return err
	}
	return nil
}

// afterPowerLoss makes a directory of what would be left.
func (d *faultyDisk) afterPowerLoss(t *testing.T, dir string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, n := range d.durable {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), n.content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

type faultyFile struct {
	file
	d    *faultyDisk
	node *node
}

func (f *faultyFile) WriteAt(b []byte, at int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.hit(syscall.ENOSPC, false); err != nil {
		n, _ := f.file.WriteAt(b[:len(b)/2], at) // of two records of the same length this is one
		return n, err
	}
	return f.file.WriteAt(b, at)
}

func (f *faultyFile) ReadAt(b []byte, at int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.hit(syscall.EIO, true); err != nil {
		return 0, err
	}
	return f.file.ReadAt(b, at)
}

func (f *faultyFile) Truncate(size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.hit(syscall.EIO, false); err != nil {
		return err
	}
	return f.file.Truncate(size)
}

func (f *faultyFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.hit(syscall.EIO, false); err != nil {
		f.node.frozen = true
		return err
	}
	if f.node.frozen {
		return nil
	}
	var err error
	f.node.content, err = io.ReadAll(io.NewSectionReader(f.file, 0, 1<<30))
	return err
}

// TestFaultAtEveryCall lets each call of the disk fail in turn, once or several times in a row, and looks after each
// step, and after a kill and a power loss at the end, whether what was accepted is there, and nothing else.
func TestFaultAtEveryCall(t *testing.T) {
	if _, err := os.Stat("/dev/shm"); err == nil {
		t.Setenv("TMPDIR", "/dev/shm") // thousands of files: in memory that takes a fifth of the time
	}
	for _, sync := range []Sync{SyncInterval, SyncAlways, SyncOS} {
		for _, width := range []int{1, 4} {
			for _, again := range []bool{true, false} {
				t.Run(fmt.Sprintf("sync %d, %d failures, same batch again %v", sync, width, again), func(t *testing.T) {
					for from := 1; ; from++ {
						d := newFaultyDisk(from, from+width)
						runWithFaults(t, d, sync, again)
						if t.Failed() {
							t.Fatalf("when call %d failed", from)
						}
						if d.calls < from {
							return
						}
					}
				})
			}
		}
	}
}

// faultRun is a journal on a faulty disk and what it promised.
type faultRun struct {
	t        *testing.T
	dir      string
	j        *Journal
	r        *Reader
	accepted []string
	failed   [][]string // batches since the last that was accepted
	seen     []string   // by the Reader
}

func runWithFaults(t *testing.T, d *faultyDisk, sync Sync, again bool) {
	s := faultRun{t: t, dir: filepath.Join(t.TempDir(), "journal")}
	o := Options{Sync: sync, SegmentSize: headerSize + 6*(frameSize+4), SyncEvery: time.Microsecond}
	var err error
	if s.j, err = open(s.dir, o, d.disk()); err != nil {
		return // it could not start, and said so
	}
	defer s.j.Close()
	s.r = s.j.Reader(0)
	var acked uint64
	for i := range 8 {
		s.write(i, again)
		if i == 4 && s.j.Ack(2) == nil {
			acked = 2
		}
	}
	s.j.Close() // syncs what is left, or fails
	s.look()

	left := filepath.Join(t.TempDir(), "left")
	d.afterPowerLoss(t, left)
	must := s.seen
	if sync == SyncAlways {
		must = s.accepted
	}
	if got, report := scanned(t, left); sync != SyncOS && !startsWith(got, must) {
		t.Errorf("after a power loss: %q, want %q; %+v", got, must, report)
	}
	good := newFaultyDisk(0, 0).disk()
	j, err := open(left, o, good)
	if err != nil {
		t.Fatal(err)
	}
	if j.Acked() < acked || j.Last() < acked {
		t.Errorf("after a power loss: acknowledged %d, last %d; %d was acknowledged", j.Acked(), j.Last(), acked)
	}
	j.Close()
	if j, err = open(s.dir, o, good); err != nil { // as after a kill
		t.Fatal(err)
	}
	if j.Last() < uint64(len(s.accepted)) || j.Last() > uint64(len(s.accepted)+2) {
		t.Errorf("after a kill: the last record is %d, %d were accepted", j.Last(), len(s.accepted))
	}
	j.Close()
}

// write brings two records, again and again or other ones after a failure.
func (s *faultRun) write(i int, again bool) {
	for attempt := range 12 {
		records := []string{fmt.Sprintf("%d%02da", i, attempt), fmt.Sprintf("%d%02db", i, attempt)}
		if again {
			records = []string{fmt.Sprintf("%d00a", i), fmt.Sprintf("%d00b", i)}
		}
		err := s.j.Write(batch(records...))
		if err == nil {
			s.accepted, s.failed = append(s.accepted, records...), nil
			s.look()
			return
		}
		var failed *WriteError
		if !errors.As(err, &failed) || !strings.Contains(err.Error(), s.dir) {
			s.t.Errorf("the error says too little: %v", err)
		}
		s.failed = append(s.failed, records)
		s.look()
	}
	s.t.Errorf("batch %d could not be written although the disk was good again", i)
}

// look checks what a kill would leave, and what the Reader gets. Behind what was accepted, a kill may leave whole
// records of one failed Write.
func (s *faultRun) look() {
	got, report := scanned(s.t, s.dir)
	rest := got[min(len(got), len(s.accepted)):]
	ofFailed := slices.ContainsFunc(s.failed, func(records []string) bool { return startsWith(records, rest) })
	if !startsWith(got, s.accepted) || len(rest) > 0 && !ofFailed || report.Corrupt != nil {
		s.t.Errorf("on the disk: %q, accepted %q, failed %q; %+v", got, s.accepted, s.failed, report)
	}
	for {
		fr, ok, err := s.r.step()
		if err != nil {
			s.t.Error(err)
		}
		if !ok || err != nil {
			break
		}
		s.seen = append(s.seen, string(fr.record))
	}
	if !startsWith(s.accepted, s.seen) {
		s.t.Errorf("read %q, accepted %q", s.seen, s.accepted)
	}
}

func startsWith(all, start []string) bool {
	return len(all) >= len(start) && slices.Equal(all[:len(start)], start)
}

func TestFailedReadLosesNothing(t *testing.T) {
	dir := t.TempDir()
	d := newFaultyDisk(0, 0)
	j, err := open(dir, Options{Sync: SyncOS, SegmentSize: 128}, d.disk())
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	for i := range 9 {
		write(t, j, numbered(i+1, i+1)...)
	}
	d.reads = true
	for from := 1; ; from++ {
		d.calls, d.from, d.to = 0, from, from+1
		r := j.Reader(0)
		for seq := uint64(1); seq <= 9; {
			got, record, err := r.Next(t.Context())
			if err != nil {
				continue
			}
			if got != seq || string(record) != fmt.Sprint(seq) {
				t.Fatalf("read %d failed: got record %d %q, want %d", from, got, record, seq)
			}
			seq++
		}
		r.close()
		if d.calls < from {
			return
		}
	}
}

func TestFailedCursorIsTriedAgain(t *testing.T) {
	d := newFaultyDisk(0, 0)
	j, err := open(t.TempDir(), Options{Sync: SyncOS}, d.disk())
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	write(t, j, numbered(1, 9)...)
	for from := 1; from <= 5; from++ { // create, write, sync, rename, sync of the directory
		d.calls, d.from, d.to = 0, from, from+1
		var failed *WriteError
		if err := j.Ack(uint64(from)); !errors.As(err, &failed) || j.Acked() != uint64(from-1) {
			t.Fatalf("call %d failed: %v, acknowledged %d", from, err, j.Acked())
		}
		if err := j.Ack(uint64(from)); err != nil || j.Acked() != uint64(from) {
			t.Fatalf("call %d failed before: %v, acknowledged %d", from, err, j.Acked())
		}
	}
}

// waitFor looks until cond holds.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	timeout := time.After(10 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestSyncRecoversWithoutAWrite: when requests are refused because the journal fails, no Write comes to mend it.
func TestSyncRecoversWithoutAWrite(t *testing.T) {
	d := newFaultyDisk(0, 0)
	var l log
	j, err := open(t.TempDir(), Options{SyncEvery: time.Millisecond, Log: l.add}, d.disk())
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	d.mu.Lock()
	d.from, d.to = d.calls+2, 1<<30 // after the write of the batch
	d.mu.Unlock()
	write(t, j, "kept")
	waitFor(t, "the failure to be seen", j.Failing)
	d.mu.Lock()
	d.to = 0
	d.mu.Unlock()
	waitFor(t, "the journal to recover", func() bool { return !j.Failing() })
	wantNext(t, j.Reader(0), 1, "kept")
	if !strings.Contains(l.String(), "can be written again") {
		t.Errorf("nobody was told: %q", l.String())
	}
}

// TestShorterWriteAfterFailedOne: what a failed write left behind must not come alive behind a shorter one.
func TestShorterWriteAfterFailedOne(t *testing.T) {
	dir := t.TempDir()
	d := newFaultyDisk(0, 0)
	j, err := open(dir, Options{Sync: SyncOS}, d.disk())
	if err != nil {
		t.Fatal(err)
	}
	d.calls, d.from, d.to = 0, 1, 3 // the write stops half-way, and cannot be taken back
	if err := j.append(batch("a", "b", "c", "d")); err == nil {
		t.Fatal("the write did not fail")
	}
	write(t, j, "e")
	j.Close()
	if got, report := scanned(t, dir); !slices.Equal(got, []string{"e"}) || report.Corrupt != nil {
		t.Errorf("read %q, %+v", got, report)
	}
}

// TestOpenSyncsWhatAKilledProcessWrote: a Reader must not see it while a power loss can still take it.
func TestOpenSyncsWhatAKilledProcessWrote(t *testing.T) {
	dir := t.TempDir()
	content, mark, _ := sample(t, "written", "and killed")
	path := place(t, dir, mark, content)
	d := newFaultyDisk(0, 0)
	j, err := open(dir, Options{}, d.disk())
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	wantNext(t, j.Reader(0), 1, "written")
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.names[path].content, content) {
		t.Error("a power loss could still take what was read")
	}
}
