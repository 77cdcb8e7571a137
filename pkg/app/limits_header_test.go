package app_test

import (
	"bytes"
	"fmt"
	"mime/multipart"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// standing is what the headers of an answer say of requests and of tokens: limit,
// remaining, and the form of the reset; "" where they say nothing.
func standing(h http.Header) (s [2]string) {
	for i, of := range []string{"Requests", "Tokens"} {
		limit, left, reset := h.Get("X-Ratelimit-Limit-"+of), h.Get("X-Ratelimit-Remaining-"+of), h.Get("X-Ratelimit-Reset-"+of)
		if limit+left+reset == "" {
			continue
		}
		if !regexp.MustCompile(`^(\d+ms|(\d+h)?(\d+m)?\d+(\.\d+)?s)$`).MatchString(reset) {
			reset = "wrong: " + reset
		} else if d, err := time.ParseDuration(reset); err != nil || d > time.Hour {
			reset = "too long: " + reset
		} else {
			reset = "in time"
		}
		s[i] = limit + " " + left + " " + reset
	}
	return s
}

// Every answer tells how far the limits are used up, whoever gave it: the engine, as
// a whole or a stream, or the gateway. What tells who may use a key is not for those
// who may not.
func TestAnswersTellTheLimits(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	// A fraction of a unit comes back while the test runs; none comes back whole.
	g := apptest.Start(t, limitConfig(t, "",
		", requests_per_minute: 100, tokens_per_minute: 60000",
		", requests_per_second: 5, burst_size: 1000, requests_per_minute: 100",
		"",
		", requests_per_minute: 100, tokens_per_minute: 60000, allowed_ips: [10.0.0.0/8], max_concurrent: 1",
		", requests_per_minute: 1, max_concurrent: 1",
	), e)
	chat := func(fields string) string { return fmt.Sprintf(limitChat, fields) }
	const both = `^100 9\d in time/60000 (59\d\d\d|60000) in time$`
	for _, w := range []struct {
		name         string
		key          int
		method, path string
		body         string
		status       int
		want         string
	}{
		{"whole", 0, "POST", chatPath, chat(`"max_tokens":4`), 200, both},
		{"stream", 0, "POST", chatPath, chat(`"max_tokens":4,"stream":true`), 200, both},
		{"message", 0, "POST", "/v1/messages", chat(`"max_tokens":4`), 200, both},
		{"response", 0, "POST", responsesURL, `{"model":"mock-model","input":"hi","stream":true}`, 200, both},
		{"engine's refusal", 0, "POST", chatPath, chat(`"max_tokens":0`), 400, both},
		{"engine's error", 0, "POST", chatPath, chat(`"mock_fault":"500-json"`), 500, both},
		{"engine's end", 0, "POST", chatPath, chat(`"mock_fault":"reset"`), 502, both},
		{"error in a stream", 0, "POST", chatPath, chat(`"mock_fault":"error-event=2","stream":true`), 200, both},
		{"no JSON", 0, "POST", chatPath, `{`, 400, both},
		{"requests alone", 1, "POST", chatPath, chat(`"max_tokens":4`), 200, `^100 99 in time/$`},
		{"no limits", 2, "POST", chatPath, chat(`"max_tokens":4`), 200, `^/$`},
		{"not from here", 3, "POST", chatPath, chat(`"max_tokens":4`), 403, `^/$`},
		{"unknown key", 9, "POST", chatPath, chat(`"max_tokens":4`), 401, `^/$`},
		{"the last of a minute", 4, "POST", chatPath, chat(`"max_tokens":4`), 200, `^1 0 in time/$`},
		{"the next", 4, "POST", chatPath, chat(`"max_tokens":4`), 429, `^1 0 in time/$`},
	} {
		t.Run(w.name, func(t *testing.T) {
			a := limitKeyOf(g, w.key).say(w.method, w.path, w.body)
			got := standing(a.header)
			if a.status != w.status || !regexp.MustCompile(w.want).MatchString(strings.Join(got[:], "/")) {
				t.Errorf("%d %q, want %d %s\n%s", a.status, got, w.status, w.want, a.body)
			}
		})
	}
}

// What a limit says of itself when it refuses, in words and as a code, in the shapes
// that the SDKs know.
func TestRefusalsSayWhichLimit(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, limitConfig(t, "",
		", requests_per_second: 1", ", requests_per_minute: 1", ", tokens_per_minute: 10", ", total_quota: 10"), e)
	for i, want := range []limitRefusal{
		{"your limit is 1 requests per second", "requests", "requests_per_second", "rate_limit_exceeded"},
		{"your limit is 1 requests per minute", "requests", "requests_per_minute", "rate_limit_exceeded"},
		{"your limit is 10 tokens per minute", "tokens", "tokens_per_minute", "rate_limit_exceeded"},
		{"You exceeded your quota", "insufficient_quota", "total_quota", "insufficient_quota"},
	} {
		t.Run(want.Param, func(t *testing.T) {
			k := limitKeyOf(g, i)
			var a limitAnswer
			for n := 0; a.status != 429; n++ {
				if a = k.say("POST", chatPath, fmt.Sprintf(limitChat, `"max_tokens":8`)); n == 50 {
					t.Fatalf("%d %s", a.status, a.body)
				}
			}
			got := a.refusal(t)
			if !strings.Contains(got.Message, want.Message) || got.Type != want.Type || got.Param != want.Param || got.Code != want.Code {
				t.Errorf("%+v, want %+v", got, want)
			}
			should := ""
			if want.Param == "total_quota" {
				should = "false"
			}
			if h := a.header.Get("X-Should-Retry"); h != should || a.wait(t) <= 0 {
				t.Errorf("x-should-retry %q, want %q", h, should)
			}
			m := k.say("POST", "/v1/messages", fmt.Sprintf(limitChat, `"max_tokens":8`))
			if m.status != 429 || !strings.Contains(m.body, `"type":"error"`) || !strings.Contains(m.body, `"rate_limit_error"`) {
				t.Errorf("Anthropic's client got %d %s", m.status, m.body)
			}
		})
	}
}

// Whoever waits as long as it was told is served.
func TestWaitingAsToldIsEnough(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	for name, fields := range map[string]string{
		"requests_per_second": ", requests_per_second: 3, burst_size: 2",
		"requests_per_minute": ", requests_per_minute: 60",
		"tokens_per_minute":   ", tokens_per_minute: 600",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := apptest.Start(t, limitConfig(t, "", fields), e)
			k, waited := limitKeyOf(g, 0), 0
			for n := 0; waited < 3; n++ {
				a := k.say("POST", chatPath, fmt.Sprintf(limitChat, `"max_tokens":8`))
				if a.status == 200 && n < 500 {
					continue
				}
				d := a.wait(t)
				if r := a.refusal(t); a.status != 429 || r.Param != name || d > 2*time.Second {
					t.Fatalf("%v, %d %s", d, a.status, a.body)
				}
				waited++
				<-time.After(d)
				if a := k.say("POST", chatPath, fmt.Sprintf(limitChat, `"max_tokens":8`)); a.status != 200 {
					t.Errorf("after %v: %d %s", d, a.status, a.body)
				}
			}
		})
	}
}

// The same for all clients together.
func TestWaitingForTheGlobalLimitIsEnough(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, limitConfig(t, "rate_limit: {enabled: true, global: {requests_per_second: 2}}\n", ""), e)
	k := limitKeyOf(g, 0)
	var a limitAnswer
	for a = k.say("POST", chatPath, wholeChat); a.status == 200; a = k.say("POST", chatPath, wholeChat) {
	}
	d := a.wait(t)
	if r := a.refusal(t); a.status != 429 || r.Param != "global" || r.Code != "rate_limit_exceeded" || d > 500*time.Millisecond {
		t.Errorf("%v, %d %s", d, a.status, a.body)
	}
	<-time.After(d)
	if a := k.say("POST", chatPath, wholeChat); a.status != 200 {
		t.Errorf("after %v: %d %s", d, a.status, a.body)
	}
}

// A quota that is used up says when it starts anew, and does.
func TestWaitingForTheQuotaIsEnough(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	var clock atomic.Int64
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	now := func() time.Time { return noon.Add(time.Duration(clock.Load())) }
	g := apptest.StartWith(t, app.Options{Now: now}, limitConfig(t, "auth: {timezone: UTC}\n", ", total_quota: 30"), e)
	k := limitKeyOf(g, 0)
	var a limitAnswer
	for a = k.say("POST", chatPath, wholeChat); a.status == 200; a = k.say("POST", chatPath, wholeChat) {
	}
	d := a.wait(t)
	if r := a.refusal(t); r.Code != "insufficient_quota" || !strings.Contains(r.Message, "2026-11-24T00:00:00Z") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if d < 12*time.Hour || d > 12*time.Hour*11/10 {
		t.Errorf("told to wait %v at noon", d)
	}
	clock.Store(int64(12*time.Hour - 1))
	if a := k.say("POST", chatPath, wholeChat); a.status != 429 {
		t.Errorf("before midnight: %d %s", a.status, a.body)
	}
	clock.Store(int64(12 * time.Hour))
	if a := k.say("POST", chatPath, wholeChat); a.status != 200 {
		t.Errorf("at midnight: %d %s", a.status, a.body)
	}
}

// Clients that are refused together do not come back together, and none much later
// than it has to.
func TestTheJitterIsATenth(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, limitConfig(t, "", ", requests_per_minute: 1"), e)
	k := limitKeyOf(g, 0)
	begin := time.Now()
	if a := k.say("POST", chatPath, wholeChat); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	different := map[time.Duration]bool{}
	for range 50 {
		d := k.sayRefused(t).wait(t)
		if least := time.Minute - time.Since(begin); d < least-time.Millisecond || d > time.Minute*11/10 {
			t.Errorf("told to wait %v of %v", d, least)
		}
		different[d/(100*time.Millisecond)] = true
	}
	if len(different) < 10 {
		t.Errorf("only %d different waits of 50", len(different))
	}
}

func (k limitKey) sayRefused(t *testing.T) *limitAnswer {
	t.Helper()
	a := k.say("POST", chatPath, wholeChat)
	if a.status != 429 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	return &a
}

// retry-after-ms was rounded down: who waited as long as it was told came a fraction
// of a millisecond early, and was refused once more.
func TestTheWaitIsRoundedUp(t *testing.T) {
	leavesNothing(t)
	g := apptest.Start(t, limitConfig(t, "", ", requests_per_second: 1"), apptest.StartEngine(t, mockvllm.Options{}))
	k := limitKeyOf(g, 0)
	k.say("POST", chatPath, wholeChat)
	for range 20 {
		a := k.sayRefused(t)
		reset, err := time.ParseDuration(a.header.Get("X-Ratelimit-Reset-Requests")) // rounded up
		if d := a.wait(t); err != nil || d < reset-3*time.Millisecond || d < reset && d+time.Millisecond >= reset {
			t.Fatalf("told to wait %v, the limit is back in %v", d, reset)
		}
	}
}

// What an answer says of the limits was as of when its request came, which is long
// ago for one that took a minute.
func TestAnswersTellTheLimitsOfNow(t *testing.T) {
	leavesNothing(t)
	g := apptest.Start(t, limitConfig(t, "", ", requests_per_minute: 60"), apptest.StartEngine(t, mockvllm.Options{}))
	a := limitKeyOf(g, 0).say("POST", chatPath, fmt.Sprintf(limitChat, `"mock_prefill_ms":1100`))
	if left, reset := a.header.Get("X-Ratelimit-Remaining-Requests"), a.header.Get("X-Ratelimit-Reset-Requests"); left != "60" || reset != "0ms" {
		t.Errorf("%s left, %s until all is back, after 1.1 s", left, reset)
	}
}

// An upload was limited as of when its first byte came: at its end it was refused by
// what had come back long ago, and told to wait for it once more.
func TestUploadsAreLimitedWhenTheyAreThere(t *testing.T) {
	leavesNothing(t)
	g := apptest.Start(t, limitConfig(t, "", ", requests_per_second: 1"), apptest.StartEngine(t, mockvllm.Options{}))
	k := limitKeyOf(g, 0)
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	_ = w.WriteField("model", "mock-model")
	f, _ := w.CreateFormFile("file", "a.wav")
	_, _ = f.Write(make([]byte, 1000))
	_ = w.Close()
	raw := strings.Replace(k.request("POST", "/v1/audio/transcriptions", form.String()), "application/json", w.FormDataContentType(), 1)
	c := dialRaw(t, g.Addr)
	c.send(raw[:len(raw)-500])
	if a := k.say("POST", chatPath, wholeChat); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	<-time.After(1050 * time.Millisecond)
	c.send(raw[len(raw)-500:])
	if resp, body := c.answer("POST"); resp.StatusCode != 200 {
		t.Errorf("%d %s %v", resp.StatusCode, body, resp.Header)
	}
}

// Fifty prompts in one request used 50 times what was reserved for it: five such
// requests at once spent 25,000 tokens of a limit of 1000.
func TestEveryPromptIsReservedFor(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, limitConfig(t, "", ", tokens_per_minute: 1000"), e)
	k := limitKeyOf(g, 0)
	body := `{"model":"mock-model","max_tokens":100,"mock_prefill_ms":300,"prompt":["a"` + strings.Repeat(`,"a"`, 49) + `]}`
	answers := make(chan limitAnswer, 5)
	for range 5 {
		go func() { answers <- k.say("POST", "/v1/completions", body) }()
	}
	in := 0
	for range 5 {
		if a := <-answers; a.status == 200 {
			in++
		}
	}
	if in != 1 {
		t.Errorf("%d of five requests of 5000 tokens were let in at once", in)
	}
}
