package app_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// limitedCase is one use of the libraries, with a model and a key of its own: its
// name, and that behind "sk-limits-".
type limitedCase struct {
	name string
	key  string                // fields of the key; "": nobody's
	use  func(spender) problem // uses up the key just before its first request
}

// bigAnswer is what requests under a limit on tokens ask for.
const bigAnswer = 450

var limitedCases = []limitedCase{
	{name: "second", key: "requests_per_second: 1"},
	{name: "second-at-once", key: "requests_per_second: 1"},
	{name: "streams-at-once", key: "requests_per_second: 1"},
	{name: "minute", key: "requests_per_minute: 40", use: leaveOneRequest},
	{name: "minute-at-once", key: "requests_per_minute: 40", use: leaveOneRequest},
	{name: "tokens", key: "tokens_per_minute: 18000", use: leaveOneBigAnswer},
	{name: "tokens-at-once", key: "tokens_per_minute: 18000", use: leaveOneBigAnswer},
	{name: "quota", key: "total_quota: 50", use: func(s spender) problem { return s.spend(50) }},
	{name: "debt", key: "tokens_per_minute: 60", use: func(s spender) problem { return s.spend(500) }},
	{name: "unknown"},
	{name: "address", key: "allowed_ips: [10.0.0.0/8]"},
	{name: "model", key: "allowed_models: [other-model]"},
}

// spender uses up a key, by requests of as many bytes as the library's: then what
// the gateway learns about the model's prompts is the same from each, and so is what
// it expects of every try.
type spender struct {
	limitKey
	model string
	size  int64 // bytes
}

// problem is why a key could not be used up; "": it was.
type problem string

func (s spender) ask(tokens int) (limitAnswer, problem) {
	body := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"hello"}],"max_tokens":%d}`, s.model, tokens)
	a := s.say("POST", chatPath, fmt.Sprintf("%-*s", int(s.size), body))
	if a.status != 200 {
		return a, problem(fmt.Sprintf("cannot use up the key: %d %s %v", a.status, a.body, a.err))
	}
	return a, ""
}

// spend has an answer of that many tokens.
func (s spender) spend(tokens int) problem {
	_, wrong := s.ask(tokens)
	return wrong
}

// left is what the key has left after a small answer.
func (s spender) left(of string) (int, problem) {
	a, wrong := s.ask(1)
	left, err := strconv.Atoi(a.header.Get("X-Ratelimit-Remaining-" + of))
	if err != nil && wrong == "" {
		wrong = problem(err.Error())
	}
	return left, wrong
}

func leaveOneRequest(s spender) (wrong problem) {
	for left := 2; left > 1 && wrong == ""; {
		left, wrong = s.left("Requests")
	}
	return wrong
}

// leaveOneBigAnswer leaves less than two have, if it is not held up much.
func leaveOneBigAnswer(s spender) problem {
	for {
		left, wrong := s.left("Tokens")
		if wrong != "" || left < 2*bigAnswer {
			return wrong
		}
		if wrong := s.spend(left - bigAnswer*7/5); wrong != "" {
			return wrong
		}
	}
}

// limitedAttempt is one request on the wire.
type limitedAttempt struct {
	arrived, answered time.Time // the latter before the client can know anything of it
	status            int
	told              time.Duration // by Retry-After-Ms; 0: nothing
}

// limitedSite is a gateway whose keys have limits, and a proxy before it that
// writes down when a library tries what.
type limitedSite struct {
	t    *testing.T
	addr string
	url  string // of the proxy
	keys map[string]*usedUp

	mu       sync.Mutex
	attempts map[string]map[string][]*limitedAttempt // by case and number of the request, in their order
}

type usedUp struct {
	once sync.Once
	use  func(spender) problem
}

func startLimitedSite(t *testing.T) *limitedSite {
	t.Helper()
	s := &limitedSite{t: t, keys: map[string]*usedUp{}, attempts: map[string]map[string][]*limitedAttempt{}}
	names, keys := []string{}, ""
	for _, c := range limitedCases {
		names = append(names, c.name)
		s.keys[c.name] = &usedUp{use: c.use}
		if c.key != "" {
			keys += fmt.Sprintf("  - {key: sk-limits-%s, name: %s, %s}\n", c.name, c.name, c.key)
		}
	}
	e := apptest.StartEngine(t, mockvllm.Options{Models: names})
	g := apptest.Start(t, fmt.Sprintf(`
health_check: {enabled: false}
data_dir: %q
backends: [{url: %q, name: e, models: [%s]}]
api_keys:
%s`, t.TempDir(), e.URL, strings.Join(names, ", "), keys))
	s.addr = g.Addr
	s.serve()
	return s
}

// serve runs the proxy.
func (s *limitedSite) serve() {
	transport := &http.Transport{}
	proxy := &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1,
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: s.addr}) },
		ModifyResponse: s.answered,
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Whole, since the server closes it when the answer begins, be it that the
		// transport has not seen its end yet.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the library is gone, and has failed
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		a := s.arrived(r)
		proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), limitedAttempt{}, a)))
	}))
	s.t.Cleanup(func() {
		srv.Close()
		transport.CloseIdleConnections()
	})
	s.url = srv.URL
}

// arrived writes down that a request is there, after its key was used up.
func (s *limitedSite) arrived(r *http.Request) *limitedAttempt {
	a := &limitedAttempt{arrived: time.Now()}
	secret := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ") + r.Header.Get("X-Api-Key")
	name, number := strings.TrimPrefix(secret, "sk-limits-"), r.Header.Get("X-Number")
	if key := s.keys[name]; key != nil && key.use != nil {
		key.once.Do(func() {
			if wrong := key.use(spender{limitKey{s.addr, secret}, name, r.ContentLength}); wrong != "" {
				s.t.Errorf("%s: %s", name, wrong)
			}
		})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.attempts[name] == nil {
		s.attempts[name] = map[string][]*limitedAttempt{}
	}
	s.attempts[name][number] = append(s.attempts[name][number], a)
	return a
}

// answered writes down what an attempt came to, before its client hears of it.
func (s *limitedSite) answered(r *http.Response) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, _ := r.Request.Context().Value(limitedAttempt{}).(*limitedAttempt)
	a.status, a.answered = r.StatusCode, time.Now()
	ms := r.Header.Get("Retry-After-Ms")
	if ms == "" {
		return nil
	}
	n, err := strconv.Atoi(ms)
	a.told = time.Duration(n) * time.Millisecond
	return err
}
