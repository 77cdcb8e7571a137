package app_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// visit is one request of a crowd: what it asks for, what happens to it, and
// how long its client stays.
type visit struct {
	tag    string
	stream bool
	tokens int
	fault  string // JSON, "" for none
	breaks bool   // the fault may cost the answer
	bytes  int    // of the answer after which the client leaves; -1 = it stays
}

// answer is what a client got.
type answer struct {
	visit
	id     string // X-Request-Id
	status int
	body   []byte
	whole  bool // the answer came to its end before its client left
}

var (
	harmless = []string{
		`"split-bytes"`, `"crlf"`, `"comment"`, `"no-space"`, `"multi-line"`, `"1xx"`,
		`"slow-first-token=3ms"`, `"slow-headers=3ms"`, `"close-idle"`, `"close-on-reuse"`,
	}
	breaking = []string{
		`{"fault":"reset","engines":["e1"]}`, `{"fault":"fin","engines":["e2"]}`, `"reset=2"`, `"fin=3"`, `"error-event=2"`,
		`{"fault":"500-engine-dead","engines":["e0"]}`, `"truncated-json"`, `"stall=2,3ms"`,
	}
)

// crowd is many clients at once before a gateway with three engines.
type crowd struct {
	*apptest.Gateway
	t       *testing.T
	engines []*apptest.Engine
	client  *http.Client
	seed    uint64
	tags    int
}

const crowdSize = 64 // clients at a time

// startCrowd runs engines whose idle connections end early, on their side or
// on the gateway's, so that requests also meet connections that are ending.
func startCrowd(t *testing.T, o mockvllm.Options) *crowd {
	t.Helper()
	c := &crowd{t: t, seed: rand.Uint64()}
	t.Logf("seed %d", c.seed)
	var yaml strings.Builder
	yaml.WriteString("health_check: {enabled: false}\nbackends:\n")
	for i, idle := range []time.Duration{5 * time.Second, 5 * time.Second, 15 * time.Millisecond} {
		o.Name, o.KeepAlive = fmt.Sprintf("e%d", i), idle
		e := apptest.StartEngine(t, o)
		c.engines = append(c.engines, e)
		fmt.Fprintf(&yaml, "  - {url: %q, name: %s, keep_alive: %dms}\n", e.URL, o.Name, 10+20*i)
	}
	c.Gateway = apptest.Start(t, yaml.String())
	transport := &http.Transport{MaxIdleConnsPerHost: crowdSize, DisableCompression: true}
	c.client = &http.Client{Transport: transport}
	t.Cleanup(transport.CloseIdleConnections)
	return c
}

// plan makes visits of which every second client leaves before its answer is
// complete, at any byte of it.
func (c *crowd) plan(n int) []visit {
	r := rand.New(rand.NewPCG(c.seed, uint64(c.tags)))
	visits := make([]visit, n)
	for i := range visits {
		c.tags++
		v := visit{tag: fmt.Sprintf("t%06d", c.tags), stream: r.IntN(3) > 0, tokens: 1 + r.IntN(30), bytes: -1}
		switch k := r.IntN(10); {
		case k < 3:
			v.fault = harmless[r.IntN(len(harmless))]
		case k < 4:
			v.fault, v.breaks = breaking[r.IntN(len(breaking))], true
		}
		if i%2 == 1 {
			v.bytes = r.IntN(v.tokens * 15)
			if v.stream {
				v.bytes = r.IntN(v.tokens * 260)
			}
			if r.IntN(8) == 0 {
				v.bytes = 0
			}
		}
		visits[i] = v
	}
	r.Shuffle(n, func(i, j int) { visits[i], visits[j] = visits[j], visits[i] })
	return visits
}

// run makes all visits and returns what each client got.
func (c *crowd) run(visits []visit) []answer {
	answers := make([]answer, len(visits))
	var next atomic.Int64
	var work sync.WaitGroup
	for range crowdSize {
		work.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(visits)); i = next.Add(1) - 1 {
				answers[i] = c.visit(visits[i])
			}
		})
	}
	work.Wait()
	return answers
}

func (c *crowd) visit(v visit) answer {
	a := answer{visit: v}
	ctx, leave := context.WithTimeout(c.t.Context(), 6*patience)
	defer leave()
	if v.bytes == 0 {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { leave() }})
	}
	body := fmt.Sprintf(`{"model":"mock-model","messages":[{"role":"user","content":"I am %s"}],"stream":%v,"max_tokens":%d,"mock_tag":%q`,
		v.tag, v.stream, v.tokens, v.tag)
	if v.fault != "" {
		body += `,"mock_fault":` + v.fault
	}
	req, err := http.NewRequestWithContext(ctx, "POST", c.URL+"/v1/chat/completions", strings.NewReader(body+"}"))
	if err != nil {
		c.t.Error(err)
		return a
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.client.Do(req)
	if err != nil {
		return a
	}
	defer resp.Body.Close()
	a.status, a.id = resp.StatusCode, resp.Header.Get("X-Request-Id")
	if v.bytes < 0 {
		a.body, err = io.ReadAll(resp.Body)
		a.whole = err == nil
		return a
	}
	a.body, err = io.ReadAll(io.LimitReader(resp.Body, int64(v.bytes)))
	a.whole = err == nil && len(a.body) < v.bytes
	return a
}

var tagPattern = regexp.MustCompile(`t[0-9]{6}`)

// check fails the test when an answer is not that client's, or not complete
// though it should be. It returns whether it is complete.
func (c *crowd) check(a *answer) (complete bool) {
	c.t.Helper()
	own := 0
	for _, tag := range tagPattern.FindAll(a.body, -1) {
		if string(tag) != a.tag {
			c.t.Errorf("CROSS-TALK: %s was told of %s: %s", a.tag, tag, a.body)
			return false
		}
		own++
	}
	ended := !a.stream || bytes.Contains(a.body, []byte("[DONE]"))
	if ended && a.whole && a.status == 200 && own == a.tokens {
		return true
	}
	if a.bytes >= 0 && !a.whole {
		return false
	}
	told := a.status >= 500 && own == 0 || a.status == 200 && a.stream && bytes.Contains(a.body, []byte(`{"error":`))
	if !a.breaks || !told {
		c.t.Errorf("%+v: status %d, %d tokens, whole %v: %s", a.visit, a.status, own, a.whole, a.body)
	}
	return false
}

// settled waits until nobody works for anybody any more.
func (c *crowd) settled() {
	c.t.Helper()
	c.client.CloseIdleConnections()
	quiet(c.t, c.Gateway)
	apptest.Eventually(c.t, "no request and no connection at the engines", func() bool {
		sum := 0
		for _, e := range c.engines {
			running, waiting, conns := e.Load()
			sum += running + waiting + conns
		}
		return sum == 0
	})
}
