package app_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// verdict is what a request of a load came to.
type verdict int

const (
	served verdict = iota // whole, or to [DONE]
	failed                // no byte of an answer: an error, or a status other than 200
	told                  // cut in the middle, with an error event and no [DONE]
	cut                   // anything else: the client cannot know what it has
	verdicts
)

var verdictNames = [verdicts]string{"served", "failed before the first byte", "cut with an error event", "cut without"}

// result is one request of a load.
type result struct {
	verdict
	ended  time.Time
	detail string
}

// load sends requests at a constant rate whatever becomes of them, every other
// one a stream.
type load struct {
	url, model string
	tokens     int
	client     *http.Client

	stop func() // ends the arrivals
	work sync.WaitGroup

	mu      sync.Mutex // guards results
	results []result
}

// startLoad sends rate requests a second until stop.
func startLoad(t testing.TB, url, model string, rate, tokens int) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{
		url: url + "/v1/chat/completions", model: model, tokens: tokens, stop: cancel,
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000, DisableCompression: true}, Timeout: time.Minute},
	}
	l.work.Go(func() { l.arrive(ctx, time.Second/time.Duration(rate)) })
	t.Cleanup(func() {
		cancel()
		l.work.Wait()
		l.client.CloseIdleConnections()
	})
	return l
}

// arrive starts requests that are due: late ones all at once, as an open loop
// must.
func (l *load) arrive(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	begin := time.Now()
	for n := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for ; time.Duration(n)*every <= time.Since(begin); n++ {
			stream := n%2 == 0
			l.work.Go(func() {
				r := l.request(stream)
				r.ended = time.Now()
				l.mu.Lock()
				l.results = append(l.results, r)
				l.mu.Unlock()
			})
		}
	}
}

func (l *load) request(stream bool) result {
	body := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"hi"}],"max_tokens":%d,"stream":%t}`, l.model, l.tokens, stream)
	resp, err := l.client.Post(l.url, "application/json", strings.NewReader(body))
	if err != nil {
		return result{verdict: failed, detail: err.Error()}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		return result{verdict: failed, detail: fmt.Sprint(resp.StatusCode, " ", string(b))}
	}
	if stream {
		return judgeStream(resp.Body, l.tokens)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil || !json.Valid(b) || !strings.Contains(string(b), fmt.Sprintf(`"completion_tokens":%d`, l.tokens)) {
		return result{verdict: cut, detail: fmt.Sprint("whole: ", err, " ", string(b))}
	}
	return result{verdict: served}
}

// judgeStream reads a stream to its end.
func judgeStream(body io.Reader, tokens int) result {
	events, last := 0, ""
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			events++
			last = data
		}
	}
	switch err := lines.Err(); {
	case err == nil && last == "[DONE]" && events == tokens+2: // the role before them, [DONE] behind
		return result{verdict: served}
	case err == nil && strings.HasPrefix(last, `{"error":{`):
		return result{verdict: told, detail: last}
	default:
		return result{verdict: cut, detail: fmt.Sprintf("stream: %v after %d events: %s", err, events, last)}
	}
}

// done counts the requests that have ended.
func (l *load) done() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.results)
}

// more waits until n more requests have ended.
func (l *load) more(t testing.TB, n int) {
	t.Helper()
	for enough := l.done() + n; n > 0; n -= 1000 { // in pieces, each with a deadline of its own
		part := enough - max(n-1000, 0)
		apptest.Eventually(t, "further requests are through", func() bool { return l.done() >= part })
	}
}

// finish stops the load, waits for what is under way, and fails the test for
// every request that no failure of an engine excuses. It returns how many there
// were of each verdict, and those that were told.
func (l *load) finish(t testing.TB) (counts [verdicts]int, cutShort []result) {
	t.Helper()
	l.stop()
	l.work.Wait()
	l.client.CloseIdleConnections()
	for _, r := range l.results {
		if counts[r.verdict]++; r.verdict == told {
			cutShort = append(cutShort, r)
		}
		if (r.verdict == failed || r.verdict == cut) && counts[r.verdict] <= 5 {
			t.Errorf("%s: %s", verdictNames[r.verdict], r.detail)
		}
	}
	line := fmt.Sprintf("%d requests", len(l.results))
	for v, n := range counts {
		line += fmt.Sprintf(", %d %s", n, verdictNames[v])
	}
	t.Log(line)
	return counts, cutShort
}
