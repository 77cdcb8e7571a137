package observe_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// site is a gateway on which everything happens that a metric counts, as far
// as it can be made to happen from outside, and one that shares its Redis and has
// its keys there.
type site struct {
	gateway, peer *apptest.Gateway
	metrics       []string // addresses of the metrics, of both
	client        *http.Client
}

// gatewayConfig takes the address of the metrics, the files of the certificate,
// the data directory, the billing system and Redis. The limit of connections is for
// a flood from another address.
const gatewayConfig = `metrics: {listen: %q}
tls: {cert_file: %q, key_file: %q}
data_dir: %q
usage_hook: {enabled: true, url: %q, max_age: 50ms}
server: {max_connections_per_ip: 64}
health_check: {interval: 100ms}
auth: {enabled: true}
rate_limit: {storage: redis, on_store_error: closed, redis: {addr: %q, timeout: 200ms}}
api_keys:
  - {key: ` + siteKey + `}
  - {key: ` + limitedKey + `, requests_per_second: 1}
`

// peerConfig takes the address of the metrics, the data directory and Redis.
const peerConfig = `metrics: {listen: %q}
data_dir: %q
auth: {enabled: true, storage: redis}
rate_limit: {storage: redis}
redis: {addr: %q, timeout: 200ms}
`

const (
	siteKey    = "sk-site-0123456789abcdef"
	limitedKey = "sk-limited-0123456789abcdef"
	noKey      = "sk-nobody-0123456789abcdef"
)

// startSite runs the gateway in front of three engines, one of which is killed
// once it has answered. Trouble goes on until the test ends.
func startSite(t *testing.T) *site {
	t.Helper()
	metrics.ExposeMetadata(true) // as cmd/llmproxy does
	var engines []*apptest.Engine
	for _, name := range []string{"a", "b", "c"} {
		engines = append(engines, apptest.StartEngine(t, mockvllm.Options{Name: name, StepBase: 2 * time.Millisecond}))
	}
	s := &site{metrics: []string{freeAddr(t), freeAddr(t)}}
	cert, key := s.certificate(t)
	server := redistest.Start(t, "--appendonly", "yes")
	between := redistest.NewProxy(t, server.Addr())
	yaml := fmt.Sprintf(gatewayConfig, s.metrics[0], cert, key, t.TempDir(), billing(t), between.Addr())
	s.gateway = apptest.Start(t, yaml, engines...)
	s.peer = apptest.Start(t, fmt.Sprintf(peerConfig, s.metrics[1], t.TempDir(), between.Addr()), engines[0])
	apptest.Eventually(t, "each engine has answered", func() bool {
		s.ask(t.Context(), chat(""), nil)
		return s.gateway.Metric(`llmproxy_attempts_total{backend="e2",outcome="ok"}`) > 0
	})
	if err := s.gateway.Reload(apptest.Config(t, yaml, engines...)); err != nil {
		t.Fatal(err)
	}
	s.gateway.Reloaded()
	s.gateway.ReloadFailed()
	_ = engines[2].Close()
	s.trouble(t)
	repeat(t, 1, outages(server, between))
	for _, series := range happens {
		apptest.Eventually(t, series, func() bool { return s.gateway.Metric(series) > 0 })
	}
	apptest.Eventually(t, "the keys were lost", func() bool { return s.peer.Metric("llmproxy_keys_losses_total") > 0 })
	return s
}

// happens is what trouble does.
var happens = []string{
	`llmproxy_requests_total{model="*",backend="e0",status="200"}`,
	`llmproxy_requests_total{model="*",backend="e0",status="500"}`,
	`llmproxy_attempts_total{backend="e0",outcome="broken"}`,
	`llmproxy_backend_ejections_total{backend="e0"}`,
	`llmproxy_retries_total`,
	`llmproxy_retries_denied_total`,
	`llmproxy_client_aborts_total{phase="waiting"}`,
	`llmproxy_client_aborts_total{phase="streaming"}`,
	`llmproxy_connections_refused_total{reason="max_connections_per_ip"}`,
	`llmproxy_auth_failures_total{reason="unknown_key"}`,
	`llmproxy_rate_limited_total{limit="requests_per_second"}`,
	`llmproxy_rate_limited_total{limit="redis"}`,
	`llmproxy_keys{source="config"}`,
	`llmproxy_cluster_leases`,
	`llmproxy_decided_alone_total`,
	`llmproxy_redis_commands_total{result="ok"}`,
	`llmproxy_redis_commands_total{result="error"}`,
	`llmproxy_config_reloads_total{result="error"}`,
	`llmproxy_usage_events_total`,
	`llmproxy_usage_delivered_total`,
	`llmproxy_usage_dead_total`,
	`llmproxy_usage_delivery_attempts_total{result="rejected"}`,
}

// billing starts a billing system and returns its URL. It refuses the events
// whose id begins with an f, and whatever else is in a batch with one.
func billing(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if batch, err := io.ReadAll(r.Body); err != nil || strings.Contains(string(batch), `"id":"f`) {
			w.WriteHeader(http.StatusUnprocessableEntity)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// certificate writes one for 127.0.0.1, which the site's client trusts.
func (s *site) certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	srv := httptest.NewTLSServer(nil)
	defer srv.Close()
	s.client = srv.Client()
	pair := srv.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeFile(t, certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})))
	writeFile(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	return certFile, keyFile
}

// chat is the body of a chat request with more fields at its end.
func chat(more string) string {
	return `{"model":"mock-model","messages":[{"role":"user","content":"hi"}]` + more + `}`
}

// trouble keeps everything happening, each thing over and over, until the test
// ends.
func (s *site) trouble(t *testing.T) {
	const stream = `,"stream":true`
	readOne := func(body io.Reader) { _, _ = body.Read(make([]byte, 1)) }
	again := func(n int, do func(ctx context.Context)) { repeat(t, n, do) }
	for _, body := range []string{
		chat(""), chat(stream), // answered
		"{",                                      // 400
		chat(`,"mock_fault":"500-json"`),         // 500
		chat(stream + `,"mock_fault":"reset=3"`), // broken
		chat(`,"mock_fault":{"fault":"503","engines":["a"]}`), // tried again
	} {
		again(1, func(ctx context.Context) { s.ask(ctx, body, nil) })
	}
	// More at once than the retry budget has room for.
	again(8, func(ctx context.Context) { s.ask(ctx, chat(`,"mock_fault":"503"`), nil) })
	again(1, func(ctx context.Context) { // gone while it waits
		ctx, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
		defer cancel()
		s.ask(ctx, chat(`,"mock_prefill_ms":5000`), nil)
	})
	again(1, func(ctx context.Context) { // gone in mid-stream
		s.ask(ctx, chat(stream+`,"mock_tokens":5000`), readOne)
	})
	again(1, func(context.Context) { s.flood(80) })
	for _, key := range []string{limitedKey, noKey} {
		again(1, func(ctx context.Context) { s.askAs(ctx, key, chat(""), nil) })
	}
}

// outages has Redis out of reach for a third of the time, and empty when it is back.
func outages(server *redistest.Server, between *redistest.Proxy) func(context.Context) {
	const away = 40 // times 50 ms: long enough to be scraped
	n := 0
	return func(context.Context) {
		switch n++; n % (3 * away) {
		case 2 * away:
			between.Cut()
		case 0:
			_, _ = server.Command("FLUSHALL")
			between.Mend()
		}
	}
}

// repeat does a thing in n goroutines, with a little time in between, until
// the test ends.
func repeat(t *testing.T, n int, do func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				do(ctx)
				<-tick.C
			}
		})
	}
	t.Cleanup(func() { cancel(); all.Wait() })
}

// ask sends a chat and reads the answer, all of it unless read says otherwise.
// What becomes of it is for the metrics to say.
func (s *site) ask(ctx context.Context, body string, read func(io.Reader)) {
	s.askAs(ctx, siteKey, body, read)
}

func (s *site) askAs(ctx context.Context, key, body string, read func(io.Reader)) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.gateway.URL+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		panic(err) // the URL is ours
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := s.client.Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if read != nil {
		read(resp.Body)
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body)
}

// flood opens n connections at once from an address that nobody else uses.
func (s *site) flood(n int) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: time.Second}
	for range n {
		c, err := d.Dial("tcp", s.gateway.Addr)
		if err != nil {
			return
		}
		defer c.Close()
	}
}

// freeAddr is a loopback address that a program may listen on a little later.
func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
