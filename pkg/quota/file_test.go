package quota

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var someTotals = Totals{Event: 12345, keys: map[[8]byte]total{
	{0xff, 0xee, 0xdd}: {start: time.Date(2026, 11, 23, 10, 11, 12, 123456789, time.UTC).UnixNano(), used: 1<<63 - 1},
	{0, 0x11, 0x22}:    {start: time.Date(2026, 11, 22, 23, 0, 0, 0, time.UTC).UnixNano(), used: 500_000},
	{0x80}:             {start: 1, gone: time.Date(2026, 11, 1, 0, 0, 0, 5e8, time.UTC).UnixNano()},
}}

const someText = remark + `version 1
event 12345
0011220000000000 2026-11-22T23:00:00Z 500000
8000000000000000 1970-01-01T00:00:00.000000001Z 0 gone 2026-11-01T00:00:00.5Z
ffeedd0000000000 2026-11-23T10:11:12.123456789Z 9223372036854775807
crc32c 1ec6d507
`

// TestText: files outlive versions, so that a change of this text is a new version.
func TestText(t *testing.T) {
	if got := string(someTotals.text()); got != someText {
		t.Errorf("got\n%s\nwant\n%s", got, someText)
	}
	got, err := parse([]byte(someText))
	if err != nil || got.Event != someTotals.Event || !maps.Equal(got.keys, someTotals.keys) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := parse(new(Totals).text()); err != nil || got.Len() != 0 {
		t.Errorf("without keys: %+v, %v", got, err)
	}
}

func TestDamageAtEveryByteIsNoticed(t *testing.T) {
	for i := range someText {
		for bit := range 8 {
			b := []byte(someText)
			b[i] ^= 1 << bit
			if _, err := parse(b); !errors.Is(err, errDamaged) {
				t.Fatalf("bit %d of byte %d is wrong: %v", bit, i, err)
			}
		}
		if _, err := parse([]byte(someText[:i])); !errors.Is(err, errDamaged) {
			t.Fatalf("cut after %d bytes: %v", i, err)
		}
		if _, err := parse([]byte(someText[:i] + someText[i+1:])); !errors.Is(err, errDamaged) {
			t.Fatalf("without byte %d: %v", i, err)
		}
	}
	for _, more := range []string{"\n", "\x00", someText} {
		if _, err := parse([]byte(someText + more)); !errors.Is(err, errDamaged) {
			t.Fatalf("with %q behind it: %v", more, err)
		}
	}
}

func sealed(body string) []byte { return append([]byte(body), seal([]byte(body))...) }

// TestParseRefuses has what only a program with a fault could seal.
func TestParseRefuses(t *testing.T) {
	const head, line = remark + version + "event 1\n", "0011220000000000 2026-11-22T23:00:00Z 5\n"
	if _, err := parse(sealed(head + line)); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{
		"a key twice":         head + line + line,
		"keys out of order":   head + "80" + line[2:] + line,
		"a key in capitals":   head + "AA" + line[2:],
		"a longer key":        head + "00" + line,
		"no key":              head + line[16:],
		"less than nothing":   head + strings.Replace(line, " 5", " -5", 1),
		"a sign":              head + strings.Replace(line, " 5", " +5", 1),
		"too many tokens":     head + strings.Replace(line, " 5", " 9223372036854775808", 1),
		"another zone":        head + strings.Replace(line, "00Z", "00+00:00", 1),
		"before 1970":         head + strings.Replace(line, "2026", "1926", 1),
		"in 1970":             head + strings.Replace(line, "2026-11-22T23", "1970-01-01T00", 1),
		"after all times":     head + strings.Replace(line, "2026", "2326", 1),
		"no start":            head + strings.Replace(line, "2026-11-22T23:00:00Z ", "", 1),
		"gone, but not when":  head + strings.Replace(line, "5\n", "5 gone \n", 1),
		"gone in 1970":        head + strings.Replace(line, "5\n", "5 gone 1970-01-01T00:00:00Z\n", 1),
		"more in a line":      head + strings.Replace(line, "5\n", "5 6\n", 1),
		"an empty line":       head + line + "\n",
		"no end of a line":    head + strings.TrimSuffix(line, "\n"),
		"DOS":                 strings.ReplaceAll(head+line, "5\n", "5\r\n"),
		"no event":            remark + version + line,
		"an event below none": strings.Replace(head, "event 1", "event -1", 1) + line,
		"an event with zeros": strings.Replace(head, "event 1", "event 01", 1) + line,
	} {
		if got, err := parse(sealed(body)); !errors.Is(err, errDamaged) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, body := range map[string]string{
		"version 2":      remark + "version 2\nevent 1\n",
		"another remark": "# Totals\n" + version + "event 1\n",
		"nothing at all": "",
	} {
		if got, err := parse(sealed(body)); !errors.Is(err, errNewer) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// FuzzParse: what is accepted is what would be written.
func FuzzParse(f *testing.F) {
	f.Add(someText)
	f.Add(someText[:len(someText)-sealSize])
	f.Add(remark + version + "event 1\n0011220000000000 2026-11-22T23:00:00Z 5 gone 2026-11-22T23:00:00Z\n")
	f.Fuzz(func(t *testing.T, s string) {
		for _, b := range [][]byte{[]byte(s), sealed(s), sealed(remark + version + s)} {
			if got, err := parse(b); err == nil && !bytes.Equal(got.text(), b) {
				t.Fatalf("%q is read as %q", b, got.text())
			}
		}
	})
}

func TestLoadSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "totals")
	if got, err := LoadTotals(path); err != nil || got.Len() != 0 || got.Event != 0 {
		t.Errorf("without a file: %+v, %v", got, err)
	}
	for content, want := range map[string]string{
		someText[1:]:                           "damaged, or was edited: put a copy of it back, or remove it",
		string(sealed(remark + "version 2\n")): "newer version of this program wrote it: run that version",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadTotals(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := LoadTotals(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a directory: %v", err)
	}
}

func TestSaveIsForThisUserOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "totals")
	// Both from a crash, or from somebody who was curious.
	for _, old := range []string{path, filepath.Join(filepath.Dir(path), "new.totals")} {
		if err := os.WriteFile(old, []byte("something longer "+someText+someText), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(old, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := someTotals.Save(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != someText {
		t.Errorf("%s, %v", b, err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestSaveThatFailsLeavesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "totals")
	if err := someTotals.Save(path); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(filepath.Dir(path), "new.totals", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := new(Totals).Save(path)
	if err == nil || !strings.Contains(err.Error(), "new.totals") {
		t.Fatalf("%v, want an error", err)
	}
	if got, err := LoadTotals(path); err != nil || got.Event != someTotals.Event {
		t.Errorf("%+v, %v", got, err)
	}
}

// memoryDisk knows what a power loss would leave: of a file what was synced, and
// the names of the last sync of the directory, or any later ones.
type memoryDisk struct {
	names, synced map[string]*memoryFile
	calls, fail   int // the number of the call that fails
	left          []map[string]*memoryFile
}

type memoryFile struct {
	d             *memoryDisk
	content, safe []byte
}

func (d *memoryDisk) call() error {
	for _, names := range []map[string]*memoryFile{d.names, d.synced} {
		left := map[string]*memoryFile{}
		for name, f := range names {
			left[name] = &memoryFile{safe: slices.Clone(f.safe)}
		}
		d.left = append(d.left, left)
	}
	if d.calls++; d.calls == d.fail {
		return syscall.EIO
	}
	return nil
}

func (f *memoryFile) Write(b []byte) (int, error) {
	if err := f.d.call(); err != nil {
		f.content = append(f.content, b[:len(b)/2]...)
		return len(b) / 2, err
	}
	f.content = append(f.content, b...)
	return len(b), nil
}

func (f *memoryFile) Sync() error {
	if err := f.d.call(); err != nil {
		return err
	}
	f.safe = slices.Clone(f.content)
	return nil
}

func (f *memoryFile) Close() error { return f.d.call() }

func (d *memoryDisk) disk() disk {
	return disk{
		create: func(path string) (file, error) {
			if err := d.call(); err != nil {
				return nil, err
			}
			d.names[path] = &memoryFile{d: d}
			return d.names[path], nil
		},
		rename: func(from, to string) error {
			if err := d.call(); err != nil {
				return err
			}
			d.names[to] = d.names[from]
			delete(d.names, from)
			return nil
		},
		syncDir: func(string) error {
			if err := d.call(); err != nil {
				return err
			}
			d.synced = maps.Clone(d.names)
			return nil
		},
	}
}

// TestSaveSurvivesEverything fails each step in turn, and looks before and after
// each at what a power loss would leave: the old text or the new one, and the new
// one once replace has returned nil.
func TestSaveSurvivesEverything(t *testing.T) {
	const path = "dir/totals"
	old, changed := new(Totals).text(), []byte(someText)
	for fail := range 8 {
		was := &memoryFile{content: old, safe: old}
		d := &memoryDisk{names: map[string]*memoryFile{path: was}, synced: map[string]*memoryFile{path: was}, fail: fail}
		err := d.disk().replace(path, changed)
		steps := d.calls
		_ = d.call() // once more, for what is left at the end
		for i, names := range d.left {
			f := names[path]
			if f == nil || !bytes.Equal(f.safe, old) && !bytes.Equal(f.safe, changed) {
				t.Fatalf("step %d fails: a power loss at step %d leaves %+v", fail, i/2, f)
			}
		}
		failed := 1 <= fail && fail <= 6
		if (err != nil) != failed || !failed && steps != 6 {
			t.Fatalf("step %d of %d fails: %v", fail, steps, err)
		}
		if last := d.left[len(d.left)-1][path]; err == nil && !bytes.Equal(last.safe, changed) {
			t.Fatalf("replace said it was done, and a power loss leaves %q", last.safe)
		}
	}
}
