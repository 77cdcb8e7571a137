package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// maxUnsynced bounds the memory that waits for fsync, in bytes; a disk that cannot keep up slows Write down.
	maxUnsynced = 8 << 20
	// retryEvery is the time between two attempts to write again.
	retryEvery = time.Second
	// probeSize is what must fit on the disk before the journal believes that it can write again.
	probeSize = 64 << 10
)

// errFull is the cause of a Write that MaxSize refuses.
var errFull = errors.New("as much as the journal may hold waits to be acknowledged")

// WriteError tells why records could not be written. Nothing of that Write will be read.
type WriteError struct {
	File string // or the directory
	Err  error  // the cause, for errors.Is
}

// Error names the file, the cause, and what to do.
func (e *WriteError) Error() string {
	return fmt.Sprintf("cannot write %s: %v: %s", e.File, e.Err, e.remedy())
}

// Unwrap is the cause.
func (e *WriteError) Unwrap() error { return e.Err }

func (e *WriteError) remedy() string {
	switch {
	case errors.Is(e.Err, errFull):
		return "see why its reader does not go on, or raise its size limit"
	case errors.Is(e.Err, syscall.ENOSPC), errors.Is(e.Err, syscall.EDQUOT):
		return "free space on this file system"
	case errors.Is(e.Err, fs.ErrPermission), errors.Is(e.Err, syscall.EROFS):
		return "make it writable for this user"
	case errors.Is(e.Err, os.ErrClosed):
		return "the journal is closed"
	}
	return "check the disk and the kernel's log"
}

// failure wraps err, which happened to file unless it says otherwise.
func failure(file string, err error) *WriteError {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return &WriteError{File: path.Path, Err: fmt.Errorf("%s: %w", path.Op, path.Err)}
	}
	return &WriteError{File: file, Err: err}
}

// Write appends the records of b in one write(2) and gives them the numbers after Last. When it returns nil they
// outlive kill -9, and a power loss as Sync says. When it fails (always with a *WriteError) none of them will be read,
// and the batch can be written again. With SyncAlways each Write waits for an fsync: group records. With SyncInterval
// it waits only when the disk is 8 MiB behind.
func (j *Journal) Write(b *Batch) error {
	if b.n == 0 {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	err := j.append(b)
	if err == nil {
		if j.broken.Swap(false) {
			j.o.Log("the journal can be written again", "dir", j.dir)
		}
		j.full.Store(false)
		j.stats.records.Add(uint64(b.n))
		j.stats.bytes.Add(uint64(len(b.frames)))
		return nil
	}
	j.stats.errors.Add(1)
	switch {
	case errors.Is(err, os.ErrClosed) && j.closed:
	case errors.Is(err, errFull):
		j.full.Store(true)
	default:
		j.fail(err)
	}
	return failure(j.dir, err)
}

// fail notes that the journal cannot keep its promise, and has tend try until it can.
func (j *Journal) fail(err error) {
	if !j.broken.Swap(true) {
		j.o.Log("the journal cannot be written", "error", failure(j.dir, err))
	}
	j.wake()
}

// wake has tend look at once.
func (j *Journal) wake() {
	select {
	case j.dirty <- struct{}{}:
	default:
	}
}

// append does Write's work.
func (j *Journal) append(b *Batch) error {
	n := int64(len(b.frames))
	if err := j.makeRoom(n); err != nil {
		return err
	}
	seg, now := j.newest(), time.Now()
	b.stamp(j.last+1, now.UnixNano())
	sign(b.frames, seg.mark)
	if _, err := j.f.WriteAt(b.frames, seg.size); err != nil {
		j.cut(seg)
		return err
	}
	if j.acked == j.last {
		j.oldest = now
	}
	seg.size += n
	j.last += uint64(b.n)
	switch j.o.Sync {
	case SyncOS:
		j.show(seg)
	case SyncInterval:
		j.unsynced = append(j.unsynced, b.frames...)
		j.wake()
	case SyncAlways:
		j.unsynced = append(j.unsynced, b.frames...)
		if err := j.flush(); err != nil {
			// Nobody was told that this batch is written: take it back, so that it can come again.
			seg.size, j.last, j.unsynced = seg.shown, j.shown, j.unsynced[:0]
			return err
		}
	}
	return nil
}

// makeRoom sees to it that n bytes can go to the newest segment.
func (j *Journal) makeRoom(n int64) error {
	for j.syncing && (j.stale || len(j.unsynced) > maxUnsynced || j.newest().size+n > j.o.SegmentSize) {
		j.cond.Wait() // what follows changes files
	}
	if j.closed {
		return os.ErrClosed
	}
	if j.backlogBytes()+n > j.o.MaxSize {
		return errFull
	}
	if j.stale {
		return j.startSegment()
	}
	if len(j.unsynced) > maxUnsynced {
		if err := j.flush(); err != nil {
			return err
		}
	}
	if size := j.newest().size; size+n <= j.o.SegmentSize || size == headerSize {
		return nil
	}
	if err := j.flush(); err != nil {
		return err
	}
	if j.o.Sync == SyncOS {
		if err := j.fsync(j.f); err != nil {
			j.o.Log("cannot sync a segment of the journal; a power loss may take records", "file", j.newest().path, "error", err)
		}
	}
	return j.startSegment()
}

// cut removes what a failed write left behind the last good byte, or gives the segment up. Without that, whole frames
// of the failed batch could come alive behind a later, shorter one.
func (j *Journal) cut(seg *segment) {
	if err := j.f.Truncate(seg.size); err != nil {
		j.stale = true
	}
}

// startSegment closes the newest segment and makes the next one, with the records that are not synced yet. They count
// from the new one's first number on, wherever they are in the old one as well. On an error the old one must not be
// written to any more: the new one may be there already.
func (j *Journal) startSegment() error {
	j.stale = true
	j.number++
	seg := &segment{number: j.number, mark: max(rand.Uint32(), 1), first: j.shown + 1, whole: true}
	seg.path = segmentPath(j.dir, seg.number, seg.mark)
	sign(j.unsynced, seg.mark)
	f, err := j.disk.replace(seg.path, filepath.Join(j.dir, "new.journal"), header(seg.mark, seg.first), j.unsynced)
	if err != nil {
		return err
	}
	if j.f != nil {
		old := j.newest()
		old.size = old.shown // the rest stays there, void
		j.f.Close()
	}
	seg.size = headerSize + int64(len(j.unsynced))
	j.f, j.segs, j.stale = f, append(j.segs, seg), false
	j.unsynced = j.unsynced[:0]
	j.show(seg)
	return nil
}

// show lets Readers see all of seg, which is the newest.
func (j *Journal) show(seg *segment) {
	seg.shown, j.shown = seg.size, j.last
	j.cond.Broadcast()
}

// fsync syncs f and counts it.
func (j *Journal) fsync(f file) error {
	start := time.Now()
	err := f.Sync()
	j.stats.syncs.Add(1)
	j.stats.syncNanos.Add(uint64(time.Since(start)))
	return err
}

// Flush has all that is written outlive a power loss, and Readers see it, at once; with SyncOS they do anyway. An error
// is a *WriteError; what it could not do is tried again, as Write says.
func (j *Journal) Flush() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return failure(j.dir, os.ErrClosed)
	}
	if err := j.flush(); err != nil {
		j.fail(err)
		return failure(j.dir, err)
	}
	return nil
}

// flush makes all that is written outlive a power loss, except with SyncOS.
func (j *Journal) flush() error {
	for j.syncing {
		j.cond.Wait()
	}
	if len(j.unsynced) == 0 {
		return nil
	}
	if j.stale {
		return j.startSegment()
	}
	if err := j.fsync(j.f); err != nil {
		return j.abandon(err)
	}
	j.unsynced = j.unsynced[:0]
	j.show(j.newest())
	return nil
}

// abandon leaves a segment whose fsync failed, see the package's comment.
func (j *Journal) abandon(cause error) error {
	j.stats.errors.Add(1)
	j.o.Log("cannot sync a segment of the journal; its unsynced records go into a new one", "file", j.newest().path, "error", cause)
	return j.startSegment()
}

// tend syncs behind Write, and tries again after a failure.
func (j *Journal) tend() {
	defer close(j.done)
	pause := time.NewTimer(0)
	for {
		select {
		case <-j.stop:
			return
		case <-j.dirty:
		}
		if j.broken.Load() {
			j.probe()
		} else {
			j.syncBehind()
		}
		pause.Reset(j.o.SyncEvery)
		if j.broken.Load() {
			pause.Reset(retryEvery)
			j.wake()
		}
		select {
		case <-j.stop:
			return
		case <-pause.C:
		}
	}
}

// syncBehind syncs what is written so far, while Write goes on.
func (j *Journal) syncBehind() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.unsynced) == 0 || j.stale || j.closed {
		return
	}
	seg, f, size, last, n := j.newest(), j.f, j.newest().size, j.last, len(j.unsynced)
	j.syncing = true
	j.mu.Unlock()
	err := j.fsync(f)
	j.mu.Lock()
	j.syncing = false
	if err == nil {
		j.unsynced = j.unsynced[:copy(j.unsynced, j.unsynced[n:])]
		seg.shown, j.shown = size, last
	} else if err := j.abandon(err); err != nil {
		j.fail(err)
	}
	j.cond.Broadcast()
}

// probe tries to write and sync, behind the last record, and takes it away again.
func (j *Journal) probe() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return
	}
	err := j.flush()
	if err == nil && j.stale {
		err = j.startSegment()
	}
	if err == nil {
		_, err = j.f.WriteAt(make([]byte, probeSize), j.newest().size)
		if err == nil && j.o.Sync != SyncOS {
			if err = j.fsync(j.f); err != nil {
				j.stale = true
			}
		}
		j.cut(j.newest())
	}
	if err == nil {
		j.broken.Store(false)
		j.o.Log("the journal can be written again", "dir", j.dir)
	}
}
