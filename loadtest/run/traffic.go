package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/llmproxy/llmproxy/loadtest"
	"github.com/llmproxy/llmproxy/loadtest/result"
	"github.com/llmproxy/llmproxy/loadtest/scenario"
)

// outcome is what became of one request. Its times begin when it was due.
type outcome struct {
	end    byte // see the constants of package result; 0: not over
	first  time.Duration
	took   time.Duration
	tokens int
	why    string
}

// traffic sends a plan through a gateway: open loop, each request at its time.
type traffic struct {
	url      string
	patience time.Duration
	plan     []scenario.Request
	client   *http.Client

	mu    sync.Mutex // guards below
	out   []outcome
	asked int
}

// drainTime is how long after the last request answers are waited for.
const drainTime = 45 * time.Second

var errPatience = errors.New("no token within the client's patience")

func newTraffic(g *gateway, s *scenario.Scenario, plan []scenario.Request) *traffic {
	transport := &http.Transport{
		MaxIdleConnsPerHost: 1000,
		// A client must not wait in silence for what it will never get.
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
	}
	return &traffic{
		url: g.url + "/v1/chat/completions", patience: s.Patience, plan: plan,
		client: &http.Client{Transport: transport}, out: make([]outcome, len(plan)),
	}
}

// run sends everything and returns when all answers have ended, or ctx has.
func (t *traffic) run(ctx context.Context, begin time.Time) {
	defer t.client.CloseIdleConnections()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	for i := range t.plan {
		pause(ctx, time.Until(begin.Add(t.plan[i].At)))
		if ctx.Err() != nil {
			break
		}
		t.mu.Lock()
		t.asked++
		t.mu.Unlock()
		all.Go(func() {
			o := t.ask(ctx, &t.plan[i], begin)
			t.mu.Lock()
			defer t.mu.Unlock()
			t.out[i] = o
		})
	}
	stop := time.AfterFunc(drainTime, cancel)
	defer stop.Stop()
	all.Wait()
}

// ask sends one request and follows its answer to the end.
func (t *traffic) ask(ctx context.Context, r *scenario.Request, begin time.Time) outcome {
	var o outcome
	due := begin.Add(r.At)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := time.AfterFunc(t.patience, func() { cancel(errPatience) })
	defer patience.Stop()

	err := t.exchange(ctx, r, func() {
		if o.tokens++; o.tokens == 1 {
			patience.Stop()
			o.first = time.Since(due)
		}
	})
	o.took = time.Since(due)
	switch {
	case err == nil:
		o.end = result.Answered
		o.tokens = r.Tokens // several can come in one event
	case o.tokens > 0:
		o.end = result.Cut
	case errors.Is(context.Cause(ctx), errPatience):
		o.end, err = result.GaveUp, errPatience
	case errors.Is(err, errLimited):
		o.end = result.Limited
	default:
		o.end = result.Refused
	}
	if err != nil {
		o.why = reason(err)
	}
	return o
}

func (t *traffic) exchange(ctx context.Context, r *scenario.Request, token func()) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, bytes.NewReader(r.Body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+r.Key)
	req.Header.Set("X-Pool", r.Model) // for gateways that do not read bodies
	if r.From != "" {
		req.Header.Set("X-Forwarded-For", r.From)
	}
	resp, err := t.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // what there is of it will do
		return refusal(resp, bytes.TrimSpace(text))
	}
	if r.Stream {
		return loadtest.Tokens(resp.Body, func(string) { token() })
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// errLimited is in the error of a request that a limit has refused.
var errLimited = errors.New("over a limit")

// refusal is an answer as an error. An engine that is overloaded answers 429 too:
// what tells a limit is its code, which is OpenAI's.
func refusal(resp *http.Response, text []byte) error {
	var answer struct{ Error struct{ Code string } }
	if json.Unmarshal(text, &answer) == nil && slices.Contains([]string{"rate_limit_exceeded", "insufficient_quota"}, answer.Error.Code) {
		return fmt.Errorf("%w: %s: %s", errLimited, resp.Status, text)
	}
	return fmt.Errorf("%s: %.200s", resp.Status, text)
}

// reason is an error without what differs between equal ones, for counting.
func reason(err error) string {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op.Op + ": " + op.Err.Error()
	}
	text := err.Error()
	if i := strings.LastIndex(text, `": `); i >= 0 && strings.HasPrefix(text, "Post ") {
		text = text[i+3:]
	}
	text, _, _ = strings.Cut(text, "\r\n")
	return text
}

// counts tells how far the run is: how many requests were asked, how many of them
// ended in which way, and the latest times to a first token in ms.
func (t *traffic) counts() (asked int, ended map[byte]int, first []int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ended = map[byte]int{}
	for i := range t.out[:t.asked] {
		ended[t.out[i].end]++
	}
	for i := t.asked - 1; i >= 0 && len(first) < 200; i-- {
		if t.out[i].first > 0 {
			first = append(first, int(t.out[i].first.Milliseconds()))
		}
	}
	return t.asked, ended, first
}

// fill writes what became of the requests into a side.
func (t *traffic) fill(side *result.Side) {
	side.Failures = map[string]int{}
	var ends []byte
	for i, o := range t.out[:t.asked] {
		r := &t.plan[i]
		first := -1
		if o.first > 0 {
			first = int(o.first.Milliseconds())
		}
		side.At = append(side.At, int(r.At.Milliseconds()))
		side.TTFT = append(side.TTFT, first)
		side.Took = append(side.Took, int(o.took.Milliseconds()))
		side.Tokens = append(side.Tokens, o.tokens)
		side.Load = append(side.Load, r.Load)
		ends = append(ends, o.end)
		if o.why != "" {
			side.Failures[o.why]++
		}
	}
	side.Outcome = string(ends)
}
