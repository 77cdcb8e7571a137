package app_test

import (
	"cmp"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// clusterTime is how long a limit is hammered.
func clusterTime() time.Duration {
	if long {
		return 30 * time.Second
	}
	return 3 * time.Second
}

// TestClusterLimits: gateways that each count for themselves let three times as much
// in; those that share a count by parts of it too little, or too much at its edges.
func TestClusterLimits(t *testing.T) {
	together(t)
	s := startCluster(t, clusterPlan{wait: time.Second})
	for _, l := range []clusterLimit{
		{"requests a second", `,"requests_per_second":90`, 12, 20 * time.Millisecond, 1, 90, 90, 0, oneEach},
		{"burst", `,"requests_per_second":60,"burst_size":200`, 12, 20 * time.Millisecond, 1, 60, 200, 0, oneEach},
		{"burst of one", `,"requests_per_second":10,"burst_size":1`, 12, 20 * time.Millisecond, 1, 10, 1, 0.05, oneEach},
		{"requests a minute", `,"requests_per_minute":600`, 12, 20 * time.Millisecond, 1, 10, 600, 0, oneEach},
		{"tokens a minute", `,"tokens_per_minute":6000`, 18, 20 * time.Millisecond, 20, 100, 6000, 0, itsTokens},
	} {
		t.Run(l.name, func(t *testing.T) {
			s.on(t).holds(l, s.create(l.fields))
		})
	}
	t.Run("concurrency", func(t *testing.T) { s.on(t).holdsAtOnce(10) })
}

// TestClusterGlobalLimit: what is handed out beforehand, so that a request need not
// ask for it, was used after its time, and the limit exceeded.
func TestClusterGlobalLimit(t *testing.T) {
	together(t)
	for _, l := range []clusterLimit{
		{"large", ", global: {requests_per_second: 300, burst_size: 150}", 12, 16 * time.Millisecond, 1, 300, 150, 0.05, oneEach},
		{"small", ", global: {requests_per_second: 20, burst_size: 2}", 12, 20 * time.Millisecond, 1, 20, 2, 0.1, oneEach},
	} {
		t.Run(l.name, func(t *testing.T) {
			s := startCluster(t, clusterPlan{limits: l.fields, wait: time.Second})
			k := s.create("") // and asks for GET /v1/usage, which takes of the limit too
			<-time.After(time.Duration(l.burst / l.perSecond * float64(time.Second)))
			s.holds(l, k)
		})
	}
}

// on is the site for a test within the test.
func (s *clusterSite) on(t *testing.T) *clusterSite {
	of := *s
	of.t = t
	return &of
}

// decidedTogether wants no gateway to have decided without Redis: figures are else of
// something else.
func (s *clusterSite) decidedTogether() {
	s.t.Helper()
	if alone, panics := s.sum(clusterAlone), s.sum("llmproxy_panics_total"); alone != 0 || panics != 0 {
		s.t.Errorf("%v requests were decided without Redis; %v panics", alone, panics)
	}
}

// clusterLimit is a limit, and how it is hammered.
type clusterLimit struct {
	name, fields     string // in a key, or in rate_limit
	clients          int
	every            time.Duration
	tokens           int // of each answer
	perSecond, burst float64
	lost             float64 // part of it: that comes back when nobody asks, or expires where nobody wants it
	weight           func(clusterCall) float64
}

// holds wants at most what the limit says to be let in, in every stretch of time, and
// 99 % of it, but for what is lost and one request.
func (s *clusterSite) holds(l clusterLimit, k clusterKey) {
	t := s.t
	t.Helper()
	load := s.hammer(k, clusterChat(l.name, l.tokens), l.clients, l.every)
	load.runs(clusterTime())
	calls := load.stop()
	s.decidedTogether()
	in := admitted(t, calls)
	if len(in) == 0 || len(in) == len(calls) {
		t.Fatalf("%d of %d requests were let in", len(in), len(calls))
	}
	sum, one := 0.0, 0.0
	for _, c := range in {
		sum += l.weight(c)
		one = max(one, l.weight(c))
	}
	last := slices.MaxFunc(calls, func(a, b clusterCall) int { return cmp.Compare(a.began, b.began) })
	could := l.burst + l.perSecond*(last.began-calls[0].ended).Seconds()
	burst := burstOf(in, l.perSecond, l.weight)
	t.Logf("%d requests, %d let in: %.0f of %.0f (%.2f %%), in bursts of %.2f of %.0f; p50 %v p99 %v",
		len(calls), len(in), sum, could, 100*sum/could, burst, l.burst, quantile(in, 0.5, 0, time.Hour), quantile(in, 0.99, 0, time.Hour))
	if burst > l.burst {
		t.Errorf("a burst of %.2f, want at most %.0f", burst, l.burst)
	}
	least := 0.99 - l.lost
	if !long {
		least = 0.5 // the machine may be busy with other tests
	}
	if sum < least*could-one {
		t.Errorf("%.0f were let in of %.0f that could", sum, could)
	}
}

// holdsAtOnce wants at most so many requests of a key to be under way, and as many.
func (s *clusterSite) holdsAtOnce(most int) {
	t := s.t
	t.Helper()
	k := s.create(`,"max_concurrent":` + itoa(most))
	load := s.hammer(k, clusterChat("at once", 250), most+8, 8*time.Millisecond)
	load.runs(clusterTime())
	whole := load.so()
	calls := load.stop()
	s.decidedTogether()
	in := admitted(t, calls)
	used := time.Duration(0)
	for _, c := range in {
		used += min(c.ended, whole) - min(c.began, whole)
	}
	share := float64(used) / float64(whole) / float64(most)
	var rows []mockvllm.Entry
	for _, e := range s.engines {
		rows = append(rows, taggedRows(quotaRows(t, e), "at once")...)
	}
	peak := clusterPeak(rows)
	t.Logf("%d requests, %d let in, %d of %d at once; the slots were used %.2f %% of the time", len(calls), len(in), peak, most, 100*share)
	if peak != most {
		t.Errorf("%d requests at once, want %d", peak, most)
	}
	least := 0.5 // in seconds, the beginning counts, and other tests
	if long {
		least = 0.99
	}
	if share < least {
		t.Errorf("the slots were used %.2f %% of the time", 100*share)
	}
}

func taggedRows(rows []mockvllm.Entry, tag string) []mockvllm.Entry {
	return slices.DeleteFunc(rows, func(r mockvllm.Entry) bool { return r.Tag != tag || r.Status != http.StatusOK })
}

// clusterPeak is how many of the requests an engine had under way at the same time, at
// most. One that is at an engine holds its slot; that of one which has its last
// token may be free.
func clusterPeak(rows []mockvllm.Entry) (most int) {
	type step struct {
		at time.Time
		by int
	}
	var steps []step
	for _, r := range rows {
		steps = append(steps, step{r.Arrived, 1}, step{r.LastToken, -1})
	}
	slices.SortFunc(steps, func(a, b step) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.by, b.by)) })
	now := 0
	for _, s := range steps {
		now += s.by
		most = max(most, now)
	}
	return most
}
