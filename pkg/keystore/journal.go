package keystore

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

// journal is what the table has taken over since the last snapshot, in files beside
// it, so that a crash forgets no revocation. A file begins with the first change and
// ends when a snapshot is begun; it is removed when that snapshot, which has all that
// is in it, is on the disk. What of a file is in a snapshot already does no harm: of two
// documents the later one counts.
//
// A line is a checksum, a space and a document.
type journal struct {
	next  int // the number of the next file
	file  *changesFile
	ended []*changesFile // that no snapshot on the disk has yet
}

// changesFile is one of its files.
type changesFile struct {
	path   string
	f      *os.File // nil for one of an earlier process
	size   int64    // up to the end of the last line
	listed bool     // its name is on the disk for sure
}

// A file's name is the number between these.
const changesName, changesSuffix = "keys-changes-", ".log"

// changeLine is the line of a document. The epoch is in its checksum only: who knows
// another takes nothing over.
func changeLine(b []byte, epoch, document string) []byte {
	b = fmt.Appendf(b, "%x ", sha256.Sum256([]byte(epoch+"\n"+document)))
	return append(append(b, document...), '\n')
}

var errDamagedLine = errors.New("a line is damaged, or of another store")

// parseChanges returns the entries of a file that are whole. A last line without an
// end is left out: the crash came before it counted. The error tells of any other.
func parseChanges(b []byte, epoch string) (found map[auth.ID]entry, err error) {
	found = map[auth.ID]entry{}
	rd := newReader(nil)
	for line := range bytes.Lines(b) {
		text, whole := bytes.CutSuffix(line, []byte("\n"))
		if !whole {
			continue
		}
		_, document, _ := bytes.Cut(text, []byte(" "))
		if !bytes.Equal(line, changeLine(nil, epoch, string(document))) {
			err = errDamagedLine
			continue
		}
		id, e, bad := rd.of(document)
		if bad != nil {
			err = bad
		} else if e.revision > found[id].revision {
			found[id] = e
		}
	}
	return found, err
}

// of reads a text that is a document, whosever it is.
func (r *reader) of(b []byte) (id auth.ID, e entry, err error) {
	r.text = text{b: b}
	if err = r.checkEncoding(); err == nil {
		id, e, err = r.document()
	}
	return id, e, cmp.Or(err, r.end())
}

// find lists the files that earlier processes have left.
func (j *journal) find(dir string) error {
	all, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, d := range all {
		number, named := strings.CutPrefix(d.Name(), changesName)
		number, whole := strings.CutSuffix(number, changesSuffix)
		n, err := strconv.Atoi(number)
		if named && whole && err == nil {
			j.next = max(j.next, n+1)
			j.ended = append(j.ended, &changesFile{path: filepath.Join(dir, d.Name())})
		}
	}
	return nil
}

// add writes lines to the file, with one write. After an error it has none of them, or
// some that are whole.
func (j *journal) add(d disk, dir string, lines []byte) error {
	if j.file == nil {
		if err := j.begin(d, dir); err != nil {
			return err
		}
	}
	c := j.file
	err := d.write(c.f, lines)
	if err == nil {
		c.size += int64(len(lines))
		return nil
	}
	_, bad := c.f.Seek(c.size, io.SeekStart)
	if bad = errors.Join(bad, c.f.Truncate(c.size)); bad != nil { // the next line must not stand behind half a one
		j.end()
	}
	return err
}

func (j *journal) begin(d disk, dir string) error {
	owner, err := os.Stat(dir)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, changesName+strconv.Itoa(j.next)+changesSuffix)
	f, err := d.create(path)
	if err != nil {
		return err
	}
	j.next++
	j.file = &changesFile{path: path, f: f}
	return giveTo(f, owner)
}

// end begins another file with the next change.
func (j *journal) end() {
	if j.file != nil {
		j.ended = append(j.ended, j.file)
		j.file = nil
	}
}

// written are the files that this process has written.
func (j *journal) written() (all []*changesFile) {
	for _, c := range append(slices.Clip(j.ended), j.file) {
		if c != nil && c.f != nil {
			all = append(all, c)
		}
	}
	return all
}

// remove takes away the first n files that have ended.
func (j *journal) remove(n int) (err error) {
	for _, c := range j.ended[:n] {
		if c.f != nil {
			_ = c.f.Close() // nobody wants what could not be written
		}
		if bad := os.Remove(c.path); !errors.Is(bad, os.ErrNotExist) {
			err = cmp.Or(err, bad)
		}
	}
	j.ended = slices.Clone(j.ended[n:])
	return err
}

// keepChanges writes to the disk what is about to count. It needs mu. Without a snapshot
// that it could be added to there is nothing to write: the first is made before any
// key serves.
func (r *Redis) keepChanges(fresh map[auth.ID]entry) {
	if !r.based || len(fresh) == 0 {
		return
	}
	var lines []byte
	for id, e := range fresh {
		if e.revision == 0 {
			continue // nobody knows what would supersede it
		}
		document, err := e.document(id)
		if err != nil {
			r.unkept(err, r.taken+1)
			continue
		}
		lines = changeLine(lines, r.epoch, document)
	}
	if err := r.journal.add(r.disk, r.o.Dir, lines); err != nil {
		r.unkept(err, r.taken+1)
	}
}

// unkept tells of changes that hold, and that a crash would forget until there is a
// snapshot of so many taken. It needs mu.
func (r *Redis) unkept(err error, taken int64) {
	if r.unlogged == nil {
		r.o.Log.Error("changes of the keys are in force, but cannot be written to the disk: a crash may forget them", "error", err)
	}
	r.unlogged = fmt.Errorf("cannot write changes of the keys to the disk: %w", err)
	r.unloggedAt = taken
}

// syncChanges waits until what was written is on the disk. Files that others have
// removed meanwhile are in a snapshot that is.
func (r *Redis) syncChanges() {
	r.mu.Lock()
	files := r.journal.written()
	r.mu.Unlock()
	for _, c := range files {
		err := r.disk.sync(c.f)
		if err == nil {
			err = r.list(c)
		}
		if err != nil && !errors.Is(err, os.ErrClosed) {
			r.update(func() { r.unkept(err, r.taken) })
			r.wake()
		}
	}
}

// list makes the name of a file last.
func (r *Redis) list(c *changesFile) error {
	r.mu.Lock()
	listed := c.listed
	r.mu.Unlock()
	if listed {
		return nil
	}
	err := r.disk.syncDir(r.o.Dir)
	if err == nil {
		r.mu.Lock()
		c.listed = true
		r.mu.Unlock()
	}
	return err
}

// replay takes over what the files have that the snapshot has not. The error is for
// one that the system does not let it read; damaged tells that some of it is lost.
func (r *Redis) replay() (damaged, err error) {
	for _, c := range r.journal.ended {
		b, err := os.ReadFile(c.path)
		if err != nil {
			return nil, fmt.Errorf("cannot read changes of the keys: %w: let this user read the file", err)
		}
		found, bad := parseChanges(b, r.epoch)
		if bad != nil {
			damaged = fmt.Errorf("%s: %w", c.path, bad)
		}
		for id, e := range found {
			r.take(id, e)
		}
	}
	return damaged, nil
}
