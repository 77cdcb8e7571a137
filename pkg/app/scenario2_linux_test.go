package app_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

const (
	tgi1           = "tgi-1.internal:8080"
	tgi2           = "tgi-2.internal:8080"
	assistantModel = "llama-3-70b"
)

// assistant is scenario 2: two TGI engines, and a key for each department.
func assistant() *scene {
	o := mockvllm.Options{Dialect: mockvllm.DialectTGI, Models: []string{assistantModel}}
	return &scene{
		file:    "scenario2.yaml",
		engines: map[string]mockvllm.Options{tgi1: o, tgi2: o},
		books:   "http://finance.internal/api/ai-usage",
		clients: []string{"10.0.0.0/16"},
	}
}

// department has a key of its own, which is good in its own network.
type department struct {
	key, name, user, network string
	quota                    int
}

var departments = []department{
	{"sk-llmproxy-dev-team-001", "研发部门", "dept_dev", "10.0.1.", 500_000},
	{"sk-llmproxy-product-team-001", "产品部门", "dept_product", "10.0.2.", 200_000},
	{"sk-llmproxy-marketing-team-001", "市场部门", "dept_marketing", "10.0.3.", 100_000},
}

// employee is the nth of a department.
func (d department) employee(s *stage, n int) *person {
	return s.from(d.network + itoa(1+n%254)).with(d.key)
}

// TestScenario2 is the assistant inside a company.
func TestScenario2(t *testing.T) { assistant().play(t, assistantSentences) }

// TestScenario2Departments is what each department may, and where.
func TestScenario2Departments(t *testing.T) { assistant().play(t, departmentSentences()) }

var assistantSentences = []sentence{
	{"数据不能出内网（合规要求）", assistantStaysInside},
	{"1000 名员工使用", assistantCrowd},
	{"需要简单的权限控制, API Key 鉴权", assistantKeys},
	{"需要防止滥用, 限流配置: 最大并发 5 个请求", assistantConcurrent},
	{"需要防止滥用, 限流配置: 每个部门每分钟 100 次", assistantMinute},
	{"后端配置", assistantBalance},
	{"配置文件存储，无需数据库", assistantNoDatabase},
	{"用量上报（内部核算）", assistantUsage},
	{"监控", assistantMetrics},
}

func departmentSentences() []sentence {
	sentences := []sentence{{"默认配置: 每天 10 万 tokens", assistantDefaults}}
	for _, d := range departments {
		sentences = append(sentences,
			sentence{fmt.Sprintf("API Keys（员工部门）, %s: 每天 %d 万 tokens", d.name, d.quota/10_000), d.spends},
			sentence{d.name + "网段", d.staysInItsNetwork})
	}
	return sentences
}

// assistantStaysInside: the gateway needs nothing that is not on its own network,
// and does not even try.
func assistantStaysInside(t *testing.T) {
	s := assistant().open(t)
	for _, d := range departments {
		d.employee(s, 1).chat(assistantModel, 4).served(t, d.name)
		d.employee(s, 1).post("/generate_stream", `{"inputs":"hi","parameters":{"max_new_tokens":4}}`).served(t, d.name)
	}
	s.balance(t)
	if routes := said(t, "ip", "route"); strings.Contains(routes, "default") {
		t.Errorf("there is a way out:\n%s", routes)
	}
	if n := unroutable(t); n != 0 {
		t.Errorf("%d attempts to reach something else", n)
	}
	_ = atGateway("curl", "--silent", "--max-time", "1", "http://192.0.2.1/").Run() // cannot succeed
	if unroutable(t) == 0 {
		t.Error("an attempt to reach something else is not seen: nothing is shown")
	}
}

// said is what a command on the gateway's machine writes.
func said(t *testing.T, args ...string) string {
	t.Helper()
	out, err := atGateway(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// unroutable is how often something on the gateway's machine had no way to where
// it wanted.
func unroutable(t *testing.T) (n int) {
	t.Helper()
	lines := strings.Split(said(t, "grep", "^Ip:", "/proc/net/snmp"), "\n")
	values := strings.Fields(lines[1])
	for i, name := range strings.Fields(lines[0]) {
		if name == "OutNoRoutes" {
			return atoi(t, values[i])
		}
	}
	t.Fatalf("no OutNoRoutes in %q", lines)
	return 0
}

// assistantCrowd: a thousand people are connected and ask at the same time. Each
// is answered or told when to come back, and none waits.
func assistantCrowd(t *testing.T) {
	s := assistant().open(t)
	people := make([]*person, 1000)
	for i := range people {
		people[i] = departments[i%3].employee(s, i/3)
	}
	for _, r := range atOnce(len(people), func(i int) reply { return people[i].get("/healthz") }) {
		r.served(t, "an employee connects")
	}
	if n := s.metric("llmproxy_connections_open"); n < 1000 {
		t.Errorf("%v connections are open", n)
	}
	replies := atOnce(len(people), func(i int) reply { return people[i].chat(assistantModel, 2) })
	served := [3]int{}
	for i, r := range replies {
		if r.status == http.StatusOK {
			served[i%3]++
			continue
		}
		r.limited(t, "an employee who has to wait")
	}
	for i, n := range served {
		if n < 5 || n > 105 {
			t.Errorf("%s: %d were served", departments[i].name, n)
		}
	}
}

// assistantKeys: who has no key, or a wrong one, or one that is not active, is
// told nothing else.
func assistantKeys(t *testing.T) {
	s := assistant().open(t)
	dev := departments[0]
	body := ""
	for name, p := range map[string]*person{
		"a wrong key":         s.from("10.0.1.5").with("sk-llmproxy-dev-team-002"),
		"a part of a key":     s.from("10.0.1.5").with(dev.key[:len(dev.key)-1]),
		"a key in other case": s.from("10.0.1.5").with(strings.ToUpper(dev.key)),
		"not a bearer":        s.from("10.0.1.5").saying("Authorization", "Basic "+dev.key),
		"no key":              s.from("10.0.1.5"),
	} {
		r := p.chat(assistantModel, 2)
		r.refused(t, http.StatusUnauthorized, name, "invalid_api_key")
		if name == "a wrong key" {
			body = r.body
		}
	}
	for _, header := range []string{"X-API-Key", "api-key"} {
		s.from("10.0.1.5").saying(header, dev.key).chat(assistantModel, 2).served(t, header)
	}
	// status: "active"
	p := dev.employee(s, 4)
	p.chat(assistantModel, 2).served(t, "an active key")
	entry := fmt.Sprintf("user_id: %q\n    status: ", dev.user)
	s.edit(t, entry+`"active"`, entry+`"disabled"`)
	r := p.chat(assistantModel, 2)
	r.refused(t, http.StatusUnauthorized, "a disabled key", "invalid_api_key")
	if r.body != body {
		t.Errorf("a disabled key gets %q, a wrong one %q", r.body, body)
	}
	departments[1].employee(s, 1).chat(assistantModel, 2).served(t, "another department")
}

// staysInItsNetwork: a department's key is no good elsewhere, whatever is claimed.
func (d department) staysInItsNetwork(t *testing.T) {
	s := assistant().open(t)
	for _, host := range []string{"1", "5", "254"} {
		s.from(d.network+host).with(d.key).chat(assistantModel, 2).served(t, d.network+host)
	}
	for _, other := range []string{"10.0.0.5", "10.0.4.5", "10.0.11.5"} {
		p := s.from(other).with(d.key)
		p.chat(assistantModel, 2).refused(t, http.StatusForbidden, other, "ip_not_authorized")
		for _, name := range []string{"X-Forwarded-For", "X-Real-IP", "Forwarded"} {
			claim := map[bool]string{true: "for=", false: ""}[name == "Forwarded"] + d.network + "5"
			p.saying(name, claim).chat(assistantModel, 2).refused(t, http.StatusForbidden, other+" with "+name, "ip_not_authorized")
		}
	}
	for _, other := range departments {
		if other.key != d.key {
			other.employee(s, 4).with(d.key).chat(assistantModel, 2).refused(t, http.StatusForbidden, "from "+other.name, "ip_not_authorized")
		}
	}
	if n := len(s.rows(tgi1)) + len(s.rows(tgi2)); n != 3 {
		t.Errorf("the engines had %d requests, want 3", n)
	}
}

// assistantConcurrent: five requests at a time of each department; a sixth is
// refused at once, and a slot is free as soon as an answer has ended or its client
// has left.
func assistantConcurrent(t *testing.T) {
	s := assistant().open(t)
	dev := departments[0]
	p := dev.employee(s, 9)
	four := s.hold(t, p, assistantModel, 4)
	for range 10 {
		p.chat(assistantModel, 2).served(t, "the fifth")
		p.post(chatPath, chatOf(assistantModel, 2, `,"stream":true`)).served(t, "the fifth, a stream")
	}
	fifth := s.hold(t, p, assistantModel, 1)
	r := dev.employee(s, 10).chat(assistantModel, 2) // of the same department
	r.limited(t, "the sixth", "5 requests at a time")
	if r.took > time.Second {
		t.Errorf("the sixth waited: %v", r)
	}
	departments[1].employee(s, 1).chat(assistantModel, 2).served(t, "another department")
	fifth()
	apptest.Eventually(t, "the slot of a client that left is free", func() bool { return p.chat(assistantModel, 2).status == http.StatusOK })
	four()
	apptest.Eventually(t, "all slots are free", func() bool { return p.use(t).InFlight == 0 })
	s.hold(t, p, assistantModel, 5)
}

// assistantMinute: a hundred requests a minute of each department.
func assistantMinute(t *testing.T) {
	s := assistant().open(t)
	dev := departments[0]
	p := dev.employee(s, 7)
	began, admitted := time.Now(), 0
	r := p.chat(assistantModel, 1)
	for r.status == http.StatusOK && admitted < 200 {
		admitted++
		if left := r.header.Get("X-Ratelimit-Remaining-Requests"); r.header.Get("X-Ratelimit-Limit-Requests") != "100" || left == "" {
			t.Fatalf("request %d: %q of %q are left", admitted, left, r.header.Get("X-Ratelimit-Limit-Requests"))
		}
		r = p.chat(assistantModel, 1)
	}
	withinRate(t, dev.name, admitted, 100, 100./60, time.Since(began))
	r.limited(t, "one too many", "100 requests per minute")
	if wait := r.header.Get("Retry-After"); wait != "1" { // 0.6 s, in whole seconds
		t.Errorf("Retry-After %s", wait)
	}
	dev.employee(s, 8).chat(assistantModel, 1).limited(t, "a colleague", "100 requests per minute")
	departments[1].employee(s, 1).chat(assistantModel, 1).served(t, "another department")
	apptest.Eventually(t, "the next one may", func() bool { return p.chat(assistantModel, 1).status == http.StatusOK })
}

// assistantBalance: two engines with the same weight.
func assistantBalance(t *testing.T) {
	s := assistant().open(t)
	for i := range 40 {
		departments[i%3].employee(s, i).chat(assistantModel, 2).served(t, "an employee")
	}
	equally(t, s.shares(), 20, 1)
}

// assistantUsage: what each department has used is in the books of
// finance.internal under its name.
func assistantUsage(t *testing.T) {
	s := assistant().open(t)
	for i := range 30 {
		d := departments[i%3]
		d.employee(s, i).post(chatPath, chatOf(assistantModel, 1+i, map[bool]string{true: `,"stream":true`}[i%2 == 0])).served(t, d.name)
	}
	users := s.balance(t)
	names := map[string]string{}
	for _, e := range s.books.all() {
		names[e.Data.UserID] = e.Data.KeyName
	}
	for _, d := range departments {
		if use := d.employee(s, 1).use(t); users[d.user] == 0 || int(use.Quota.Used) != users[d.user] || names[d.user] != d.name {
			t.Errorf("%s: %d tokens under the name %q in the books, the key is told %d", d.user, users[d.user], names[d.user], use.Quota.Used)
		}
	}
	s.books.refuse(t, 3, func() { departments[0].employee(s, 1).chat(assistantModel, 2).served(t, "while finance is down") })
	s.balance(t)
}

// assistantMetrics: Prometheus inside reads them.
func assistantMetrics(t *testing.T) {
	s := assistant().open(t)
	departments[0].employee(s, 1).chat(assistantModel, 2).served(t, "an employee")
	r := s.from("10.0.9.9").get("/metrics")
	r.served(t, "/metrics")
	for _, addr := range []string{tgi1, tgi2} {
		if !strings.Contains(r.body, fmt.Sprintf("llmproxy_backend_healthy{backend=%q} 1\n", addr)) {
			t.Errorf("the metrics do not tell of %s", addr)
		}
	}
	for _, d := range departments {
		if strings.Contains(r.body, d.key) {
			t.Errorf("the metrics have a key in them")
		}
	}
}
