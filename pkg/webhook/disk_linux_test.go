package webhook

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Where the disk is full in the middle of a line, nothing of the line remains.
func TestFullDiskLeavesNoHalfLine(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("webhook-test", dir, "tmpfs", 0, "size=4k"); err != nil {
		t.Skipf("cannot mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	b := newBench(t, "http://127.0.0.1:1", func(c *Config) { c.DeadLetter = filepath.Join(dir, "dead.jsonl") })
	before := append(bytes.Repeat([]byte("a"), 4000), '\n')
	if err := os.WriteFile(b.config.DeadLetter, before, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.addLetter(letter{Event: someEvents(1)[0].Data}); err == nil {
		t.Fatal("the disk is not full")
	}
	after, err := os.ReadFile(b.config.DeadLetter)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(after, before) {
		t.Errorf("the file has %d bytes, and had %d", len(after), len(before))
	}
}
