// Package bench measures the whole journey of a request: the real gateway on
// loopback sockets, between an engine and a client that do next to nothing.
//
// Each benchmark has twins: "direct" is the client at the engine, which is the
// cost of the sockets and of the two ends, "metered" is the gateway with a record
// of each request's usage, which a receiver in this process gets, "limited" is the
// gateway with 10,000 keys and every limit but a quota, and "reverseproxy" is the
// standard library's httputil.ReverseProxy in the gateway's place. One request or
// one chunk is under way at a time, so ns/op is a latency; what the gateway adds is
// its figure less the direct one. Engine and client allocate nothing: B/op and
// allocs/op are the proxy's own.
package bench

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/llmproxy/llmproxy/bench/tenants"
	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// proxies start what stands between client and engine, and tell its address.
var proxies = []struct {
	name  string
	start func(b *testing.B, engine string) string
}{
	{"direct", func(_ *testing.B, engine string) string { return engine }},
	{"llmproxy", startGateway},
	{"metered", startMetered},
	{"limited", startLimited},
	{"reverseproxy", startReverseProxy},
}

// BenchmarkRequest is one request with an 800-byte prompt and its answer of
// about 670 bytes, over connections that are open.
func BenchmarkRequest(b *testing.B) {
	for _, p := range proxies {
		b.Run(p.name, func(b *testing.B) {
			c := dial(b, p.start(b, startEngine(b).addr))
			r := request(false)
			c.whole(b, r)
			b.ReportAllocs()
			for b.Loop() {
				c.whole(b, r)
			}
		})
	}
}

// BenchmarkChunk is one event of an open stream: from the engine's being told
// to send it, to the client's having all of it.
func BenchmarkChunk(b *testing.B) {
	for _, p := range proxies {
		b.Run(p.name, func(b *testing.B) {
			e := startEngine(b)
			c := dial(b, p.start(b, e.addr))
			c.send(b, request(true))
			c.chunk(b)
			b.ReportAllocs()
			for b.Loop() {
				e.tick <- struct{}{}
				c.chunk(b)
			}
			e.end <- struct{}{}
			c.drain(b)
		})
	}
}

// Health checks would be measured with the requests.
const settings = "backends:\n  - url: http://%s\n    engine: vllm\n    continuous_usage: true\nhealth_check:\n  enabled: false\n"

func startGateway(b *testing.B, engine string) string {
	return apptest.Start(b, fmt.Sprintf(settings, engine)).Addr
}

func startMetered(b *testing.B, engine string) string {
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // what is cut off comes again
		w.WriteHeader(http.StatusNoContent)
	}))
	b.Cleanup(receiver.Close)
	yaml := fmt.Sprintf(settings+"data_dir: %s\nusage_hook:\n  enabled: true\n  url: %s\n", engine, b.TempDir(), receiver.URL)
	return apptest.Start(b, yaml).Addr
}

func startLimited(b *testing.B, engine string) string {
	dir := b.TempDir()
	if err := tenants.Write(dir, tenants.Used{Secret: secret, Models: []string{"m"}}, 10_000-1); err != nil {
		b.Fatal(err)
	}
	const limits = "data_dir: %s\nauth:\n  enabled: true\nrate_limit:\n  enabled: true\n  global:\n    requests_per_second: 1000000\n"
	return apptest.Start(b, fmt.Sprintf(settings+limits, engine, dir)).Addr
}

func startReverseProxy(b *testing.B, engine string) string {
	ln := listen(b)
	p := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: engine})
	p.FlushInterval = -1 // as a proxy of streams must
	p.Transport = &http.Transport{DialContext: (&net.Dialer{}).DialContext, MaxIdleConnsPerHost: 64}
	s := &http.Server{Handler: p}
	b.Cleanup(func() { s.Close() })
	go func() { _ = s.Serve(ln) }() // ends with Close
	return ln.Addr().String()
}
