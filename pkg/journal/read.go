package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
)

// Fault is a damaged place.
type Fault struct {
	File    string
	Offset  int64  // where the damage begins
	Bytes   int64  // skipped up to the next good record; 0 if a file is missing
	Records uint64 // how many are missing, as far as can be told
}

// trail follows the sequence numbers from segment to segment and tells what is missing between two records.
type trail struct {
	last uint64
	gap  Fault // unreadable bytes since last: damage if a number is missing too, else a write that failed
}

// skip notes that n bytes at offset of file cannot be read.
func (t *trail) skip(file string, offset, n int64) {
	if n > 0 && t.gap.Bytes == 0 {
		t.gap.File, t.gap.Offset = file, offset
	}
	t.gap.Bytes += n
}

// see takes the next good frame, in file. The Fault is what was between it and the one before; its Records are 0 if
// nothing was lost.
func (t *trail) see(file string, fr frame) Fault {
	gap := t.gap
	if gap.Bytes == 0 {
		gap.File, gap.Offset = file, fr.at
	}
	gap.Records = fr.seq - t.last - 1
	t.gap, t.last = Fault{}, fr.seq
	return gap
}

// Reader reads the records of an open journal in order. It is for one goroutine; there may be several Readers.
type Reader struct {
	j     *Journal
	tape  tape
	trail trail
	found func(gap Fault, next uint64) // is told what is unreadable before record next
	f     file
	path  string

	number uint64 // of the segment on the tape; 0: none yet
	limit  int64  // as of the last look at the journal
	stop   uint64
}

// Reader reads the records after number after, from 0 on all that are still there. It is closed with the journal.
func (j *Journal) Reader(after uint64) *Reader {
	j.mu.Lock()
	defer j.mu.Unlock()
	return &Reader{j: j, trail: trail{last: max(after, j.segs[0].first-1)}, found: j.logGap}
}

func (j *Journal) logGap(gap Fault, next uint64) {
	if gap.Records > 0 {
		j.o.Log("records of the journal are damaged or missing; check the disk", "file", gap.File, "offset", gap.Offset,
			"bytes", gap.Bytes, "first", next-gap.Records, "records", gap.Records)
	}
}

// Next waits for the next record and returns its number and the record, which is good until the following call. Damaged
// places are logged and skipped, so numbers can be missing. The error is that of ctx, os.ErrClosed, or one of the disk,
// after which Next can be tried again.
func (r *Reader) Next(ctx context.Context) (seq uint64, record []byte, err error) {
	fr, ok, err := r.step()
	if ok || err != nil {
		return fr.seq, fr.record, err
	}
	j := r.j
	defer context.AfterFunc(ctx, func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.cond.Broadcast()
	})()
	for !ok && err == nil {
		j.mu.Lock()
		for r.idle() && !j.closed && ctx.Err() == nil {
			j.cond.Wait()
		}
		closed := j.closed
		j.mu.Unlock()
		if ctx.Err() != nil {
			return 0, nil, ctx.Err()
		}
		if closed {
			r.close()
			return 0, nil, os.ErrClosed
		}
		fr, ok, err = r.step()
	}
	return fr.seq, fr.record, err
}

// TryNext is Next without the wait: its number is 0, and the error nil, when there is no record yet.
func (r *Reader) TryNext() (seq uint64, record []byte, err error) {
	fr, ok, err := r.step()
	if ok || err != nil {
		return fr.seq, fr.record, err
	}
	r.j.mu.Lock()
	closed := r.j.closed && r.idle()
	r.j.mu.Unlock()
	if closed {
		r.close()
		return 0, nil, os.ErrClosed
	}
	return 0, nil, nil
}

func (r *Reader) close() {
	if r.f != nil {
		r.f.Close()
		r.f = nil
	}
}

// step is the next record if there is one already.
func (r *Reader) step() (fr frame, ok bool, err error) {
	for {
		if r.f == nil || r.tape.pos >= r.limit {
			if ok, err := r.advance(); !ok || err != nil {
				return frame{}, false, err
			}
		}
		fr, skipped, err := r.tape.next(r.limit, r.stop)
		if err != nil && !errors.Is(err, io.EOF) {
			return frame{}, false, fmt.Errorf("cannot read %s: %w: check the disk and the kernel's log", r.path, err)
		}
		r.trail.skip(r.path, fr.at-skipped, skipped)
		if err != nil {
			continue
		}
		if fr.seq <= r.trail.last {
			r.trail.gap = Fault{} // what is damaged before there was asked for anything is of no interest
			continue
		}
		if gap := r.trail.see(r.path, fr); gap.Bytes > 0 || gap.Records > 0 {
			r.found(gap, fr.seq)
		}
		return fr, true, nil
	}
}

// advance puts what there is to read now on the tape, and says whether there is anything.
func (r *Reader) advance() (bool, error) {
	r.j.mu.Lock()
	seg, stop := r.target()
	if seg == nil {
		r.j.mu.Unlock()
		return false, nil
	}
	now := *seg
	r.j.mu.Unlock()
	if r.f == nil || now.number != r.number {
		f, err := r.j.disk.read(now.path)
		if err != nil {
			return false, fmt.Errorf("cannot read the journal: %w", err)
		}
		r.close()
		r.f, r.path, r.number = f, now.path, now.number
		r.tape.rewind(f, &now)
	}
	r.limit, r.stop = now.shown, stop
	return true, nil
}

// idle says that there is nothing new to read. The journal's mutex is held.
func (r *Reader) idle() bool {
	seg, _ := r.target()
	return seg == nil
}

// target is the segment to read next and the number that ends it, nil if all is read. The journal's mutex is held.
func (r *Reader) target() (seg *segment, stop uint64) {
	segs, i := r.j.segs, 0
	if r.f == nil {
		for i < len(segs)-1 && segs[i+1].first <= r.trail.last+1 {
			i++
		}
	} else {
		i = sort.Search(len(segs), func(i int) bool { return segs[i].number >= r.number })
		if segs[i].number == r.number && r.tape.pos >= segs[i].shown {
			i++
		}
	}
	switch i {
	case len(segs):
		return nil, 0
	case len(segs) - 1:
		return segs[i], 0
	}
	return segs[i], segs[i+1].first
}

// Replay calls f with every record there is, acknowledged or not, in order; f must not keep the record. It ends with
// the first error of f, or of the disk. It is for the start, before the first Write.
func (j *Journal) Replay(f func(seq uint64, record []byte) error) error {
	r := j.Reader(0)
	defer r.close()
	for {
		fr, ok, err := r.step()
		if !ok || err != nil {
			return err
		}
		if err := f(fr.seq, fr.record); err != nil {
			return err
		}
	}
}

// Report is what Scan found.
type Report struct {
	Segments    int
	Records     uint64
	Bytes       int64   // of all segments
	First, Last uint64  // numbers, 0 if there is no record
	Torn        int64   // bytes that a crash or a failed write left; no record is missing for them
	Corrupt     []Fault // damage, with a record or without
}

// Scan reads the journal in dir, which may be in use, without changing anything, and calls f with each record in order;
// f must not keep it. It ends with the first error of f, or of the disk.
func Scan(dir string, f func(seq uint64, record []byte) error) (Report, error) {
	d := realDisk()
	segs, lost, _, err := list(dir, d)
	if err != nil {
		return Report{}, err
	}
	report := Report{Segments: len(segs) + len(lost)}
	for _, seg := range append(lost, segs...) {
		report.Bytes += seg.size
		if seg.first == 0 {
			report.Corrupt = append(report.Corrupt, Fault{File: seg.path, Bytes: seg.size})
		} else if !seg.whole {
			report.Corrupt = append(report.Corrupt, Fault{File: seg.path, Bytes: headerSize})
		}
	}
	if len(segs) == 0 {
		return report, nil
	}
	r := &Reader{j: &Journal{segs: segs, disk: d}, trail: trail{last: segs[0].first - 1}}
	r.found = func(gap Fault, _ uint64) {
		if gap.Records > 0 {
			report.Corrupt = append(report.Corrupt, gap)
		} else {
			report.Torn += gap.Bytes
		}
	}
	defer r.close()
	for {
		fr, ok, err := r.step()
		if err != nil && r.outdated(err) {
			continue
		}
		if !ok || err != nil {
			report.Torn += r.trail.gap.Bytes
			return report, err
		}
		report.Records++
		report.Last = fr.seq
		if report.Records == 1 {
			report.First = fr.seq
		}
		if err := f(fr.seq, fr.record); err != nil {
			return report, err
		}
	}
}

// outdated says whether err came of what the journal's process did since the segments were listed, and adapts to it.
func (r *Reader) outdated(err error) bool {
	segs := r.j.segs
	if errors.Is(err, os.ErrNotExist) {
		seg, stop := r.target()
		if stop == 0 {
			return false
		}
		r.j.segs = slices.DeleteFunc(segs, func(s *segment) bool { return s == seg }) // acknowledged, and removed
		r.trail.last = max(r.trail.last, stop-1)
		return true
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		newest := segs[len(segs)-1]
		if info, err := os.Stat(newest.path); err == nil && r.path == newest.path && info.Size() < newest.shown {
			newest.shown, r.limit = info.Size(), info.Size() // a failed write was taken back
			return true
		}
	}
	return false
}
