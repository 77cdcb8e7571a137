// Package stats owns every metric of the gateway: its name, its labels, its
// buckets. Metrics are looked up by name when a configuration is built or when
// a label pair is first seen, and are plain pointers afterwards; a request
// touches only atomics.
//
// Label values come from the configuration, from fixed lists, or from status
// codes, never from a client, so the number of series is bounded by the
// configuration.
package stats

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/VictoriaMetrics/metrics"
)

// Outcome is how one attempt at one backend ended.
type Outcome int

// The outcomes of an attempt.
const (
	OK           Outcome = iota // the backend's answer went to the client
	DialFailed                  // no connection: refused, unresolvable, timed out
	Lost                        // the connection ended before the first byte of an answer
	Timeout                     // no answer within timeouts.first_byte, or total
	Overloaded                  // 429, or a 503 that says "queue full"
	ServerError                 // other 5xx, an error event as the first event, a malformed answer
	Unauthorized                // the engine refused the gateway's own key
	ClientGone                  // the client left first, or the gateway stopped; says nothing about the backend
	Broken                      // the answer ended in its middle
	nOutcomes
)

var outcomeNames = [nOutcomes]string{"ok", "dial_failed", "lost", "timeout", "overloaded", "server_error", "unauthorized", "client_gone", "broken"}

func (o Outcome) String() string { return outcomeNames[o] }

// Buckets that fit LLMs: a first token takes 5 ms from a warm small model and
// minutes from a queue; a generation lasts up to an hour; a token a few
// milliseconds to seconds. Powers of about two, as OpenTelemetry's GenAI
// conventions have them, extended upwards.
var (
	ttftBuckets     = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 20, 40, 80, 160, 320}
	tokenBuckets    = []float64{0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5}
	waitBuckets     = []float64{0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1}
	durationBuckets = []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560}
)

// Set is all metrics of one gateway.
type Set struct {
	set *metrics.Set

	// ClientAborts counts requests whose client left before the answer was
	// complete, by the phase it left in.
	ClientAborts [NPhases]*metrics.Counter
	// LogDropped counts access log lines that were dropped because the
	// writer could not keep up.
	LogDropped *metrics.Counter
	// Unrecorded counts requests that passed although their usage could not be
	// recorded.
	Unrecorded *metrics.Counter
	// Limited counts requests that a limit refused, by pkg/admit's number of it.
	Limited      []*metrics.Counter
	authFailures [nAuthFailures]*metrics.Counter
	// Panics counts requests that ended in a panic of ours.
	Panics *metrics.Counter
	// Retries counts attempts after the first; RetriesDenied those that the
	// retry budget refused.
	Retries, RetriesDenied *metrics.Counter

	mirrors []func() // bring counters that are kept elsewhere up to date

	reloads, reloadFails *metrics.Counter
	reloadOK, reloadTime *metrics.Gauge
}

// AuthFailure is why a request was not let in.
type AuthFailure int

// The reasons. Clients are told less.
const (
	NoKey AuthFailure = iota
	UnknownKey
	MistypedKey // its checksum is wrong
	DisabledKey
	ExpiredKey
	UnjudgedKey  // the store of the keys cannot be asked
	AmbiguousKey // two headers, two keys
	AddressNotAllowed
	ModelNotAllowed
	AdminToken // not the one of the admin API
	nAuthFailures
)

var authFailureNames = [nAuthFailures]string{
	"no_key", "unknown_key", "mistyped_key", "disabled_key", "expired_key", "unjudged_key", "ambiguous_key", "address_not_allowed", "model_not_allowed", "admin_token",
}

// AuthFailed counts one.
func (s *Set) AuthFailed(why AuthFailure) { s.authFailures[why].Inc() }

// Limits makes the counters of the limits of these names; Limited has them in
// this order. An empty name has none.
func (s *Set) Limits(names ...string) {
	s.Limited = make([]*metrics.Counter, len(names))
	for i, name := range names {
		if name != "" {
			s.Limited[i] = s.set.GetOrCreateCounter(fmt.Sprintf(`llmproxy_rate_limited_total{limit=%q}`, name))
		}
	}
}

// Phase is where in its journey a request was.
type Phase int

// The phases of a journey in which a client can leave.
const (
	Waiting   Phase = iota // no byte of the answer has come from a backend
	Streaming              // the answer is on its way
	NPhases
)

var phaseNames = [NPhases]string{"waiting", "streaming"}

// New returns an empty set for a gateway of the given version.
func New(version, goVersion string) *Set {
	ms := metrics.NewSet()
	s := &Set{set: ms}
	for p := range s.ClientAborts {
		s.ClientAborts[p] = ms.NewCounter(fmt.Sprintf(`llmproxy_client_aborts_total{phase=%q}`, phaseNames[p]))
	}
	s.LogDropped = ms.NewCounter(`llmproxy_access_log_dropped_total`)
	s.Unrecorded = ms.NewCounter(`llmproxy_usage_unrecorded_requests_total`)
	for f := range s.authFailures {
		s.authFailures[f] = ms.NewCounter(fmt.Sprintf(`llmproxy_auth_failures_total{reason=%q}`, authFailureNames[f]))
	}
	s.Panics = ms.NewCounter(`llmproxy_panics_total`)
	s.Retries = ms.NewCounter(`llmproxy_retries_total`)
	s.RetriesDenied = ms.NewCounter(`llmproxy_retries_denied_total`)
	s.reloads = ms.NewCounter(`llmproxy_config_reloads_total{result="ok"}`)
	s.reloadFails = ms.NewCounter(`llmproxy_config_reloads_total{result="error"}`)
	s.reloadOK = ms.NewGauge(`llmproxy_config_last_reload_successful`, nil)
	s.reloadTime = ms.NewGauge(`llmproxy_config_last_reload_success_timestamp_seconds`, nil)
	ms.NewGauge(fmt.Sprintf(`llmproxy_build_info{version=%q,goversion=%q}`, version, goVersion), nil).Set(1)
	return s
}

// Reloaded records the outcome of reading the configuration at the given
// Unix time.
func (s *Set) Reloaded(ok bool, unix int64) {
	if !ok {
		s.reloadFails.Inc()
		s.reloadOK.Set(0)
		return
	}
	s.reloads.Inc()
	s.reloadOK.Set(1)
	s.reloadTime.Set(float64(unix))
}

// Gauge registers a gauge whose value f is read at each scrape. The name holds
// the labels. A second registration of a name replaces the first.
func (s *Set) Gauge(name string, f func() float64) {
	s.set.UnregisterMetric(name)
	s.set.NewGauge(name, f)
}

// CounterFunc registers a counter that is kept elsewhere; f is read at each
// scrape.
func (s *Set) CounterFunc(name string, f func() int64) {
	c := s.set.GetOrCreateCounter(name)
	s.mirrors = append(s.mirrors, func() { c.Set(uint64(f())) })
}

// FloatCounterFunc is CounterFunc for what is not counted in whole numbers, such
// as seconds.
func (s *Set) FloatCounterFunc(name string, f func() float64) {
	c := s.set.GetOrCreateFloatCounter(name)
	s.mirrors = append(s.mirrors, func() { c.Set(f()) })
}

// Waits is a histogram of short times, in seconds.
func (s *Set) Waits(name string) *metrics.PrometheusHistogram {
	return s.set.GetOrCreatePrometheusHistogramExt(name, waitBuckets)
}

// Drop forgets the gauge of that name.
func (s *Set) Drop(name string) { s.set.UnregisterMetric(name) }

// WritePrometheus writes the page that VictoriaMetrics and Prometheus scrape:
// this set, then Go's runtime, the process and its descriptors.
func (s *Set) WritePrometheus(w io.Writer) {
	for _, update := range s.mirrors {
		update()
	}
	s.set.WritePrometheus(w)
	metrics.WriteProcessMetrics(w)
	metrics.WriteFDMetrics(w)
}

// Backend is what is counted for one backend.
type Backend struct {
	Attempts [nOutcomes]*metrics.Counter
	// Ejections counts passive ejections.
	Ejections *metrics.Counter
}

// Backend returns the counters of the backend of that name, the same ones
// each time.
func (s *Set) Backend(name string) *Backend {
	b := &Backend{Ejections: s.set.GetOrCreateCounter(fmt.Sprintf(`llmproxy_backend_ejections_total{backend=%q}`, name))}
	for o := range b.Attempts {
		b.Attempts[o] = s.set.GetOrCreateCounter(fmt.Sprintf(`llmproxy_attempts_total{backend=%q,outcome=%q}`, name, outcomeNames[o]))
	}
	return b
}

// Series is what is counted for one model at one backend.
type Series struct {
	// TTFT is the time from the request's last byte to the first token of a
	// streamed answer, in seconds.
	TTFT *metrics.PrometheusHistogram
	// TokenTime is the mean time per output token after the first, in
	// seconds, one observation a stream.
	TokenTime *metrics.PrometheusHistogram
	// Duration is the whole request, in seconds.
	Duration *metrics.PrometheusHistogram

	set            *Set
	model, backend string
	requests       [len(statuses) + 1]atomic.Pointer[metrics.Counter]
}

// Series returns the series of a model's label at a backend. An empty backend
// stands for requests that reached none.
func (s *Set) Series(model, backend string) *Series {
	labels := fmt.Sprintf(`{model=%q,backend=%q}`, model, backend)
	r := &Series{set: s, model: model, backend: backend}
	if backend != "" {
		r.TTFT = s.set.GetOrCreatePrometheusHistogramExt("llmproxy_time_to_first_token_seconds"+labels, ttftBuckets)
		r.TokenTime = s.set.GetOrCreatePrometheusHistogramExt("llmproxy_time_per_output_token_seconds"+labels, tokenBuckets)
		r.Duration = s.set.GetOrCreatePrometheusHistogramExt("llmproxy_request_duration_seconds"+labels, durationBuckets)
	}
	return r
}

// statuses are the status codes counted by their number; any other is
// "other". 499 stands for a client that left, as nginx has it.
var statuses = [...]int{200, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 424, 429, 431, 499, 500, 502, 503, 504}

// Request counts a finished request with the status its client got.
func (r *Series) Request(status int) {
	i := 0
	for i < len(statuses) && statuses[i] != status {
		i++
	}
	c := r.requests[i].Load()
	if c == nil {
		code := "other"
		if i < len(statuses) {
			code = fmt.Sprint(status)
		}
		c = r.set.set.GetOrCreateCounter(fmt.Sprintf(`llmproxy_requests_total{model=%q,backend=%q,status=%q}`, r.model, r.backend, code))
		r.requests[i].Store(c)
	}
	c.Inc()
}

// Table finds the series of a label pair without a lookup by name: a pool
// keeps one Table, indexed by the backend's position in the configuration.
type Table struct {
	set    *Set
	label  string
	mu     sync.Mutex // held while a missing series is made
	series []atomic.Pointer[Series]
}

// Table returns an empty table for a model label and n backends.
func (s *Set) Table(label string, n int) *Table {
	return &Table{set: s, label: label, series: make([]atomic.Pointer[Series], n+1)}
}

// Series returns the series of the backend at index i; -1 for none.
func (t *Table) Series(i int, backend string) *Series {
	slot := &t.series[i+1]
	if r := slot.Load(); r != nil {
		return r
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := slot.Load(); r != nil {
		return r
	}
	r := t.set.Series(t.label, backend)
	slot.Store(r)
	return r
}
