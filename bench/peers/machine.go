package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/llmproxy/llmproxy/bench/results"
)

// mostDescriptors bounds what each process may open, so that the step that runs
// out of descriptors also does where the system allows a million: each stream
// takes a port of the one loopback address, and there are 28,000.
const mostDescriptors = 20000

// raiseDescriptors sets the limit of open files of all that is started from now
// on, and returns it.
func raiseDescriptors() (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("cannot read the limit of open files: %w", err)
	}
	n := min(limit.Max, mostDescriptors)
	// The hard limit too: many programs raise their soft one to it.
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: n}); err != nil {
		return 0, fmt.Errorf("cannot set the limit of open files: %w", err)
	}
	return int(n), nil
}

// cores returns a core for generator and engine, and one for the gateways; an
// error says why nothing can be pinned.
func cores() (engine, gateway string, err error) {
	if _, err := exec.LookPath("taskset"); err != nil {
		return "", "", errors.New("there is no taskset")
	}
	return firstTwo(value("/proc/self/status", "Cpus_allowed_list"))
}

// firstTwo returns the first two cores of a list such as "0-3,8".
func firstTwo(list string) (first, second string, err error) {
	var found []int
	for part := range strings.SplitSeq(list, ",") {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		from, err := strconv.Atoi(low)
		if err != nil {
			return "", "", fmt.Errorf("cannot tell the cores of %q", list)
		}
		to, err := strconv.Atoi(high)
		if err != nil {
			return "", "", fmt.Errorf("cannot tell the cores of %q", list)
		}
		for core := from; core <= to && len(found) < 2; core++ {
			found = append(found, core)
		}
	}
	if len(found) < 2 {
		return "", "", errors.New("there is one core")
	}
	return strconv.Itoa(found[0]), strconv.Itoa(found[1]), nil
}

// machine describes where we run.
func machine(descriptors int) results.Machine {
	memory, _, _ := strings.Cut(value("/proc/meminfo", "MemTotal"), " ")
	kib, err := strconv.Atoi(memory)
	if err != nil {
		kib = 0 // a system that does not tell
	}
	return results.Machine{
		CPU:            value("/proc/cpuinfo", "model name"),
		Cores:          runtime.NumCPU(),
		MemoryMiB:      kib / 1024,
		Kernel:         line("/proc/sys/kernel/osrelease"),
		Go:             runtime.Version(),
		Descriptors:    uint64(descriptors),
		LoadAtTheStart: line("/proc/loadavg"),
	}
}

// value returns what stands after "name:" in a file of /proc; "" if nothing
// does.
func value(path, name string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for l := range strings.Lines(string(text)) {
		if before, after, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(before) == name {
			return strings.TrimSpace(after)
		}
	}
	return ""
}

// line returns a file's text, "" if it cannot be read.
func line(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// commit names the tree: the last commit, and whether the files differ from it.
func commit(ctx context.Context) (string, error) {
	head, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "", fmt.Errorf("cannot tell the commit: %w", err)
	}
	status, err := exec.CommandContext(ctx, "git", "status", "--porcelain").Output()
	if err != nil {
		return "", fmt.Errorf("cannot tell whether the files are those of the commit: %w", err)
	}
	name := strings.TrimSpace(string(head))
	if len(status) > 0 {
		name += "-dirty"
	}
	return name, nil
}

// build makes the programs: our own as a release has it, the generator and the
// engine.
func (b *bench) build(ctx context.Context) error {
	for _, args := range [][]string{{"make", "build"}, {"go", "build", "-trimpath", "-o", b.bare, "./bench/bare"}} {
		b.progress("%s", strings.Join(args, " "))
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir = b.root
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot build: %w\n%s", err, out)
		}
	}
	return nil
}
