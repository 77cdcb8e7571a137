package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/events"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// clusterSite is several gateways as processes that share one Redis, in front of
// two engines.
type clusterSite struct {
	t        *testing.T
	redis    *redistest.Server // the one that has everything now; nil with nodes
	nodes    *redistest.Nodes  // in its place
	wire     *redistest.Proxy  // between the gateways and redis
	engines  []*apptest.Engine
	gateways []*clusterGateway
	hot      clusterKey // that a clusterFault watches
}

// clusterGateway is one of them.
type clusterGateway struct {
	*gatewayProcess
	dir  string   // data_dir
	hook *billing // its own: each counts its events by itself; nil without one
}

// clusterPlan is what a site is made of; zero values are what most tests want.
type clusterPlan struct {
	server []string      // arguments of redis-server
	at     string        // fields of redis, in place of the one that the site starts
	wait   time.Duration // redis.timeout; default 20 ms
	limits string        // more of rate_limit
	hook   bool          // a billing system for each gateway
	step   time.Duration // of the engines; default 2 ms
}

const (
	clusterSize   = 3
	clusterPrefix = "llmproxy:"
)

// startCluster runs the site, and returns when every gateway sees all of them.
func startCluster(t *testing.T, p clusterPlan) *clusterSite {
	t.Helper()
	s := &clusterSite{t: t}
	if p.at == "" {
		s.redis = redistest.Start(t, p.server...)
		s.wire = redistest.NewProxy(t, s.redis.Addr())
		p.at = fmt.Sprintf("addr: %q", s.wire.Addr())
	}
	if p.step == 0 {
		p.step = 2 * time.Millisecond
	}
	if p.wait > 0 {
		p.at += fmt.Sprintf(", timeout: %v", p.wait)
	}
	backends := ""
	for i := range 2 {
		e := apptest.StartEngine(t, mockvllm.Options{StepBase: p.step, LedgerSize: 1 << 18})
		s.engines = append(s.engines, e)
		backends += fmt.Sprintf("  - {url: %q, name: e%d, engine: vllm, continuous_usage: true}\n", e.URL, i)
	}
	for range clusterSize {
		g := &clusterGateway{gatewayProcess: newGateway(t), dir: filepath.Join(t.TempDir(), "data")}
		writeFile(t, g.file, fmt.Sprintf("listen: %s\ndata_dir: %q\nredis: {%s}\nauth: {enabled: true, storage: redis, timezone: %s}\n",
			g.addr, g.dir, p.at, quotaZone())+
			fmt.Sprintf("rate_limit: {enabled: true, storage: redis%s}\nadmin: {token: %s}\n", p.limits, adminToken)+
			"trusted_proxies: [127.0.0.1]\nhealth_check: {interval: 200ms}\n"+g.hookYAML(t, p.hook)+"backends:\n"+backends)
		s.gateways = append(s.gateways, g)
		g.run(t)
	}
	s.together()
	return s
}

func (g *clusterGateway) hookYAML(t testing.TB, wanted bool) string {
	if !wanted {
		return ""
	}
	g.hook = startBilling(t)
	return fmt.Sprintf("usage_hook: {enabled: true, url: \"http://%s/\", secret: %q, max_age: 20ms}\n", g.hook.addr, billingSecret)
}

// run starts a gateway, anew after it has ended, and waits until it is ready.
func (g *clusterGateway) run(t testing.TB) {
	t.Helper()
	g.gatewayProcess.start(t)
	apptest.Eventually(t, "the gateway is ready", func() bool {
		status, _ := g.get("/readyz")
		return status == http.StatusOK
	})
}

// together waits until every gateway that runs has Redis and sees all that run.
func (s *clusterSite) together() {
	s.t.Helper()
	running := slices.DeleteFunc(slices.Clone(s.gateways), func(g *clusterGateway) bool {
		select {
		case <-g.ended:
			return true
		default:
			return false
		}
	})
	for _, g := range running {
		g.until("llmproxy_redis_up", is(1))
		g.until("llmproxy_cluster_gateways", is(float64(len(running))))
	}
}

// everywhere waits until all gateways have a series at a value.
func (s *clusterSite) everywhere(series string, ok func(float64) bool) {
	s.t.Helper()
	for _, g := range s.gateways {
		g.until(series, ok)
	}
}

// sum adds up a series over the gateways.
func (s *clusterSite) sum(series string) (total float64) {
	for _, g := range s.gateways {
		total += max(0, g.metric(series))
	}
	return total
}

// clusterKey is a key that was made at run time.
type clusterKey struct{ Key, ID string }

// create makes a key on the first gateway, with more fields, and waits until all of
// them know it.
func (s *clusterSite) create(fields string) clusterKey {
	s.t.Helper()
	k := s.createOn(0, fields)
	for _, g := range s.gateways {
		apptest.Eventually(s.t, "the key is known", func() bool { return g.judges(k) == http.StatusOK })
	}
	return k
}

func (s *clusterSite) createOn(gateway int, fields string) (k clusterKey) {
	s.t.Helper()
	a := s.gateways[gateway].manage("POST", "/admin/api-keys", fmt.Sprintf(`{"name":"k"%s}`, fields))
	if err := json.Unmarshal([]byte(a.body), &k); err != nil || a.status != http.StatusCreated || k.Key == "" {
		s.t.Fatalf("no key was made: %d %s: %v %v", a.status, a.body, err, a.err)
	}
	return k
}

// manage sends a request of the operator's.
func (g *clusterGateway) manage(method, path, body string) limitAnswer {
	k := limitKey{g.addr, adminToken}
	return k.say(method, path, body)
}

// clusterClients are the clients that have asked whether a key is good.
var clusterClients atomic.Uint32

// judges is what a gateway says to a key, 0 when it says nothing. Each time another
// client asks: one who is refused often has to wait for it.
func (g *clusterGateway) judges(k clusterKey) (status int) {
	req, err := http.NewRequest(http.MethodGet, g.url+"/v1/usage", http.NoBody)
	if err != nil {
		return 0
	}
	n := clusterClients.Add(1)
	req.Header.Set("Authorization", "Bearer "+k.Key)
	req.Header.Set("X-Forwarded-For", fmt.Sprintf("10.%d.%d.%d", byte(n>>16), byte(n>>8), byte(n)))
	resp, err := g.client.Do(req)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// idle waits until the engines have nothing to do, and no gateway a request.
func (s *clusterSite) idle() {
	s.t.Helper()
	for _, e := range s.engines {
		quotaRows(s.t, e)
	}
	for _, g := range s.gateways {
		for i := range s.engines {
			g.until(fmt.Sprintf("llmproxy_requests_in_flight{backend=\"e%d\"}", i), is(0))
		}
	}
}

// generated is what the engines did for requests of a tag, in tokens.
func (s *clusterSite) generated(tag string) (total int64) {
	s.t.Helper()
	for _, e := range s.engines {
		for _, row := range quotaRows(s.t, e) {
			if row.Tag == tag {
				total += int64(row.PromptTokens + row.Tokens)
			}
		}
	}
	return total
}

// recorded is how many events a gateway's journal has.
func (g *clusterGateway) recorded(t testing.TB) (n int) {
	t.Helper()
	if _, err := events.Read(g.dir, func(events.Event) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// journaled is what the journals of all gateways have of a key, in tokens.
func (s *clusterSite) journaled(k clusterKey) (total int64) {
	s.t.Helper()
	for _, g := range s.gateways {
		if _, err := events.Read(g.dir, func(e events.Event) error {
			if e.Record.KeyID == k.ID {
				total += e.Record.Total
			}
			return nil
		}); err != nil {
			s.t.Fatal(err)
		}
	}
	return total
}

// counted is what Redis has of a key's quota: used by all gateways, and held for
// requests under way.
func (s *clusterSite) counted(k clusterKey) (used, held int64) {
	s.t.Helper()
	name := clusterPrefix + "{" + k.ID + "}:q"
	at := s.redis
	if s.nodes != nil {
		at = s.nodes.Master(name)
	}
	if _, err := fmt.Sscan(at.Must("HMGET", name, "used", "held"), &used, &held); err != nil {
		s.t.Fatalf("Redis has no quota of the key: %v", err)
	}
	return used, held
}

// audit waits until Redis and every gateway say of a key's quota what the journals add
// up to, which is what the engines did under the tag unless that is "", and that nothing
// is held of it any more. It takes 2 s at most, and returns how long it took.
func (s *clusterSite) audit(k clusterKey, tag string) time.Duration {
	s.t.Helper()
	s.idle()
	began := time.Now()
	for {
		seen, took := s.differs(k, tag), time.Since(began)
		if seen == "" {
			return took
		}
		if took > 2*time.Second && (long || took > patience) {
			s.t.Errorf("after %v: %s", took, seen)
			return took
		}
		<-time.After(20 * time.Millisecond)
	}
}

// differs says in what the books differ, "" in nothing.
func (s *clusterSite) differs(k clusterKey, tag string) string {
	s.t.Helper()
	want := s.journaled(k)
	if tag != "" {
		if did := s.generated(tag); did != want {
			return fmt.Sprintf("the engines did %d tokens, in the journals are %d", did, want)
		}
	}
	used, held := s.counted(k)
	if used != want || held != 0 {
		return fmt.Sprintf("in the journals are %d tokens, in Redis %d, and %d held", want, used, held)
	}
	for i, g := range s.gateways {
		if u := quotaOf(s.t, limitKey{g.addr, k.Key}); u.Used != want || u.Reserved != 0 {
			return fmt.Sprintf("in the journals are %d tokens, gateway %d tells of %d, and %d reserved, llmproxy_redis_up %v", want, i, u.Used, u.Reserved, g.metric("llmproxy_redis_up"))
		}
	}
	return ""
}
