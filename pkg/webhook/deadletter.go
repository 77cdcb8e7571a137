package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// letter is a line of the dead-letter file. After a crash between writing and
// acknowledging, the same event can be there twice.
type letter struct {
	Time   time.Time       `json:"time"`
	Reason result          `json:"reason"`
	Status int             `json:"status"`
	Answer string          `json:"answer"` // how it began; encoding/json makes it UTF-8
	Seq    uint64          `json:"seq"`
	ID     string          `json:"id"`
	Event  json.RawMessage `json:"event"` // a string where it is no JSON
}

// bury writes an event to the dead-letter file. It returns false when that
// fails, which it logs: then the event is not to be forgotten.
func (r *run) bury(e Event, a answer) bool {
	err := r.addLetter(letter{r.config.Now().UTC(), a.result, a.status, a.text, e.Seq, e.ID, e.Data})
	hidden, ok := r.dead.allow(r.config.Now())
	log := r.config.Log.With("file", r.config.DeadLetter, "seq", e.Seq, "id", e.ID, "status", a.status)
	if hidden > 0 {
		log = log.With("not_logged", hidden)
	}
	if err != nil {
		if ok {
			log.Error("an event that the webhook refuses cannot be put aside: no other is sent before it", "error", err)
		}
		return false
	}
	if ok {
		log.Error("the webhook refuses an event: it is put aside and not billed", "reason", string(a.result))
	}
	r.deadRow++
	r.mu.Lock()
	r.stats.Dead++
	r.mu.Unlock()
	return true
}

// addLetter adds a line to the dead-letter file, on the disk when it returns nil.
func (s *Sender) addLetter(l letter) (err error) {
	if !json.Valid(l.Event) {
		if l.Event, err = json.Marshal(string(l.Event)); err != nil {
			return err
		}
	}
	var line bytes.Buffer
	encoder := json.NewEncoder(&line) // ends the line
	encoder.SetEscapeHTML(false)      // the event as it was
	if err := encoder.Encode(l); err != nil {
		return fmt.Errorf("cannot write the event as JSON: %w", err)
	}
	f, err := os.OpenFile(s.config.DeadLetter, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open the dead-letter file: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return appendLine(f, line.Bytes())
}

// appendLine adds a line to f, whole or not at all as far as f allows.
func appendLine(f *os.File, line []byte) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("cannot read the dead-letter file's size: %w", err)
	}
	size := info.Size()
	if size > 0 {
		end := make([]byte, 1)
		if _, err := f.ReadAt(end, size-1); err != nil {
			return fmt.Errorf("cannot read the dead-letter file: %w", err)
		}
		if end[0] != '\n' { // a crash cut the last line
			line = append([]byte{'\n'}, line...)
		}
	}
	if _, err := f.Write(line); err != nil {
		return errors.Join(fmt.Errorf("cannot write the dead-letter file: %w", err), f.Truncate(size))
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("cannot sync the dead-letter file: %w", err)
	}
	if size > 0 {
		return nil
	}
	return syncDir(filepath.Dir(f.Name()))
}

// syncDir puts the name of a new file on the disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("cannot open the dead-letter file's directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("cannot sync the dead-letter file's directory: %w", err)
	}
	return nil
}
