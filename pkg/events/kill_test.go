package events

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
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

// liveUntilKilled runs requests and a delivery, and says what it did, each line
// when the call has returned: + id began, - id did not, ! id has ended. Before the
// call it says ? id is about to end, and 0 id came to no engine.
func liveUntilKilled() {
	l, err := Open(os.Getenv(dirVariable), crashOptions(), slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
	if err != nil {
		panic(err)
	}
	s, err := newSender(os.Getenv(urlVariable), l.Node(), filepath.Join(os.Getenv(dirVariable), "dead"))
	if err != nil {
		panic(err)
	}
	go func() { panic(l.Deliver(context.Background(), s)) }()
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
	if s := l.Stats(); s.Recorded != uint64(len(outcomes)) || s.Skipped != 0 {
		t.Errorf("%d requests are billed, recorded are %+v", len(outcomes), s)
	}
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
