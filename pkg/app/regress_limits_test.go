package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// usedUp has a key use more than it may, and returns the id of the response that it
// has stored with that.
func (k limitKey) usedUp(t *testing.T) (response string) {
	t.Helper()
	a := k.say("POST", responsesURL, `{"model":"mock-model","input":"hi","mock_tokens":200}`)
	var r struct{ ID string }
	if err := json.Unmarshal([]byte(a.body), &r); err != nil || a.status != http.StatusOK || r.ID == "" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	return r.ID
}

// form is a request with a file.
func (k limitKey) form(t *testing.T) string {
	return strings.Replace((&upload{size: 1000}).request(t, "mock-model"), "\r\n\r\n", "\r\nAuthorization: Bearer "+k.key+"\r\n\r\n", 1)
}

// Sound passed however little was left, and was counted afterwards.
func TestSoundIsLimited(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, limitConfig(t, "", ", total_quota: 100", ", tokens_per_minute: 10", ""), e)
	for i, param := range []string{"total_quota", "tokens_per_minute", ""} {
		k := limitKeyOf(g, i)
		k.usedUp(t)
		before := len(posts(e))
		c := dialRaw(t, g.Addr)
		c.send(k.form(t))
		resp, body := c.answer("POST")
		if param == "" {
			if resp.StatusCode != http.StatusOK {
				t.Errorf("without limits: %d %s", resp.StatusCode, body)
			}
			continue
		}
		a := limitAnswer{status: resp.StatusCode, body: body}
		if r := a.refusal(t); a.status != 429 || r.Param != param || len(posts(e)) != before {
			t.Errorf("%s is used up: %d %s", param, a.status, a.body)
		}
	}
}

// What tells nothing of tokens, and uses none, was refused for want of them.
func TestNoTokensAreLeftForNoTokens(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, limitConfig(t, "", ", total_quota: 100", ", tokens_per_minute: 10"), e)
	for i := range 2 {
		k := limitKeyOf(g, i)
		id := k.usedUp(t)
		for _, w := range []struct {
			method, path, body string
			status             int
		}{
			{"POST", "/tokenize", `{"model":"mock-model","prompt":"hi"}`, 200},
			{"POST", "/detokenize", `{"model":"mock-model","tokens":[1]}`, 200},
			{"POST", "/v1/messages/count_tokens", fmt.Sprintf(limitChat, `"max_tokens":4`), 200},
			{"GET", "/v1/models", "", 200},
			{"GET", responsesURL + "/" + id, "", 200},
			{"POST", chatPath, wholeChat, 429},
			{"POST", "/v1/embeddings", `{"model":"mock-model","input":"hi"}`, 429},
		} {
			if a := k.say(w.method, w.path, w.body); a.status != w.status {
				t.Errorf("key %d: %s %s: %d %s, want %d", i, w.method, w.path, a.status, a.body, w.status)
			}
		}
	}
}

// A response in the background ended, for the gateway, before it had begun: it was
// counted as nothing.
func TestBackgroundResponsesNeedNoLimit(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, limitConfig(t, "", ", total_quota: 100000", ", tokens_per_minute: 100000", ", requests_per_minute: 100", ""), e)
	response := func(background string) string {
		return `{"model":"mock-model","input":"hi","max_output_tokens":5,"store":true,"background":` + background + `}`
	}
	for i, limited := range []bool{true, true, false, false} {
		k := limitKeyOf(g, i)
		before := len(posts(e))
		a := k.say("POST", responsesURL, response("true"))
		switch {
		case !limited && a.status != http.StatusOK:
			t.Errorf("key %d: %d %s", i, a.status, a.body)
		case limited && (a.status != http.StatusBadRequest || a.refusal(t).Param != "background" || len(posts(e)) != before):
			t.Errorf("key %d: %d %s", i, a.status, a.body)
		}
		for _, not := range []string{"false", "null"} {
			if a := k.say("POST", responsesURL, response(not)); a.status != http.StatusOK {
				t.Errorf("key %d, background %s: %d %s", i, not, a.status, a.body)
			}
		}
		if u := k.use(t); u.InFlight != 0 || u.Quota.Reserved != 0 {
			t.Errorf("key %d: %+v", i, u)
		}
	}
}

// A form that took longer to arrive than the limit of all allows for was refused for
// the one request that another client sent in between.
func TestFormsAreNotLimitedAsOfTheirBeginning(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	more := "rate_limit: {enabled: true, global: {requests_per_second: 1000, burst_size: 1}}\n"
	g := apptest.Start(t, limitConfig(t, more, "", ""), e)
	k, other := limitKeyOf(g, 0), limitKeyOf(g, 1)
	head, body, _ := strings.Cut(k.form(t), "\r\n\r\n")
	for range 5 {
		c := dialRaw(t, g.Addr)
		c.send(head + "\r\nExpect: 100-continue\r\n\r\n")
		if line, err := c.br.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
			t.Fatalf("%q %v", line, err)
		}
		c.send(body[:20])
		passed := func() bool { return other.say("POST", chatPath, wholeChat).status == http.StatusOK }
		apptest.Eventually(t, "the other's request passes", passed)
		back := time.Now().Add(5 * time.Millisecond)
		apptest.Eventually(t, "what it took is back", func() bool { return time.Now().After(back) })
		c.send(body[20:])
		if line, err := c.br.ReadString('\n'); err != nil || line != "\r\n" {
			t.Fatalf("%q %v", line, err)
		}
		if resp, answer := c.answer("POST"); resp.StatusCode != http.StatusOK {
			t.Fatalf("%d %s", resp.StatusCode, answer)
		}
	}
}

// Three a second were called two: a third of a second is not a whole number of
// nanoseconds.
func TestRefusalsNameTheConfiguredNumber(t *testing.T) {
	leavesNothing(t)
	numbers := []int{1, 3, 6, 7, 9, 11, 999, 6007, 20011}
	var keys []string
	for _, n := range numbers {
		keys = append(keys, fmt.Sprintf(", requests_per_second: %d, burst_size: 1", n))
	}
	g := apptest.Start(t, limitConfig(t, "", keys...), apptest.StartEngine(t, mockvllm.Options{}))
	for i, n := range numbers {
		k := limitKeyOf(g, i)
		var a limitAnswer
		apptest.Eventually(t, "one is refused", func() bool {
			answers := make(chan limitAnswer, 8)
			for range cap(answers) {
				go func() { answers <- k.say("POST", "/tokenize", `{"model":"mock-model","prompt":"hi"}`) }()
			}
			for range cap(answers) {
				if b := <-answers; b.status == 429 {
					a = b
				}
			}
			return a.status == 429
		})
		if r := a.refusal(t); !strings.Contains(r.Message, fmt.Sprintf("your limit is %d requests per second", n)) {
			t.Errorf("%d a second: %s", n, r.Message)
		}
	}
}

// The headers told how far the limits were used up when the request came, which may
// have been minutes before.
func TestHeadersAreOfTheMomentOfTheAnswer(t *testing.T) {
	leavesNothing(t)
	here, let := make(chan struct{}), make(chan struct{})
	url := rawEngine(t, func(_ *http.Request, c net.Conn) {
		here <- struct{}{}
		<-let
		say(c, whole(200, "application/json", `{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`))
	})
	more := fmt.Sprintf("backends: [{url: %q, name: e0}]\n", url)
	g := apptest.Start(t, limitConfig(t, more, ", requests_per_second: 200, burst_size: 1"))
	done := make(chan limitAnswer)
	go func() { done <- limitKeyOf(g, 0).say("POST", chatPath, wholeChat) }()
	<-here
	back := time.Now().Add(5 * time.Millisecond)
	apptest.Eventually(t, "the request is back", func() bool { return time.Now().After(back) })
	let <- struct{}{}
	a := <-done
	left, reset := a.header.Get("X-Ratelimit-Remaining-Requests"), a.header.Get("X-Ratelimit-Reset-Requests")
	if a.status != http.StatusOK || left != "1" || reset != "0ms" {
		t.Errorf("%d: %q left, the rest in %q", a.status, left, reset)
	}
}

// A tenth of a day is too much to make clients wait in vain.
func TestTheJitterIsAtMostFiveSeconds(t *testing.T) {
	leavesNothing(t)
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	o := app.Options{Now: func() time.Time { return noon }}
	g := apptest.StartWith(t, o, limitConfig(t, "auth: {timezone: UTC}\n", ", total_quota: 100"), apptest.StartEngine(t, mockvllm.Options{}))
	k := limitKeyOf(g, 0)
	k.usedUp(t)
	different := map[time.Duration]bool{}
	for range 50 {
		d := k.sayRefused(t).wait(t)
		if d < 12*time.Hour || d > 12*time.Hour+5*time.Second {
			t.Errorf("told to wait %v at noon", d)
		}
		different[d] = true
	}
	if len(different) < 10 {
		t.Errorf("only %d different waits of 50", len(different))
	}
}

// A whole URL for a target, as it is sent to proxies, was no path of ours where the
// body is large: it was a 404, and /admin was not known for what it is.
func TestWholeURLsWithLargeBodies(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, limitConfig(t, "admin: {token: "+adminToken+"}\n", ""), e)
	k := limitKeyOf(g, 0)
	operator := limitKey{g.Addr, adminToken}
	stranger := limitKey{g.Addr, "sk-nobody"}
	for _, size := range []int{10, 16 << 10, 40 << 10} {
		chat := fmt.Sprintf(limitChat, `"max_tokens":4,"user":"`+strings.Repeat("x", size)+`"`)
		key := `{"name":"` + strings.Repeat("x", size) + `"}`
		for _, base := range []string{"http://g", "HTTPS://other.example:8000"} {
			for _, w := range []struct {
				k          limitKey
				path, body string
			}{{k, chatPath, chat}, {k, "/v1/nothing", chat}, {stranger, chatPath, chat}, {operator, "/admin/api-keys", key}} {
				want := w.k.say("POST", w.path, w.body)
				if a := w.k.say("POST", base+w.path, w.body); a.status == 0 || a.status != want.status {
					t.Errorf("%s%s with %d bytes: %d %s %v, want %d", base, w.path, size, a.status, a.body, a.err, want.status)
				}
			}
		}
	}
	c := dialRaw(t, g.Addr)
	c.send(strings.Replace(k.form(t), "POST /", "POST http://g/", 1))
	if resp, body := c.answer("POST"); resp.StatusCode != http.StatusOK {
		t.Errorf("a form: %d %s", resp.StatusCode, body)
	}
}

// Without a hook the use of a key that has no quota is in no journal: it was shown, was
// gone after a restart, and counted against the quota that the key got later.
func TestAQuotaBeginsWhenItIsGiven(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	yaml := limitConfig(t, "admin: {token: "+adminToken+"}\n", "")
	g := apptest.Start(t, yaml, e)
	a := limitKey{g.Addr, adminToken}.say("POST", "/admin/api-keys", `{"name":"a"}`)
	var made struct{ Key, ID string }
	if err := json.Unmarshal([]byte(a.body), &made); err != nil || made.Key == "" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	k := limitKey{g.Addr, made.Key}
	ask := func() {
		t.Helper()
		if a := k.say("POST", chatPath, wholeChat); a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	ask()
	if own := k.say("GET", "/v1/usage", ""); !strings.Contains(own.body, `"quota":null`) {
		t.Errorf("without a quota: %s", own.body)
	}
	if a := (limitKey{g.Addr, adminToken}).say("PATCH", "/admin/api-keys/"+made.ID, `{"total_quota":1000}`); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if u := k.use(t); u.Quota.Used != 0 {
		t.Errorf("when it was given: %+v", u)
	}
	ask()
	row := posts(e)[0]
	want := int64(row.PromptTokens + row.Tokens)
	if u := k.use(t); u.Quota.Used != want {
		t.Errorf("after one request: %+v, want %d", u, want)
	}
	g.Close()
	g = apptest.Start(t, yaml, e)
	k.addr = g.Addr
	if u := k.use(t); u.Quota.Used != want || u.Quota.Reserved != 0 {
		t.Errorf("after a restart: %+v, want %d", u, want)
	}
}

// fragile is a connection to an engine that panics, once, when it is closed.
type fragile struct {
	net.Conn
	sound *atomic.Bool
}

func (c fragile) Close() error {
	err := c.Conn.Close()
	if c.sound.CompareAndSwap(false, true) {
		panic("a test's")
	}
	return err
}

// A panic while a request gave back what it had ended the process where it was a stream,
// and kept its slot where it was not.
func TestAPanicAtTheEndKeepsNothing(t *testing.T) {
	leavesNothing(t)
	for name, w := range map[string]struct {
		fields string
		leaves bool
	}{
		"a stream that is left":  {`"stream":true,"mock_tokens":100000`, true},
		"a stream that is cut":   {`"stream":true,"mock_fault":"fin=3"`, false},
		"a stream that is reset": {`"stream":true,"mock_fault":"reset=2"`, false},
		"an answer that is cut":  {`"mock_fault":"truncated-json"`, false},
		"an answer that is left": {`"mock_prefill_ms":3600000`, true},
	} {
		t.Run(name, func(t *testing.T) {
			var sound atomic.Bool
			dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, addr)
				return fragile{c, &sound}, err
			}
			e := apptest.StartEngine(t, mockvllm.Options{})
			keys := ", max_concurrent: 1, total_quota: 1000000, tokens_per_minute: 1000000"
			g := apptest.StartWith(t, app.Options{Dial: dial}, limitConfig(t, "", keys), e)
			t.Cleanup(func() { sound.Store(true) })
			k := limitKeyOf(g, 0)
			c := dialRaw(t, g.Addr)
			c.send(k.request("POST", chatPath, fmt.Sprintf(limitChat, w.fields)))
			if w.leaves {
				apptest.Eventually(t, "the engine is at it", func() bool { return len(posts(e)) == 1 })
				c.Close()
			}
			apptest.Eventually(t, "it panics", sound.Load)
			apptest.Eventually(t, "it holds nothing", func() bool {
				u := k.use(t)
				return u.InFlight == 0 && u.Quota.Reserved == 0
			})
			if a := k.say("POST", chatPath, wholeChat); a.status != http.StatusOK {
				t.Errorf("afterwards: %d %s", a.status, a.body)
			}
		})
	}
}

// The same of an answer that is passed on while it comes.
func TestAPanicAtTheEndOfALargeAnswer(t *testing.T) {
	leavesNothing(t)
	var sound atomic.Bool
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		return fragile{c, &sound}, err
	}
	url := rawEngine(t, func(_ *http.Request, c net.Conn) {
		say(c, "HTTP/1.1 200 x\r\nContent-Type: application/json\r\nContent-Length: 10000000\r\n\r\n"+strings.Repeat(" ", 5000000))
	})
	more := fmt.Sprintf("backends: [{url: %q, name: e0}]\n", url)
	g := apptest.StartWith(t, app.Options{Dial: dial}, limitConfig(t, more, ", max_concurrent: 1, total_quota: 1000000"))
	t.Cleanup(func() { sound.Store(true) })
	k := limitKeyOf(g, 0)
	for range 3 {
		if a := k.say("POST", chatPath, wholeChat); a.status != http.StatusOK || a.err == nil {
			t.Fatalf("%d %.200s: not cut", a.status, a.body)
		}
		apptest.Eventually(t, "it holds nothing", func() bool {
			u := k.use(t)
			return u.InFlight == 0 && u.Quota.Reserved == 0
		})
	}
	if !sound.Load() {
		t.Error("nothing panicked")
	}
}
