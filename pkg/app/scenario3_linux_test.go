package app_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// provided are the engines of scenario 3, by the model they have.
var provided = map[string][]string{
	"llama-3-70b-instruct":     numbered("vllm-llama70b", 4),
	"llama-3-8b-instruct":      numbered("vllm-llama8b", 2),
	"mistral-7b-instruct-v0.2": numbered("vllm-mistral", 2),
	"qwen-72b-chat":            numbered("vllm-qwen", 4),
}

// aliases are the names that customers use.
var aliases = map[string]string{
	"llama-3-70b": "llama-3-70b-instruct", "llama-3-8b": "llama-3-8b-instruct",
	"mistral": "mistral-7b-instruct-v0.2", "qwen": "qwen-72b-chat",
}

func numbered(name string, n int) (addrs []string) {
	for i := range n {
		addrs = append(addrs, fmt.Sprintf("%s-%d:8000", name, i+1))
	}
	return addrs
}

// adminToken is the one in the scenario's command.
const adminToken = "admin-token"

// provider is scenario 3.
func provider() *scene {
	c := &scene{
		file:    "scenario3.yaml",
		engines: map[string]mockvllm.Options{},
		books:   "http://billing-api:8080/api/v1/usage",
		clients: []string{"10.3.0.0/16"},
		redis:   "redis:6379",
		env:     []string{"LLMPROXY__ADMIN__TOKEN=" + adminToken},
	}
	for model, addrs := range provided {
		for _, addr := range addrs {
			c.engines[addr] = mockvllm.Options{Models: []string{model}}
		}
	}
	return c
}

// TestScenario3 is the provider of models.
func TestScenario3(t *testing.T) { provider().play(t, providerSentences) }

var providerSentences = []sentence{
	{"提供 Llama-3、Mistral、Qwen 等多个模型", providerModels},
	{"按 token 计费", providerBills},
	{"后端配置（多模型）: Llama-3-70B 集群", cluster{"llama-3-70b-chinese", "llama-3-70b-instruct"}.serves},
	{"后端配置（多模型）: Llama-3-8B 集群", cluster{"llama-3-8b-code", "llama-3-8b-instruct"}.serves},
	{"后端配置（多模型）: Mistral-7B 集群", cluster{"mistral-7b-v3", "mistral-7b-instruct-v0.2"}.serves},
	{"后端配置（多模型）: Qwen-72B 集群", cluster{"qwen-72b-int4", "qwen-72b-chat"}.serves},
	{"智能路由: 模型映射（用户友好的名称）", providerAliases},
	{"重试配置", providerRetry},
	{"故障转移", providerFallback},
	{"用量计量（计费）", providerRetriesReport},
	{"监控", providerMetrics},
}

// customer makes a key and returns who has it. The limits of the file hold for it,
// but for those in more.
func (s *stage) customer(t *testing.T, n int, more string) *person {
	t.Helper()
	made := s.create(t, fmt.Sprintf(`{"name":"客户%d","user_id":"customer_%d"%s}`, n, n, more))
	return s.from(fmt.Sprintf("10.3.%d.%d", n/200, n%200+1)).with(made.Key)
}

// unhurried are limits of a key's own that a test does not meet by itself.
const unhurried = `,"requests_per_second":100000,"requests_per_minute":100000,"max_concurrent":1000`

// providerModels: each model is served, by the engines that have it.
func providerModels(t *testing.T) {
	s := provider().open(t)
	p := s.customer(t, 1, unhurried)
	for name, model := range aliases {
		before := s.shares()
		for range 8 {
			p.chat(name, 2).served(t, name)
		}
		for addr, n := range s.shares() {
			want := 0
			if slices.Contains(provided[model], addr) {
				want = 8 / len(provided[model])
			}
			if n-before[addr] != want {
				t.Errorf("%s: %s had %d requests, want %d", name, addr, n-before[addr], want)
			}
		}
	}
	r := p.get("/v1/models")
	for _, name := range slices.Sorted(maps.Keys(aliases)) {
		if !strings.Contains(r.body, `"id":"`+name+`"`) {
			t.Errorf("/v1/models does not have %s: %v", name, r)
		}
	}
	p.chat("gpt-4o", 2).refused(t, http.StatusNotFound, "a model that nobody has", "model_not_found")
}

// cluster is a model that nobody has named in the file, and the one whose engines
// have it in this test.
type cluster struct{ model, beside string }

// serves: the engines are found by the pattern of their models, all of them and no
// others.
func (m cluster) serves(t *testing.T) {
	c := provider()
	for _, addr := range provided[m.beside] {
		c.engines[addr] = mockvllm.Options{Models: []string{m.model}}
	}
	s := c.open(t)
	p := s.customer(t, 1, unhurried)
	for range provided[m.beside] {
		p.chat(m.model, 2).served(t, m.model)
	}
	for addr, n := range s.shares() {
		if want := slices.Contains(provided[m.beside], addr); want != (n == 1) || !want && n != 0 {
			t.Errorf("%s had %d requests", addr, n)
		}
	}
}

// providerAliases: engines are asked by the names that they know.
func providerAliases(t *testing.T) {
	s := provider().open(t)
	p := s.customer(t, 1, "")
	for name, model := range aliases {
		p.chat(name, 2).served(t, name)
		for _, addr := range provided[model] {
			for _, row := range s.rows(addr) {
				if row.Model != model {
					t.Errorf("%s was asked for %q, want %q", addr, row.Model, model)
				}
			}
		}
	}
	s.balance(t)
	for _, e := range s.books.all() {
		if aliases[e.Data.Model] != e.Data.Served || e.Data.Served == "" {
			t.Errorf("in the books a customer asked for %q and got %q", e.Data.Model, e.Data.Served)
		}
	}
}

// providerRetry: three more attempts; 1 s, less up to a half by chance, before an
// engine that failed is asked again, and twice that before the next.
func providerRetry(t *testing.T) {
	s := provider().open(t)
	p := s.customer(t, 1, "")
	pair := provided["llama-3-8b-instruct"]
	for _, addr := range pair {
		s.fail(t, addr, "500-empty", 1)
	}
	r := p.chat("llama-3-8b", 2)
	r.served(t, "after two failures")
	met := s.attempts()[r.header.Get("X-Request-Id")]
	if len(met) != 3 || met[0] == met[1] || met[2] != met[0] && met[2] != met[1] || r.took < 500*time.Millisecond || r.took > 3*time.Second {
		t.Errorf("%v after attempts at %v, want three, the last 0.5 to 1 s after the others", r, met)
	}
	for _, addr := range pair {
		s.fail(t, addr, "500-empty", 0)
	}
	r = p.chat("llama-3-8b", 2)
	met = s.attempts()[r.header.Get("X-Request-Id")]
	if r.status != http.StatusInternalServerError || len(met) != 4 || r.took < 1500*time.Millisecond || r.took > 6*time.Second {
		t.Errorf("%v after attempts at %v, want four in 1.5 to 3 s", r, met)
	}
}

// providerFallback: the other engines of Llama-3-70B, in their order.
func providerFallback(t *testing.T) {
	provider().failover(t, func(s *stage) *person { return s.customer(t, 1, unhurried) },
		"llama-3-70b", 4, provided["llama-3-70b-instruct"]...)
}

// providerBills: what each customer has used is in the books under its name, and
// it is told the same.
func providerBills(t *testing.T) {
	s := provider().open(t)
	names := slices.Sorted(maps.Keys(aliases))
	people := map[string]*person{}
	for n := range 4 {
		p := s.customer(t, n, "")
		people[fmt.Sprintf("customer_%d", n)] = p
		for i := range 8 {
			stream := map[bool]string{true: `,"stream":true`}[i%2 == 0]
			p.post(chatPath, chatOf(names[(n+i)%4], 1+n+i, stream)).served(t, "a customer")
		}
	}
	users := s.balance(t)
	for user, p := range people {
		if used := p.use(t).Quota.Used; users[user] == 0 || int(used) != users[user] {
			t.Errorf("%s: %d tokens in the books, and it is told %d", user, users[user], used)
		}
	}
	if len(users) != len(people) {
		t.Errorf("in the books are %v", users)
	}
}

// providerRetriesReport: three more deliveries when one fails, and nothing is lost
// meanwhile.
func providerRetriesReport(t *testing.T) {
	s := provider().open(t)
	s.books.refuse(t, 3, func() { s.customer(t, 1, "").chat("qwen", 2).served(t, "a customer") })
	s.balance(t)
}

// providerMetrics: they tell of every engine.
func providerMetrics(t *testing.T) {
	s := provider().open(t)
	s.customer(t, 1, "").chat("qwen", 2).served(t, "a customer")
	r := s.from("10.3.9.9").get("/metrics")
	for addr := range s.engines {
		if !strings.Contains(r.body, fmt.Sprintf("llmproxy_backend_healthy{backend=%q} 1\n", addr)) {
			t.Errorf("the metrics do not tell of %s", addr)
		}
	}
}
