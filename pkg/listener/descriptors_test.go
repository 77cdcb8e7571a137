//go:build unix

package listener

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// childEnv makes the test binary a server short of descriptors.
const childEnv = "LISTENER_TEST_DESCRIPTORS"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		if err := starve(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// starve serves with 40 descriptors: it prints its address, echoes, and obeys
// the lines of its standard input with a line each:
//
//	take   opens files until no descriptor is left, the reserve included
//	free   closes them and all connections
//	stats  prints Stats
func starve() error {
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 40, Max: 40}); err != nil {
		return err
	}
	l, err := Listen("tcp", "127.0.0.1:0", Options{})
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	conns := acceptAll(l)
	var held []io.Closer
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		for more := true; more; {
			select {
			case c := <-conns:
				go io.Copy(c, c)
				held = append(held, c)
			default:
				more = false
			}
		}
		switch commands.Text() {
		case "take":
			for {
				f, err := os.Open(os.DevNull)
				if err != nil {
					break
				}
				held = append(held, f)
			}
		case "free":
			for _, c := range held {
				c.Close()
			}
			held = nil
		}
		line, err := json.Marshal(l.Stats())
		if err != nil {
			return err
		}
		fmt.Println(string(line))
	}
	return commands.Err()
}

// starving is the test's end of a process that runs starve.
type starving struct {
	t     *testing.T
	addr  string
	stdin io.Writer
	lines *bufio.Scanner
}

func startStarving(t *testing.T) *starving {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server died: %v", err)
		}
	})
	s := &starving{t: t, stdin: stdin, lines: bufio.NewScanner(stdout)}
	s.addr = s.line()
	return s
}

func (s *starving) line() string {
	if !s.lines.Scan() {
		s.t.Fatalf("the server prints no more: %v", s.lines.Err())
	}
	return s.lines.Text()
}

// tell sends a command and returns the stats after it.
func (s *starving) tell(command string) (stats Stats) {
	s.t.Helper()
	fmt.Fprintln(s.stdin, command)
	if err := json.Unmarshal([]byte(s.line()), &stats); err != nil {
		s.t.Fatal(err)
	}
	return stats
}

func TestOutOfDescriptors(t *testing.T) {
	const clients = 100
	s := startStarving(t)
	for range clients {
		dial(t, s.addr)
	}
	var stats Stats
	eventually(t, "every client is accepted or refused", func() bool {
		stats = s.tell("stats")
		return stats.Accepted+stats.RefusedDescriptors == clients
	})
	if stats.Accepted == 0 || stats.RefusedDescriptors == 0 {
		t.Fatalf("nothing was short: %+v", stats)
	}
	if !refused(dial(t, s.addr)) {
		t.Fatal("a client is kept waiting when descriptors are short")
	}

	// With the reserve taken as well, accept can do nothing. It must not spin.
	var before Stats
	eventually(t, "a client neither served nor refused", func() bool {
		before = s.tell("take")
		c := dial(t, s.addr)
		if c == nil {
			return false // with the reserve, which the next round takes
		}
		c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		_, err := c.Read(make([]byte, 1))
		return errors.Is(err, os.ErrDeadlineExceeded)
	})
	after := s.tell("stats")
	if n := after.AcceptFaults - before.AcceptFaults; n == 0 || n > 50 {
		t.Errorf("accept was tried %d times in half a second", n)
	}

	s.tell("free")
	client := dial(t, s.addr)
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a client is accepted again", func() bool {
		return s.tell("stats").Accepted > after.Accepted
	})
	s.tell("stats") // starts the echo of what was accepted
	client.SetReadDeadline(time.Now().Add(patience))
	if _, err := client.Read(make([]byte, 1)); err != nil {
		t.Errorf("not served after recovery: %v", err)
	}
}
