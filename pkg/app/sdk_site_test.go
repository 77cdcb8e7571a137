package app_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// sdkSite is where a suite runs. Directly it meets the first engine; behind the
// gateway there is a second one with the same models.
type sdkSite struct {
	base, tgi, status string // base URLs; behind the gateway there is one for all
	admin             string // URL of all engines' ledger
	engines           []*apptest.Engine
	nothingLeft       func() // fails the test when the gateway holds anything yet
}

// sdkSeats is how many answers an engine generates at once.
const sdkSeats = 2

func startSDKSite(t *testing.T, pass string) *sdkSite {
	t.Helper()
	start := func(name, dialect string, models ...string) *apptest.Engine {
		return apptest.StartEngine(t, mockvllm.Options{Name: name, Dialect: dialect, Models: models, MaxNumSeqs: sdkSeats})
	}
	a := start("a", "", "mock-model", "org/mock-model", "one-model")
	b := start("b", "", "mock-model", "org/mock-model")
	tgi := start("tgi", mockvllm.DialectTGI, "tgi-model")
	status := serveStatuses(t)
	s := &sdkSite{base: a.URL, tgi: tgi.URL, status: status, engines: []*apptest.Engine{a, b, tgi}}
	s.admin = s.serveLedger(t)
	yaml := fmt.Sprintf(`
server: {max_body_size: 1MiB}
routing: {retry: {max_retries: 2, initial_wait: 1ms, max_wait: 5ms}}
backends:
  - {url: %q, name: a, models: [mock-model, org/*, one-model], keep_alive: 200ms}
  - {url: %q, name: b, models: [mock-model, org/*], keep_alive: 200ms}
  - {url: %q, name: tgi, models: [tgi-model], engine: tgi, keep_alive: 200ms}
  - {url: %q, name: status, models: [status-*], engine: llamacpp, keep_alive: 200ms}
`, a.URL, b.URL, tgi.URL, status)
	gateway := func() {}
	var url string
	switch pass {
	case "gateway":
		url, gateway = runHere(t, yaml)
	case "binary":
		url, gateway = runProgram(t, yaml)
	}
	if url != "" {
		s.base, s.tgi, s.status = url, url, url
	}
	s.nothingLeft = func() {
		gateway()
		apptest.Eventually(t, "the engines have nothing to do", func() bool {
			work := 0
			for _, e := range s.engines {
				running, waiting, _ := e.Load()
				work += running + waiting
			}
			return work == 0
		})
	}
	return s
}

// serveLedger serves the rows of all engines, filtered as on the admin port of
// one.
func (s *sdkSite) serveLedger(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rows := []mockvllm.Entry{}
		for _, e := range s.engines {
			for _, row := range e.Ledger() {
				if row.Tag == r.FormValue("tag") && row.State == r.FormValue("state") {
					rows = append(rows, row)
				}
			}
		}
		_ = json.NewEncoder(w).Encode(rows) // a suite that is gone has failed
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// serveStatuses is an engine that answers with the status in its model's name,
// "status-409", for those that no fault of the fake engine gives.
func serveStatuses(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		_, name, ok := strings.Cut(string(body), `"status-`)
		if err != nil || !ok {
			return // health checks
		}
		digits, _, _ := strings.Cut(name, `"`)
		status, err := strconv.Atoi(digits)
		if err != nil {
			status = http.StatusTeapot // which no case wants
		}
		format := `{"error":{"message":"status %d","type":"some_error","param":null,"code":"some_code"}}`
		if r.URL.Path == "/v1/messages" {
			format = `{"type":"error","error":{"type":"some_error","message":"status %d"}}`
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintf(w, format, status)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// runHere runs the gateway in this process, where the race detector sees it.
func runHere(t *testing.T, yaml string) (url string, nothingLeft func()) {
	t.Helper()
	g := apptest.Start(t, yaml)
	return g.URL, func() { quiet(t, g) }
}

// runProgram runs the real program.
func runProgram(t *testing.T, yaml string) (url string, nothingLeft func()) {
	t.Helper()
	g := startGateway(t, yaml)
	base := g.footprint()
	return g.url, func() {
		// Not its goroutines: fasthttp keeps a worker for up to 20 s.
		for _, backend := range []string{"a", "b", "tgi", "status"} {
			g.until(fmt.Sprintf("llmproxy_requests_in_flight{backend=%q}", backend), is(0))
		}
		g.until("llmproxy_connections_open", is(1)) // which asks
		g.until("process_open_fds", atMost(base.descriptors))
		g.signal(syscall.SIGTERM)
		if code := g.exit(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
}

// checkRetryWait holds a library's second request to the Retry-After that the
// engines gave: the gateway must have passed it on.
func (s *sdkSite) checkRetryWait(t *testing.T) {
	t.Helper()
	var refused, served time.Time
	for _, e := range s.engines {
		for _, row := range e.Ledger() {
			switch {
			case row.Tag == retryTag && row.Status == http.StatusOK:
				served = row.Arrived
			case row.Tag == retryTag && row.Done.After(refused):
				refused = row.Done
			}
		}
	}
	switch gap := served.Sub(refused); {
	case served.IsZero() || refused.IsZero():
		t.Errorf("%s: refused at %v, served at %v", retryTag, refused, served)
	case gap < 900*time.Millisecond || gap > 5*time.Second:
		t.Errorf("the second request came after %v, told to wait for 1s", gap)
	}
}
