package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// until waits for a condition, at most ten seconds.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// shellProcess starts a shell command that ends with the test.
func shellProcess(t *testing.T, command string) *process {
	t.Helper()
	p, err := begin(exec.Command("sh", "-c", command), "", filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	return p
}

func mustCPU(t *testing.T, pid int) usage {
	t.Helper()
	u, err := cpu(pid)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// A gateway that works in children, such as nginx's worker, would seem to cost
// nothing; one whose children are counted twice, double.
func TestCPUIsThatOfTheWholeTree(t *testing.T) {
	const burn = 50 * time.Millisecond
	began := time.Now()
	p := shellProcess(t, `sh -c 'sh -c "while :; do :; done" & wait' & wait`)
	until(t, "a grandchild burns", func() bool { return mustCPU(t, p.pid()).since(nil) > int64(burn) })

	before := mustCPU(t, p.pid())
	if own := before[p.pid()]; own > int64(burn)/2 {
		t.Errorf("the parent alone used %v", time.Duration(own))
	}
	until(t, "it burns on", func() bool { return mustCPU(t, p.pid()).since(before) > int64(burn) })
	if used, most := mustCPU(t, p.pid()).since(nil), time.Since(began); used > int64(most)+int64(burn)/2 {
		t.Errorf("one busy process used %v in %v", time.Duration(used), most)
	}
}

func TestMemoryIsThatOfTheWholeTree(t *testing.T) {
	p := shellProcess(t, `sh -c 'sleep 60 & wait' & wait`)
	until(t, "there are three processes", func() bool {
		pids, err := tree(p.pid())
		return err == nil && len(pids) == 3
	})
	all, err := memory(p.pid(), rss)
	if err != nil {
		t.Fatal(err)
	}
	pids, err := tree(p.pid())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := memory(pids[2], rss)
	if err != nil {
		t.Fatal(err)
	}
	if leaf == 0 || all < 2*leaf {
		t.Errorf("three processes use %d KiB, the last of them %d KiB", all, leaf)
	}
}

// The peak of a start, such as Python's imports, is not that of ten bodies.
func TestPeakIsForgottenAtReset(t *testing.T) {
	const size = 64 << 20
	pages, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < size; i += 4096 {
		pages[i] = 1 // now it is in memory
	}
	if err := unix.Munmap(pages); err != nil {
		t.Fatal(err)
	}
	before, err := memory(os.Getpid(), peakRSS)
	if err != nil {
		t.Fatal(err)
	}
	if err := resetPeak(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	after, err := memory(os.Getpid(), peakRSS)
	if err != nil {
		t.Fatal(err)
	}
	if after == 0 || before-after < size/2/1024 {
		t.Errorf("the peak is %d KiB, before the reset it was %d KiB", after, before)
	}
}

func TestNothingOutlivesItsGateway(t *testing.T) {
	for _, c := range []struct {
		name, command string
		stop          bool
	}{
		{"stopped by us", `sh -c 'sleep 60 & echo $!; wait' & wait`, true},
		{"its child ignores SIGTERM and it ended by itself", `(trap '' TERM; exec sleep 60) & echo $!`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := shellProcess(t, c.command)
			var child int
			until(t, "the child runs", func() bool {
				_, err := fmt.Sscan(line(p.log), &child)
				return err == nil
			})
			if c.stop {
				p.stop()
			}
			until(t, "the child is gone", func() bool {
				kib, err := memory(child, rss) // a zombie has no memory
				return err == nil && kib == 0
			})
		})
	}
}

func TestParents(t *testing.T) {
	for _, c := range []struct {
		name, stat  string
		pid, parent int
		bad         bool
	}{
		{name: "plain", stat: "12 (sh) S 7 12 12 0", pid: 12, parent: 7},
		{name: "the name looks like fields", stat: "12 (a) S 1 (b c)) R 7 12", pid: 12, parent: 7},
		{name: "cut off", stat: "12 (sh)", bad: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			pid, parent, err := parents(c.stat)
			if (err != nil) != c.bad || pid != c.pid || parent != c.parent {
				t.Errorf("parents: %d, %d, %v", pid, parent, err)
			}
		})
	}
}
