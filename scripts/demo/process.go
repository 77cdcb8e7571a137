package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"slices"
	"syscall"
	"time"
)

// process is one program that the demo started.
type process struct {
	name   string
	cmd    *exec.Cmd
	output bytes.Buffer  // to be read once it has ended
	ended  chan struct{} // closed when it has
}

// processes are all that was started, in that order.
type processes []*process

// start runs a program until stop.
func (s *processes) start(name, path string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(path, args...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if err := p.cmd.Start(); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no %s; run `make demo`", path)
		}
		return nil, fmt.Errorf("cannot start the %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // however it ended
		close(p.ended)
	}()
	*s = append(*s, p)
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill ends the process as a crash does, and waits until it is gone.
func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("cannot kill the %s: %w", p.name, err)
	}
	<-p.ended
	return nil
}

// grace is how long a process may take to end by itself.
const grace = 3 * time.Second

// stop ends what runs, the last started first.
func (s *processes) stop() {
	for _, p := range slices.Backward(*s) {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // an error: it has ended
		select {
		case <-p.ended:
		case <-time.After(grace):
			_ = p.kill() // an error: it has ended
		}
	}
}

// explain stops everything and writes what it said.
func (s *processes) explain(w io.Writer) {
	s.stop()
	for _, p := range *s {
		if p.output.Len() > 0 {
			fmt.Fprintf(w, "\nOutput of the %s:\n%s", p.name, p.output.Bytes())
		}
	}
}
