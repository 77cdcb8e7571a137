package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// tree returns the process and all its descendants.
func tree(pid int) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		child, parent, err := parents(string(text))
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", path, err)
		}
		children[parent] = append(children[parent], child)
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all, nil
}

// parents returns the process and its parent of a line of /proc/PID/stat. The
// name between them is in parentheses, and may hold more of them.
func parents(stat string) (pid, parent int, err error) {
	before, _, _ := strings.Cut(stat, " ")
	after := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(after) < 2 {
		return 0, 0, errors.New("it is not a stat line")
	}
	if pid, err = strconv.Atoi(before); err != nil {
		return 0, 0, err
	}
	parent, err = strconv.Atoi(after[1])
	return pid, parent, err
}

// usage is the time on CPU of each process of a tree, in nanoseconds.
type usage map[int]int64

// cpu reads the CPU clock of each process of the tree. It is the clock behind
// utime and stime of /proc/PID/stat: threads that have ended are in it, but it
// counts nanoseconds where they count ticks of 10 ms.
func cpu(pid int) (usage, error) {
	pids, err := tree(pid)
	if err != nil {
		return nil, err
	}
	u := usage{}
	for _, pid := range pids {
		var ts unix.Timespec
		// clock_getcpuclockid(3): the clock's number is made of the process's.
		if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err == nil { // else it has ended
			u[pid] = ts.Nano()
		}
	}
	return u, nil
}

// since returns the time on CPU in nanoseconds that was added to before. What a
// process used that ended in between is lost.
func (u usage) since(before usage) int64 {
	var sum int64
	for pid, ns := range u {
		sum += ns - before[pid]
	}
	return sum
}

// The lines of /proc/PID/status that tell memory.
const (
	rss     = "VmRSS:" // in use now
	peakRSS = "VmHWM:" // the most since resetPeak
)

// memory sums a line of /proc/PID/status over the tree, in KiB. Pages that
// processes share count for each.
func memory(pid int, line string) (kib int64, err error) {
	pids, err := tree(pid)
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue // it has ended
		}
		_, after, _ := strings.Cut(string(status), line)
		if fields := strings.Fields(after); len(fields) > 0 {
			n, err := strconv.ParseInt(fields[0], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("cannot read %s of process %d: %w", line, pid, err)
			}
			kib += n
		}
	}
	return kib, nil
}

// resetPeak sets peakRSS of the tree to what is in use now.
func resetPeak(pid int) error {
	pids, err := tree(pid)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		// proc(5): 5 resets the peak resident set size.
		err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot reset the peak of memory: %w", err)
		}
	}
	return nil
}
