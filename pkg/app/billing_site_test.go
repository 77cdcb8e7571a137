package app_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// billedSite is a gateway process that reports to a billing system, under load
// in front of two engines.
type billedSite struct {
	*gatewayProcess
	*customers
	*billing
	engines []*apptest.Engine
	dir     string        // data_dir
	yaml    string        // the configuration
	rate    int           // requests a second
	slowest time.Duration // from the start of a process until it is ready
	peak    float64       // resident memory in bytes
}

// siteOptions of a billedSite; zero values mean what most tests want.
type siteOptions struct {
	dir   string // data_dir
	model string
	hook  string // more of usage_hook
	more  string // more of the file
	rate  int    // requests a second; 0: only those that the test sends
}

func startBilledSite(t testing.TB, o siteOptions) *billedSite {
	t.Helper()
	if o.dir == "" {
		o.dir = filepath.Join(t.TempDir(), "data")
	}
	if o.model == "" {
		o.model = "mock-model"
	}
	s := &billedSite{gatewayProcess: newGateway(t), billing: startBilling(t), dir: o.dir, rate: o.rate}
	backends := "backends:\n"
	for i := range 2 {
		e := apptest.StartEngine(t, mockvllm.Options{Models: []string{o.model}, StepBase: 5 * time.Millisecond, LedgerSize: 1 << 18})
		s.engines = append(s.engines, e)
		backends += fmt.Sprintf("  - {url: %q, name: e%d, engine: vllm, continuous_usage: %t}\n", e.URL, i, i == 1)
	}
	s.yaml = fmt.Sprintf("listen: %s\ndata_dir: %q\n%susage_hook: {enabled: true, url: \"http://%s/\", secret: %q%s}\n%s",
		s.gatewayProcess.addr, s.dir, backends, s.billing.addr, billingSecret, o.hook, o.more)
	writeFile(t, s.file, s.yaml)
	s.run(t)
	s.customers = startCustomers(t, s.url, o.model, o.rate)
	s.more(t, o.rate/2)
	return s
}

// run starts the gateway, and notes how long that takes.
func (s *billedSite) run(t testing.TB) {
	t.Helper()
	binary(t, "llmproxy") // building it takes no part
	began := time.Now()
	s.gatewayProcess.start(t)
	apptest.Eventually(t, "the gateway is ready", func() bool {
		status, _ := s.get("/readyz")
		return status == http.StatusOK
	})
	s.slowest = max(s.slowest, time.Since(began))
}

// crash kills the gateway in the middle of its work and starts it again.
func (s *billedSite) crash(t testing.TB) {
	t.Helper()
	s.weigh()
	s.kill()
	s.run(t)
}

// terminate ends the gateway as a deployment does.
func (s *billedSite) terminate(t testing.TB) {
	t.Helper()
	s.signal(syscall.SIGTERM)
	if code := s.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// revise changes the number of retries, from 0 in the file at first, and waits
// until there is a new sender.
func (s *billedSite) revise(t testing.TB, retries int) {
	t.Helper()
	seen := strings.Count(s.output.String(), "configuration reloaded")
	writeFile(t, s.file, strings.Replace(s.yaml, "retry: 0", fmt.Sprint("retry: ", retries), 1))
	apptest.Eventually(t, "the file is read anew", func() bool {
		return strings.Count(s.output.String(), "configuration reloaded") > seen
	})
}

// weigh returns the resident memory of the gateway, in bytes, and keeps the peak.
func (s *billedSite) weigh() float64 {
	n := s.metric("process_resident_memory_bytes")
	s.peak = max(s.peak, n)
	return n
}

// reached are the requests that came to an engine, by the gateway's id, each as
// the last engine saw it.
func (s *billedSite) reached(t testing.TB) map[string]mockvllm.Entry {
	t.Helper()
	rows := map[string]mockvllm.Entry{}
	for _, e := range s.engines {
		apptest.Eventually(t, "the engine is idle", func() bool {
			running, waiting, _ := e.Load()
			return running == 0 && waiting == 0 && !slices.ContainsFunc(e.Ledger(), func(r mockvllm.Entry) bool { return !r.Ended() })
		})
		for _, row := range e.Ledger() {
			id, _, isRequest := strings.Cut(row.XRequestID, "-")
			if row.Method == http.MethodPost && isRequest && row.Arrived.After(rows[id].Arrived) {
				rows[id] = row
			}
		}
	}
	return rows
}

// settle ends the load, waits until all that came to an engine is reported, ends
// the gateway, and compares the ledgers of the engines, the receipts of the
// clients and what the billing system has taken. It returns how many events there
// were of each outcome.
func (s *billedSite) settle(t testing.TB) map[string]int {
	t.Helper()
	s.customers.end()
	rows := s.reached(t)
	// By id: a request that was interrupted before its dispatch is taken too.
	growsTo(t, "events taken", len(rows), func() int { return s.countOf(rows) })
	s.terminate(t)
	return s.audit(t, rows)
}

// countOf is how many of these requests have an event that was taken.
func (s *billedSite) countOf(rows map[string]mockvllm.Entry) (n int) {
	s.billing.mu.Lock()
	defer s.billing.mu.Unlock()
	for id := range rows {
		if _, ok := s.taken[id]; ok {
			n++
		}
	}
	return n
}

// audit compares, once nothing moves any more.
func (s *billedSite) audit(t testing.TB, rows map[string]mockvllm.Entry) map[string]int {
	t.Helper()
	s.billing.mu.Lock()
	defer s.billing.mu.Unlock()
	outcomes := map[string]int{}
	for id, row := range rows {
		e, ok := s.taken[id]
		if !ok {
			t.Errorf("request %s reached an engine (%d tokens, %s) and is not reported", id, row.Tokens, row.State)
			continue
		}
		outcomes[e.Data.Outcome]++
		checkBilled(t, e, row)
	}
	for id, e := range s.taken {
		if _, ok := rows[id]; ok {
			continue
		}
		// The gateway was killed between the record of the start and the dispatch.
		outcomes["interrupted before dispatch"]++
		if e.Data.Outcome != "interrupted" || e.Data.Total != 0 {
			t.Errorf("no engine knows of %+v", e)
		}
	}
	whole := 0
	for _, r := range s.receipts {
		if !r.whole {
			continue
		}
		whole++
		if e := s.taken[r.id]; e.Data.Outcome != "complete" {
			t.Errorf("the client has the last byte of %s, which is reported as %q", r.id, e.Data.Outcome)
		}
	}
	t.Logf("%d requests, %d whole, %d reached an engine; events %v, %d came again in %d attempts; ready after %v at most",
		len(s.receipts), whole, len(rows), outcomes, s.repeated, s.attempts, s.slowest)
	if whole == 0 {
		t.Error("no request was served")
	}
	return outcomes
}

// checkBilled compares an event with what the engine did: all of it when the
// request was complete, else never more.
func checkBilled(t testing.TB, e usageEvent, row mockvllm.Entry) {
	t.Helper()
	d := e.Data
	if !slices.Contains([]string{"complete", "client_aborted", "interrupted"}, d.Outcome) { // no engine fails here
		t.Errorf("event %+v", d)
	}
	if d.Completion > row.Tokens {
		t.Errorf("event %+v, the engine generated %d tokens", d, row.Tokens)
	}
	if d.Outcome != "complete" {
		return
	}
	if d.Completion != row.Tokens || d.Prompt != row.PromptTokens || d.Total != d.Prompt+d.Completion || d.Estimated || d.Status != row.Status {
		t.Errorf("event %+v, the engine generated %d tokens after %d with status %d", d, row.Tokens, row.PromptTokens, row.Status)
	}
}
