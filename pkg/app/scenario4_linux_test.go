package app_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

const (
	cluster1 = "gpu-cluster-1:8000"
	cluster2 = "gpu-cluster-2:8000"
	cluster3 = "gpu-cluster-3:8000"
)

// labModels are the models of scenario 4, by the engine that has each.
var labModels = map[string]string{cluster1: "llama-3-70b", cluster2: "qwen-72b", cluster3: "mistral-7b"}

// lab is scenario 4: three engines that teams share, with a key for each team.
func lab() *scene {
	c := &scene{
		file:    "scenario4.yaml",
		engines: map[string]mockvllm.Options{},
		books:   "http://stats.internal/api/usage",
		clients: []string{"10.4.0.0/16"},
	}
	for addr, model := range labModels {
		c.engines[addr] = mockvllm.Options{Models: []string{model}, MaxModelLen: 1 << 20} // for large prompts
	}
	c.engines[cluster3] = mockvllm.Options{Models: []string{labModels[cluster3], "llama-3-70b"}, MaxModelLen: 1 << 20}
	return c
}

// team has a key of its own, which is good for some models.
type team struct {
	comment, key, name, user string
	quota                    int
	models                   []string
}

var teams = []team{
	{"团队 1：NLP 组", "sk-llmproxy-team-nlp-001", "NLP 研究组", "team_nlp", 1_000_000, []string{"llama-3-70b", "qwen-72b"}},
	{"团队 2：CV 组", "sk-llmproxy-team-cv-001", "CV 研究组", "team_cv", 500_000, []string{"llama-3-70b"}},
	{"团队 3：多模态组", "sk-llmproxy-team-multimodal-001", "多模态研究组", "team_multimodal", 2_000_000, []string{"llama-3-70b", "qwen-72b", "mistral-7b"}},
}

// member is the nth of a team.
func (m team) member(s *stage, n int) *person { return s.from(fmt.Sprint("10.4.0.", n)).with(m.key) }

// TestScenario4 is the research lab. What it says of fair waiting is not tested:
// nothing waits yet.
func TestScenario4(t *testing.T) { lab().play(t, labSentences) }

// TestScenario4Teams is what each team may.
func TestScenario4Teams(t *testing.T) { lab().play(t, teamSentences()) }

var labSentences = []sentence{
	{"10 个团队共享资源", labShares},
	{"需要统计各团队用量", labUsage},
	{"需要防止单个团队占用过多资源", labGreedy},
	{"限流配置（防止单个团队占用过多）: 每个团队最多 3 个并发", labConcurrent},
	{"限流配置（防止单个团队占用过多）: requests_per_second", labSeconds},
	{"后端配置", labEngines},
	{"负载均衡策略（公平调度）: 最少连接数", labLeast},
	{"API Key 管理（按团队）", labKeys},
	{"用量统计", labReports},
}

func teamSentences() (sentences []sentence) {
	for _, m := range teams {
		sentences = append(sentences,
			sentence{m.comment + ": allowed_models", m.asks},
			sentence{fmt.Sprintf("%s: 每天 %d 万 tokens", m.comment, m.quota/10_000), m.spends})
	}
	return sentences
}

// labShares: ten teams use the engines at the same time. The file has three keys;
// the others are made.
func labShares(t *testing.T) {
	s := lab().open(t, "LLMPROXY__ADMIN__TOKEN="+adminToken)
	people := []*person{}
	for n, m := range teams {
		people = append(people, m.member(s, n+1))
	}
	for n := len(people); n < 10; n++ {
		made := s.create(t, fmt.Sprintf(`{"name":"团队 %d","user_id":"team_%d","allowed_models":["llama-3-70b"]}`, n, n))
		people = append(people, s.from(fmt.Sprint("10.4.1.", n)).with(made.Key))
	}
	for _, r := range atOnce(30, func(i int) reply { return people[i%10].chat("llama-3-70b", 8) }) {
		r.served(t, "a team")
	}
	if users := s.balance(t); len(users) != 10 {
		t.Errorf("in the books are %v", users)
	}
}

// labUsage: each team's use is in the books under its name, by model.
func labUsage(t *testing.T) {
	s := lab().open(t)
	want := map[string]int{} // requests
	for _, m := range teams {
		for i, model := range m.models {
			m.member(s, 1).post(chatPath, chatOf(model, 3+i, map[bool]string{true: `,"stream":true`}[i > 0])).served(t, m.name+" "+model)
			want[m.user+" "+m.name+" "+model]++
		}
	}
	users, got := s.balance(t), map[string]int{}
	for _, e := range s.books.all() {
		got[e.Data.UserID+" "+e.Data.KeyName+" "+e.Data.Model]++
	}
	if len(got) != len(want) {
		t.Errorf("in the books are %v, want %v", got, want)
	}
	for _, m := range teams {
		if used := m.member(s, 1).use(t).Quota.Used; int(used) != users[m.user] || used == 0 {
			t.Errorf("%s: %d tokens in the books, and it is told %d", m.name, users[m.user], used)
		}
	}
}

// labGreedy: one team asks for all it can get, and the others notice nothing.
func labGreedy(t *testing.T) {
	s := lab().open(t)
	s.hold(t, teams[0].member(s, 1), "llama-3-70b", 3)
	replies := atOnce(100, func(i int) reply { return teams[0].member(s, 2+i).chat("llama-3-70b", 8) })
	if n := count(replies, http.StatusTooManyRequests); n != len(replies) {
		t.Errorf("%d of %d requests of the greedy team were refused", n, len(replies))
	}
	for _, m := range teams[1:] {
		for _, r := range atOnce(3, func(i int) reply { return m.member(s, 1+i).chat("llama-3-70b", 8) }) {
			r.served(t, m.name)
			if r.took > 2*time.Second {
				t.Errorf("%s had to wait: %v", m.name, r)
			}
		}
	}
	if n := s.running(); n != 3 {
		t.Errorf("the engines have %d requests, want the greedy team's 3", n)
	}
}

// labConcurrent: three requests at a time; a fourth is refused at once.
func labConcurrent(t *testing.T) {
	s := lab().open(t)
	for _, m := range teams {
		p := m.member(s, 1)
		leave := s.hold(t, p, "llama-3-70b", 3)
		r := m.member(s, 2).chat("llama-3-70b", 1)
		r.limited(t, m.name, "3 requests at a time", `"param":"max_concurrent"`)
		if r.took > time.Second {
			t.Errorf("the fourth waited: %v", r)
		}
		leave()
		apptest.Eventually(t, "a slot is free", func() bool { return p.chat("llama-3-70b", 1).status == http.StatusOK })
	}
}

// labSeconds: five requests a second of each team.
func labSeconds(t *testing.T) {
	s := lab().open(t)
	p := teams[0].member(s, 1)
	began, admitted := time.Now(), 0
	r := p.chat("qwen-72b", 1)
	for ; r.status == http.StatusOK && admitted < 1000; r = p.chat("qwen-72b", 1) {
		admitted++
	}
	withinRate(t, teams[0].name, admitted, 5, 5, time.Since(began))
	r.limited(t, "one too many", "5 requests per second", `"param":"requests_per_second"`)
	teams[2].member(s, 1).chat("qwen-72b", 1).served(t, "another team")
	apptest.Eventually(t, "the next one may", func() bool { return p.chat("qwen-72b", 1).status == http.StatusOK })
}

// labEngines: one engine for each model.
func labEngines(t *testing.T) {
	s := lab().open(t)
	p := teams[2].member(s, 1)
	for addr, model := range labModels {
		p.chat(model, 2).served(t, model)
		rows := s.rows(addr)
		if len(rows) != 1 || rows[0].Model != model {
			t.Errorf("%s had %+v", addr, rows)
		}
	}
}

// labLeast: an open answer counts until its last byte. Each model of the file has
// one engine; when it gets a second one, that has all requests until it has as many
// for its weight.
func labLeast(t *testing.T) {
	s := lab().open(t)
	inFlight := func(want map[string]float64) {
		t.Helper()
		for addr, n := range want {
			s.until(fmt.Sprintf("llmproxy_requests_in_flight{backend=%q}", addr), is(n))
		}
	}
	s.hold(t, teams[1].member(s, 1), "llama-3-70b", 3)
	leave := s.hold(t, teams[0].member(s, 1), "llama-3-70b", 1)
	inFlight(map[string]float64{cluster1: 4, cluster2: 0, cluster3: 0})
	s.edit(t, `models: ["mistral-7b"]`, `models: ["mistral-7b", "llama-3-70b"]`)
	s.hold(t, teams[2].member(s, 1), "llama-3-70b", 2) // of a weight of 5; 4 of 10 are elsewhere
	inFlight(map[string]float64{cluster1: 4, cluster2: 0, cluster3: 2})
	leave()
	inFlight(map[string]float64{cluster1: 3})
	s.hold(t, teams[0].member(s, 2), "llama-3-70b", 1)
	inFlight(map[string]float64{cluster1: 4, cluster2: 0, cluster3: 2})
}

// labKeys: where a file has keys, a key is needed.
func labKeys(t *testing.T) {
	s := lab().open(t)
	s.from("10.4.0.1").chat("llama-3-70b", 1).refused(t, http.StatusUnauthorized, "no key", "invalid_api_key")
	s.from("10.4.0.1").with("sk-llmproxy-team-nlp-002").chat("llama-3-70b", 1).refused(t, http.StatusUnauthorized, "a wrong key", "invalid_api_key")
	for n, addr := range []string{"10.4.0.1", "10.4.200.1", ""} {
		s.from(addr).with(teams[n].key).chat("llama-3-70b", 1).served(t, teams[n].name+" from "+addr)
	}
}

// asks: a team may use its models, and is not told that there are others.
func (m team) asks(t *testing.T) {
	s := lab().open(t)
	p := m.member(s, 1)
	for _, model := range labModels {
		r := p.chat(model, 1)
		if slices.Contains(m.models, model) {
			r.served(t, model)
		} else {
			r.refused(t, http.StatusNotFound, model, "model_not_found")
		}
	}
	p.chat("", 1).refused(t, http.StatusForbidden, "no model", "model_required")
}

// spends: a team has its tokens a day, and not more.
func (m team) spends(t *testing.T) {
	s := lab().open(t)
	p := m.member(s, 1)
	s.exhaust(t, p, m.models[len(m.models)-1], m.user, m.quota, 700_000)
	s.resets(t, p, "daily", nextDay)
	for _, other := range teams {
		if other.key != m.key {
			other.member(s, 1).chat("llama-3-70b", 1000).served(t, other.name)
		}
	}
}

// labReports: two more deliveries when one fails, each of which has a second.
func labReports(t *testing.T) {
	s := lab().open(t)
	s.books.answers(func(n int, r *http.Request) int {
		switch n {
		case 1:
			return http.StatusInternalServerError
		case 2:
			<-r.Context().Done()
			return 0
		}
		return http.StatusOK
	})
	teams[0].member(s, 1).chat("qwen-72b", 2).served(t, "a team")
	s.balance(t)
	came := s.books.deliveries()
	if len(came) != 3 {
		t.Fatalf("%d deliveries, want 3", len(came))
	}
	if gap := came[1].Sub(came[0]); gap > 500*time.Millisecond {
		t.Errorf("the second delivery came %v after the first, which failed", gap)
	}
	if gap := came[2].Sub(came[1]); gap < 900*time.Millisecond || gap > 6*time.Second {
		t.Errorf("the third delivery came %v after the second, which has 1 s", gap)
	}
}
