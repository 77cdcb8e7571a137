// Package process starts programs, does to them what fate does to servers, and
// leaves none behind.
package process

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

// Process is one program that was started.
type Process struct {
	name   string
	cmd    *exec.Cmd
	output bytes.Buffer  // to be read once it has ended
	ended  chan struct{} // closed when it has
}

// Group is all that was started, in that order. The zero value is empty. It is
// not safe for concurrent use.
type Group []*Process

// Start runs a program until Stop. The name is for messages.
func (g *Group) Start(name, path string, args ...string) (*Process, error) {
	p := &Process{name: name, cmd: exec.Command(path, args...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if err := p.cmd.Start(); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no %s; run `make build`", path)
		}
		return nil, fmt.Errorf("cannot start the %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // however it ended
		close(p.ended)
	}()
	*g = append(*g, p)
	return p, nil
}

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Ended is closed once the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Signal sends a signal, such as SIGSTOP: to its peers a stopped process is a
// machine whose cable was pulled.
func (p *Process) Signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("cannot signal the %s: %w", p.name, err)
	}
	return nil
}

// Kill ends the process as a crash does, and waits until it is gone.
func (p *Process) Kill() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("cannot kill the %s: %w", p.name, err)
	}
	<-p.ended
	return nil
}

// Stop lets the process end by itself within the grace, and kills it then.
func (p *Process) Stop(grace time.Duration) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // an error: it has ended
	_ = p.cmd.Process.Signal(syscall.SIGCONT) // a stopped one would not see it
	select {
	case <-p.ended:
	case <-time.After(grace):
		_ = p.Kill() // an error: it has ended
	}
}

// grace is how long a process of a group may take to end by itself.
const grace = 3 * time.Second

// Stop ends what runs, the last started first.
func (g *Group) Stop() {
	for _, p := range slices.Backward(*g) {
		p.Stop(grace)
	}
}

// Explain stops everything and writes what it said.
func (g *Group) Explain(w io.Writer) {
	g.Stop()
	for _, p := range *g {
		if p.output.Len() > 0 {
			fmt.Fprintf(w, "\nOutput of the %s:\n%s", p.name, p.output.Bytes())
		}
	}
}
