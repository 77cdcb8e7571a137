package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// use is what a person's key is told about itself.
func (p *person) use(t *testing.T) (u admit.Use) {
	t.Helper()
	r := p.get("/v1/usage")
	if err := json.Unmarshal([]byte(r.body), &u); err != nil || r.status != http.StatusOK {
		t.Fatalf("/v1/usage: %v: %v", err, r)
	}
	return u
}

// spend uses up a quota but for a few tokens: large prompts first, then an answer
// of just the right length. It returns how many tokens are left.
func (s *stage) spend(t *testing.T, p *person, model string, limit, largest int) (left int) {
	t.Helper()
	const (
		fine  = 2000 // what is left for the answer
		spare = 100  // by which the estimate of a small request may be off
	)
	ask := func(what string, send func() reply) bool {
		var r reply
		apptest.Eventually(t, what, func() bool { // within the limits on requests
			r = send()
			return r.status != http.StatusTooManyRequests || strings.Contains(r.body, "insufficient_quota")
		})
		if r.status != http.StatusOK && r.status != http.StatusTooManyRequests {
			t.Fatalf("%s: %v", what, r)
		}
		return r.status == http.StatusOK
	}
	part := 0.8
	for left = limit; left > fine; left = limit - int(p.use(t).Quota.Used) {
		n := min(int(float64(left)*part), largest)
		if !ask(fmt.Sprintf("%d of %d tokens that are left", n, left), func() reply { return p.prompt(model, n) }) {
			part /= 2 // it was expected to be larger
		}
		if part < 0.1 {
			t.Fatalf("%d of %d tokens are left, and cannot be used", left, limit)
		}
	}
	if !ask("the rest", func() reply { return p.chat(model, left-spare) }) {
		t.Fatalf("an answer of %d tokens is refused with %d left", left-spare, left)
	}
	return limit - int(p.use(t).Quota.Used)
}

// exhaust spends a quota, wants what is too much for the rest to be refused until
// the period ends, and all of it to be the same number wherever it stands.
func (s *stage) exhaust(t *testing.T, p *person, model, user string, limit, largest int) {
	t.Helper()
	left := s.spend(t, p, model, limit, largest)
	if left < 0 || left > 100 {
		t.Errorf("%d of %d tokens are left", left, limit)
	}
	s.spent(t, p, model)
	if used := s.balance(t)[user]; used != limit-left {
		t.Errorf("%d tokens are in the books, %d of %d were left", used, left, limit)
	}
	u := p.use(t).Quota
	if u.Limit == nil || u.Remaining == nil || *u.Limit != int64(limit) || *u.Remaining != int64(left) || u.Reserved != 0 {
		t.Errorf("the key is told of %+v", u)
	}
	s.kill()
	s.begin(t)
	if again := p.use(t).Quota; again.Used != u.Used || !again.StartedAt.Equal(u.StartedAt) {
		t.Errorf("after the gateway was killed the key is told of %+v, before of %+v", again, u)
	}
	s.spent(t, p, model)
}

// spent wants a request to be refused because the quota is used up, and an SDK to
// be told not to try again.
func (s *stage) spent(t *testing.T, p *person, model string) {
	t.Helper()
	r := p.chat(model, 1000)
	r.refused(t, http.StatusTooManyRequests, "beyond the quota", "insufficient_quota")
	if again := r.header.Get("X-Should-Retry"); again != "false" {
		t.Errorf("x-should-retry: %q", again)
	}
}

// resets wants a quota to begin anew at the next moment that a function gives for
// the gateway's own time.
func (s *stage) resets(t *testing.T, p *person, period string, next func(now time.Time) time.Time) {
	t.Helper()
	u := p.use(t).Quota
	if want := next(time.Now().In(s.zone)); u.Period != period || u.ResetsAt == nil || !u.ResetsAt.Equal(want) {
		t.Errorf("the quota is told to be %s and to reset at %v, want %v", u.Period, u.ResetsAt, want)
	}
}

func nextDay(now time.Time) time.Time {
	return time.Date(now.Year(), now.Month(), now.Day()+1, 0, 0, 0, 0, now.Location())
}

func nextMonth(now time.Time) time.Time {
	return time.Date(now.Year(), now.Month()+1, 1, 0, 0, 0, 0, now.Location())
}

// spends: a department has its tokens a day, and not more.
func (d department) spends(t *testing.T) {
	s := assistant().open(t)
	p := d.employee(s, 3)
	s.exhaust(t, p, assistantModel, d.user, d.quota, 100_000)
	s.resets(t, p, "daily", nextDay)
	d.employee(s, 4).chat(assistantModel, 1000).refused(t, http.StatusTooManyRequests, "a colleague", "insufficient_quota")
	for _, other := range departments {
		if other.key != d.key {
			other.employee(s, 3).chat(assistantModel, 1000).served(t, other.name)
		}
	}
}

// assistantDefaults: a key that says nothing of a quota has the default one.
func assistantDefaults(t *testing.T) {
	s := assistant().open(t, "LLMPROXY__ADMIN__TOKEN=admin-token")
	made := s.create(t, `{"name":"法务部门","user_id":"dept_legal"}`)
	p := s.from("10.0.200.1").with(made.Key)
	p.chat(assistantModel, 4).served(t, "a key of another department")
	if u := p.use(t); u.Quota.Limit == nil || *u.Quota.Limit != 100_000 || u.Quota.Period != "daily" {
		t.Errorf("the key is told of %+v", u)
	}
	s.exhaust(t, p, assistantModel, "dept_legal", 100_000, 100_000)
	s.resets(t, p, "daily", nextDay)
}

// assistantNoDatabase: all there is stands in files beside the configuration, and
// none of them has a key in it.
func assistantNoDatabase(t *testing.T) {
	s := assistant().open(t)
	for _, d := range departments {
		d.employee(s, 2).chat(assistantModel, 4).served(t, d.name)
	}
	s.balance(t)
	files := 0
	err := filepath.Walk(filepath.Dir(s.file), func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() || path == s.file {
			return err
		}
		files++
		content, err := os.ReadFile(path)
		for _, d := range departments {
			if strings.Contains(string(content), d.key) {
				t.Errorf("%s has a key in it", path)
			}
		}
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("%d files: %v", files, err)
	}
	if strings.Contains(s.output.String(), departments[0].key) {
		t.Error("the log has a key in it")
	}
}
