package app_test

import (
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// onSmallDisk puts the data_dir on a disk of its own, and starts the gateway anew.
func (s *quotaSite) onSmallDisk(t *testing.T) (disk string) {
	t.Helper()
	s.stop(t)
	disk = filepath.Dir(s.dir)
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=2m"); err != nil {
		t.Skip("cannot mount a small disk, which needs root: ", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	s.run(t)
	return disk
}

// TestQuotaDiskIsFull: what could not be counted is not served; what was counted
// stays, through a kill and a start on the full disk too.
func TestQuotaDiskIsFull(t *testing.T) {
	leavesNothing(t)
	s := startQuotaSite(t, false, "")
	disk := s.onSmallDisk(t)
	free := s.make(t) // without a quota
	s.answers(t, free, http.StatusOK)
	for i := range s.keys {
		s.one(t, i)
	}
	load := s.spend(t, 6)
	load.more(t, 20)
	ballast := fillDisk(t, disk)
	s.full(t, free)
	s.kill()
	load.end()
	s.rows(t)
	s.run(t)
	s.full(t, free)
	used := s.used(t)
	s.kill()
	s.run(t)
	if again := s.used(t); again != used {
		t.Errorf("%v tokens are used, before another kill %v", again, used)
	}
	s.resetUnkept(t)
	began := s.quota(t, 1).StartedAt
	freeDisk(t, ballast)
	apptest.Eventually(t, "it serves again", func() bool {
		return limitKey{s.addr, s.keys[0]}.say("POST", chatPath, quotaChat).status == http.StatusOK
	})
	s.until("llmproxy_quota_checkpoint_failing", is(0))
	s.kill()
	s.rows(t)
	s.run(t)
	if u := s.quota(t, 1); !u.StartedAt.Equal(began) {
		t.Errorf("the reset was not written when there was room again: %+v, it began at %v", u, began)
	}
	for i := range s.keys {
		if u := s.quota(t, i); u.Used != s.inTerm(t, i, u.StartedAt) || i == 0 && u.Used <= used[0] || i == 2 && u.Used < used[2] {
			t.Errorf("key %d: %+v, its events add up to %d; %d on the full disk", i, u, s.inTerm(t, i, u.StartedAt), used[i])
		}
	}
}

// resetUnkept resets the quota of a key while that cannot be written.
func (s *quotaSite) resetUnkept(t *testing.T) {
	t.Helper()
	before := s.quota(t, 1)
	a := (limitKey{s.addr, adminToken}).say("POST", "/admin/api-keys/"+quotaID(s.keys[1]).String()+"/reset-quota", "")
	if a.status != http.StatusServiceUnavailable || !hasCode(a.body, "quota_reset_not_kept") {
		t.Errorf("a reset that is not on the disk: %d %s", a.status, a.body)
	}
	if u := s.quota(t, 1); u.Used != 0 || !u.StartedAt.After(before.StartedAt) {
		t.Errorf("it is told to have begun: %+v after %+v", u, before)
	}
	s.until("llmproxy_quota_checkpoint_failing", is(1))
	s.says("the quotas cannot be kept up to date on the disk")
}

// full wants requests of keys with a quota to be refused as long as they cannot be
// counted, those of others to be served, and changes to fail with a word on why.
func (s *quotaSite) full(t *testing.T, free quotaMade) {
	t.Helper()
	apptest.Eventually(t, "what has a quota is refused", func() bool {
		a := limitKey{s.addr, s.keys[0]}.say("POST", chatPath, quotaChat)
		return a.status == http.StatusServiceUnavailable && a.header.Get("Retry-After") != ""
	})
	if a := (limitKey{s.addr, free.Key}).say("POST", chatPath, quotaChat); a.status != http.StatusOK {
		t.Errorf("a key without a quota: %d %s", a.status, a.body)
	}
	change := `{"name":"one too many","metadata":{"a":"` + strings.Repeat("a", 4000) + `"}}`
	if a := (limitKey{s.addr, adminToken}).say("POST", "/admin/api-keys", change); a.status != 503 || !hasCode(a.body, "keys_not_stored") {
		t.Errorf("a new key: %d %s", a.status, a.body)
	}
	s.says("no space left on device")
}

// TestQuotaDiskIsReadOnly: a gateway that could count nothing does not start.
func TestQuotaDiskIsReadOnly(t *testing.T) {
	leavesNothing(t)
	for _, hook := range []bool{true, false} {
		s := startQuotaSite(t, hook, "")
		disk := s.onSmallDisk(t)
		s.one(t, 0)
		want := s.used(t)
		s.stop(t)
		remount := func(flags uintptr) {
			t.Helper()
			if err := syscall.Mount("", disk, "", syscall.MS_REMOUNT|flags, ""); err != nil {
				t.Fatal(err)
			}
		}
		remount(syscall.MS_RDONLY)
		s.refuses(t, "data_dir", s.dir, "read-only file system")
		remount(0)
		s.run(t)
		if used := s.used(t); used != want || used[0] == 0 {
			t.Errorf("hook %t: %v tokens are used, %v were", hook, used, want)
		}
	}
}
