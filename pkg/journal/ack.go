package journal

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"time"
)

const cursorName = "cursor"

// Ack says that no record up to and with number seq is needed again. When it returns nil that outlives a power loss,
// and segments that hold nothing else go once Retention has passed. A lower number than Acked changes nothing; one
// above Last is refused. After any other error, a *WriteError, nothing has changed, or only the file has.
func (j *Journal) Ack(seq uint64) error {
	j.ackMu.Lock()
	defer j.ackMu.Unlock()
	j.mu.Lock()
	acked, last, closed := j.acked, j.last, j.closed
	j.mu.Unlock()
	switch {
	case closed:
		return os.ErrClosed
	case seq <= acked:
		return nil
	case seq > last:
		return fmt.Errorf("cannot acknowledge record %d of the journal: the last one is %d", seq, last)
	}
	if err := j.writeCursor(seq); err != nil {
		return failure(filepath.Join(j.dir, cursorName), err)
	}
	j.advance(seq)
	return nil
}

// advance follows the acknowledged records up to number seq, so that the backlog's size and age are exact, and lets
// segments go. What it cannot read it tries again the next time.
func (j *Journal) advance(seq uint64) {
	for j.head.seq <= seq {
		fr, ok, err := j.cursor.step()
		if err != nil {
			j.o.Log("the journal's backlog is not exact", "error", err)
		}
		if !ok {
			break
		}
		j.head = fr
	}
	j.mu.Lock()
	gone := j.drop(seq)
	j.acked = seq
	j.ackedIn, j.ackedAt = j.cursor.number, j.cursor.tape.pos
	if j.head.seq > seq {
		j.ackedAt, j.oldest = j.head.at, time.Unix(0, j.head.time)
	} else {
		j.oldest = time.Now() // what there is was written since the loop, or is not synced yet
	}
	// Not with the first bytes: it would be full again after the next record.
	if room := j.o.MaxSize - j.backlogBytes(); room >= min(probeSize, j.o.MaxSize/8) {
		j.full.Store(false)
	}
	j.mu.Unlock()
	for _, seg := range gone {
		if err := os.Remove(seg.path); err != nil {
			j.o.Log("cannot remove an acknowledged segment of the journal", "error", err)
		}
	}
}

// drop takes the segments out that are acknowledged up to number seq and old enough. A file's modification time is when
// its last record was acknowledged, so that a restart does not forget it.
func (j *Journal) drop(seq uint64) (gone []*segment) {
	now := time.Now()
	for i := 0; i < len(j.segs)-1 && j.segs[i+1].first <= seq+1; i++ {
		if j.segs[i+1].first > j.acked+1 {
			j.segs[i].acked = now
			_ = os.Chtimes(j.segs[i].path, now, now) // else it goes sooner after a restart
		}
	}
	n := 0
	for n < len(j.segs)-1 && j.segs[n+1].first <= seq+1 && now.Sub(j.segs[n].acked) >= j.o.Retention {
		n++
	}
	gone, j.segs = j.segs[:n:n], j.segs[n:]
	return gone
}

// Acked is the highest number acknowledged; without any, the one before the first record there is.
func (j *Journal) Acked() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.acked
}

// Backlog is what is not acknowledged: how many records, damaged ones included; their bytes with frames; and when the
// oldest was written, the zero time if there is none.
func (j *Journal) Backlog() (records uint64, bytes int64, oldest time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.acked == j.last {
		return 0, 0, time.Time{}
	}
	return j.last - j.acked, j.backlogBytes(), j.oldest
}

// Room is how many bytes, with frames, can be written before MaxSize is reached.
func (j *Journal) Room() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return max(0, j.o.MaxSize-j.backlogBytes())
}

func (j *Journal) backlogBytes() int64 {
	if j.acked == j.last {
		return 0
	}
	var n int64
	for i := len(j.segs) - 1; i >= 0 && j.segs[i].number >= j.ackedIn; i-- {
		if j.segs[i].number == j.ackedIn {
			return n + j.segs[i].size - j.ackedAt
		}
		n += j.segs[i].size - headerSize
	}
	return n
}

// writeCursor stores the acknowledged number with its checksum.
func (j *Journal) writeCursor(seq uint64) error {
	f, err := j.disk.replace(filepath.Join(j.dir, cursorName), filepath.Join(j.dir, "new."+cursorName), cursorText(seq))
	if err == nil {
		f.Close()
	}
	return err
}

func cursorText(seq uint64) []byte {
	text := fmt.Appendf(nil, "%d ", seq)
	return fmt.Appendf(text, "%08x\n", crc32.Checksum(text, castagnoli))
}

// readCursor is what writeCursor stored, 0 before the first time. A damaged file means 0 too: records come again rather
// than never.
func (j *Journal) readCursor() (seq uint64, err error) {
	path := filepath.Join(j.dir, cursorName)
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot read what was acknowledged: %w", err)
	}
	if _, err := fmt.Sscanf(string(text), "%d", &seq); err != nil || !bytes.Equal(text, cursorText(seq)) {
		j.o.Log("the journal's cursor is damaged; all records there are will be read again", "file", path)
		return 0, nil
	}
	return seq, nil
}
