package keystore

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

// A change that cannot be written holds all the same, is said, and is in the next
// snapshot; those behind it are written.
func TestEveryStepOfAChangeMayFail(t *testing.T) {
	const steps = 4 // create, write, sync, sync the directory
	for step := range steps + 1 {
		dir := t.TempDir()
		reopen := func() *Redis {
			r, err := OpenRedis(RedisOptions{Dir: dir, MaxAge: time.Hour, Now: time.Now})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		r := reopen()
		r.epoch, r.loaded, r.serving, r.now.Source, r.now.Synced, r.now.Err = "e", true, true, "redis", time.Now(), nil
		grow := func(n int) {
			k := numbered(1, n)
			r.took(k.ID(), entry{revision: int64(n), key: k})
			r.syncChanges()
		}
		grow(1)
		r.writeSnapshot(0)
		var taken *int
		r.disk, taken = faulty(step, syscall.ENOSPC)
		grow(2)
		failed := errors.Is(r.State().Err, syscall.ENOSPC)
		if len(r.Keys()) != 2 || failed == (step == steps) || *taken <= min(step, steps-1) {
			t.Errorf("step %d of %d: %d keys, %v", step, *taken, len(r.Keys()), r.State().Err)
		}
		r.disk = realDisk()
		grow(3)
		want := 3
		if step < 2 { // nothing of the second was written
			want = 2
		}
		if again := reopen(); len(again.Keys()) != want || again.now.Source != "snapshot" {
			t.Errorf("step %d: after a crash %d keys of %s, want %d", step, len(again.Keys()), again.now.Source, want)
		}
		r.writeSnapshot(0)
		if again := reopen(); len(again.Keys()) != 3 || r.State().Err != nil || len(again.journal.ended) != 0 {
			t.Errorf("step %d: after a snapshot %d keys, %v", step, len(again.Keys()), r.State().Err)
		}
	}
}

// While snapshots fail, changes go on being written, in one file.
func TestChangesAreKeptWhileNoSnapshotIs(t *testing.T) {
	dir := t.TempDir()
	o := RedisOptions{Dir: dir, MaxAge: time.Hour, Now: time.Now}
	r, err := OpenRedis(o)
	if err != nil {
		t.Fatal(err)
	}
	r.epoch, r.loaded, r.now.Synced, r.now.Err = "e", true, time.Now(), nil
	r.writeSnapshot(0)
	for n := 1; n <= 5; n++ {
		k := numbered(1, n)
		r.took(k.ID(), entry{revision: int64(n), key: k})
		r.disk, _ = faulty(3, syscall.EIO) // the rename
		r.writeSnapshot(0)
		r.disk = realDisk()
	}
	again, err := OpenRedis(o)
	if err != nil || len(again.Keys()) != 5 || len(again.journal.ended) > 2 {
		t.Errorf("%v, %d keys, %d files", err, len(again.Keys()), len(again.journal.ended))
	}
}

// What a line is taken for must be what is written for it, and nothing is taken
// without its checksum, or for another store.
func FuzzParseChanges(f *testing.F) {
	k := &auth.Key{Hash: auth.Hash("a"), Source: auth.Stored, Name: "n"}
	for _, e := range []entry{{revision: 1, key: k}, {revision: 2}, {revision: 3, fault: errUnreadable}} {
		text, err := e.document(k.ID())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add("")
	f.Fuzz(func(t *testing.T, document string) {
		if found, _ := parseChanges([]byte(document+"\n"), "e"); len(found) > 0 && !strings.Contains(document, " ") {
			t.Fatalf("%q is taken without a checksum", document)
		}
		line := changeLine(nil, "e", document)
		if found, _ := parseChanges(line, "f"); len(found) > 0 {
			t.Fatalf("%q is taken for another store", document)
		}
		if found, err := parseChanges(line[:len(line)-1], "e"); !strings.Contains(document, "\n") && (len(found) > 0 || err != nil) {
			t.Fatalf("%q is taken without its end, or not passed over: %v", document, err)
		}
		found, err := parseChanges(line, "e")
		if err != nil || len(found) == 0 {
			return
		}
		var again []byte
		for id, e := range found {
			text, err := e.document(id)
			if err != nil {
				t.Fatal(err)
			}
			again = changeLine(again, "e", text)
		}
		if same, err := parseChanges(bytes.Clone(again), "e"); err != nil || !reflect.DeepEqual(found, same) {
			t.Fatalf("%q: %v is read back as %v, %v", document, found, same, err)
		}
	})
}
