package events

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/journal"
)

// With these in the environment the test binary is a gateway that is going to be
// killed.
const dirVariable, urlVariable, roundVariable = "EVENTS_DIR", "EVENTS_URL", "EVENTS_ROUND"

func TestMain(m *testing.M) {
	if os.Getenv(dirVariable) != "" {
		liveUntilKilled()
	}
	os.Exit(m.Run())
}

func crashOptions() journal.Options {
	return journal.Options{SegmentSize: 64 << 10, Retention: time.Nanosecond, SyncEvery: time.Millisecond}
}

// totals is what a gateway keeps of its events besides the journal: a line for
// each, in their order. It stands for sums, which would not tell what is wrong.
const totals = "totals"

// follow counts in what a Tail gives. It panics when an event is left out.
func follow(l *Log, tail *Tail, path string) error {
	kept, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	events := uint64(bytes.Count(kept, []byte("\n")))
	last, err := tail.Each(func(e Event) {
		if e.Number > events {
			if events++; e.Number != events {
				panic(fmt.Sprint("event ", e.Number, " came as number ", events))
			}
			kept = fmt.Appendln(kept, number(e.Record), e.Record.Outcome)
		}
	})
	if err == nil {
		err = replaceFile(path, string(kept))
	}
	if err == nil {
		l.Hold(last)
	}
	return err
}

// liveUntilKilled runs requests, a delivery where there is somewhere to deliver
// to, and a Tail. It says what it did, each line when the call has returned: + id
// began, - id did not, ! id has ended. Before the call it says ? id is about to
// end, and 0 id came to no engine.
func liveUntilKilled() {
	l, err := Open(os.Getenv(dirVariable), crashOptions(), slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
	if err != nil {
		panic(err)
	}
	tail := l.Tail()
	go func() {
		for range time.Tick(3 * time.Millisecond) {
			if err := follow(l, tail, filepath.Join(os.Getenv(dirVariable), totals)); err != nil {
				panic(err)
			}
		}
	}()
	if url := os.Getenv(urlVariable); url == "" {
		l.NoDelivery()
	} else {
		s, err := newSender(url, l.Node(), filepath.Join(os.Getenv(dirVariable), "dead"))
		if err != nil {
			panic(err)
		}
		go func() { panic(l.Deliver(context.Background(), s)) }()
	}
	var round int
	if _, err := fmt.Sscan(os.Getenv(roundVariable), &round); err != nil {
		panic(err)
	}
	say := func(what string, n int) { _, _ = os.Stdout.WriteString(fmt.Sprintln(what, n)) }
	for g := range 8 {
		go func() {
			for n := round*1_000_000 + g; ; n += 8 {
				r := request(n)
				if !l.Start(r) {
					say("-", n)
					continue
				}
				say("+", n)
				for range rand.IntN(3) {
					l.Mark(r)
				}
				switch rand.IntN(10) {
				case 0: // stays open
				case 1:
					say("0", n)
					l.Void(r)
				default:
					say("?", n)
					l.End(r)
					say("!", n)
				}
			}
		}()
	}
	select {}
}

// runAndKill starts a gateway and kills it, perhaps in its start, perhaps later.
// What it said is kept in said, the last word of each request.
func runAndKill(t *testing.T, dir, url string, round int, said map[int]byte) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), dirVariable+"="+dir, urlVariable+"="+url, fmt.Sprint(roundVariable, "=", round))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	kill := func() { time.AfterFunc(rand.N(40*time.Millisecond), func() { cmd.Process.Kill() }) }
	if round%3 == 0 {
		kill()
	}
	first := true
	for lines.Scan() {
		if first && round%3 != 0 {
			kill()
		}
		first = false
		var what byte
		var n int
		if _, err := fmt.Sscanf(lines.Text(), "%c %d", &what, &n); err != nil {
			t.Fatalf("it said %q: %v", lines.Text(), err)
		}
		said[n] = what
	}
	_ = cmd.Wait()
}

// TestKill kills a gateway again and again, with a receiver that fails now and
// then, and compares what was done with what was billed.
func TestKill(t *testing.T) {
	rounds := 24
	if os.Getenv("LLMPROXY_LONG") == "1" {
		rounds = 300
	}
	r := newReceiver(t, func() int {
		switch rand.IntN(20) {
		case 0:
			return 0
		case 1:
			return 500
		}
		return 204
	})
	dir, said := t.TempDir(), map[int]byte{}
	for round := range rounds {
		runAndKill(t, dir, r.URL, round, said)
	}
	l := openTest(t, dir, crashOptions())
	counted := countedIn(t, l)
	deliver(t, l, r.URL)
	for left := l.Stats().Backlog; left > 0; left = l.Stats().Backlog { // many, in the long form
		waitFor(t, "an answer", func() bool { return l.Stats().Backlog < left })
	}
	outcomes := map[int]string{}
	for _, e := range r.events {
		var n int
		if _, err := fmt.Sscanf(e.ID, "%x", &n); err != nil {
			t.Fatal(e.ID, err)
		}
		outcomes[n] = e.Data.Outcome // an id is told once: the receiver has seen to that
		if e.Data.Outcome == "complete" && e.Data.PromptTokens != int64(n) {
			t.Errorf("request %d is billed with %d tokens", n, e.Data.PromptTokens)
		}
	}
	compare(t, said, outcomes)
	if !maps.Equal(counted, outcomes) {
		t.Errorf("%d requests are counted, %d are billed", len(counted), len(outcomes))
	}
	if s := l.Stats(); s.Recorded != uint64(len(outcomes)) || s.Skipped != 0 {
		t.Errorf("%d requests are billed, recorded are %+v", len(outcomes), s)
	}
}

// TestKillWithoutDelivery is the same where nobody is billed: what is counted is
// all there is, once each.
func TestKillWithoutDelivery(t *testing.T) {
	rounds := 12
	if os.Getenv("LLMPROXY_LONG") == "1" {
		rounds = 300
	}
	dir, said := t.TempDir(), map[int]byte{}
	for round := range rounds {
		runAndKill(t, dir, "", round, said)
	}
	l := openTest(t, dir, crashOptions())
	l.NoDelivery()
	counted := countedIn(t, l)
	compare(t, said, counted)
	if s := l.Stats(); s.Recorded != uint64(len(counted)) || s.Skipped != 0 || s.BacklogBytes != 0 {
		t.Errorf("%d requests are counted, the log has %+v", len(counted), s)
	}
}

// countedIn is the outcome of each request in the totals, once they are complete.
func countedIn(t *testing.T, l *Log) map[int]string {
	t.Helper()
	written(t, l)
	path := filepath.Join(l.dir, totals)
	if err := follow(l, l.Tail(), path); err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	counted, lines := map[int]string{}, 0
	for line := range strings.Lines(string(kept)) {
		var n int
		var outcome string
		if _, err := fmt.Sscan(line, &n, &outcome); err != nil {
			t.Fatal(line, err)
		}
		counted[n] = outcome
		lines++
	}
	if lines != len(counted) {
		t.Errorf("%d requests are counted %d times", len(counted), lines)
	}
	return counted
}

// compare holds what was said of the requests against their events.
func compare(t *testing.T, said map[int]byte, outcomes map[int]string) {
	t.Helper()
	want := map[byte][]string{
		'!': {"complete"},
		'?': {"complete", "interrupted"},
		'+': {"interrupted"},
		'0': {"", "interrupted"}, // the kill may have come first
		'-': {""},
		0:   {"interrupted"}, // not even Start had returned
	}
	seen := map[string]int{}
	for n, outcome := range outcomes {
		if _, ok := said[n]; !ok {
			said[n] = 0
		}
		seen[outcome]++
	}
	for n, what := range said {
		good := false
		for _, outcome := range want[what] {
			good = good || outcomes[n] == outcome
		}
		if !good {
			t.Errorf("request %d: the last word was %q, billed is %q", n, what, outcomes[n])
		}
	}
	if seen["complete"] < 100 || seen["interrupted"] < 10 {
		t.Errorf("too few to tell anything: %v", seen)
	}
	t.Log(seen)
}
