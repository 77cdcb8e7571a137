package app_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// sdkSite is where a suite runs.
type sdkSite struct {
	base, tgi string // base URLs of the two dialects; the gateway has one for both
	attempts  int    // that the engine sees of one request that fails each time
	engine    *apptest.Engine
	admin     string // URL of the engine's ledger and faults
}

// sdkSeats is how many answers the engine generates at once.
const sdkSeats = 2

// retryTag marks the requests that an engine refuses with "try again in 1 s".
const retryTag = "retry-429"

// runSDK runs a suite against the engine, behind the gateway in this process,
// and behind the real program, and compares what the suite recorded.
func runSDK(t *testing.T, suite func(*testing.T, sdkSite) map[string]any) {
	var direct map[string]string
	for _, pass := range []struct {
		name  string
		start func(t *testing.T, yaml string) (url string, nothingLeft func())
	}{
		{"engine", nil},
		{"gateway", runHere},
		{"binary", runProgram},
	} {
		ok := t.Run(pass.name, func(t *testing.T) {
			leavesNothing(t)
			site, yaml := startSDKEngines(t)
			nothingLeft := func() {}
			if pass.start != nil {
				var url string
				url, nothingLeft = pass.start(t, yaml)
				site.base, site.tgi, site.attempts = url+"/v1", url+"/v1", 3
			}
			record := canonical(t, suite(t, site))
			compareRecords(t, record, direct)
			if direct == nil {
				direct = record
			}
			checkRetryWait(t, site)
			nothingLeft()
			apptest.Eventually(t, "the engine has nothing to do", func() bool {
				running, waiting, _ := site.engine.Load()
				return running+waiting == 0
			})
		})
		if !ok && pass.start == nil {
			return // nothing to compare with
		}
	}
}

func startSDKEngines(t *testing.T) (sdkSite, string) {
	engine := apptest.StartEngine(t, mockvllm.Options{
		Name: "vllm", Models: []string{"mock-model", "org/mock-model"}, MaxNumSeqs: sdkSeats,
	})
	tgi := apptest.StartEngine(t, mockvllm.Options{Name: "tgi", Models: []string{"tgi-model"}, Dialect: mockvllm.DialectTGI})
	admin := httptest.NewServer(engine.Admin())
	t.Cleanup(admin.Close)
	yaml := fmt.Sprintf(`
server: {max_body_size: 1MiB}
routing: {retry: {max_retries: 2, initial_wait: 1ms, max_wait: 5ms}}
backends:
  - {url: %q, name: vllm, models: [mock-model, org/*], keep_alive: 200ms}
  - {url: %q, name: tgi, models: [tgi-model], engine: tgi, keep_alive: 200ms}
`, engine.URL, tgi.URL)
	return sdkSite{base: engine.URL + "/v1", tgi: tgi.URL + "/v1", attempts: 1, engine: engine, admin: admin.URL}, yaml
}

// runHere runs the gateway in this process, where the race detector sees it.
func runHere(t *testing.T, yaml string) (url string, nothingLeft func()) {
	g := apptest.Start(t, yaml)
	return g.URL, func() { quiet(t, g) }
}

// runProgram runs the real program.
func runProgram(t *testing.T, yaml string) (url string, nothingLeft func()) {
	g := startGateway(t, yaml)
	base := g.footprint()
	return g.url, func() {
		// Not its goroutines: fasthttp keeps a worker for up to 20 s.
		for _, backend := range []string{"vllm", "tgi"} {
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

// compareRecords checks a record against the table, and against the engine's
// own when there is one.
func compareRecords(t *testing.T, record, direct map[string]string) {
	t.Helper()
	names := []string{}
	for _, c := range sdkCases {
		names = append(names, c.name)
		got, want := record[c.name], c.want
		if direct != nil && c.differs != "" {
			want = c.gateway
		}
		for _, text := range want {
			if !strings.Contains(got, text) {
				t.Errorf("%s: the SDK's user gets\n%s\nwithout %s", c.name, got, text)
			}
		}
		if direct != nil && c.differs == "" && got != direct[c.name] {
			t.Errorf("%s\nbehind the gateway: %s\n   from the engine: %s", c.name, got, direct[c.name])
		}
	}
	slices.Sort(names)
	if done := slices.Sorted(maps.Keys(record)); !slices.Equal(done, names) {
		t.Errorf("the suite did %q\nthe table has %q", done, names)
	}
}

var (
	idPattern   = regexp.MustCompile(`"(chatcmpl-tool|chatcmpl|cmpl|embd)-[^"]+"`)
	timePattern = regexp.MustCompile(`"created":\d+`)
)

// canonical writes a record as text: keys sorted, ids and times taken out.
func canonical(t *testing.T, record map[string]any) map[string]string {
	t.Helper()
	out := map[string]string{}
	for name, v := range record {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var plain any
		if err := json.Unmarshal(b, &plain); err != nil {
			t.Fatal(err)
		}
		if b, err = json.Marshal(plain); err != nil {
			t.Fatal(err)
		}
		b = idPattern.ReplaceAll(b, []byte(`"$1-ID"`))
		out[name] = string(timePattern.ReplaceAll(b, []byte(`"created":0`)))
	}
	return out
}

// checkRetryWait holds an SDK's second request to the Retry-After that the
// engine gave: the gateway must have passed it on.
func checkRetryWait(t *testing.T, site sdkSite) {
	t.Helper()
	var rows []mockvllm.Entry
	for _, row := range site.engine.Ledger() {
		if row.Tag == retryTag {
			rows = append(rows, row)
		}
	}
	// The gateway does not wait for longer than its max_wait: it passes the
	// answer on, and the SDK waits.
	if len(rows) != 2 {
		t.Errorf("the engine saw %d requests of %s, want 2", len(rows), retryTag)
		return
	}
	if gap := rows[1].Arrived.Sub(rows[0].Done); gap < 900*time.Millisecond {
		t.Errorf("the SDK tried again after %v, told to wait for 1s", gap)
	}
}
