package keystore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

const (
	snapshotName = "keys-snapshot.json"
	// writePause is the least time between the end of a snapshot and the next one;
	// one that takes long makes it longer, so that writing is some percent of the time.
	writePause  = time.Second
	writeFactor = 20
)

// snapshot is what a store knew, for the time when it cannot ask. In the file its
// checksum stands in the first line, and is of all lines behind it.
type snapshot struct {
	epoch    string
	position int64
	synced   time.Time
	entries  map[auth.ID]entry
}

const snapshotHead = `{"version":1,"sha256":"%x",` + "\n"

// text is the snapshot's file.
func (s *snapshot) text() ([]byte, error) {
	head := fmt.Sprintf(snapshotHead, [sha256.Size]byte{})
	var b bytes.Buffer
	b.WriteString(head)
	epoch, err := json.Marshal(s.epoch)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(&b, "\"epoch\":%s,\"position\":%d,\"synced_at\":%q,\"documents\":[", epoch, s.position, s.synced.UTC().Format(time.RFC3339Nano))
	separator := "\n"
	for id, e := range s.entries {
		if e.revision == 0 {
			continue // nobody knows what would supersede it
		}
		document, err := e.document(id)
		if err != nil {
			return nil, err
		}
		b.WriteString(separator)
		b.WriteString(document)
		separator = ",\n"
	}
	b.WriteString("\n]}\n")
	text := b.Bytes()
	copy(text, fmt.Sprintf(snapshotHead, sha256.Sum256(text[len(head):])))
	return text, nil
}

// parseSnapshot reads what text writes. Its error is a *fault.
func parseSnapshot(b []byte) (*snapshot, error) {
	_, body, _ := bytes.Cut(b, []byte("\n"))
	if !bytes.HasPrefix(b, fmt.Appendf(nil, snapshotHead, sha256.Sum256(body))) {
		return nil, &fault{message: "the checksum is not that of the text"}
	}
	r := newReader(b)
	if err := r.checkEncoding(); err != nil {
		return nil, err
	}
	s := &snapshot{entries: map[auth.ID]entry{}}
	fields := []string{"version", "sha256", "epoch", "position", "synced_at", "documents"}
	places := make([]int, len(fields))
	err := r.members(fields, places, func(field string) error { return s.read(r, field) })
	switch {
	case err != nil:
		return nil, err
	case slices.Contains(places, 0) || s.epoch == "" || strings.HasSuffix(s.epoch, restoring):
		return nil, &fault{message: "something is missing"}
	}
	return s, r.end()
}

// read moves r over the value of a field.
func (s *snapshot) read(r *reader, field string) (err error) {
	switch field {
	case "version":
		var n int64
		if n, err = r.integer(); err == nil && n != 1 {
			err = r.wrong("must be 1")
		}
	case "sha256":
		_, err = r.string()
	case "epoch":
		s.epoch, err = r.string()
	case "position":
		s.position, err = r.integer()
	case "synced_at":
		var text string
		if text, err = r.string(); err == nil {
			if s.synced, err = time.Parse(time.RFC3339Nano, text); err != nil {
				err = r.wrong("is not a time in RFC 3339")
			}
		}
	default:
		err = r.list(func() error {
			id, e, err := r.document()
			if err == nil {
				s.entries[id] = e
			}
			return err
		})
	}
	return err
}

// recall begins with the snapshot, if there is one, and the changes behind it. Its keys
// serve when it is not too old; what it knows is not lost otherwise.
func (r *Redis) recall() error {
	if r.o.Dir == "" {
		return nil
	}
	b, err := os.ReadFile(r.path())
	gone := errors.Is(err, os.ErrNotExist)
	if err == nil || gone {
		if err = r.journal.find(r.o.Dir); errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("cannot read the snapshot of the keys: %w: let this user read the file", err)
	}
	if gone { // somebody who takes it away wants to begin without
		if err := r.journal.remove(len(r.journal.ended)); err != nil {
			return fmt.Errorf("cannot remove the changes of a snapshot that is gone: %w", err)
		}
		return nil
	}
	return r.recallFrom(b)
}

func (r *Redis) recallFrom(b []byte) error {
	s, err := parseSnapshot(b)
	if f, ok := errors.AsType[*fault](err); ok {
		r.damaged = true
		r.now.Err = fmt.Errorf("%s:%d: %w: the keys come from Redis only", r.path(), line(b, f.at), err)
		r.o.Log.Error("the snapshot of the keys is damaged and was not used", "error", r.now.Err)
		return nil
	}
	for id, e := range s.entries {
		r.take(id, e)
	}
	r.epoch, r.based, r.now.Version, r.now.Synced = s.epoch, true, s.position, s.synced
	damaged, err := r.replay()
	if err != nil {
		return err
	}
	age := r.o.Now().Sub(s.synced)
	switch {
	case damaged != nil:
		r.now.Err = fmt.Errorf("%w: the keys come from Redis only", damaged)
		r.o.Log.Error("changes of the keys since the snapshot are lost; it revokes, and does not serve", "error", r.now.Err)
	case age.Abs() > r.o.MaxAge: // one from the future tells that a clock is wrong
		r.o.Log.Warn("the snapshot of the keys is too old to serve: Redis is needed", "file", r.path(), "age", age.Round(time.Second), "most", r.o.MaxAge)
	default:
		r.serving, r.now.Source = true, "snapshot"
		r.o.Log.Info("the keys are those of the snapshot until Redis has been asked", "file", r.path(), "age", age.Round(time.Second))
	}
	return nil
}

// written is what a snapshot on the disk is of.
type written struct {
	taken  int64
	synced time.Time
}

// firstSnapshot makes one before the keys serve, where there is none that changes
// could be added to.
func (r *Redis) firstSnapshot() {
	r.mu.Lock()
	based := r.based
	r.mu.Unlock()
	if !based && r.o.Dir != "" {
		r.writeSnapshot(0)
	}
}

// keepSnapshot writes one after changes, and while nothing changes often enough for
// its age, until ctx ends; then the last.
func (r *Redis) keepSnapshot(ctx context.Context) {
	if r.o.Dir == "" {
		return
	}
	for {
		select {
		case <-ctx.Done():
			r.writeSnapshot(0)
			return
		case <-r.snapshot:
		}
		began := time.Now()
		r.writeSnapshot(r.o.MaxAge / 10)
		pause := time.NewTimer(max(writePause, writeFactor*time.Since(began)))
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

// writeSnapshot writes one if the keys have changed since the last, or if it has
// become as old.
func (r *Redis) writeSnapshot(old time.Duration) {
	r.saving.Lock()
	defer r.saving.Unlock()
	s, next, ended := r.remember(old)
	if s == nil {
		return
	}
	text, err := s.text()
	if err == nil {
		err = r.keep(text)
	}
	if err != nil {
		err = fmt.Errorf("cannot write the snapshot of the keys: %w", err)
	}
	first := false
	r.update(func() {
		first = r.unsaved == nil
		if r.unsaved = err; err == nil {
			r.saved(next, ended)
		}
	})
	if err != nil && first {
		r.o.Log.Error("there is no snapshot of the keys for the time when Redis is away", "error", err)
	}
}

// saved lets go of what is in the snapshot. It needs mu.
func (r *Redis) saved(s written, ended int) {
	r.last, r.based = s, true
	if s.taken >= r.unloggedAt {
		r.unlogged = nil
	}
	if err := r.journal.remove(ended); err != nil {
		r.o.Log.Warn("changes of the keys that are in the snapshot cannot be removed", "error", err)
	}
}

func (r *Redis) keep(text []byte) error {
	if err := os.MkdirAll(r.o.Dir, 0o700); err != nil {
		return err
	}
	owner, err := os.Stat(filepath.Dir(r.path()))
	if err != nil {
		return err
	}
	_, err = r.disk.replace(r.path(), text, owner)
	return err
}

// remember is a snapshot of now, and how many files of changes are in it as a whole;
// nil while the table is not Redis's, and while the last one is as good.
func (r *Redis) remember(old time.Duration) (s *snapshot, next written, ended int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next = written{r.taken, r.now.Synced}
	if !r.loaded || next.taken == r.last.taken && next.synced.Sub(r.last.synced) < max(old, 1) {
		return nil, written{}, 0
	}
	if r.unsaved == nil { // else there would be a file more for each that fails
		r.journal.end()
	}
	s = &snapshot{epoch: r.epoch, position: r.now.Version, synced: r.now.Synced, entries: maps.Clone(r.table.entries)}
	return s, next, len(r.journal.ended)
}
