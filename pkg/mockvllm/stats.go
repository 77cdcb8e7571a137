package mockvllm

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// stats are the counters behind /metrics. Changed by the scheduler.
type stats struct {
	mu                                sync.Mutex // guards everything
	promptTokens, generated           int
	prefixQueries, prefixHits         int
	success                           map[string]int // by finished_reason
	ttft, itl, e2e, queue, perRequest histogram
	busy, batch                       float64 // seconds in steps; the same times the share of the batch in use
}

// timeBuckets are the bounds of vLLM's time_to_first_token_seconds.
var timeBuckets = [...]float64{
	0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
	20, 40, 80, 160, 640, 2560,
}

type histogram struct {
	buckets [len(timeBuckets)]int // not cumulative
	count   int
	sum     float64
}

func (h *histogram) observe(d time.Duration) {
	v := d.Seconds()
	h.count++
	h.sum += v
	for i, le := range timeBuckets {
		if v <= le {
			h.buckets[i]++
			return
		}
	}
}

func (s *stats) stepped(cost time.Duration, share float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy += cost.Seconds()
	s.batch += cost.Seconds() * share
}

func (s *stats) admitted(q *sequence) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prefixQueries += q.prompt
	s.prefixHits += q.cached
	s.queue.observe(q.scheduled.Sub(q.arrived))
}

func (s *stats) firstToken(q *sequence, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.promptTokens += q.prompt
	s.generated++
	s.ttft.observe(now.Sub(q.arrived))
}

func (s *stats) nextToken(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generated++
	s.itl.observe(d)
}

func (s *stats) finished(q *sequence, reason string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.success == nil {
		s.success = map[string]int{}
	}
	s.success[reason]++
	if reason != "abort" {
		s.e2e.observe(now.Sub(q.arrived))
	}
	if q.produced > 1 {
		s.perRequest.observe(q.last.Sub(q.first) / time.Duration(q.produced-1))
	}
}

// metrics answers GET /metrics.
func (x *call) metrics() error {
	return x.whole(&head{status: 200, contentType: "text/plain; version=0.0.4; charset=utf-8"}, []byte(x.e.exposition()))
}

func (e *Engine) exposition() string {
	running, waiting, kv := e.sched.load()
	s := &e.stats
	s.mu.Lock()
	defer s.mu.Unlock()
	m := exposition{labels: fmt.Sprintf(`engine="0",model_name=%q`, e.opt.Models[0])}
	m.one("vllm:num_requests_running", "gauge", "", float64(running))
	m.one("vllm:num_requests_waiting", "gauge", "", float64(waiting))
	m.one("vllm:kv_cache_usage_perc", "gauge", "", kv)
	m.one("vllm:engine_sleep_state", "gauge", `sleep_state="awake"`, 1)
	m.one("vllm:prefix_cache_queries_total", "counter", "", float64(s.prefixQueries))
	m.one("vllm:prefix_cache_hits_total", "counter", "", float64(s.prefixHits))
	m.one("vllm:prompt_tokens_total", "counter", "", float64(s.promptTokens))
	m.one("vllm:generation_tokens_total", "counter", "", float64(s.generated))
	m.head("vllm:request_success_total", "counter")
	for _, reason := range []string{"stop", "length", "abort", "error"} {
		m.sample("vllm:request_success_total", `finished_reason="`+reason+`"`, float64(s.success[reason]))
	}
	m.histogram("vllm:time_to_first_token_seconds", &s.ttft)
	m.histogram("vllm:inter_token_latency_seconds", &s.itl)
	m.histogram("vllm:request_time_per_output_token_seconds", &s.perRequest)
	m.histogram("vllm:e2e_request_latency_seconds", &s.e2e)
	m.histogram("vllm:request_queue_time_seconds", &s.queue)
	m.one("vllm:cache_config_info", "gauge", fmt.Sprintf(`block_size="%d",num_gpu_blocks="%d"`, blockTokens, e.opt.KVBlocks), 1)
	return m.String()
}

// exposition writes Prometheus text.
type exposition struct {
	strings.Builder
	labels string // on every sample
}

func (m *exposition) head(name, kind string) {
	fmt.Fprintf(m, "# HELP %s As vLLM names it.\n# TYPE %s %s\n", name, name, kind)
}

func (m *exposition) sample(name, more string, v float64) {
	labels := m.labels
	if more != "" {
		labels += "," + more
	}
	m.WriteString(name + "{" + labels + "} " + strconv.FormatFloat(v, 'g', -1, 64) + "\n")
}

func (m *exposition) one(name, kind, more string, v float64) {
	m.head(name, kind)
	m.sample(name, more, v)
}

func (m *exposition) histogram(name string, h *histogram) {
	m.head(name, "histogram")
	sum := 0
	for i, le := range timeBuckets {
		sum += h.buckets[i]
		m.sample(name+"_bucket", `le="`+strconv.FormatFloat(le, 'g', -1, 64)+`"`, float64(sum))
	}
	m.sample(name+"_bucket", `le="+Inf"`, float64(h.count))
	m.sample(name+"_sum", "", h.sum)
	m.sample(name+"_count", "", float64(h.count))
}
