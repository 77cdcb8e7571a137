package quota

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The file is text: a line for each key, in order, with the key's id, the start of
// its term in UTC, and the tokens used; behind that, since when the key is not
// there any more. A CRC-32C of all other lines ends it.
const (
	remark   = "# LLMProxy: the tokens that each key has used since the time beside it. Do not edit: the last line is a checksum.\n"
	version  = "version 1\n"
	sealSize = len("crc32c 00000000\n")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func seal(body []byte) []byte {
	return fmt.Appendf(nil, "crc32c %08x\n", crc32.Checksum(body, castagnoli))
}

// text is the content of the file, the same for the same totals.
func (t *Totals) text() []byte {
	ids := make([][8]byte, 0, len(t.keys))
	for id := range t.keys {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b [8]byte) int { return bytes.Compare(a[:], b[:]) })
	b := make([]byte, 0, len(remark)+len(version)+64*(len(ids)+1))
	b = append(append(b, remark...), version...)
	b = fmt.Appendf(b, "event %d\n", t.Event)
	for _, id := range ids {
		k := t.keys[id]
		b = hex.AppendEncode(b, id[:])
		b = time.Unix(0, k.start).UTC().AppendFormat(append(b, ' '), time.RFC3339Nano)
		b = strconv.AppendInt(append(b, ' '), k.used, 10)
		if k.gone != 0 {
			b = time.Unix(0, k.gone).UTC().AppendFormat(append(b, " gone "...), time.RFC3339Nano)
		}
		b = append(b, '\n')
	}
	return append(b, seal(b)...)
}

var (
	errDamaged = errors.New("it is damaged, or was edited")
	errNewer   = errors.New("a newer version of this program wrote it")
)

// parse is the inverse of text; its errors are errDamaged and errNewer. The
// checksum is the last line in every version, and the version the second.
func parse(b []byte) (*Totals, error) {
	body := b[:max(0, len(b)-sealSize)]
	if !bytes.Equal(seal(body), b[len(body):]) {
		return nil, errDamaged
	}
	lines := strings.SplitAfter(string(body), "\n")
	if len(lines) < 4 || lines[0] != remark || lines[1] != version {
		return nil, errNewer
	}
	t := new(Totals)
	var err error
	if t.Event, err = strconv.ParseUint(strings.TrimSpace(strings.TrimPrefix(lines[2], "event ")), 10, 64); err != nil {
		return nil, errDamaged
	}
	for _, line := range lines[3 : len(lines)-1] {
		id, k, err := parseKey(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, errDamaged
		}
		t.put(id, k)
	}
	if !bytes.Equal(t.text(), b) { // a key twice, a zone, a sign: nothing that text writes
		return nil, errDamaged
	}
	return t, nil
}

func parseKey(line string) (id [8]byte, k total, err error) {
	name, rest, _ := strings.Cut(line, " ")
	start, rest, _ := strings.Cut(rest, " ")
	used, gone, isGone := strings.Cut(rest, " gone ")
	if len(name) != 2*len(id) {
		return id, k, errDamaged
	}
	_, hexErr := hex.Decode(id[:], []byte(name))
	at, startErr := time.Parse(time.RFC3339Nano, start)
	n, usedErr := strconv.ParseUint(used, 10, 63)
	k = total{start: at.UnixNano(), used: int64(n)}
	if isGone {
		at, err = time.Parse(time.RFC3339Nano, gone)
		k.gone = at.UnixNano()
	}
	if k.start <= 0 {
		err = errDamaged
	}
	return id, k, errors.Join(err, hexErr, startErr, usedErr)
}

// LoadTotals reads what Save wrote. Without a file the totals are empty. The error
// says what to do about a file that cannot be used.
func LoadTotals(path string) (*Totals, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return new(Totals), nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read what keys have used: %w: give this user the file", err)
	}
	t, err := parse(b)
	switch {
	case errors.Is(err, errNewer):
		return nil, fmt.Errorf("cannot read what keys have used from %s: %w: run that version", path, err)
	case err != nil:
		return nil, fmt.Errorf("cannot read what keys have used from %s: %w: put a copy of it back, or remove it; "+
			"each key has then used only what is still in the journal", path, err)
	}
	return t, nil
}

// Save writes the totals to path, which only this user can read. It is atomic and
// durable: a crash or an error at any point leaves the file as it was or as it is
// now, and when Save returns nil a power loss changes nothing.
func (t *Totals) Save(path string) error {
	if err := realDisk().replace(path, t.text()); err != nil {
		return fmt.Errorf("cannot save what keys have used: %w", err)
	}
	return nil
}

// file is what replace does with a file: an *os.File, or one that fails on purpose.
type file interface {
	io.WriteCloser
	Sync() error
}

// disk is the file system as replace uses it; the tests put faults in its place.
type disk struct {
	create  func(path string) (file, error) // to write, empty
	rename  func(from, to string) error
	syncDir func(dir string) error
}

func realDisk() disk {
	return disk{
		create: func(path string) (file, error) {
			// A file left by a crash may be anybody's to read.
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return nil, err // not f: a nil *os.File is not a nil file
			}
			return f, nil
		},
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

// replace puts content at path. What a crash leaves of it the next call overwrites.
func (d disk) replace(path string, content []byte) error {
	temp := filepath.Join(filepath.Dir(path), "new."+filepath.Base(path))
	f, err := d.create(temp)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = d.rename(temp, path)
	}
	if err == nil {
		err = d.syncDir(filepath.Dir(path))
	}
	return err
}
