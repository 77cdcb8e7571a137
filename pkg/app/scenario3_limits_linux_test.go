package app_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// TestScenario3Limits is what customers may together and each.
func TestScenario3Limits(t *testing.T) { provider().play(t, limitSentences) }

var limitSentences = []sentence{
	{"需要高性能（服务大量客户）", providerCrowd},
	{"需要防止恶意调用", providerAttacked},
	{"限流配置（防止滥用）: 全局限流", providerGlobal},
	{"限流配置（防止滥用）: 客户级限流", providerPerKey},
	{"限流配置（防止滥用）: 客户级限流, TPM 限制", providerTokens},
}

// providerCrowd: more customers than there are, all at the same time.
func providerCrowd(t *testing.T) {
	s := provider().open(t)
	people := make([]*person, 120)
	for i := range people {
		people[i] = s.customer(t, i, "")
	}
	names := []string{"llama-3-70b", "llama-3-8b", "mistral", "qwen"}
	began := time.Now()
	for round := range 8 {
		for _, r := range atOnce(len(people), func(i int) reply { return people[i].chat(names[(i+round)%4], 4) }) {
			r.served(t, "a customer")
		}
	}
	rate := float64(8*len(people)) / time.Since(began).Seconds()
	t.Logf("%.0f requests a second", rate)
	if rate < 58 { // 5 million a day
		t.Errorf("%.0f requests a second, want 58", rate)
	}
}

// providerAttacked: who tries one key after the other is slowed, and does not slow
// the customer beside it.
func providerAttacked(t *testing.T) {
	s := provider().open(t)
	p := s.customer(t, 1, unhurried)
	attempts := atOnce(30, func(i int) reply { return p.with(fmt.Sprint("sk-guess-", i)).chat("qwen", 2) })
	slow := 0
	for _, r := range attempts {
		r.refused(t, http.StatusUnauthorized, "a guess", "invalid_api_key")
		if r.took > 500*time.Millisecond {
			slow++
		}
	}
	if slow < 5 {
		t.Errorf("%d of %d guesses were slowed", slow, len(attempts))
	}
	if r := p.chat("qwen", 2); r.status != http.StatusOK || r.took > 500*time.Millisecond {
		t.Errorf("the customer at the same address: %v", r)
	}
	for addr := range s.engines {
		for _, row := range s.rows(addr) {
			if row.Header.Get("Authorization") != "" {
				t.Errorf("%s was sent a customer's key", addr)
			}
		}
	}
}

// providerGlobal: 2000 requests at once and 1000 a second, of all customers
// together. The one who sends them here has no limits of its own.
func providerGlobal(t *testing.T) {
	s := provider().open(t)
	made := s.create(t, `{"name":"load"`+unhurried+`,"burst_size":100000,"tokens_per_minute":100000000}`)
	line := "Authorization: Bearer " + made.Key
	admitted, refusal, elapsed := flood(t, s.addr, "llama-3-70b", 6000, func(int) string { return line })
	withinRate(t, "all customers together", admitted, 2000, 1000, elapsed)
	if refusal == nil {
		t.Fatalf("nobody was refused: %d requests in %v", admitted, elapsed)
	}
	refusal.limited(t, "one too many", `"param":"global"`)
}

// providerPerKey: 10 requests a second, 500 a minute and 5 at a time of each
// customer.
func providerPerKey(t *testing.T) {
	s := provider().open(t)
	t.Run("requests_per_second", func(t *testing.T) {
		p := s.customer(t, 1, `,"max_concurrent":100`)
		began := time.Now()
		replies := atOnce(40, func(int) reply { return p.chat("qwen", 1) })
		withinRate(t, "a customer", count(replies, http.StatusOK), 10, 10, time.Since(began))
		for _, r := range replies {
			if r.status != http.StatusOK {
				r.limited(t, "one too many", "10 requests per second", `"param":"requests_per_second"`)
			}
		}
		apptest.Eventually(t, "the next one may", func() bool { return p.chat("qwen", 1).status == http.StatusOK })
	})
	t.Run("requests_per_minute", func(t *testing.T) {
		p := s.customer(t, 2, `,"requests_per_second":100000,"max_concurrent":100`)
		began, admitted := time.Now(), 0
		r := p.chat("qwen", 1)
		for ; r.status == http.StatusOK && admitted < 1000; r = p.chat("qwen", 1) {
			admitted++
		}
		withinRate(t, "a customer", admitted, 500, 500./60, time.Since(began))
		r.limited(t, "one too many", "500 requests per minute", `"param":"requests_per_minute"`)
	})
	t.Run("max_concurrent", func(t *testing.T) {
		p := s.customer(t, 3, "")
		leave := s.hold(t, p, "qwen", 5)
		r := p.chat("qwen", 1)
		r.limited(t, "the sixth", "5 requests at a time", `"param":"max_concurrent"`)
		if r.took > time.Second {
			t.Errorf("it waited: %v", r)
		}
		leave()
		apptest.Eventually(t, "a slot is free", func() bool { return p.chat("qwen", 1).status == http.StatusOK })
	})
	s.customer(t, 4, "").chat("qwen", 1).served(t, "another customer")
}

// providerTokens: 100,000 tokens a minute of each customer. What is too much is
// told when there will be enough, and what is small still passes.
func providerTokens(t *testing.T) {
	s := provider().open(t)
	p := s.customer(t, 1, "")
	began := time.Now()
	r := p.prompt("llama-3-70b", 60_000)
	r.served(t, "60,000 tokens")
	if limit := r.header.Get("X-Ratelimit-Limit-Tokens"); limit != "100000" {
		t.Errorf("x-ratelimit-limit-tokens: %q", limit)
	}
	r = p.prompt("llama-3-70b", 60_000)
	r.limited(t, "60,000 more", "100000 tokens per minute", `"param":"tokens_per_minute"`)
	// 20,000 are missing, at 1,667 a second.
	if wait := atoi(t, r.header.Get("Retry-After")); wait < 5 || wait > 20 {
		t.Errorf("Retry-After %d s", wait)
	}
	p.prompt("llama-3-70b", 30_000).served(t, "30,000 more")
	// Five at the same time cannot have what there is for one.
	replies := atOnce(5, func(int) reply { return p.prompt("llama-3-8b", 6_000) })
	if used := int(p.use(t).Quota.Used); used > 100_000+int(time.Since(began).Minutes()*100_000)+1000 || count(replies, http.StatusOK) == 5 {
		t.Errorf("%d tokens were used in %v: %v", used, time.Since(began), replies)
	}
	s.customer(t, 2, "").prompt("llama-3-70b", 60_000).served(t, "another customer")
}
