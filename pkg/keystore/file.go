package keystore

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

const (
	fileName = "keys.json"
	mostFile = 256 << 20 // bytes; some 700,000 keys
	// settled is how old a file's last change must be for its time to tell it from
	// a later one: file systems count in ticks, up to two seconds long.
	settled = 2 * time.Second
	// patience is how long a change waits for others: many times what one of
	// 100,000 keys takes.
	patience = 10 * time.Second
)

// File is the keys file of a directory. Its methods may be called at the same time.
type File struct {
	dir  string
	now  func() time.Time
	disk disk
	// patience is how long a change waits for the lock.
	patience time.Duration

	changing sync.Mutex // from before the file is read until state follows
	state    atomic.Pointer[state]
}

// state is the last good read.
type state struct {
	keys   []*auth.Key
	info   os.FileInfo // nil: there was no file
	sum    [sha256.Size]byte
	stable bool // a later change will have another time
}

// OpenFile reads the keys file of dir; where there is none there are no keys. A file
// that is wrong is an error. now is for the times that keys were made.
func OpenFile(dir string, now func() time.Time) (*File, error) {
	s := &File{dir: dir, now: now, disk: realDisk(), patience: patience}
	s.state.Store(&state{})
	if _, err := s.Reload(); err != nil {
		return nil, err
	}
	return s, nil
}

// Path is the name of the keys file, which need not exist.
func (s *File) Path() string { return filepath.Join(s.dir, fileName) }

// Place is the Path.
func (s *File) Place() string { return s.Path() }

// Keys are those of the last good read, in the order of the file. Nobody may
// change them or the list.
func (s *File) Keys() []*auth.Key { return s.state.Load().keys }

// Reload reads the file anew if it is another, or was written to. changed tells
// whether Keys has changed. With an error, for a file that is wrong or has gone, the
// keys stay as they were.
func (s *File) Reload() (changed bool, err error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	was := s.state.Load()
	info, err := s.stat()
	if err != nil || info == nil {
		return false, err
	}
	if was.stable && os.SameFile(was.info, info) && was.info.ModTime().Equal(info.ModTime()) && was.info.Size() == info.Size() {
		return false, nil
	}
	text, err := s.read()
	if err != nil {
		return false, err
	}
	next := &state{info: info, sum: sha256.Sum256(text), stable: s.now().Sub(info.ModTime()) > settled, keys: was.keys}
	if changed = was.info == nil || next.sum != was.sum; changed {
		d, err := s.parse(text)
		if err != nil {
			return false, err
		}
		next.keys = d.keys
	}
	s.state.Store(next)
	return changed, nil
}

// stat is the file as it is now, nil where there is none and was none before.
func (s *File) stat() (os.FileInfo, error) {
	info, err := os.Stat(s.Path())
	if err == nil && (!info.Mode().IsRegular() || info.Size() > mostFile) {
		return nil, fmt.Errorf("cannot read %s: it must be a file of at most %d bytes", s.Path(), mostFile)
	}
	if !errors.Is(err, os.ErrNotExist) {
		if err != nil {
			err = fmt.Errorf("cannot read the keys: %w", err)
		}
		return info, err
	}
	if _, err := os.Lstat(s.Path()); err == nil {
		return nil, fmt.Errorf("cannot read %s: it is a symbolic link to nothing: put the file where it leads, or remove the link", s.Path())
	}
	if s.state.Load().info != nil {
		return nil, fmt.Errorf(`%s has gone and its keys stay in force: put it back, or write {"version": 1, "keys": []} there to remove them all`, s.Path())
	}
	return nil, nil
}

func (s *File) read() ([]byte, error) {
	text, err := os.ReadFile(s.Path())
	if err != nil {
		return nil, fmt.Errorf("cannot read the keys: %w: let this user read the file", err)
	}
	return text, nil
}

func (s *File) parse(text []byte) (*document, error) {
	d, err := parse(text)
	if f, ok := errors.AsType[*fault](err); ok {
		return nil, fmt.Errorf("%s:%d: %w: correct it; nothing of the file was taken over", s.Path(), line(text, f.at), err)
	}
	return d, err
}

// Add puts k at the end of the file, as Store says.
func (s *File) Add(k *auth.Key) error {
	k.Source = auth.Stored
	if k.Created == 0 {
		k.Created = auth.At(s.now())
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("cannot make the directory of the keys: %w", err)
	}
	return s.change(func(d *document) (*document, error) { return d.with(k) })
}

// Replace changes a key, as Store says.
func (s *File) Replace(id auth.ID, edit func(auth.Key) (*auth.Key, error)) (replaced *auth.Key, err error) {
	err = s.change(func(d *document) (*document, error) {
		i := d.index(id)
		if i < 0 {
			return nil, ErrNotFound
		}
		k, err := edit(*d.keys[i])
		if err != nil {
			return nil, err
		}
		if k.Hash != d.keys[i].Hash {
			panic("BUG: a key was replaced by another")
		}
		next, err := d.changed(i, k)
		if err == nil {
			replaced = next.keys[i]
		}
		return next, err
	})
	if err != nil {
		return nil, err
	}
	return replaced, nil
}

// Remove takes the key out of the file, and returns it.
func (s *File) Remove(id auth.ID) (removed *auth.Key, err error) {
	err = s.change(func(d *document) (*document, error) {
		i := d.index(id)
		if i < 0 {
			return nil, ErrNotFound
		}
		removed = d.keys[i]
		return d.without(i), nil
	})
	if err != nil {
		return nil, err
	}
	return removed, nil
}

// change writes what edit makes of the file as it is now: another process may have
// written it. After an error of the disk the file may hold the change all the same,
// and Reload finds it.
func (s *File) change(edit func(*document) (*document, error)) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	place, err := s.lock()
	if err != nil {
		return err
	}
	defer place.lock.Close()
	info, err := s.stat()
	if err != nil {
		return err
	}
	text := []byte(blank)
	if info != nil {
		if text, err = s.read(); err != nil {
			return err
		}
	}
	d, err := s.parse(text)
	if err != nil {
		return err
	}
	next, err := edit(d)
	if err != nil {
		return err
	}
	if len(next.text) > mostFile {
		return fmt.Errorf("cannot write %s: it would have more than %d bytes: remove keys that are not used", s.Path(), mostFile)
	}
	if info == nil || !bytes.Equal(text, next.text) {
		if info, err = s.disk.replace(place.file, next.text, place.owner(info)); err != nil {
			return fmt.Errorf("cannot write the keys: %w", err)
		}
	}
	s.state.Store(&state{keys: next.keys, info: info, sum: sha256.Sum256(next.text)})
	return nil
}
