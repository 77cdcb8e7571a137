package app_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
)

// reset begins a new term of a key's quota, and returns what the operator is told
// of it. ok is false when no answer came.
func (s *quotaSite) reset(t *testing.T, key int) (u admit.QuotaUse, ok bool) {
	t.Helper()
	a := limitKey{s.addr, adminToken}.say("POST", "/admin/api-keys/"+quotaID(s.keys[key]).String()+"/reset-quota", "")
	if a.status == 0 {
		return u, false
	}
	var k struct{ Use admit.Use }
	if err := json.Unmarshal([]byte(a.body), &k); err != nil || a.status != http.StatusOK {
		t.Errorf("%d %s: %v", a.status, a.body, err)
	}
	return *k.Use.Quota, true
}

// inTerm is what the events in the journal add up to for a key in the term that
// began then.
func (s *quotaSite) inTerm(t *testing.T, key int, began time.Time) (total int64) {
	t.Helper()
	id := quotaID(s.keys[key]).String()
	for _, r := range s.recorded(t) {
		if r.KeyID == id && r.Period == began.UnixNano() {
			total += r.Total
		}
	}
	return total
}

// TestQuotaResetOutlivesKills: a reset that the operator was told of must not be
// taken back by a crash, nor take with it what was used after it.
func TestQuotaResetOutlivesKills(t *testing.T) {
	leavesNothing(t)
	kills := 4
	if long {
		kills = 20
	}
	s := startQuotaSite(t, false, "")
	var carried int64
	for n := range kills {
		key := n % len(s.keys)
		load := s.spend(t, 12)
		load.more(t, 40)
		before := s.quota(t, key)
		told, ok := s.reset(t, key)
		if n%2 == 1 {
			load.more(t, 20) // some end in the term that they began in
		}
		s.kill()
		load.end()
		s.rows(t)
		s.run(t)
		u := s.quota(t, key)
		if !ok || before.Used == 0 || !told.StartedAt.After(before.StartedAt) || !sameEnd(told, before) {
			t.Errorf("reset %d: %t, told of %+v after %+v", n, ok, told, before)
		}
		if want := s.inTerm(t, key, told.StartedAt); !u.StartedAt.Equal(told.StartedAt) || u.Used != want || !sameEnd(u, before) {
			t.Errorf("after kill %d: %+v, want %d tokens since %v", n, u, want, told.StartedAt)
		}
		carried += u.Used
	}
	if carried == 0 {
		t.Error("nothing was used between a reset and a kill")
	}
}

func sameEnd(a, b admit.QuotaUse) bool {
	if a.ResetsAt == nil || b.ResetsAt == nil {
		return a.ResetsAt == b.ResetsAt
	}
	return a.ResetsAt.Equal(*b.ResetsAt)
}

// TestQuotaResetIsCutShort: a kill in the middle of a reset leaves the old term or
// the new one, each with all that was used in it.
func TestQuotaResetIsCutShort(t *testing.T) {
	leavesNothing(t)
	kills := 4
	if long {
		kills = 40
	}
	s := startQuotaSite(t, false, "")
	for n := range kills {
		key := n % len(s.keys)
		load := s.spend(t, 6)
		load.more(t, 30)
		asked := make(chan admit.QuotaUse, 1)
		go func() {
			var last admit.QuotaUse
			for u, ok := s.reset(t, key); ok; u, ok = s.reset(t, key) {
				last = u
			}
			asked <- last
		}()
		load.more(t, 10)
		s.kill()
		load.end()
		last := <-asked
		s.rows(t)
		s.run(t)
		u := s.quota(t, key)
		if want := s.inTerm(t, key, u.StartedAt); u.Used != want || u.StartedAt.Before(last.StartedAt) {
			t.Errorf("%+v, want %d tokens; the last reset that was answered was %v", u, want, last.StartedAt)
		}
	}
}
