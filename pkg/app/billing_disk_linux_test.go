package app_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// TestJournalCannotBeWritten: what cannot be billed is refused, or let pass and
// counted, as the operator has said, and all is well again once there is room.
func TestJournalCannotBeWritten(t *testing.T) {
	leavesNothing(t)
	t.Run("all", func(t *testing.T) {
		for name, f := range map[string]func(t *testing.T, onError string){"full disk": fullDisk, "max_size": fullJournal, "I/O error": badDisk} {
			for _, onError := range []string{"reject", "allow"} {
				t.Run(name+", "+onError, func(t *testing.T) { together(t); f(t, onError) })
			}
		}
	})
}

// one is a request that is billed.
func (s *billedSite) one() (int, string) {
	return s.post(fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"hi"}],"max_tokens":3}`, s.model))
}

// blocked waits until the journal cannot be written, and checks what becomes of
// requests meanwhile.
func (s *billedSite) blocked(t *testing.T, onError string) {
	t.Helper()
	want := http.StatusServiceUnavailable
	if onError == "allow" {
		want = http.StatusOK
	}
	// At first there is room left for some records, the small ones longest.
	apptest.Eventually(t, "the journal cannot be written", func() bool {
		status, _ := s.one()
		return status == want && s.metric("llmproxy_usage_journal_failing") == 1
	})
	if onError == "allow" {
		s.until("llmproxy_usage_unrecorded_requests_total", atLeast(3))
	}
	if status, _ := s.get("/v1/models"); status != http.StatusOK {
		t.Errorf("%d for what costs nothing", status)
	}
}

// freed waits until the gateway has found out by itself that it can write again.
func (s *billedSite) freed(t *testing.T) {
	t.Helper()
	apptest.Eventually(t, "a request is served", func() bool {
		status, _ := s.one()
		return status == http.StatusOK
	})
	s.until("llmproxy_usage_journal_failing", is(0))
	s.says("usage cannot be recorded")
	s.says("usage is recorded again")
}

// conclude settles.
func (s *billedSite) conclude(t *testing.T, onError string) {
	t.Helper()
	if onError == "allow" {
		s.unrecorded(t)
		return
	}
	s.settle(t)
	if !slices.ContainsFunc(s.receipts, func(r receipt) bool { return r.status == http.StatusServiceUnavailable }) {
		t.Error("no client was refused")
	}
}

// unrecorded settles where requests were let pass: it checks that they are
// as many as the metric says, and that all others are reported.
func (s *billedSite) unrecorded(t *testing.T) {
	t.Helper()
	s.customers.end()
	rows := s.reached(t)
	passed := int(s.metric("llmproxy_usage_unrecorded_requests_total"))
	growsTo(t, "events taken", len(rows)-passed, s.count)
	s.terminate(t)
	if passed < 3 {
		t.Errorf("%d requests were let pass", passed)
	}
	missing := 0
	for id := range rows {
		if _, ok := s.taken[id]; !ok {
			delete(rows, id)
			missing++
		}
	}
	if missing != passed {
		t.Errorf("%d requests are not reported, %d were let pass", missing, passed)
	}
	for i, r := range s.receipts {
		if _, ok := rows[r.id]; !ok {
			s.receipts[i].whole = false // not to be billed
		}
	}
	s.audit(t, rows)
}

func fullDisk(t *testing.T, onError string) {
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=2m"); err != nil {
		t.Skip("cannot mount a small disk, which needs root: ", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	s := startBilledSite(t, siteOptions{
		dir: filepath.Join(disk, "data"), rate: 100, hook: ", max_age: 20ms, timeout: 200ms, retry: 1000000, on_journal_error: " + onError,
	})
	s.be(fails(http.StatusInternalServerError, ""))
	s.more(t, 20) // the disk has what was not delivered
	ballast := fillDisk(t, disk)
	s.blocked(t, onError)
	s.more(t, 20)
	for _, text := range []string{"cannot write " + s.dir, "no space left on device: free space on this file system"} {
		s.says(text)
	}
	freeDisk(t, ballast)
	s.freed(t)
	s.be(takes)
	s.more(t, 20)
	if onError == "allow" {
		s.unrecorded(t)
		return
	}
	// A process that finds the disk full at its start serves, and refuses.
	s.customers.end()
	s.caughtUp(t)
	s.until("llmproxy_usage_backlog_events", is(0))
	ballast = fillDisk(t, disk)
	s.crash(t)
	s.blocked(t, onError)
	freeDisk(t, ballast)
	s.freed(t)
	s.settle(t)
}

// fillDisk leaves no room on a disk; freeDisk gives it back.
func fillDisk(t *testing.T, disk string) (ballast string) {
	t.Helper()
	ballast = filepath.Join(disk, "ballast")
	err := os.WriteFile(ballast, make([]byte, 8<<20), 0o600)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	return ballast
}

func freeDisk(t *testing.T, ballast string) {
	t.Helper()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
}

// fullJournal: what a billing system does not take must not fill the disk
// without bounds, and none of it is dropped.
func fullJournal(t *testing.T, onError string) {
	s := startBilledSite(t, siteOptions{
		model: strings.Repeat("long", 125), rate: 200, // records are large
		hook: ", max_age: 20ms, timeout: 200ms, retry: 1000000, max_size: 1MiB, on_journal_error: " + onError,
	})
	s.be(fails(http.StatusInternalServerError, ""))
	s.more(t, 300)
	s.blocked(t, onError)
	s.more(t, 20)
	s.says("see why its reader does not go on, or raise its size limit")
	s.be(takes)
	s.freed(t)
	s.conclude(t, onError)
}

// badDisk: an error that is no lack of space is not different. The kernel refuses
// every write to a file with EFBIG here; EIO from a disk is for the journal's own
// tests.
func badDisk(t *testing.T, onError string) {
	s := startBilledSite(t, siteOptions{rate: 100, hook: ", max_age: 20ms, on_journal_error: " + onError})
	s.limitFiles(t, "0")
	s.blocked(t, onError)
	s.more(t, 20)
	s.says("cannot write " + s.dir)
	s.says("file too large: check the disk and the kernel's log")
	s.limitFiles(t, "unlimited")
	s.freed(t)
	s.more(t, 20)
	s.conclude(t, onError)
}

// limitFiles sets how large a file the gateway may write.
func (s *billedSite) limitFiles(t *testing.T, size string) {
	t.Helper()
	if _, err := exec.LookPath("prlimit"); err != nil {
		t.Skip(err)
	}
	limit := exec.Command("prlimit", "--pid", fmt.Sprint(s.cmd.Process.Pid), "--fsize="+size+":unlimited")
	if out, err := limit.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
