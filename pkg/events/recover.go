package events

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/llmproxy/llmproxy/pkg/journal"
)

// recover finds out where the process before this one ended, and returns the
// requests that it left open.
func (l *Log) recover() (left map[[16]byte]*Record, err error) {
	if l.node, err = nodeOf(l.dir); err != nil {
		return nil, err
	}
	delivered, err := l.readNumber(deliveredFile)
	if err != nil {
		return nil, err
	}
	if l.needs.held, err = l.readNumber(heldFile); err != nil {
		return nil, err
	}
	l.needs.once = delivered > 0
	l.needs.heldTo, l.needs.deliveredTo = l.journal.Acked(), l.journal.Acked()
	l.events = max(delivered, l.needs.held) // in case the journal has none of the events any more
	var first uint64
	left = map[[16]byte]*Record{}
	err = l.replay(func(e *entry) {
		switch id := e.record.ID; e.kind {
		case kindStart:
			left[id] = &e.record
		case kindMark:
			if r := left[id]; r != nil {
				r.apply(e.record)
			}
		case kindEnd:
			delete(left, id)
			l.events = max(l.events, e.event)
			if first == 0 {
				first = e.event
			}
		case kindVoid:
			delete(left, id)
		}
	})
	if first == 0 {
		first = l.events + 1
	}
	// What is acknowledged is not delivered any more: it was, even if the file is
	// lost, or nobody was to.
	l.delivered.Store(max(delivered, first-1))
	return left, err
}

// replay calls f with what is not acknowledged: nothing else can be open.
func (l *Log) replay(f func(*entry)) error {
	reader := l.journal.Reader(l.journal.Acked())
	for {
		seq, raw, err := reader.TryNext()
		if err != nil || seq == 0 {
			return err
		}
		e, err := parseEntry(raw)
		if err != nil {
			l.skip(seq, err)
			continue
		}
		l.follow(raw, seq)
		f(&e)
	}
}

// interrupt ends the requests that were left open, as far as each had come, in
// the order in which they began, so that a Tail sees it at once: what they used
// must count before the next request does. While the journal cannot be written the
// ring keeps so many; the others are still open for the process after this one.
func (l *Log) interrupt(left map[[16]byte]*Record) {
	if len(left) == 0 {
		return
	}
	l.log.Warn("requests were interrupted when the gateway last ended", "requests", len(left))
	ids := slices.SortedFunc(maps.Keys(left), func(a, b [16]byte) int { return cmp.Compare(l.open[a].seq, l.open[b].seq) })
	for chunk := range slices.Chunk(ids, ringSize) {
		for _, id := range chunk {
			r := left[id]
			r.Outcome, r.Estimated, r.Total = Interrupted, true, r.Prompt+r.Completion
			l.put(r, kindEnd)
		}
		if !l.flush(l.tail.Load()) {
			return
		}
	}
	_ = l.journal.Flush() // which tells of its errors, and tries again
}

// skip passes over a record that this version cannot read. There may be many: one
// is logged, Stats.Skipped has their number.
func (l *Log) skip(seq uint64, err error) {
	if l.skipped.Add(1) == 1 {
		l.log.Error("records of the journal cannot be read and are passed over", "first", seq, "error", err)
	}
}

// Numbers of events that outlive the process: of the last that was delivered, and
// of the last that Hold was told. They are further than what is acknowledged while
// an old request is open, or while one waits for the other.
const deliveredFile, heldFile = "delivered", "held"

// numberText is a number with its checksum.
func numberText(n uint64) string {
	digits := fmt.Sprint(n)
	return fmt.Sprintf("%s %08x\n", digits, crc32.ChecksumIEEE([]byte(digits)))
}

func writeNumber(path string, n uint64) error {
	if err := replaceFile(path, numberText(n)); err != nil {
		return fmt.Errorf("cannot keep the number of an event: %w", err)
	}
	return nil
}

// readNumber is what writeNumber stored, 0 before the first time. A damaged file
// means 0 too: events come again rather than never.
func (l *Log) readNumber(name string) (n uint64, err error) {
	path := filepath.Join(l.dir, name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot read the number of an event: %w", err)
	}
	if _, err := fmt.Sscanf(string(b), "%d", &n); err != nil || string(b) != numberText(n) {
		l.log.Error("a file is damaged, events may come again; check the disk", "file", path)
		return 0, nil
	}
	return n, nil
}

// nodeOf is the name of this gateway in its events' source: made once, and kept.
func nodeOf(dir string) (string, error) {
	path := filepath.Join(dir, "node")
	b, err := os.ReadFile(path)
	if err == nil && len(b) > 0 {
		return string(b), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("cannot read the name of this gateway: %w", err)
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	node := hex.EncodeToString(random[:])
	if err := replaceFile(path, node); err != nil {
		return "", fmt.Errorf("cannot keep the name of this gateway: %w", err)
	}
	return node, nil
}

// replaceFile writes a small file. A crash, of the machine too, leaves the old one
// or the new one; when it has returned, the new one.
func replaceFile(path, content string) error {
	next := path + ".new"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Event is a record that is, or was, to be delivered.
type Event struct {
	Number uint64 // of the event, from 1 on, without gaps but for what is lost
	Record Record
}

// Read calls f with each event that the log in dir still has, oldest first, of a
// gateway that runs or of one that does not. Records that are no events, or that
// cannot be read, are passed over; the report tells of damage. It ends with the
// first error of f, or of the disk.
func Read(dir string, f func(Event) error) (journal.Report, error) {
	return journal.Scan(filepath.Join(dir, journalDir), func(_ uint64, raw []byte) error {
		e, err := parseEntry(raw)
		if err != nil || e.kind != kindEnd {
			return nil
		}
		return f(Event{Number: e.event, Record: e.record})
	})
}
