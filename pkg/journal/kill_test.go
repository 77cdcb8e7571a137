package journal

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// payload is a record with its number in it.
func payload(n uint64) string { return fmt.Sprintf("%d %s", n, strings.Repeat("x", int(n%500))) }

// writeUntilKilled writes batches and prints the last number after each, and reads and acknowledges beside that.
func writeUntilKilled(dir string) {
	j, err := Open(dir, Options{SegmentSize: 32 << 10, Retention: time.Nanosecond})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	go func() {
		r := j.Reader(j.Acked())
		for {
			seq, _, err := r.Next(context.Background())
			if err != nil {
				panic(err)
			}
			if seq%200 == 0 {
				if err := j.Ack(seq); err != nil {
					panic(err)
				}
			}
		}
	}()
	var b Batch
	for n := j.Last() + 1; ; {
		b.Reset()
		for range 1 + rand.IntN(20) {
			if err := b.Add([]byte(payload(n))); err != nil {
				panic(err)
			}
			n++
		}
		if err := j.Write(&b); err != nil {
			panic(err)
		}
		fmt.Println(n - 1)
	}
}

func TestKillLosesNothingThatWasWritten(t *testing.T) {
	dir := t.TempDir()
	var reported uint64
	for round := range 8 {
		cmd, out := child(t, writeVariable, dir)
		for range 20 + rand.IntN(100) {
			if !out.Scan() {
				t.Fatal("the writer ended by itself")
			}
		}
		cmd.Process.Kill()
		for more := true; more; more = out.Scan() { // what it said before it died counts
			if n, err := strconv.ParseUint(out.Text(), 10, 64); err == nil && strings.HasSuffix(out.Text(), strconv.FormatUint(n, 10)) {
				reported = max(reported, n)
			}
		}
		cmd.Wait()
		report, err := Scan(dir, func(seq uint64, record []byte) error {
			if string(record) != payload(seq) {
				return fmt.Errorf("record %d is %q", seq, record)
			}
			return nil
		})
		if err != nil || report.Last < reported || report.Corrupt != nil {
			t.Fatalf("round %d: %d was reported as written; %+v, %v", round, reported, report, err)
		}
		j := openTest(t, dir, Options{})
		if j.Last() != report.Last || report.First > j.Acked()+1 {
			t.Fatalf("round %d: last %d, acknowledged %d, %+v", round, j.Last(), j.Acked(), report)
		}
		j.Close()
	}
}
