package keystore

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

// A child process of the tests does what these variables tell it.
const (
	changeVariable = "KEYSTORE_TEST_CHANGE"
	addVariable    = "KEYSTORE_TEST_ADD"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(changeVariable) != "":
		changeUntilKilled(os.Getenv(changeVariable))
	case os.Getenv(addVariable) != "":
		addSome(os.Getenv(addVariable))
	default:
		os.Exit(m.Run())
	}
}

// child runs this binary again with a variable set, until the test ends.
func child(t *testing.T, variable, value string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), variable+"="+value)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd, bufio.NewScanner(out)
}

func mustOpen(dir string) *File {
	s, err := OpenFile(dir, time.Now)
	if err != nil {
		panic(err)
	}
	return s
}

func numbered(process, n int) *auth.Key {
	return &auth.Key{Hash: auth.Hash(fmt.Sprint(process, n)), Name: fmt.Sprintf("%d-%d", process, n)}
}

// changeUntilKilled adds keys and takes them out again, but for every tenth, and
// says so after each step.
func changeUntilKilled(dir string) {
	s := mustOpen(dir)
	for n := 0; ; n++ {
		k := numbered(os.Getpid(), n)
		if err := s.Add(k); err != nil {
			panic(err)
		}
		fmt.Println("+" + k.Name)
		if n%10 == 0 {
			continue
		}
		if _, err := s.Remove(k.ID()); err != nil {
			panic(err)
		}
		fmt.Println("-" + k.Name)
	}
}

// After a kill the file is that of the last finished step, or of the one after it.
func TestKillLeavesTheOldFileOrTheNew(t *testing.T) {
	dir := t.TempDir()
	known := map[string]bool{}
	for round := range 12 {
		cmd, out := child(t, changeVariable, dir)
		last := ""
		follow := func() {
			last = out.Text()
			known[last[1:]] = last[0] == '+'
		}
		for range 7 + 3*round {
			if !out.Scan() {
				t.Fatal("the writer ended by itself")
			}
			follow()
		}
		cmd.Process.Kill()
		for out.Scan() { // what it said before it died counts
			follow()
		}
		cmd.Wait()
		differ := map[string]bool{}
		for name, there := range known {
			if there {
				differ[name] = true
			}
		}
		for _, k := range mustOpen(dir).Keys() {
			if differ[k.Name] {
				delete(differ, k.Name)
			} else {
				differ[k.Name] = false
				known[k.Name] = true
			}
		}
		if len(differ) > 1 {
			t.Fatalf("round %d: after %s the file differs by %v", round, last, differ)
		}
		for name, there := range differ {
			known[name] = !there
		}
	}
	if len(known) < 40 {
		t.Errorf("only %d keys were made: the kills tell little", len(known))
	}
}

const someKeys = 40

func addSome(dir string) {
	s := mustOpen(dir)
	for n := range someKeys {
		if err := s.Add(numbered(os.Getpid(), n)); err != nil {
			panic(err)
		}
	}
	fmt.Println("done")
}

func TestTwoProcessesLoseNoKey(t *testing.T) {
	dir := t.TempDir()
	var outs []*bufio.Scanner
	for range 3 {
		_, out := child(t, addVariable, dir)
		outs = append(outs, out)
	}
	for _, out := range outs {
		said := ""
		for out.Scan() {
			said += out.Text()
		}
		if said != "done" {
			t.Errorf("a process says %q", said)
		}
	}
	if n := len(mustOpen(dir).Keys()); n != len(outs)*someKeys {
		t.Errorf("%d keys, want %d", n, len(outs)*someKeys)
	}
}

// faulty fails the step with that number; a write that fails has written half.
func faulty(step int, why error) (d disk, steps *int) {
	real := realDisk()
	n := 0
	hit := func() error {
		if n++; n-1 == step {
			return why
		}
		return nil
	}
	return disk{
		create: func(path string) (*os.File, error) {
			if err := hit(); err != nil {
				return nil, err
			}
			return real.create(path)
		},
		write: func(f *os.File, b []byte) error {
			if err := hit(); err != nil {
				return errors.Join(real.write(f, b[:len(b)/2]), err)
			}
			return real.write(f, b)
		},
		sync: func(f *os.File) error {
			if err := hit(); err != nil {
				return err
			}
			return real.sync(f)
		},
		rename: func(from, to string) error {
			if err := hit(); err != nil {
				return err
			}
			return real.rename(from, to)
		},
		syncDir: func(dir string) error {
			if err := hit(); err != nil {
				return err
			}
			return real.syncDir(dir)
		},
	}, &n
}

func TestEveryStepOfAWriteMayFail(t *testing.T) {
	const steps = 5
	for step := range steps + 1 {
		dir := t.TempDir()
		s := mustOpen(dir)
		if err := s.Add(numbered(1, 1)); err != nil {
			t.Fatal(err)
		}
		var taken *int
		s.disk, taken = faulty(step, syscall.ENOSPC)
		err := s.Add(numbered(1, 2))
		want := 1
		if step >= steps-1 { // the file was in place when its directory could not be synced
			want = 2
		}
		if n := len(mustOpen(dir).Keys()); n != want || (err == nil) != (step == steps) || *taken != min(step+1, steps) {
			t.Errorf("step %d of %d: %d keys in the file, want %d; %v", step, *taken, n, want, err)
		}
		if err != nil && (!errors.Is(err, syscall.ENOSPC) || len(s.Keys()) != 1) {
			t.Errorf("step %d: %v, and %d keys", step, err, len(s.Keys()))
		}
		if _, err := os.Stat(filepath.Join(dir, "new.keys.json")); err == nil {
			t.Errorf("step %d leaves a file", step)
		}
		s.disk = realDisk()
		if _, err := s.Reload(); err != nil || len(s.Keys()) != want {
			t.Errorf("step %d: %d keys, want %d; %v", step, len(s.Keys()), want, err)
		}
		if err := s.Add(numbered(1, 3)); err != nil || len(s.Keys()) != want+1 {
			t.Errorf("step %d: the next change: %d keys; %v", step, len(s.Keys()), err)
		}
	}
}

// A snapshot is the old one or the new one, wherever its writing ends.
func TestEveryStepOfASnapshotMayFail(t *testing.T) {
	const steps = 5
	for step := range steps + 1 {
		dir := t.TempDir()
		r, err := OpenRedis(RedisOptions{Dir: dir, MaxAge: time.Hour, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		r.epoch, r.loaded, r.now.Synced, r.now.Err = "e", true, time.Now(), nil
		grow := func(n int) written {
			k := numbered(1, n)
			k.Source = auth.Stored
			r.take(k.ID(), entry{revision: int64(n), key: k})
			r.writeSnapshot(0)
			return r.last
		}
		if grow(1).taken != 1 {
			t.Fatal("not written")
		}
		var taken *int
		r.disk, taken = faulty(step, syscall.ENOSPC)
		last := grow(2)
		want := 1
		if step >= steps-1 { // it was in place when its directory could not be synced
			want = 2
		}
		again, err := OpenRedis(RedisOptions{Dir: dir, MaxAge: time.Hour, Now: time.Now})
		if err != nil || len(again.Keys()) != want || *taken != min(step+1, steps) {
			t.Errorf("step %d of %d: %v, %d keys, want %d", step, *taken, err, len(again.Keys()), want)
		}
		if written := last.taken == 2; written != (step == steps) || errors.Is(r.State().Err, syscall.ENOSPC) == written {
			t.Errorf("step %d: written %t, %v", step, written, r.State().Err)
		}
		r.disk = realDisk()
		if grow(3).taken != 3 {
			t.Error("the next one is not written")
		}
	}
}

// What a crash left beside the file may be anything, with any rights.
func TestLeftoverOfACrash(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(dir)
	left := filepath.Join(dir, "new.keys.json")
	if err := os.WriteFile(left, []byte(strings.Repeat("x", 1<<16)), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(left, 0o666), s.Add(numbered(1, 1))); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(s.Path())
	if err != nil || info.Mode() != 0o600 || len(mustOpen(dir).Keys()) != 1 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestLockThatNobodyGivesBack(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(dir)
	held, err := s.lock()
	if err != nil {
		t.Fatal(err)
	}
	defer held.lock.Close()
	s.patience = 0
	if err := s.Add(numbered(1, 1)); err == nil || !strings.Contains(err.Error(), "keys.lock: another process has had it for ") {
		t.Errorf("got %v", err)
	}
	held.lock.Close()
	if err := s.Add(numbered(1, 1)); err != nil {
		t.Error(err)
	}
}
