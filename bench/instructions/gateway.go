package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// gateway is the real gateway, its binary run by callgrind.
type gateway struct {
	addr   string
	dir    string // holds the binary, the configuration and what callgrind writes
	cmd    *exec.Cmd
	output bytes.Buffer // what it logged; to be read after stop
	exited chan struct{}
	dumps  int
}

// Nothing but requests shall happen. One P, no collection and no preemption by
// signal; schedtrace, for a line that comes once in eleven days, because the
// runtime's monitor thread does not then go to sleep whenever the gateway does,
// to be woken by its next system call.
var quietRuntime = []string{"GOMAXPROCS=1", "GOGC=off", "GODEBUG=asyncpreemptoff=1,schedtrace=1000000000"}

// binary is the gateway's, in its directory.
const binary = "llmproxy"

func build(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", filepath.Join(dir, binary), "github.com/llmproxy/llmproxy/cmd/llmproxy")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOAMD64=v1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build the gateway: %w\n%s", err, out)
	}
	return nil
}

// start runs the gateway that build has left in dir, in front of an engine and a
// billing system, see configure, and waits until it listens. The gateway watches
// the directory of its configuration, so callgrind writes elsewhere.
func start(ctx context.Context, dir string, in mode, engine, billing string) (*gateway, error) {
	g := &gateway{dir: dir}
	config := filepath.Join(dir, "watched", "llmproxy.yaml")
	var err error
	if g.addr, err = freeAddress(); err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Dir(config), 0o700); err != nil {
		return nil, err
	}
	text, err := configure(in, g.addr, engine, billing, filepath.Join(dir, "data"))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "valgrind", "--tool=callgrind", "--quiet", "--separate-threads=yes",
		"--vgdb-prefix="+filepath.Join(dir, "vgdb"), "--callgrind-out-file="+filepath.Join(dir, "out"),
		filepath.Join(dir, binary), "serve", "-config", config)
	cmd.Env = append(os.Environ(), quietRuntime...)
	if err := g.launch(cmd); err != nil {
		return nil, err
	}
	if err := g.await(10*time.Millisecond, func() bool {
		c, err := net.Dial("tcp", g.addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	}); err != nil {
		g.stop()
		return nil, err
	}
	return g, nil
}

func (g *gateway) launch(cmd *exec.Cmd) error {
	cmd.Stdout, cmd.Stderr = &g.output, &g.output
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot run the gateway: %w", err)
	}
	g.cmd, g.exited = cmd, make(chan struct{})
	go func() {
		_ = cmd.Wait() // await tells of an exit that comes too early
		close(g.exited)
	}()
	return nil
}

// freeAddress is one that nobody listens on now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// stop may be called again.
func (g *gateway) stop() {
	_ = g.cmd.Process.Kill() // it may have exited
	<-g.exited
}

// await looks at intervals until a condition holds.
func (g *gateway) await(interval time.Duration, holds func() bool) error {
	for deadline := time.Now().Add(patience); !holds(); {
		select {
		case <-g.exited:
			return fmt.Errorf("the gateway exited (%v):\n%s", g.cmd.ProcessState, g.output.String())
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the gateway took longer than %v", patience)
		}
		time.Sleep(interval)
	}
	return nil
}

// rest waits until all threads of the gateway sleep. It is to be called after
// the gateway has been seen to do the last thing that it was asked for.
func (g *gateway) rest() error { return g.await(20*time.Microsecond, g.asleep) }

func (g *gateway) asleep() bool {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", g.cmd.Process.Pid))
	if err != nil || len(stats) == 0 {
		return false
	}
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			return false // a thread that just ended
		}
		// pid (name) state ...; the name may hold anything (proc(5))
		if rest := text[bytes.LastIndexByte(text, ')')+1:]; !bytes.HasPrefix(rest, []byte(" S ")) {
			return false
		}
	}
	return true
}

// count returns the instructions since the last count.
func (g *gateway) count() (*profile, error) {
	if err := g.rest(); err != nil {
		return nil, err
	}
	// Valgrind looks for commands while the program executes; this one sleeps,
	// so vgdb is to wake it, after 1 ms.
	vgdb := exec.Command("vgdb", "--max-invoke-ms=1", "--cmd-time-out=30", "--vgdb-prefix="+filepath.Join(g.dir, "vgdb"),
		"--pid="+strconv.Itoa(g.cmd.Process.Pid), "dump")
	if out, err := vgdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot make callgrind write its counts: %w\n%s", err, out)
	}
	g.dumps++
	names, err := filepath.Glob(filepath.Join(g.dir, fmt.Sprintf("out.%d-*", g.dumps)))
	if err != nil {
		return nil, err
	}
	return readProfile(names)
}
