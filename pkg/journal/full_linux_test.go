package journal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestFullDisk(t *testing.T) {
	for _, sync := range []Sync{SyncInterval, SyncAlways, SyncOS} {
		mount := t.TempDir()
		if err := syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=1m"); err != nil {
			t.Skip("cannot mount a small disk, which needs root: ", err)
		}
		t.Cleanup(func() { syscall.Unmount(mount, syscall.MNT_DETACH) })
		ballast := filepath.Join(mount, "ballast")
		if err := os.WriteFile(ballast, bytes.Repeat([]byte("x"), 500<<10), 0o600); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(mount, "journal")
		j := openTest(t, dir, Options{Sync: sync, SegmentSize: 100 << 10})
		var accepted uint64
		b := batch(strings.Repeat("a", 700), strings.Repeat("b", 700))
		var err error
		for ; err == nil; accepted += 2 {
			err = j.Write(b)
		}
		accepted -= 2
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free space") || !strings.Contains(err.Error(), dir) || !j.Failing() {
			t.Fatalf("%v, failing %v", err, j.Failing())
		}
		if got, report := scanned(t, dir); report.Last != accepted || report.Corrupt != nil {
			t.Fatalf("accepted %d, on the disk %d: %+v", accepted, len(got), report)
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		j.probe()
		if j.Failing() {
			t.Fatal("there is space again, and the journal still fails")
		}
		if err := j.Write(b); err != nil || j.Last() != accepted+2 {
			t.Fatalf("%v, last %d, want %d", err, j.Last(), accepted+2)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if got, report := scanned(t, dir); uint64(len(got)) != accepted+2 || report.Torn != 0 || report.Corrupt != nil {
			t.Fatalf("%d records, want %d: %+v", len(got), accepted+2, report)
		}
	}
}
