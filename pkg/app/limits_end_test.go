package app_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// longReservation holds most of a limit of 150,000 tokens, and uses little of it.
const longReservation = `"max_tokens":100000,"mock_tokens":7,"mock_prefill_ms":20`

// ways are how requests end, by the fields of a chat with which they do.
var ways = []string{
	`"max_tokens":5`, `"mock_tokens":9`, `"n":3,"max_tokens":4`, longReservation,
	`"stream":true,"max_tokens":6`, `"stream":true,"mock_tokens":12`, `"stream":true,"max_tokens":6,"stream_options":{"include_usage":true}`,
	`"max_tokens":0`, `"mock_fault":"404"`, `"mock_fault":"401"`, // refused by the engine
	`"mock_fault":"503"`, `"mock_fault":"429"`, `"mock_fault":"500-json"`, `"mock_fault":"reset"`, `"mock_fault":"truncated-json"`,
	`"mock_fault":{"fault":"503","engines":["e0"]}`, `"mock_fault":{"fault":"reset","engines":["e1"]},"stream":true`, // answered by the other
	`"stream":true,"mock_fault":"reset=2"`, `"stream":true,"mock_fault":"fin=3"`, `"stream":true,"mock_fault":"error-event=2"`,
	`"stream":true,"mock_fault":"error-event-first"`, `"stream":true,"mock_fault":"no-done"`, `"stream":true,"mock_fault":"malformed-event=1"`,
	`"stream":true,"mock_fault":"usage-missing"`, `"mock_fault":"usage-missing"`,
	`"mock_tag":"boom"`, `"mock_tag":"boom","stream":true`, // panics
	`"messages":{`, `"model":"x"`, `"max_tokens":"many"`, // no requests
}

// leaving are ways in which the client does not wait for the end: after so many bytes
// of the answer.
var leaving = []struct {
	fields string
	bytes  int64
}{
	{`"max_tokens":5`, 0},
	{`"mock_prefill_ms":5`, 0},
	{`"mock_prefill_ms":5,"stream":true`, 0},
	{`"stream":true,"max_tokens":300`, 1},
	{`"stream":true,"max_tokens":300`, 4000},
	{`"stream":true,"mock_fault":"stall=3"`, 400},
}

// endings is a gateway over two engines whose clients send requests that end in
// every way.
type endings struct {
	*apptest.Gateway
	t       *testing.T
	engines [2]*apptest.Engine
	keys    []string // their fields
	yaml    string

	mu     sync.Mutex // guards what follows
	totals map[string]int64
	events map[string]ending // by the request's id
	status map[int]int
}

// ending is what an event says of the end of a request.
type ending struct {
	Key        string `json:"key_id"`
	Outcome    string
	Estimated  bool
	Prompt     int   `json:"prompt_tokens"`
	Completion int   `json:"completion_tokens"`
	Total      int64 `json:"total_tokens"`
}

func startEndings(t *testing.T) *endings {
	s := &endings{t: t, totals: map[string]int64{}, events: map[string]ending{}, status: map[int]int{}}
	srv := httptest.NewServer(http.HandlerFunc(s.bill))
	t.Cleanup(srv.Close)
	s.keys = []string{
		"", ", requests_per_second: 20", ", requests_per_minute: 60", ", tokens_per_minute: 150000", ", max_concurrent: 1",
		", total_quota: 4000", ", allowed_models: [x]",
		", requests_per_second: 1000, requests_per_minute: 100000, tokens_per_minute: 600000, max_concurrent: 3, total_quota: 100000000",
	}
	s.yaml = fmt.Sprintf("data_dir: %q\nusage_hook: {enabled: true, url: %q, max_age: 10ms, sync: os}\nload_balance_strategy: round_robin\n", t.TempDir(), srv.URL)
	for i := range s.engines {
		s.engines[i] = apptest.StartEngine(t, mockvllm.Options{Name: fmt.Sprint("e", i), MaxNumSeqs: 3, KVBlocks: 1 << 20, LedgerSize: 1 << 17})
	}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		return panicky{c}, err
	}
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	s.Gateway = apptest.StartWith(t, app.Options{Dial: dial, Now: func() time.Time { return noon }},
		limitConfig(t, s.yaml, s.keys...), s.engines[0], s.engines[1])
	return s
}

// bill is the billing system.
func (s *endings) bill(_ http.ResponseWriter, r *http.Request) {
	var batch []struct {
		ID   string
		Data ending
	}
	if err := json.NewDecoder(r.Body).Decode(&batch); err != nil {
		s.t.Errorf("a batch that is no JSON: %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range batch {
		if _, twice := s.events[e.ID]; !twice {
			s.events[e.ID] = e.Data
			s.totals[e.Data.Key] += e.Data.Total
		}
	}
}

// one sends a request of a random key that ends in a random way.
func (s *endings) one(rnd *rand.Rand) {
	c, err := net.Dial("tcp", s.Addr)
	if err != nil {
		s.t.Error(err)
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(6 * patience)) // who hangs is told below
	key := rnd.IntN(len(s.keys))
	k := limitKeyOf(s.Gateway, key)
	if rnd.IntN(6) == 0 {
		w := leaving[rnd.IntN(len(leaving))]
		_, _ = io.WriteString(c, k.request("POST", chatPath, fmt.Sprintf(limitChat, w.fields)))
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) // it may have been refused, in fewer bytes
		_, _ = io.CopyN(io.Discard, c, w.bytes)
		departures[rnd.IntN(2)].leave(c)
		return
	}
	if rnd.IntN(200) == 0 { // more would be slowed
		k.key = "sk-unknown"
	}
	way := ways[rnd.IntN(len(ways))]
	if strings.Contains(s.keys[key], "tokens_per_minute: 150000") && rnd.IntN(2) == 0 {
		way = longReservation
	}
	_, _ = io.WriteString(c, k.request("POST", chatPath, fmt.Sprintf(limitChat, way)))
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: "POST"})
	status := 0
	if err == nil {
		status = resp.StatusCode
		_, _ = io.Copy(io.Discard, resp.Body) // some are cut
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status[status]++
}

// phase has so many requests end, and then compares all books.
func (s *endings) phase(round uint64, requests int) {
	var work sync.WaitGroup
	const clients = 12
	for i := range uint64(clients) {
		work.Go(func() {
			rnd := rand.New(rand.NewPCG(round, i))
			for range requests / clients {
				s.one(rnd)
			}
		})
	}
	work.Wait()
	quiet(s.t, s.Gateway)
	apptest.Eventually(s.t, "all usage is delivered", func() bool { return s.Metric("llmproxy_usage_backlog_events") == 0 })
	for i := range s.keys {
		s.audit(i)
	}
	s.agree()
}

// audit wants nothing taken of a key's limits, and what is billed to be what is used.
func (s *endings) audit(i int) {
	s.t.Helper()
	k := limitKeyOf(s.Gateway, i)
	sum := auth.Hash(k.key)
	u := k.use(s.t)
	s.mu.Lock()
	billed := s.totals[auth.ID(sum[:8]).String()]
	s.mu.Unlock()
	if u.InFlight != 0 || u.Quota.Reserved != 0 || u.Quota.Used != billed {
		s.t.Errorf("key %d: %+v, and %d billed", i, u, billed)
	}
	apptest.Eventually(s.t, "all tokens come back", func() bool {
		for _, l := range k.use(s.t).Limits {
			if l.Name == "tokens_per_minute" && l.Remaining != l.Limit || l.Name == "max_concurrent" && l.Remaining != l.Limit {
				return false
			}
		}
		return true
	})
}

// agree compares what was billed with what the engines did, where they said it.
func (s *endings) agree() {
	s.t.Helper()
	rows := map[string]mockvllm.Entry{} // the last attempt of each request
	for _, e := range s.engines {
		for _, r := range posts(e) {
			id, _, _ := strings.Cut(r.XRequestID, "-")
			if r.XRequestID >= rows[id].XRequestID {
				rows[id] = r
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	exact := 0
	for id, e := range s.events {
		r, ok := rows[id]
		if !ok || e.Estimated || e.Outcome != "complete" || r.Status != 200 {
			continue
		}
		exact++
		if e.Prompt != r.PromptTokens || e.Completion != r.Tokens || e.Total != int64(r.PromptTokens+r.Tokens) {
			s.t.Errorf("billed %+v for %+v", e, r)
		}
	}
	if exact < len(s.events)/4 {
		s.t.Errorf("only %d of %d were exact", exact, len(s.events))
	}
	s.t.Logf("%d events, %d of them exact; answers by status: %v", len(s.events), exact, s.status)
}

// However requests end, by whichever limit, fault, panic or parting: afterwards
// nothing is reserved, nobody is in flight, and what was limited is what is billed.
func TestLimitsGiveEverythingBack(t *testing.T) {
	leavesNothing(t)
	s := startEndings(t)
	times := uint64(1)
	if long {
		times = 20
	}
	for i := range times {
		s.phase(2*i, 2500)
	}
	global := s.yaml + "rate_limit: {enabled: true, global: {requests_per_second: 500, burst_size: 5}}\n"
	if err := s.Reload(apptest.Config(t, limitConfig(t, global, s.keys...), s.engines[0], s.engines[1])); err != nil {
		t.Fatal(err)
	}
	for i := range times {
		s.phase(2*i+1, 2500)
	}
	for _, limit := range []string{
		"max_concurrent", "tokens_per_minute", "total_quota", "requests_per_second", "requests_per_minute", "global",
	} {
		if n := s.Metric(fmt.Sprintf("llmproxy_rate_limited_total{limit=%q}", limit)); n == 0 {
			t.Errorf("%s refused nobody", limit)
		}
	}
	for _, series := range []string{
		"llmproxy_panics_total", `llmproxy_client_aborts_total{phase="waiting"}`, `llmproxy_client_aborts_total{phase="streaming"}`,
	} {
		if s.Metric(series) == 0 {
			t.Errorf("%s is 0", series)
		}
	}
	for _, status := range []int{200, 400, 401, 404, 429, 500, 502, 503} {
		if s.status[status] == 0 {
			t.Errorf("nobody got a %d: %v", status, s.status)
		}
	}
}
