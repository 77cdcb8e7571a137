package app_test

import (
	"bufio"
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// mountDisk mounts a small disk of its own, which can be frozen.
func mountDisk(t *testing.T) (dir string) {
	t.Helper()
	if _, err := exec.LookPath("fsfreeze"); err != nil {
		t.Skip("cannot freeze a disk: ", err)
	}
	dir = t.TempDir()
	image, disk := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 16<<20); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, disk}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("cannot make a disk, which needs root and loop devices: %v\n%s", err, out)
		}
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	return disk
}

// freeze has a disk hang: whoever writes to it waits, and cannot be killed. A
// process apart ends that, when it is told to or after 30 s.
func freeze(t *testing.T, disk string) (thaw func()) {
	t.Helper()
	cmd := exec.Command("sh", "-c", `fsfreeze -f "$0" && echo frozen && timeout 30 cat; fsfreeze -u "$0"`, disk)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	thaw = sync.OnceFunc(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the disk does not come back: %v", err)
		}
	})
	t.Cleanup(thaw)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "frozen\n" {
		t.Fatalf("the disk is not frozen: %q %v", line, err)
	}
	return thaw
}

// waitsForDisk tells whether a thread of this process is in a sleep that nothing
// interrupts: proc_pid_stat(5), state D.
func waitsForDisk() bool {
	files, _ := filepath.Glob("/proc/self/task/*/stat")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte(") D ")) {
			return true
		}
	}
	return false
}

// within fails the test when f takes longer than limit.
func within(t *testing.T, limit time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(limit):
		t.Errorf("%s took more than %v", what, limit)
	}
}

// A disk that hangs took the metrics page with it, which is where an operator looks
// why requests hang, and the end of the process.
func TestHungDisk(t *testing.T) {
	leavesNothing(t)
	for _, mode := range []string{"interval", "always", "os"} {
		t.Run(mode, func(t *testing.T) {
			disk := mountDisk(t)
			hook := startLedgerHook(t)
			engine := apptest.StartEngine(t, mockvllm.Options{})
			g := apptest.Start(t, hookConfig(filepath.Join(disk, "data"), hook.url, ", sync: "+mode)+"server: {shutdown_timeout: 1ms}\n", engine)
			ask(t, g, false)
			apptest.Eventually(t, "the journal has nothing to write", func() bool {
				return hook.requests() == 1 && g.Metric("llmproxy_usage_backlog_bytes") == 0 && !waitsForDisk()
			})
			thaw := freeze(t, disk)
			answer := make(chan heard, 1)
			go func() { answer <- hear(t, g.URL+chatPath, wholeChat) }()
			apptest.Eventually(t, "a thread waits for the disk", waitsForDisk)
			for range 2 {
				within(t, 2*time.Second, "the metrics page", func() { g.Metrics() })
			}
			if n := len(posts(engine)); n != 1 {
				t.Errorf("%d requests came to the engine, one that is not recorded", n)
			}
			if long && mode == "interval" {
				within(t, 15*time.Second, "Close", g.Close)
				thaw()
				<-answer
				return
			}
			thaw()
			if a := <-answer; a.status != http.StatusOK {
				t.Errorf("%d %s", a.status, a.body)
			}
			apptest.Eventually(t, "both events are delivered", func() bool { return hook.requests() == 2 })
		})
	}
}
