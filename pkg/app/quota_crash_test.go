package app_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/events"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// TestQuotaOutlivesKills: a counter beside the journal is written before it, and
// then a crash counts twice, or after it, and then it forgets.
func TestQuotaOutlivesKills(t *testing.T) {
	leavesNothing(t)
	t.Run("all", func(t *testing.T) {
		for _, hook := range []bool{true, false} {
			t.Run(fmt.Sprintf("hook %t", hook), func(t *testing.T) { together(t); quotaKills(t, hook) })
		}
	})
}

func quotaKills(t *testing.T, hook bool) {
	kills := 4
	if long {
		kills = 20
	}
	s := startQuotaSite(t, hook, "")
	var b quotaBooks
	for n := range kills {
		load := s.spend(t, 12)
		load.more(t, int64(20+rand.IntN(100)))
		switch n % 4 {
		case 0:
			s.noted(t)
		case 2:
			s.saved(t)
		}
		s.kill()
		load.end()
		if n%2 == 1 {
			s.stillborn(t)
		}
		rows := s.rows(t)
		s.run(t)
		b.audit(t, s, rows)
	}
	load := s.spend(t, 12)
	load.more(t, 100)
	load.end()
	rows := s.rows(t)
	apptest.Eventually(t, "every request is recorded", func() bool { return len(s.recorded(t)) >= len(rows) })
	b.audit(t, s, rows)
	s.closing(t)
	t.Logf("%d requests came to an engine, %d tokens; %d of %d tokens of %d requests that a kill interrupted are forgotten, %d were reserved for them",
		len(rows), b.generated, b.forgotten, b.begun, b.interrupted, b.reserved)
	if b.interrupted == 0 || b.noted == 0 {
		t.Errorf("%d requests were interrupted, of %d something had been noted", b.interrupted, b.noted)
	}
}

// noted waits until the gateway has noted how far a long stream has come, which it
// does every 2 s.
func (s *quotaSite) noted(t *testing.T) {
	t.Helper()
	apptest.Eventually(t, "a stream takes more than 2 s", func() bool {
		for _, e := range s.engines {
			for _, row := range posts(e) {
				if !row.Ended() && !row.FirstToken.IsZero() && time.Since(row.FirstToken) > 2200*time.Millisecond {
					return true
				}
			}
		}
		return false
	})
}

// saved waits for the moment in which the gateway writes its quotas, which it does
// every 5 s: the journal may let go of what they have only after that.
func (s *quotaSite) saved(t *testing.T) {
	t.Helper()
	path := filepath.Join(s.dir, "quota")
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	apptest.Eventually(t, "the quotas are written", func() bool {
		now, err := os.Stat(path)
		return err == nil && !os.SameFile(before, now)
	})
}

// stillborn is a gateway that is killed while it starts.
func (s *quotaSite) stillborn(t *testing.T) {
	t.Helper()
	for range 3 {
		p := startProcess(t, binary(t, "llmproxy"), "serve", "-config", s.file)
		select {
		case <-time.After(time.Duration(rand.IntN(60)) * time.Millisecond):
		case <-p.ended:
			t.Fatalf("it does not start: %s", p.output.String())
		}
		p.kill()
	}
}

// quotaBooks are compared with each other after each kill. The figures are those of
// the last time.
type quotaBooks struct {
	interrupted, noted                    int   // requests
	generated, begun, forgotten, reserved int64 // tokens
}

// audit compares what the engines did, what the journal has, and what each key is
// told, while nothing is under way.
func (b *quotaBooks) audit(t *testing.T, s *quotaSite, rows map[string]mockvllm.Entry) {
	t.Helper()
	*b = quotaBooks{}
	recorded := s.recorded(t)
	for id, row := range rows {
		r, ok := recorded[id]
		if !ok {
			t.Errorf("request %s (%d tokens, %s) is forgotten", id, row.PromptTokens+row.Tokens, row.State)
			continue
		}
		b.compare(t, row, r)
	}
	var total [16]int64
	for id, r := range recorded {
		if _, ok := rows[id]; !ok && r.Total > 0 {
			t.Errorf("no engine knows of request %s with %d tokens", id, r.Total)
		}
		for i, key := range s.keys {
			if r.KeyID == quotaID(key).String() {
				total[i] += r.Total
			}
		}
	}
	for i := range s.keys {
		u := s.quota(t, i)
		if u.Used != total[i] || u.Reserved != 0 {
			t.Errorf("key %d is told of %d tokens, and %d reserved; its events add up to %d", i, u.Used, u.Reserved, total[i])
		}
	}
}

// compare wants a request to be counted as the engine did it if it came to its end,
// else never as more, nor as less than what was reserved for it would make up for.
func (b *quotaBooks) compare(t *testing.T, row mockvllm.Entry, r events.Record) {
	t.Helper()
	var key, most int64
	if _, err := fmt.Sscan(row.Tag, &key, &most); err != nil {
		t.Fatal(err)
	}
	did := int64(row.PromptTokens + row.Tokens)
	b.generated += did
	missing, reserved := did-r.Total, int64(row.PromptTokens)+most
	if missing < 0 || missing > reserved || r.Outcome == events.Complete && missing != 0 {
		t.Errorf("%v of %d tokens, of which %d are counted (%d were reserved): %+v", r.Outcome, did, r.Total, reserved, row)
	}
	if r.Outcome != events.Interrupted {
		return
	}
	b.interrupted++
	if r.Total > 0 {
		b.noted++
	}
	b.begun += did
	b.forgotten += missing
	b.reserved += reserved
}

// closing ends the gateway as a deployment does. What the billing system has taken,
// what the journal exports and what the next process tells each key are one number.
func (s *quotaSite) closing(t *testing.T) {
	t.Helper()
	recorded := s.recorded(t)
	if s.hook != nil {
		growsTo(t, "events taken", len(recorded), s.hook.count)
	}
	s.signal(syscall.SIGTERM)
	if code := s.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	exported, billed := s.exported(t), s.billed(recorded)
	s.run(t)
	for i, key := range s.keys {
		id, used := quotaID(key).String(), s.quota(t, i).Used
		if exported[id] != used || s.hook != nil && billed[id] != used || used == 0 {
			t.Errorf("key %d has used %d tokens; %d are exported, %d in the bill", i, used, exported[id], billed[id])
		}
	}
}

// billed is what the billing system has of each key.
func (s *quotaSite) billed(recorded map[string]events.Record) map[string]int64 {
	totals := map[string]int64{}
	if s.hook == nil {
		return totals
	}
	s.hook.mu.Lock()
	defer s.hook.mu.Unlock()
	for id, r := range recorded {
		totals[r.KeyID] += int64(s.hook.taken[id].Data.Total)
	}
	return totals
}
