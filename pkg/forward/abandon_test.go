package forward_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/forward"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
	"github.com/llmproxy/llmproxy/pkg/route"
	"github.com/llmproxy/llmproxy/pkg/stats"
)

// TestAbandonedWhileDialling: an engine is declared dead between the moment a
// request is given to it and the moment the request has a connection. The
// request must not wait on that connection for ever.
func TestAbandonedWhileDialling(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // its kernel accepts, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	alive, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	engine := mockvllm.New(mockvllm.Options{})
	go func() { _ = engine.Serve(alive) }() // ends with Close
	defer engine.Close()

	f := &forward.Forwarder{Retry: forward.Retry{Enabled: true, MaxRetries: 1}, Stats: stats.New("", ""), Jitter: func() float64 { return 0 }}
	var dead *forward.Upstream
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == silent.Addr().String() {
			dead.Abandon()
		}
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}
	tc := route.TableConfig{Strategy: route.RoundRobin}
	for _, ln := range []net.Listener{silent, alive} {
		c := forward.UpstreamConfig{Name: ln.Addr().String(), URL: "http://" + ln.Addr().String(), KeepAlive: time.Second, Connect: time.Second}
		u, err := forward.NewUpstream(c, f.Stats.Backend(c.Name), nil, dial)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		f.Upstreams = append(f.Upstreams, u)
		tc.Backends = append(tc.Backends, route.BackendConfig{Name: c.Name, URL: c.URL})
	}
	dead = f.Upstreams[0]
	table, err := route.Build(tc, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := table.Resolve("mock-model")
	for range 2 { // one of them goes to the dead engine first
		c := forward.NewCall()
		c.Pool, c.Model, c.Path, c.Start = r.Pool, "mock-model", "/v1/chat/completions", time.Now()
		c.Body = [][]byte{[]byte(`{"model":"mock-model","messages":[{"role":"user","content":"hi"}]}`)}
		opened := make(chan *forward.Failure, 1)
		go func() { opened <- f.Open(c) }()
		select {
		case fail := <-opened:
			if fail != nil {
				t.Errorf("failed: %+v", fail.Err)
			}
			c.Close()
		case <-time.After(10 * time.Second):
			t.Fatal("a request waits for an engine that is known to be dead")
		}
	}
}
