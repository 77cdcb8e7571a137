package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// grace is how long a process may take to end by itself.
const grace = 3 * time.Second

// process is a program that runs until stop, in a process group of its own.
type process struct {
	cmd   *exec.Cmd
	log   string        // the file with its output
	ended chan struct{} // closed when it has

	stopped bool // by us
}

// begin starts a command on a core, "" for any, with its output appended to a
// file.
func begin(cmd *exec.Cmd, core, log string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	pin(cmd, core)
	// What it starts itself ends with it, and a Ctrl-C at the terminal reaches
	// only us, who end it in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", cmd.Args[0], err)
	}
	p := &process{cmd: cmd, log: log, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait()                                      // however it ended
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // an error: nothing is left of its group
		close(p.ended)
	}()
	return p, nil
}

// pin makes a command run on one core. taskset sets that before the program has
// threads, so that all of them have it.
func pin(cmd *exec.Cmd, core string) {
	if core == "" || cmd.Err != nil {
		return
	}
	taskset := exec.Command("taskset", append([]string{"-c", core, cmd.Path}, cmd.Args[1:]...)...)
	cmd.Path, cmd.Args, cmd.Err = taskset.Path, taskset.Args, taskset.Err
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// alive reports whether the process runs; false for nil.
func (p *process) alive() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// stop ends the process and all of its group. One that has ended is left alone:
// its number may be another's by now.
func (p *process) stop() {
	if !p.alive() {
		return
	}
	p.stopped = true
	_ = syscall.Kill(-p.pid(), syscall.SIGTERM) // an error: it ends right now
	select {
	case <-p.ended:
	case <-time.After(grace):
		_ = syscall.Kill(-p.pid(), syscall.SIGKILL)
		<-p.ended
	}
}

// death returns the reason of a process that ended by itself: the last line of
// its output.
func (p *process) death() error {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err
	}
	lines := strings.Split(string(bytes.TrimSpace(text)), "\n")
	last := lines[len(lines)-1]
	if last == "" {
		return errors.New("it ended without a word")
	}
	return fmt.Errorf("it ended: %s", shorten(last))
}

// shorten keeps the first line of a text, 300 bytes at most: results hold
// reasons, not logs.
func shorten(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if len(line) > 300 {
		line = strings.ToValidUTF8(line[:300], "") + "..."
	}
	return line
}
