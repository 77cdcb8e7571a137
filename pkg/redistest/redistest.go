// Package redistest runs real Redis servers for tests: single ones, replicas,
// sentinels and clusters, on loopback ports, each in a directory of its own, with
// the faults that a server and a network can have. All of it ends with the test.
//
// What cannot be done fails the test; functions that are given a testing.TB, and
// Restart and Must, have to be called from the test's own goroutine.
package redistest

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a server may take for what a test waits for.
const patience = 20 * time.Second

// Server is a redis-server process. It may be used by several goroutines.
type Server struct {
	t        testing.TB
	dir      string
	port     int
	args     []string
	password string // of the default user, "" none

	mu      sync.Mutex // protects process
	process *process   // the last one that was started
}

// Start runs a server until the test ends, and returns when it answers. args are
// as on the command line of redis-server ("--appendonly", "yes"); without them
// nothing is kept on disk. Command knows the password that --requirepass sets. A
// test without a redis-server is skipped, or fails if LLMPROXY_REQUIRE is set.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	return start(t, func(_ string, port int) []string {
		return append([]string{
			"--port", strconv.Itoa(port), "--bind", "127.0.0.1",
			"--save", "", "--appendonly", "no",
			"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1",
		}, args...)
	})
}

// start runs a server with the arguments that command makes of its directory and
// port. A port that somebody else has taken in the meantime is not the last one.
func start(t testing.TB, command func(dir string, port int) []string) *Server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		missing(t)
	}
	s := &Server{t: t, dir: t.TempDir()}
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			t.Logf("redis-server at %s said:\n%s", s.Addr(), s.output())
		}
	})
	for range 5 {
		s.port = freePort(t)
		s.args = command(s.dir, s.port)
		s.password = option(s.args, "--requirepass")
		if s.launch() {
			return s
		}
		s.Kill()
	}
	t.Fatalf("redis-server %q does not run", s.args)
	return nil
}

func missing(t testing.TB) {
	t.Helper()
	const what = "no redis-server: apt-get install redis-server"
	if os.Getenv("CI") != "" || os.Getenv("LLMPROXY_REQUIRE") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// freePort is a port that can be listened on, now and after a restart: it and the
// one 10000 above it, of a cluster's bus, are below those that the system gives to
// outgoing connections.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 10000 + rand.IntN(12000)
		if free(port) && free(port+10000) {
			return port
		}
	}
	t.Fatal("no free port found")
	return 0
}

func free(port int) bool {
	ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	ln.Close()
	return true
}

// option is the argument that follows the last one of that name.
func option(args []string, name string) string {
	for i, a := range slices.Backward(args) {
		if a == name && i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}

// launch starts the process and reports whether it came to answer.
func (s *Server) launch() bool {
	p, err := newProcess(s.dir, s.args)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	s.process = p
	s.mu.Unlock()
	pid := fmt.Sprintf("process_id:%d\r\n", p.cmd.Process.Pid)
	return wait(func() bool {
		if p.over() {
			return true
		}
		info, err := s.Command("INFO")
		return err == nil && strings.Contains(info, pid) && !strings.Contains(info, "loading:1")
	}) && !p.over()
}

// wait reports whether the condition came to hold.
func wait(cond func() bool) bool {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline.C:
			return false
		case <-tick.C:
		}
	}
	return true
}

// eventually fails the test when the condition does not come to hold.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	if !wait(cond) {
		t.Fatal("redis: never happened: " + what)
	}
}

// Addr is the server's host:port, the same after a restart.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Port is the port of Addr.
func (s *Server) Port() int { return s.port }

// Kill ends the server as a crash does, also a stopped one, unless it has ended.
// It returns when the process is gone.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return
	}
	if err := s.process.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Errorf("cannot kill redis-server: %v", err)
		return
	}
	<-s.process.ended
}

// Restart runs the server again, with the port, the directory and the arguments
// that it had; one that still runs is killed first. It returns when the server
// answers. What a REPLICAOF or CONFIG SET had changed is not kept.
func (s *Server) Restart() {
	s.t.Helper()
	s.Kill()
	if !s.launch() {
		s.t.Fatal("redis-server does not run again")
	}
}

// Stop freezes the server: connections stay, and new ones are still made by the
// system, but nothing is answered until Continue.
func (s *Server) Stop() { s.signal(syscall.SIGSTOP) }

// Continue ends what Stop began. The server then does at once what it was sent in
// the meantime.
func (s *Server) Continue() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.process.cmd.Process.Signal(sig); err != nil {
		s.t.Errorf("cannot send redis-server %v: %v", sig, err)
	}
}

// Command asks the server, on a connection of its own, for ten seconds at most. A
// list is answered as its items, each on a line, nil as "". An error reply is an
// error of the same text.
func (s *Server) Command(args ...string) (string, error) {
	return ask(s.Addr(), s.password, 10*time.Second, args)
}

// Must is Command that fails the test on an error.
func (s *Server) Must(args ...string) string {
	s.t.Helper()
	answer, err := s.Command(args...)
	if err != nil {
		s.t.Fatalf("redis: %s: %v", strings.Join(args, " "), err)
	}
	return answer
}

// Replica runs a replica of s, which answers and is in sync when it returns. One
// that has not all of its master's is made with a Proxy between the two, given as
// "--replicaof", host, port: what is under way when that is cut never arrives.
func (s *Server) Replica(t testing.TB, args ...string) *Server {
	t.Helper()
	of := []string{"--replicaof", "127.0.0.1", strconv.Itoa(s.port)}
	if s.password != "" {
		of = append(of, "--masterauth", s.password, "--requirepass", s.password)
	}
	r := Start(t, append(of, args...)...)
	eventually(t, "the replica is in sync", r.inSync)
	return r
}

// inSync reports whether a replica has all that its master had written when it
// was asked.
func (s *Server) inSync() bool {
	info, err := s.Command("INFO", "replication")
	if err != nil || field(info, "master_link_status") != "up" {
		return false
	}
	master := net.JoinHostPort(field(info, "master_host"), field(info, "master_port"))
	of, err := ask(master, cmp.Or(option(s.args, "--masterauth"), s.password), time.Second, []string{"INFO", "replication"})
	if err != nil {
		return false
	}
	wrote, err1 := strconv.ParseInt(field(of, "master_repl_offset"), 10, 64)
	info, err = s.Command("INFO", "replication")
	read, err2 := strconv.ParseInt(field(info, "slave_repl_offset"), 10, 64)
	return errors.Join(err, err1, err2) == nil && read >= wrote
}

// field is the value of a "name:value" line of an INFO answer.
func field(info, name string) string {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func (s *Server) output() string {
	b, err := os.ReadFile(filepath.Join(s.dir, logName))
	if err != nil {
		return err.Error()
	}
	return string(b)
}
