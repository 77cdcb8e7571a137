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
	m := exposition{e: e}
	m.running, m.waiting, m.kv = e.sched.load()
	e.stats.mu.Lock()
	defer e.stats.mu.Unlock()
	e.dialect.metrics(&m)
	return m.String()
}

func (m *exposition) vllm() {
	s := &m.e.stats
	m.labels = fmt.Sprintf(`engine="0",model_name=%q`, m.e.opt.Models[0])
	m.gauge("vllm:num_requests_running", float64(m.running))
	m.gauge("vllm:num_requests_waiting", float64(m.waiting))
	m.gauge("vllm:kv_cache_usage_perc", m.kv)
	m.one("vllm:engine_sleep_state", "gauge", `sleep_state="awake"`, 1)
	m.counter("vllm:prefix_cache_queries_total", s.prefixQueries)
	m.counter("vllm:prefix_cache_hits_total", s.prefixHits)
	m.counter("vllm:prompt_tokens_total", s.promptTokens)
	m.counter("vllm:generation_tokens_total", s.generated)
	m.head("vllm:request_success_total", "counter")
	for _, reason := range []string{"stop", "length", "abort", "error"} {
		m.sample("vllm:request_success_total", `finished_reason="`+reason+`"`, float64(s.success[reason]))
	}
	m.histogram("vllm:time_to_first_token_seconds", &s.ttft)
	m.histogram("vllm:inter_token_latency_seconds", &s.itl)
	m.histogram("vllm:request_time_per_output_token_seconds", &s.perRequest)
	m.histogram("vllm:e2e_request_latency_seconds", &s.e2e)
	m.histogram("vllm:request_queue_time_seconds", &s.queue)
	m.one("vllm:cache_config_info", "gauge", fmt.Sprintf(`block_size="%d",num_gpu_blocks="%d"`, blockTokens, m.e.opt.KVBlocks), 1)
}

func (m *exposition) sglang() {
	s, pages := &m.e.stats, m.e.opt.KVBlocks
	m.labels = fmt.Sprintf(`engine_type="unified",model_name=%q,tp_rank="0",pp_rank="0"`, m.e.opt.Models[0])
	m.gauge("sglang:num_running_reqs", float64(m.running))
	m.gauge("sglang:num_queue_reqs", float64(m.waiting))
	m.gauge("sglang:num_grammar_queue_reqs", 0)
	m.gauge("sglang:token_usage", m.kv)
	m.gauge("sglang:num_used_tokens", m.kv*float64(pages*blockTokens))
	m.gauge("sglang:max_total_num_tokens", float64(pages*blockTokens))
	m.gauge("sglang:cache_hit_rate", ratio(float64(s.prefixHits), float64(s.prefixQueries)))
	m.counter("sglang:prompt_tokens_total", s.promptTokens)
	m.counter("sglang:generation_tokens_total", s.generated)
	m.counter("sglang:cached_tokens_total", s.prefixHits)
	m.counter("sglang:num_requests_total", s.ended())
	m.counter("sglang:num_aborted_requests_total", s.success["abort"])
	m.histogram("sglang:time_to_first_token_seconds", &s.ttft)
	m.histogram("sglang:inter_token_latency_seconds", &s.itl)
	m.histogram("sglang:e2e_request_latency_seconds", &s.e2e)
	m.histogram("sglang:queue_time_seconds", &s.queue)
	m.one("sglang:cache_config_info", "gauge", fmt.Sprintf(`page_size="%d",num_pages="%d"`, blockTokens, pages), 1)
}

// llama writes llama.cpp's metrics, which have no labels and, for latencies,
// averages only.
func (m *exposition) llama() {
	s := &m.e.stats
	m.counter("llamacpp:prompt_tokens_total", s.promptTokens)
	m.one("llamacpp:prompt_seconds_total", "counter", "", s.ttft.sum-s.queue.sum)
	m.counter("llamacpp:tokens_predicted_total", s.generated)
	m.one("llamacpp:tokens_predicted_seconds_total", "counter", "", s.itl.sum)
	m.gauge("llamacpp:prompt_tokens_seconds", ratio(float64(s.promptTokens), s.ttft.sum-s.queue.sum))
	m.gauge("llamacpp:predicted_tokens_seconds", ratio(float64(s.itl.count), s.itl.sum))
	m.gauge("llamacpp:n_busy_slots_per_decode", ratio(s.batch*float64(m.e.opt.MaxNumSeqs), s.busy))
	m.gauge("llamacpp:requests_processing", float64(m.running))
	m.gauge("llamacpp:requests_deferred", float64(m.waiting))
}

func (m *exposition) tgi() {
	s := &m.e.stats
	m.gauge("tgi_batch_current_size", float64(m.running))
	m.gauge("tgi_queue_size", float64(m.waiting))
	m.counter("tgi_request_count", s.ended())
	m.counter("tgi_request_success", s.ended()-s.success["abort"])
	m.histogram("tgi_request_duration", &s.e2e)
	m.histogram("tgi_request_queue_duration", &s.queue)
	m.histogram("tgi_request_mean_time_per_token_duration", &s.perRequest)
}

// ended is the number of sequences that are over, for whatever reason.
func (s *stats) ended() int {
	sum := 0
	for _, n := range s.success {
		sum += n
	}
	return sum
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// exposition writes Prometheus text; stats.mu is held.
type exposition struct {
	strings.Builder
	e                *Engine
	running, waiting int     // sequences
	kv               float64 // share of the KV cache in use
	labels           string  // on every sample
}

func (m *exposition) head(name, kind string) {
	fmt.Fprintf(m, "# HELP %s As the engine names it.\n# TYPE %s %s\n", name, name, kind)
}

func (m *exposition) sample(name, more string, v float64) {
	labels := strings.Trim(m.labels+","+more, ",")
	if labels != "" {
		labels = "{" + labels + "}"
	}
	m.WriteString(name + labels + " " + strconv.FormatFloat(v, 'g', -1, 64) + "\n")
}

func (m *exposition) gauge(name string, v float64) { m.one(name, "gauge", "", v) }

func (m *exposition) counter(name string, n int) { m.one(name, "counter", "", float64(n)) }

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
