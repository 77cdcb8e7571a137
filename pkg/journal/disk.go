package journal

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// file is what the journal does with a file: an *os.File, or one that fails on purpose.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	Truncate(size int64) error
}

// disk is the file system as the journal uses it; the tests put faults in its place.
type disk struct {
	read    func(path string) (file, error)
	open    func(path string) (file, error) // to read and write
	create  func(path string) (file, error) // to write, empty
	rename  func(from, to string) error
	syncDir func(dir string) error
}

func realDisk() disk {
	opened := func(flags int) func(string) (file, error) {
		return func(path string) (file, error) {
			f, err := os.OpenFile(path, flags, 0o600)
			if err != nil {
				return nil, err // not f: a nil *os.File is not a nil file
			}
			return f, nil
		}
	}
	return disk{
		read:   opened(os.O_RDONLY),
		open:   opened(os.O_RDWR),
		create: opened(os.O_RDWR | os.O_CREATE | os.O_TRUNC),
		rename: os.Rename,
		syncDir: func(dir string) error {
			d, err := os.Open(dir)
			if err != nil {
				return err
			}
			defer d.Close()
			return d.Sync()
		},
	}
}

// replace puts content at path durably: a crash at any point leaves the old file or the new one. The open file returned
// is the new one; with an error there may be either. A crash leaves temp, which the next call overwrites.
func (d disk) replace(path, temp string, content ...[]byte) (file, error) {
	f, err := d.create(temp)
	if err != nil {
		return nil, err
	}
	var at int64
	for _, c := range content {
		if _, err = f.WriteAt(c, at); err != nil {
			break
		}
		at += int64(len(c))
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = d.rename(temp, path)
	}
	if err == nil {
		err = d.syncDir(filepath.Dir(path))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lock takes dir for this process. The lock goes with the process, however it ends.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the journal: %w: give this user the directory", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("cannot lock the journal in %s: %w", dir, err)
		}
		holder, _ := io.ReadAll(io.LimitReader(f, 20))
		return nil, fmt.Errorf("cannot open the journal in %s: process %s has it: end that process, or use another directory",
			dir, strings.TrimSpace(string(holder)))
	}
	// On a full disk the pid stays out: the lock holds all the same.
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	return f, nil
}

// segment is one file of the journal. In a Journal its mutex guards all fields.
type segment struct {
	number uint64 // grows by at least one from segment to segment
	mark   uint32
	path   string
	first  uint64 // number of its first record, or of the next to be written; 0: unknown, and it has no good frame
	size   int64  // of what finished Writes put there, header included
	shown  int64  // how much of it a Reader may see
	whole  bool   // its header is good
	acked  time.Time
}

func segmentPath(dir string, number uint64, mark uint32) string {
	return filepath.Join(dir, fmt.Sprintf("%012d-%08x.journal", number, mark))
}

// list finds the segments of dir, oldest first, those apart of which nothing can be read, and the highest number.
func list(dir string, d disk) (segs, lost []*segment, highest uint64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("cannot read the journal's directory: %w: give this user the directory", err)
	}
	for _, e := range entries {
		var seg segment
		if n, _ := fmt.Sscanf(e.Name(), "%d-%x.journal", &seg.number, &seg.mark); n != 2 || !strings.HasSuffix(e.Name(), ".journal") {
			continue
		}
		seg.path = filepath.Join(dir, e.Name())
		switch err := seg.inspect(d); {
		case errors.Is(err, os.ErrNotExist): // acknowledged, and removed since ReadDir
		case err != nil:
			return nil, nil, 0, fmt.Errorf("cannot read %s: %w", seg.path, err)
		case seg.first == 0:
			lost = append(lost, &seg)
		default:
			segs = append(segs, &seg)
		}
		highest = max(highest, seg.number)
	}
	slices.SortFunc(segs, func(a, b *segment) int { return cmp.Compare(a.number, b.number) })
	return segs, lost, highest, nil
}

// inspect fills in what the file tells: its size, and which record is its first.
func (s *segment) inspect(d disk) error {
	info, err := os.Stat(s.path)
	if err != nil {
		return err
	}
	f, err := d.read(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	s.size, s.shown, s.acked = info.Size(), info.Size(), info.ModTime()
	if s.size >= headerSize {
		h := make([]byte, headerSize)
		if _, err := f.ReadAt(h, 0); err != nil {
			return err
		}
		mark, first, err := parseHeader(h)
		if err == nil {
			s.mark, s.first, s.whole = mark, first, true
			return nil
		}
		if errors.Is(err, errNewer) {
			return err
		}
	}
	var t tape
	t.rewind(f, s)
	fr, _, err := t.next(s.size, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	s.first = fr.seq
	return nil
}
