package app_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// limitAnswer is what a client of a key sees of an answer.
type limitAnswer struct {
	status int
	header http.Header
	body   string
	err    error // the answer ended early
}

// say sends one request on a connection of its own and reads the answer.
func (k limitKey) say(method, path, body string) (a limitAnswer) {
	c, err := net.Dial("tcp", k.addr)
	if err != nil {
		return limitAnswer{err: err}
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience)) // a connection that is closed shows below
	if _, err := io.WriteString(c, k.request(method, path, body)); err != nil {
		return limitAnswer{err: err}
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		return limitAnswer{err: err}
	}
	b, err := io.ReadAll(resp.Body)
	return limitAnswer{resp.StatusCode, resp.Header, string(b), err}
}

// limitKey is a key and the gateway that it is for.
type limitKey struct{ addr, key string }

func (k limitKey) request(method, path, body string) string {
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		method, path, k.key, len(body), body)
}

// refusal is the error of a refused request.
type limitRefusal struct{ Message, Type, Param, Code string }

func (a *limitAnswer) refusal(t testing.TB) limitRefusal {
	t.Helper()
	var e struct{ Error limitRefusal }
	if err := json.Unmarshal([]byte(a.body), &e); err != nil {
		t.Fatalf("%v in %d %s", err, a.status, a.body)
	}
	return e.Error
}

// wait is how long a refused client was told to wait.
func (a *limitAnswer) wait(t testing.TB) time.Duration {
	t.Helper()
	ms, err := strconv.Atoi(a.header.Get("Retry-After-Ms"))
	if err != nil {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	d := time.Duration(ms) * time.Millisecond
	if s := a.header.Get("Retry-After"); s != fmt.Sprint(max(1, int((d+time.Second-1)/time.Second))) {
		t.Errorf("Retry-After: %s beside retry-after-ms: %d", s, ms)
	}
	return d
}

// limitUse is a key's own use, as it is told.
type limitUse struct {
	InFlight int64 `json:"in_flight"`
	Quota    struct{ Used, Reserved int64 }
	Limits   []struct {
		Name             string
		Limit, Remaining int64
	}
}

func (k limitKey) use(t testing.TB) (u limitUse) {
	t.Helper()
	a := k.say("GET", "/v1/usage", "")
	if err := json.Unmarshal([]byte(a.body), &u); err != nil || a.status != 200 {
		t.Fatalf("%d %s: %v", a.status, a.body, a.err)
	}
	return u
}

// limitConfig has keys that are named by their index, each with fields of its own.
func limitConfig(t *testing.T, more string, keys ...string) string {
	b := "health_check: {enabled: false}\nrouting: {retry: {initial_wait: 1ms, max_wait: 2ms}}\n" + more
	if !strings.Contains(more, "data_dir") {
		b += fmt.Sprintf("data_dir: %q\n", t.TempDir())
	}
	b += "api_keys:\n"
	for i, fields := range keys {
		b += fmt.Sprintf("  - {key: sk-test-%d, name: k%d%s}\n", i, i, fields)
	}
	return b
}

func limitKeyOf(g *apptest.Gateway, i int) limitKey {
	return limitKey{g.Addr, fmt.Sprint("sk-test-", i)}
}

const limitChat = `{"model":"mock-model","messages":[{"role":"user","content":"hi"}],%s}`

// Five requests at once of 175 tokens each spent 663 tokens of another gateway's
// limit of 100 a minute.
func TestLimitsHoldAtOnce(t *testing.T) {
	leavesNothing(t)
	var dialing atomic.Int64
	release := make(chan struct{})
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialing.Add(1)
		<-release
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.StartWith(t, app.Options{Dial: dial}, limitConfig(t, "", ", tokens_per_minute: 100, total_quota: 100000"), e)
	k := limitKeyOf(g, 0)
	var answered atomic.Int64
	answers := make(chan limitAnswer, 5)
	for range 5 {
		go func() {
			a := k.say("POST", chatPath, fmt.Sprintf(limitChat, `"max_tokens":150`))
			answered.Add(1)
			answers <- a
		}()
	}
	apptest.Eventually(t, "each is refused or at the engine", func() bool { return answered.Load()+dialing.Load() == 5 })
	if n := dialing.Load(); n != 1 {
		t.Errorf("%d of five were let in", n)
	}
	if u := k.use(t); u.InFlight != 1 || u.Quota.Reserved < 150 || u.Limits[0].Remaining != 0 {
		t.Errorf("meanwhile: %+v", u)
	}
	close(release)
	for range 5 {
		a := <-answers
		if a.status == 200 {
			continue
		}
		if r := a.refusal(t); a.status != 429 || r.Param != "tokens_per_minute" || r.Code != "rate_limit_exceeded" || r.Type != "tokens" {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	if rows := posts(e); len(rows) != 1 || rows[0].PromptTokens+rows[0].Tokens > 175 {
		t.Errorf("the engine saw %d requests: %+v", len(rows), rows)
	}
	if u := k.use(t); u.InFlight != 0 || u.Quota.Reserved != 0 {
		t.Errorf("afterwards: %+v", u)
	}
	if again := k.say("POST", chatPath, fmt.Sprintf(limitChat, `"max_tokens":150`)); again.status != 429 {
		t.Errorf("the debt of the first is not waited for: %d %s", again.status, again.body)
	}
}

// One request after the other is one at a time: the slot is back before the client
// can know that its answer has ended, whatever ends it.
func TestTheSlotIsBackBeforeTheAnswerEnds(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, limitConfig(t, "", ", max_concurrent: 1", ", max_concurrent: 1"), e)
	k := limitKeyOf(g, 0)
	for _, w := range []struct {
		name, method, path, body string
		status                   int
	}{
		{"whole", "POST", chatPath, fmt.Sprintf(limitChat, `"max_tokens":4`), 200},
		{"stream", "POST", chatPath, fmt.Sprintf(limitChat, `"max_tokens":4,"stream":true`), 200},
		{"stream that was asked for its usage", "POST", chatPath, fmt.Sprintf(limitChat, `"max_tokens":4,"stream":true,"stream_options":{"include_usage":true}`), 200},
		{"completion", "POST", "/v1/completions", `{"model":"mock-model","prompt":"hi","max_tokens":4,"stream":true}`, 200},
		{"message", "POST", "/v1/messages", fmt.Sprintf(limitChat, `"max_tokens":4,"stream":true`), 200},
		{"response", "POST", responsesURL, `{"model":"mock-model","input":"hi","max_output_tokens":4,"stream":true}`, 200},
		{"embedding", "POST", "/v1/embeddings", `{"model":"mock-model","input":"hi"}`, 200},
		{"no generation", "POST", "/tokenize", `{"model":"mock-model","prompt":"hi"}`, 200},
		{"large", "POST", chatPath, fmt.Sprintf(limitChat, `"max_tokens":2000`), 200},
		{"refused by the engine", "POST", chatPath, fmt.Sprintf(limitChat, `"max_tokens":0`), 400},
		{"failed", "POST", chatPath, fmt.Sprintf(limitChat, `"mock_fault":"500-json"`), 500},
		{"no model of ours", "POST", chatPath, `{"model":"other","messages":[{"role":"user","content":"hi"}]}`, 404},
		{"no JSON", "POST", chatPath, `{`, 400},
		{"ended by an error event", "POST", chatPath, fmt.Sprintf(limitChat, `"stream":true,"mock_fault":"error-event=2"`), 200},
		{"whole, cut by the engine", "POST", chatPath, fmt.Sprintf(limitChat, `"mock_fault":"truncated-json"`), 502},
	} {
		t.Run(w.name, func(t *testing.T) {
			times := 40
			if long {
				times = 2000
			}
			for i := range times {
				if a := k.say(w.method, w.path, w.body); a.status != w.status {
					t.Fatalf("request %d: %d %s %v", i, a.status, a.body, a.err)
				}
			}
		})
	}
	k = limitKeyOf(g, 1)
	t.Run("left at the end", func(t *testing.T) { leaveAtDone(t, k) })
	for i := range 2 {
		if u := limitKeyOf(g, i).use(t); u.InFlight != 0 {
			t.Errorf("%d in flight", u.InFlight)
		}
	}
}

// leaveAtDone reads streams as the SDKs do: not beyond [DONE].
func leaveAtDone(t *testing.T, k limitKey) {
	for i := range 200 {
		c := dialRaw(t, k.addr)
		c.send(k.request("POST", chatPath, fmt.Sprintf(limitChat, `"max_tokens":4,"stream":true`)))
		for line := ""; line != "data: [DONE]\n"; {
			var err error
			if line, err = c.br.ReadString('\n'); err != nil || strings.HasPrefix(line, "HTTP/1.1 429") {
				t.Fatalf("request %d: %q %v", i, line, err)
			}
		}
		c.Close()
	}
}
