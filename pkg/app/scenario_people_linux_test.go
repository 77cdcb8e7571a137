package app_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// person is a user of the gateway, with an address and perhaps a key.
type person struct {
	http   *http.Client
	url    string
	header http.Header
}

// from is a person at that address; "" is any.
func (s *stage) from(addr string) *person {
	s.t.Helper()
	dialer := &net.Dialer{}
	if addr != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(addr)}
	}
	tr := &http.Transport{
		DialContext: dialer.DialContext, MaxIdleConnsPerHost: 64,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	s.t.Cleanup(tr.CloseIdleConnections)
	return &person{&http.Client{Transport: tr, Timeout: patience}, s.url, http.Header{}}
}

// with is the same person with a key.
func (p *person) with(key string) *person { return p.saying("Authorization", "Bearer "+key) }

// saying is the same person with one more header.
func (p *person) saying(name, value string) *person {
	q := *p
	q.header = p.header.Clone()
	q.header.Set(name, value)
	return &q
}

// at is the same person who asks somewhere else.
func (p *person) at(url string) *person {
	q := *p
	q.url = url
	return &q
}

// reply is what came of a request; status 0: nothing, and body says why.
type reply struct {
	status int
	header http.Header
	body   string
	took   time.Duration
}

func (r reply) String() string { return fmt.Sprintf("%d after %v: %.400s", r.status, r.took, r.body) }

// do sends a request and returns the whole answer.
func (p *person) do(ctx context.Context, method, path, body string) reply {
	began := time.Now()
	req, err := http.NewRequestWithContext(ctx, method, p.url+path, strings.NewReader(body))
	if err != nil {
		return reply{body: err.Error()}
	}
	req.Header = p.header.Clone()
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return reply{body: err.Error(), took: time.Since(began)}
	}
	status, text := readAnswer(resp)
	return reply{status, resp.Header, text, time.Since(began)}
}

func (p *person) get(path string) reply { return p.do(context.Background(), "GET", path, "") }

func (p *person) post(path, body string) reply { return p.do(context.Background(), "POST", path, body) }

// chat asks for an answer of so many tokens.
func (p *person) chat(model string, tokens int) reply {
	return p.post(chatPath, chatOf(model, tokens, ""))
}

// prompt asks with a prompt of about so many tokens.
func (p *person) prompt(model string, tokens int) reply {
	text := strings.Repeat("wörd", tokens*4/5) // five bytes, and a token is four
	return p.post(chatPath, strings.Replace(chatOf(model, 1, ""), "hi", text, 1))
}

// chatOf is a chat; more is further fields, each after a comma. No model is none.
func chatOf(model string, tokens int, more string) string {
	if model != "" {
		more += fmt.Sprintf(`,"model":%q`, model)
	}
	return fmt.Sprintf(`{"messages":[{"role":"user","content":"hi"}],"max_tokens":%d%s}`, tokens, more)
}

// firstToken is the time until the first event of a stream with content.
func (p *person) firstToken(model string) (time.Duration, error) {
	began := time.Now()
	req, err := http.NewRequest("POST", p.url+chatPath, strings.NewReader(chatOf(model, 4, `,"stream":true`)))
	if err != nil {
		return 0, err
	}
	req.Header = p.header.Clone()
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		var event struct {
			Choices []struct{ Delta struct{ Content string } }
		}
		data, _ := strings.CutPrefix(lines.Text(), "data: ")
		if json.Unmarshal([]byte(data), &event) == nil && len(event.Choices) > 0 && event.Choices[0].Delta.Content != "" {
			took := time.Since(began)
			_, err := io.Copy(io.Discard, resp.Body)
			return took, err
		}
	}
	return 0, fmt.Errorf("status %d, and no event with content", resp.StatusCode)
}

// hold has a person keep n answers open that have not begun, until leave is
// called; it returns once the engines work on them.
func (s *stage) hold(t *testing.T, p *person, model string, n int) (leave func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	s.held += n
	leave = sync.OnceFunc(func() {
		cancel()
		work.Wait()
		s.held -= n
	})
	t.Cleanup(leave)
	early := make(chan reply, n)
	for range n {
		work.Go(func() {
			if r := p.do(ctx, "POST", chatPath, chatOf(model, 1, `,"stream":true,"mock_prefill_ms":60000`)); r.status != 0 {
				early <- r
			}
		})
	}
	apptest.Eventually(t, fmt.Sprintf("%d requests are held", n), func() bool {
		select {
		case r := <-early:
			t.Fatalf("it was not held: %v", r)
		default:
		}
		return s.running() == s.held
	})
	return leave
}

// atOnce has n people ask at the same time and returns what they got.
func atOnce(n int, ask func(i int) reply) []reply {
	replies := make([]reply, n)
	var work sync.WaitGroup
	for i := range n {
		work.Go(func() { replies[i] = ask(i) })
	}
	work.Wait()
	return replies
}

// served wants an answer.
func (r reply) served(t *testing.T, what string) {
	t.Helper()
	if r.status != http.StatusOK {
		t.Errorf("%s: %v", what, r)
	}
}

// refused wants a status, and an error that says these words.
func (r reply) refused(t *testing.T, status int, what string, words ...string) {
	t.Helper()
	var e struct {
		Error struct{ Message, Type, Code string }
	}
	if err := json.Unmarshal([]byte(r.body), &e); err != nil || r.status != status || e.Error.Message == "" || e.Error.Code == "" {
		t.Errorf("%s: want status %d and an error: %v", what, status, r)
	}
	for _, word := range words {
		if !strings.Contains(r.body, word) {
			t.Errorf("%s: %v\nwithout %q", what, r, word)
		}
	}
}

// limited wants to be told which limit it was and when to come back.
func (r reply) limited(t *testing.T, what string, words ...string) {
	t.Helper()
	r.refused(t, http.StatusTooManyRequests, what, words...)
	seconds, err := strconv.Atoi(r.header.Get("Retry-After"))
	ms, err2 := strconv.ParseFloat(r.header.Get("Retry-After-Ms"), 64)
	if err != nil || err2 != nil || seconds < 1 || ms <= 0 || ms > float64(seconds)*1000 {
		t.Errorf("%s: Retry-After %q, retry-after-ms %q", what, r.header.Get("Retry-After"), r.header.Get("Retry-After-Ms"))
	}
}

// count is how many replies have that status.
func count(replies []reply, status int) (n int) {
	for _, r := range replies {
		if r.status == status {
			n++
		}
	}
	return n
}

// withinRate wants at least the burst of a limit to have been admitted, and no
// more than came back in the meantime.
func withinRate(t *testing.T, what string, admitted, burst int, rate float64, elapsed time.Duration) {
	t.Helper()
	if most := burst + int(rate*elapsed.Seconds()) + 1; admitted < burst || admitted > most {
		t.Errorf("%s: %d requests were admitted in %v, want %d to %d", what, admitted, elapsed, burst, most)
	}
}

// flood sends chats as fast as they are taken, over several connections, until
// the first is refused with 429 or most were sent. The nth has line(n) in its head.
func flood(t *testing.T, addr, model string, most int, line func(n int) string) (admitted int, refusal *reply, elapsed time.Duration) {
	t.Helper()
	var sent, passed atomic.Int64
	var refused atomic.Pointer[reply]
	began := time.Now()
	var work sync.WaitGroup
	for range 16 {
		c := dialRaw(t, addr)
		work.Go(func() {
			for sent.Load() < int64(most) && refused.Load() == nil {
				const batch = 10
				var out strings.Builder
				for range batch {
					out.WriteString(post(chatPath, chatOf(model, 1, ""), line(int(sent.Add(1)))))
				}
				if _, err := io.WriteString(c, out.String()); err != nil {
					t.Error(err)
					return
				}
				for range batch {
					resp, err := http.ReadResponse(c.br, nil)
					if err != nil {
						t.Error(err)
						return
					}
					status, body := readAnswer(resp)
					if passed.Add(1); status == http.StatusTooManyRequests {
						passed.Add(-1)
						refused.CompareAndSwap(nil, &reply{status: status, header: resp.Header, body: body})
					} else if status != http.StatusOK {
						t.Errorf("%d %.200s", status, body)
						return
					}
				}
			}
		})
	}
	work.Wait()
	return int(passed.Load()), refused.Load(), time.Since(began)
}
