package events

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/journal"
)

// TestFullDisk: requests are refused, those that are open end, and when there is
// space again all is as if nothing had been.
func TestFullDisk(t *testing.T) {
	mount := t.TempDir()
	if err := syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("cannot mount a small disk, which needs root: ", err)
	}
	t.Cleanup(func() { syscall.Unmount(mount, syscall.MNT_DETACH) })
	ballast := filepath.Join(mount, "ballast")
	if err := os.WriteFile(ballast, bytes.Repeat([]byte("x"), 700<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(mount, "data")
	l := openTest(t, dir, journal.Options{})
	started := fill(t, l)
	var want []string
	for n := range started {
		l.End(request(n + 1)) // returns
		want = append(want, fmt.Sprint(n+1, " complete"))
	}
	r := newReceiver(t, ok)
	stop := deliver(t, l, r.URL) // cannot keep anything either, and goes on
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the log to recover", func() bool { return !l.Failing() })
	waitFor(t, "the events", r.has(started))
	live(t, l, "s9999 e9999")
	want = append(want, "9999 complete")
	waitFor(t, "the last answer", func() bool { return l.Stats().Backlog == 0 })
	stop()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := recorded(t, dir); !slices.Equal(got, want) {
		t.Errorf("%d events, want %d", len(got), len(want))
	}
}

// TestFullDiskAtTheStart says what to do.
func TestFullDiskAtTheStart(t *testing.T) {
	mount := t.TempDir()
	if err := syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=16k"); err != nil {
		t.Skip("cannot mount a small disk, which needs root: ", err)
	}
	t.Cleanup(func() { syscall.Unmount(mount, syscall.MNT_DETACH) })
	_ = os.WriteFile(filepath.Join(mount, "ballast"), bytes.Repeat([]byte("x"), 64<<10), 0o600)
	l, err := Open(filepath.Join(mount, "data"), journal.Options{}, quiet)
	if err == nil {
		l.Close()
		t.Fatal("it opened")
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
}
