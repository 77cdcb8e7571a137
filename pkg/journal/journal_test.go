package journal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A child process of the tests does what these variables tell it.
const (
	holdVariable  = "JOURNAL_TEST_HOLD"
	writeVariable = "JOURNAL_TEST_WRITE"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(holdVariable) != "":
		hold(os.Getenv(holdVariable))
	case os.Getenv(writeVariable) != "":
		writeUntilKilled(os.Getenv(writeVariable))
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
	if _, err := cmd.StdinPipe(); err != nil { // it stays open
		t.Fatal(err)
	}
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

// hold opens the journal, says so, and waits for its standard input to end.
func hold(dir string) {
	if _, err := Open(dir, Options{}); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("open")
	io.Copy(io.Discard, os.Stdin)
}

// log collects what a journal tells its operator.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) add(msg string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprint(append([]any{msg}, args...)...))
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

func openTest(t *testing.T, dir string, o Options) *Journal {
	t.Helper()
	j, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func batch(records ...string) *Batch {
	b := new(Batch)
	for _, r := range records {
		if err := b.Add([]byte(r)); err != nil {
			panic(err)
		}
	}
	return b
}

func write(t *testing.T, j *Journal, records ...string) {
	t.Helper()
	if err := j.Write(batch(records...)); err != nil {
		t.Fatal(err)
	}
}

// numbered are the records "from" to "to".
func numbered(from, to int) []string {
	var records []string
	for i := from; i <= to; i++ {
		records = append(records, strconv.Itoa(i))
	}
	return records
}

// scanned are the records that a Scan of dir finds.
func scanned(t *testing.T, dir string) (records []string, r Report) {
	t.Helper()
	r, err := Scan(dir, func(_ uint64, record []byte) error {
		records = append(records, string(record))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return records, r
}

func wantNext(t *testing.T, r *Reader, seq uint64, record string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	gotSeq, got, err := r.Next(ctx)
	if err != nil || gotSeq != seq || string(got) != record {
		t.Fatalf("got record %d %q (%v), want %d %q", gotSeq, got, err, seq, record)
	}
}

func segments(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "0*.journal"))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestNumbersAndRecordsSurviveRestart(t *testing.T) {
	for _, sync := range []string{"interval", "always", "os"} {
		t.Run(sync, func(t *testing.T) {
			s, err := ParseSync(sync)
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "made", "here")
			var want []string
			for i := range 4 {
				j := openTest(t, dir, Options{Sync: s})
				if got := j.Last(); got != uint64(2*i) {
					t.Fatalf("start %d: the last record is %d", i, got)
				}
				var replayed []string
				if err := j.Replay(func(seq uint64, record []byte) error {
					if replayed = append(replayed, string(record)); seq != uint64(len(replayed)) {
						t.Errorf("record %q has number %d", record, seq)
					}
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(replayed, want) {
					t.Fatalf("start %d: replayed %q, want %q", i, replayed, want)
				}
				next := []string{fmt.Sprint("first of start ", i), ""}
				write(t, j, next...)
				want = append(want, next...)
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
			}
			for path, mode := range map[string]os.FileMode{dir: 0o700, segments(t, dir)[0]: 0o600, filepath.Join(dir, "lock"): 0o600} {
				if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
					t.Errorf("%s: mode %v (%v), want %v", path, info.Mode(), err, mode)
				}
			}
		})
	}
	if _, err := ParseSync("sometimes"); err == nil {
		t.Error("an unknown sync was taken")
	}
}

func TestSecondProcessIsToldTheHolder(t *testing.T) {
	dir := t.TempDir()
	cmd, out := child(t, holdVariable, dir)
	if !out.Scan() || out.Text() != "open" {
		t.Fatalf("the first process: %q", out.Text())
	}
	_, err := Open(dir, Options{})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d ", cmd.Process.Pid)) || !strings.Contains(err.Error(), dir) {
		t.Fatalf("the error does not name process %d and %s: %v", cmd.Process.Pid, dir, err)
	}
	if _, r := scanned(t, dir); r.Segments != 1 {
		t.Errorf("Scan needs the lock: %+v", r)
	}
	cmd.Process.Kill()
	cmd.Wait()
	openTest(t, dir, Options{}) // the lock went with its process
}

func TestOpenRefuses(t *testing.T) {
	newer := header(1, 1)
	newer[8] = version + 1
	copy(newer[headerSize-4:], checksum(newer[:headerSize-4]))
	cases := []struct {
		name    string
		prepare func(dir string) error
		want    string
	}{
		{
			"a newer version's segment would be read as damage",
			func(dir string) error { return os.WriteFile(segmentPath(dir, 1, 1), newer, 0o600) }, "newer version",
		},
		{
			"a directory that is a file",
			func(dir string) error { return errors.Join(os.Remove(dir), os.WriteFile(dir, nil, 0o600)) }, "directory",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := c.prepare(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestAddRefusesALongRecord(t *testing.T) {
	b := new(Batch)
	if err := b.Add(make([]byte, MaxRecord+1)); err == nil || b.Len() != 0 {
		t.Errorf("%v, %d records", err, b.Len())
	}
	if err := b.Add(make([]byte, MaxRecord)); err != nil || b.Len() != 1 {
		t.Fatalf("%v, %d records", err, b.Len())
	}
	j := openTest(t, t.TempDir(), Options{SegmentSize: 1})
	for range 3 {
		if err := j.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	r := j.Reader(0)
	for i := range 3 {
		wantNext(t, r, uint64(i+1), string(make([]byte, MaxRecord)))
	}
}

func TestConcurrentWritersReadersAndAcks(t *testing.T) {
	j := openTest(t, t.TempDir(), Options{SegmentSize: 4 << 10, Retention: time.Nanosecond, SyncEvery: time.Millisecond})
	const writers, each = 4, 100
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := j.Write(batch(fmt.Sprint(w, " ", i), fmt.Sprint(w, " ", i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	seen := map[string]int{}
	r := j.Reader(0)
	for i := uint64(1); i <= 2*writers*each; i++ {
		seq, record, err := r.Next(t.Context())
		if err != nil || seq != i {
			t.Fatalf("record %d: got %d, %v", i, seq, err)
		}
		seen[string(record)]++
		if i%50 == 0 {
			wg.Go(func() {
				j.Ack(i)
				j.Backlog()
				j.Stats()
				runtime.Gosched()
			})
		}
	}
	wg.Wait()
	for record, n := range seen {
		if n != 2 {
			t.Errorf("record %q came %d times", record, n)
		}
	}
	if len(seen) != writers*each || j.Acked() != 2*writers*each {
		t.Errorf("%d different records, acknowledged %d", len(seen), j.Acked())
	}
}
