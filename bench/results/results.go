// Package results is the raw outcome of a side-by-side run: what `make
// bench-peers` writes and `make bench-report` reads.
package results

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"
)

// Run is one run of all peers.
type Run struct {
	Started time.Time     `json:"started"`
	Took    time.Duration `json:"took_ns"`
	Commit  string        `json:"commit"` // ends in -dirty where the tree differed from it
	Command string        `json:"command"`
	Machine Machine       `json:"machine"`
	Rounds  int           `json:"rounds"`
	Short   bool          `json:"short,omitempty"` // a run that only proves that it works
	Notes   []string      `json:"notes,omitempty"`
	Peers   []Peer        `json:"peers"` // in the order in which they were measured
	Samples []Sample      `json:"samples"`
}

// Machine is where the run took place.
type Machine struct {
	CPU            string `json:"cpu"`
	Cores          int    `json:"cores"`
	MemoryMiB      int    `json:"memory_mib"`
	Kernel         string `json:"kernel"`
	Go             string `json:"go"`
	Descriptors    uint64 `json:"descriptors"` // RLIMIT_NOFILE, hard
	LoadAtTheStart string `json:"load_at_the_start"`
}

// Peer is one row: a gateway, or Direct.
type Peer struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	Command string `json:"command,omitempty"`
	Note    string `json:"note,omitempty"`
	Missing string `json:"missing,omitempty"` // why it was not measured
}

// The peers that the report knows by name; all others are rivals.
const (
	Direct         = "direct"               // the engine itself
	Ours           = "llmproxy"             // all that the gateway does alone and without keys is on, but metering
	OursAll        = "llmproxy-all-on"      // Ours, with metering, an access log, and keys, every limit and a quota in a Redis
	OursOff        = "llmproxy-off"         // what can be switched off is off
	OursMetered    = "llmproxy-metered"     // Ours, with a record of what each request uses
	OursLimited    = "llmproxy-limited"     // Ours, with 10 keys and every limit but a quota
	OursQuota      = "llmproxy-quota"       // the same with a quota
	OursManyKeys   = "llmproxy-many-keys"   // OursLimited with 100,000 keys
	OursRedis      = "llmproxy-redis"       // OursLimited with keys and limits in a Redis
	OursRedisQuota = "llmproxy-redis-quota" // OursQuota, the same
	OursThree      = "llmproxy-redis-three" // three of OursRedisQuota on one Redis
	Nginx          = "nginx"                // what the others are compared with
	ReverseProxy   = "reverseproxy"         // the standard library's
	LiteLLM        = "litellm"
)

// What is measured. Each comment lists the metrics of its samples; times are in
// microseconds unless the name says otherwise, and CPU is that of all of the
// peer's processes. A peer with a Redis has four more of each load, see RedisCPU.
const (
	Closed        = "closed"         // requests_per_second cpu p50 p99: 64 connections, one request after the other
	Open          = "open"           // requests_per_second cpu p50 p99 p999: 1,000 requests a second, latency from when each was due
	OpenSlow      = "open-200"       // requests_per_second cpu p50 p99: 200 a second
	Stream        = "stream"         // events_per_second cpu_event ttft_p50 ttft_p99 event_p50 event_p99 event_p999: 200 streams, an event each 20 ms, phases spread
	Burst         = "burst"          // the same metrics; all streams in step, as an engine's
	Flood         = "flood"          // events_per_second cpu_event: 64 streams as fast as they go
	Body          = "body"           // requests_per_second cpu p50 p99: bodies of 10 MiB, 4 connections
	BodyMemory    = "body-memory"    // kib: peak of RSS above idle, for each of ten 10 MiB bodies under way at once
	Idle          = "idle"           // rss_kib: of a fresh process after one request, one second later
	Memory        = "memory"         // streams kib: RSS above idle for each of 1,000 open streams
	MemoryMany    = "memory-many"    // streams kib: the same at 5,000
	MemoryLimit   = "memory-limit"   // streams kib recovers: as many as the descriptors allow; recovers is 1 when requests pass afterwards
	AbortTicking  = "abort-ticking"  // ms: from the client's close to the engine's seeing it, mid-stream at 20 ms; -1: not within 1.5 s
	AbortSilent   = "abort-silent"   // ms: mid-stream, the next event far away
	AbortFirst    = "abort-first"    // ms: a stream before its first byte
	AbortWhole    = "abort-whole"    // ms: a whole answer awaited
	ManyBackends  = "many-backends"  // as Closed, with 1,000 backends in pools of 10; ours only
	BesideStreams = "beside-streams" // as Closed, while 5,000 streams are open; ours only
)

// What a peer's Redis did in a load, for each of its requests, or whole streams.
const (
	RedisCPU      = "redis_cpu"      // time on CPU of the server
	RedisScripts  = "redis_scripts"  // scripts that it ran
	RedisCommands = "redis_commands" // commands beside: those in the scripts, and what there is without requests
	DecidedAlone  = "decided_alone"  // decisions without it: it was too slow
)

// Sample is what one measure gave for one peer in one round.
type Sample struct {
	Peer    string             `json:"peer"`
	Measure string             `json:"measure"`
	Round   int                `json:"round"` // from 1
	Values  map[string]float64 `json:"values,omitempty"`
	Errors  int                `json:"errors,omitempty"` // requests that failed
	Error   string             `json:"error,omitempty"`  // the first of them, or why there are no values
}

// Load reads a run.
func Load(path string) (*Run, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r Run
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return &r, nil
}

// Save writes a run.
func (r *Run) Save(path string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// Values returns one metric of a peer's measure by round, the rounds without it
// left out.
func (r *Run) Values(peer, measure, metric string) map[int]float64 {
	values := map[int]float64{}
	for _, s := range r.Samples {
		if v, ok := s.Values[metric]; ok && s.Peer == peer && s.Measure == measure {
			values[s.Round] = v
		}
	}
	return values
}

// IsOurs tells whether a peer is this gateway, in whatever configuration.
func IsOurs(peer string) bool {
	return slices.Contains([]string{
		Ours, OursAll, OursOff, OursMetered, OursLimited, OursQuota, OursManyKeys, OursRedis, OursRedisQuota, OursThree,
	}, peer)
}

// Median returns the median of one metric over the rounds, and false when no
// round has it.
func (r *Run) Median(peer, measure, metric string) (float64, bool) {
	var all []float64
	for _, v := range r.Values(peer, measure, metric) {
		all = append(all, v)
	}
	return Median(all)
}

// Median returns the middle of values, the mean of the two middle ones of an
// even number, and false when there is none. It sorts values.
func Median(values []float64) (float64, bool) {
	n := len(values)
	if n == 0 {
		return 0, false
	}
	slices.Sort(values)
	return (values[(n-1)/2] + values[n/2]) / 2, true
}
