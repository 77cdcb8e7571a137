package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// TestScenario3Keys is how customers get their keys, and lose them.
func TestScenario3Keys(t *testing.T) { provider().play(t, customerSentences) }

var customerSentences = []sentence{
	{"API Key 管理（客户）: 创建客户 API Key", providerCurl},
	{"API Key 管理（客户）: quota_reset_period", providerMonthly},
	{"API Key 管理（客户）: expires_at", providerExpiry},
	{"API Key 管理（客户）: PATCH, DELETE", providerRevokes},
}

// madeKey is what is read of the answer to a new key.
type madeKey struct {
	ID, Key, Name string
	CreatedAt     time.Time `json:"created_at"`
}

// create has the admin API make a key.
func (s *stage) create(t *testing.T, body string) (made madeKey) {
	t.Helper()
	r := s.from("").with(adminToken).post("/admin/api-keys", body)
	if err := json.Unmarshal([]byte(r.body), &made); err != nil || r.status != http.StatusCreated || made.Key == "" {
		t.Fatalf("no key was made: %v: %v", err, r)
	}
	return made
}

// curlCommand makes a customer's key, as the scenario has it.
const curlCommand = `curl -X POST http://admin.internal:8000/admin/api-keys \
  -H "Authorization: Bearer admin-token" \
  -H "Content-Type: application/json" \
  -d '{
    "name": "客户A - 生产环境",
    "user_id": "customer_a",
    "total_quota": 10000000,
    "quota_reset_period": "monthly",
    "allowed_models": ["llama-3-70b", "llama-3-8b"],
    "expires_at": "2026-12-31T23:59:59Z"
  }'
`

// curlExpiry is when the key of the scenario's command expires.
var curlExpiry = time.Date(2026, 12, 31, 23, 59, 59, 0, time.UTC)

// runCurl runs the command as it stands; a file of its settings has curl say the
// status behind the answer.
func runCurl(t *testing.T) (status, body string) {
	t.Helper()
	need(t, "curl", "no curl: apt-get install curl")
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, ".curlrc"), "silent\nshow-error\nwrite-out = \"\\n%{http_code}\"\n")
	cmd := exec.Command("sh", "-c", curlCommand)
	cmd.Env = append(os.Environ(), "CURL_HOME="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	at := strings.LastIndexByte(string(out), '\n')
	return string(out[at+1:]), string(out[:at])
}

// providerCurl: the command that the scenario has makes a key for two models.
func providerCurl(t *testing.T) {
	s := provider().open(t)
	status, body := runCurl(t)
	var made madeKey
	if err := json.Unmarshal([]byte(body), &made); err != nil || status != "201" {
		t.Fatalf("%s %s: %v", status, body, err)
	}
	if !strings.HasPrefix(made.Key, "sk-llmproxy-") || made.Name != "客户A - 生产环境" || time.Since(made.CreatedAt).Abs() > time.Minute {
		t.Errorf("made %+v", made)
	}
	p := s.from("10.3.0.1").with(made.Key)
	if !time.Now().Before(curlExpiry) {
		// The command was written for another year: the key is made, and refuses.
		p.chat("llama-3-70b", 2).refused(t, http.StatusUnauthorized, "a key that was made expired", "invalid_api_key")
		return
	}
	for _, model := range []string{"llama-3-70b", "llama-3-8b", "llama-3-70b-instruct", "llama-3-8b-instruct"} {
		p.chat(model, 2).served(t, model)
	}
	unknown := p.chat("no-such-model", 2).body
	for _, model := range []string{"qwen", "qwen-72b-chat", "mistral", "llama-3-70b-chinese", "LLAMA-3-70B"} {
		r := p.chat(model, 2)
		r.refused(t, http.StatusNotFound, model, "model_not_found")
		if want := strings.ReplaceAll(unknown, "no-such-model", model); r.body != want {
			t.Errorf("%s is told from a model that there is not: %s\n%s", model, r.body, want)
		}
	}
	p.chat("", 2).refused(t, http.StatusForbidden, "no model")
	u := p.use(t).Quota
	if u.Limit == nil || *u.Limit != 10_000_000 || int(u.Used) != s.balance(t)["customer_a"] {
		t.Errorf("the key is told of %+v", u)
	}
	s.resets(t, p, "monthly", nextMonth)
	models := p.get("/v1/models").body
	if !strings.Contains(models, `"llama-3-70b"`) || strings.Contains(models, "qwen") {
		t.Errorf("the key is told of the models %s", models)
	}
	s.survives(t, p, made)
}

// survives wants a key to be in Redis by its hash alone, and to be good after
// the gateway was killed.
func (s *stage) survives(t *testing.T, p *person, made madeKey) {
	t.Helper()
	text, err := exec.Command("redis-cli", "-h", "redis", "HGETALL", "llmproxy:{keys}:keys").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if strings.Contains(string(text), made.Key) || !strings.Contains(string(text), `"customer_a"`) || !strings.Contains(string(text), `"sha256:`) {
		t.Errorf("the keys in Redis:\n%s", text)
	}
	if log := s.output.String(); strings.Contains(log, made.Key) || strings.Contains(log, adminToken) {
		t.Error("the log has a secret in it")
	}
	s.kill()
	s.begin(t)
	p.chat("llama-3-70b", 2).served(t, "after the gateway was killed")
}

// providerMonthly: a customer has its tokens a month, and not more.
func providerMonthly(t *testing.T) {
	s := provider().open(t)
	p := s.customer(t, 1, `,"total_quota":60000,"quota_reset_period":"monthly"`)
	s.exhaust(t, p, "llama-3-70b", "customer_1", 60_000, 30_000)
	s.resets(t, p, "monthly", nextMonth)
	s.customer(t, 2, "").chat("llama-3-70b", 1000).served(t, "another customer")
}

// providerExpiry: a key is good until its time has come, to the second.
func providerExpiry(t *testing.T) {
	s := provider().open(t)
	end := time.Now().Add(3 * time.Second).UTC().Truncate(time.Second)
	p := s.customer(t, 1, fmt.Sprintf(`,"expires_at":%q`, end.Format(time.RFC3339))+unhurried)
	apptest.Eventually(t, "the key has expired", func() bool {
		r := p.chat("qwen", 1)
		switch now := time.Now(); {
		case r.status == http.StatusOK && now.Add(-r.took).Before(end):
			return false
		case r.status == http.StatusUnauthorized && !now.Before(end):
			return true
		default:
			t.Fatalf("%v at %v, %v before its end", r, now, end.Sub(now))
			return true
		}
	})
	past := s.customer(t, 2, `,"expires_at":"2020-01-01T00:00:00Z"`)
	past.chat("qwen", 1).refused(t, http.StatusUnauthorized, "a key that was made expired", "invalid_api_key")
}

// providerRevokes: the next request of a key that is disabled or deleted is
// refused, and one that never was gets the same answer.
func providerRevokes(t *testing.T) {
	s := provider().open(t)
	admin := s.from("").with(adminToken)
	made := s.create(t, `{"name":"客户B","user_id":"customer_b"}`)
	p := s.from("10.3.0.2").with(made.Key)
	p.chat("qwen", 2).served(t, "a new key")
	path := "/admin/api-keys/" + made.ID
	for _, status := range []string{"disabled", "active"} {
		if r := admin.do(t.Context(), "PATCH", path, fmt.Sprintf(`{"status":%q}`, status)); r.status != http.StatusOK {
			t.Fatalf("%v", r)
		}
		if r := p.chat("qwen", 2); (r.status == http.StatusOK) != (status == "active") {
			t.Errorf("a key that is %s: %v", status, r)
		}
	}
	if r := admin.do(t.Context(), "DELETE", path, ""); r.status != http.StatusNoContent {
		t.Fatalf("%v", r)
	}
	r := p.chat("qwen", 2)
	r.refused(t, http.StatusUnauthorized, "a deleted key", "invalid_api_key")
	if never := p.with("sk-never").chat("qwen", 2); never.body != r.body {
		t.Errorf("a deleted key gets %q, one that never was %q", r.body, never.body)
	}
	for name, other := range map[string]*person{"a customer": p, "nobody": s.from(""), "a wrong token": s.from("").with("admin-tokem")} {
		other.post("/admin/api-keys", `{"name":"x"}`).refused(t, http.StatusUnauthorized, name)
	}
}
