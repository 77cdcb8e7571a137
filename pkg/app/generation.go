package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/llmproxy/llmproxy/pkg/config"
	"github.com/llmproxy/llmproxy/pkg/forward"
	"github.com/llmproxy/llmproxy/pkg/gateway"
	"github.com/llmproxy/llmproxy/pkg/health"
	"github.com/llmproxy/llmproxy/pkg/route"
)

// generation is everything that one configuration brings to life. Engines that
// the next one reaches in the same way are handed on to it.
type generation struct {
	view    *gateway.View
	engines []*engine // by Backend.Index
	checks  health.Options
	checker *health.Checker
}

// engine is a backend's transports: the hot path's, and a plain one for health
// checks and the list of models.
type engine struct {
	config   forward.UpstreamConfig
	upstream *forward.Upstream
	client   *http.Client
	silent   atomic.Bool // the last check had no answer at all, not even a refusal
	before   *engine     // what it replaces, if that had requests under way
}

func (a *App) build(c *config.Config, old *generation) (*generation, error) {
	strategy, err := route.ParseStrategy(c.Strategy)
	if err != nil {
		return nil, err
	}
	tc := route.TableConfig{
		Strategy: strategy, Mapping: c.Routing.ModelMapping, Seed: rand.Uint64(),
		SlowStart: time.Duration(c.HealthCheck.SlowStart),
	}
	for _, b := range c.Backends {
		surfaces, err := gateway.Surfaces(b.Engine)
		if err != nil {
			return nil, err
		}
		tc.Backends = append(tc.Backends, route.BackendConfig{
			Name: b.Name, URL: b.URL, Weight: b.Weight, Models: b.Models, Region: b.Region, MaxInFlight: b.MaxInFlight,
			Surfaces: surfaces, Draining: b.Drain,
		})
	}
	for _, f := range c.Routing.Fallback {
		tc.Fallback = append(tc.Fallback, route.FallbackConfig{Primary: f.Primary, Fallback: f.Next, Models: f.Models})
	}
	var oldTable *route.Table
	if old != nil {
		oldTable = old.view.Table
	}
	table, err := route.Build(tc, oldTable)
	if err != nil {
		return nil, err
	}
	g := &generation{checks: checkOptions(c)}
	upstreams := make([]*forward.Upstream, len(c.Backends))
	for i, b := range c.Backends {
		e, err := a.engine(b, time.Duration(c.Timeouts.Connect), old)
		if err != nil {
			g.closeNew(old)
			return nil, fmt.Errorf("backend %s: %w", b.Name, err)
		}
		g.engines = append(g.engines, e)
		upstreams[i] = e.upstream
	}
	g.view = a.newView(c, table, upstreams)
	g.view.Models.Fetch = g.fetchModels
	return g, nil
}

func (a *App) newView(c *config.Config, table *route.Table, upstreams []*forward.Upstream) *gateway.View {
	v := &gateway.View{
		Table: table,
		Forwarder: &forward.Forwarder{
			Upstreams: upstreams,
			Timeouts: forward.Timeouts{
				FirstByte:     time.Duration(c.Timeouts.FirstByte),
				BetweenChunks: time.Duration(c.Timeouts.BetweenChunks),
				Total:         time.Duration(c.Timeouts.Total),
			},
			Retry: forward.Retry{
				Enabled:     c.Routing.Retry.Enabled,
				MaxRetries:  c.Routing.Retry.MaxRetries,
				InitialWait: time.Duration(c.Routing.Retry.InitialWait),
				MaxWait:     time.Duration(c.Routing.Retry.MaxWait),
			},
			Stats:  a.stats,
			Jitter: rand.Float64,
		},
		Models:       &gateway.Models{Table: table, Mapping: c.Routing.ModelMapping},
		MaxBody:      int(c.Server.MaxBodySize),
		BodyTimeout:  time.Duration(c.Server.BodyTimeout),
		UploadDir:    c.Server.UploadDir,
		PingInterval: time.Duration(c.Server.SSEPingInterval),
		Trusted:      c.TrustedProxies,
		Region:       c.Region,
		RegionHeader: c.RegionHeader,
	}
	if c.Metrics.Enabled && c.Metrics.Listen == "" {
		v.MetricsPath, v.MetricsPublic = c.Metrics.Path, c.Metrics.Public
	}
	limitView(v, c)
	if c.CORS.Enabled {
		v.CORS = &gateway.CORS{
			Origins: c.CORS.AllowedOrigins, Headers: c.CORS.AllowedHeaders,
			Credentials: c.CORS.AllowCredentials, MaxAge: time.Duration(c.CORS.MaxAge),
		}
	}
	return v
}

func checkOptions(c *config.Config) health.Options {
	h := c.HealthCheck
	o := health.Options{
		Timeout: time.Duration(h.Timeout), Path: h.Path,
		UnhealthyThreshold: h.UnhealthyThreshold, HealthyThreshold: h.HealthyThreshold,
	}
	if h.Enabled {
		o.Interval = time.Duration(h.Interval)
	}
	return o
}

// engine returns the old generation's engine when it is reached in the same
// way, else a new one.
func (a *App) engine(b config.Backend, connect time.Duration, old *generation) (*engine, error) {
	c := forward.UpstreamConfig{
		Name: b.Name, URL: b.URL, Engine: b.Engine, Continuous: b.ContinuousUsage, APIKey: string(b.APIKey),
		KeepAlive: time.Duration(b.KeepAlive), Connect: connect,
	}
	if b.CAFile != "" {
		pem, err := os.ReadFile(b.CAFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read ca_file: %w", err)
		}
		c.CA = string(pem)
	}
	var before *engine
	if old != nil {
		for _, e := range old.engines {
			if e.config == c {
				return e, nil
			}
			if e.config.Name == c.Name && e.config.URL == c.URL {
				before = e
			}
		}
	}
	for before != nil && !before.upstream.Busy() {
		before = before.before
	}
	u, err := forward.NewUpstream(c, a.stats.Backend(b.Name), a.hangups, a.options.Dial)
	if err != nil {
		return nil, err
	}
	return &engine{config: c, upstream: u, client: plainClient(c, a.options.Dial), before: before}, nil
}

// plainClient is for what is rare: it follows no redirect and uses no proxy of
// the environment.
func plainClient(c forward.UpstreamConfig, dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Client {
	t := &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 1, IdleConnTimeout: c.KeepAlive, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if c.CA != "" {
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		t.TLSClientConfig.RootCAs.AppendCertsFromPEM([]byte(c.CA)) // NewUpstream has refused a bad one
	}
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (e *engine) get(ctx context.Context, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if e.config.APIKey != "" {
		req.Header.Set("Authorization", "Bearer "+e.config.APIKey)
	}
	return e.client.Do(req)
}

// check is the health check of this engine.
func (e *engine) check(ctx context.Context, url string) (int, error) {
	resp, err := e.get(ctx, url)
	e.silent.Store(isSilence(err))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // so that the connection is used again
	return resp.StatusCode, nil
}

// isSilence tells a host that does not answer from one that refuses: an engine
// that drains takes no connection but ends its streams, and one that died has
// had its connections closed by its kernel.
func isSilence(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout() || errors.Is(err, syscall.EHOSTUNREACH)
}

// maxModelList bounds an engine's list of models.
const maxModelList = 4 << 20

func (g *generation) fetchModels(ctx context.Context, b *route.Backend) ([]byte, error) {
	resp, err := g.engines[b.Index].get(ctx, b.URL+"/v1/models")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxModelList))
}

// start begins the checks and shows the backends in the metrics.
func (g *generation) start(a *App) {
	for _, b := range g.view.Table.Backends() {
		a.stats.Gauge(gauge("llmproxy_requests_in_flight", b.Name), func() float64 { return float64(b.InFlight()) })
		a.stats.Gauge(gauge("llmproxy_backend_healthy", b.Name), func() float64 { return bit(b.Healthy()) })
		a.stats.Gauge(gauge("llmproxy_backend_ejected", b.Name), func() float64 { return bit(b.Ejected()) })
	}
	o := g.checks
	o.OnFlip = func(b *route.Backend, healthy bool, reason string) {
		if healthy {
			a.log.Info("backend is healthy", "backend", b.Name, "reason", reason)
			return
		}
		a.log.Warn("backend is unhealthy", "backend", b.Name, "reason", reason)
		if e := g.engines[b.Index]; e.silent.Load() {
			e.abandon() // it answers nobody: what waits for it goes elsewhere
		}
	}
	g.checker = health.Start(context.Background(), g.view.Table, o, func(b *route.Backend) health.Check {
		return g.engines[b.Index].check
	})
}

func gauge(name, backend string) string { return fmt.Sprintf("%s{backend=%q}", name, backend) }

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// retire ends what the next generation has not taken over.
func (g *generation) retire(a *App, next *generation) {
	names := map[string]bool{}
	for _, b := range next.view.Table.Backends() {
		names[b.Name] = true
	}
	for _, b := range g.view.Table.Backends() {
		if !names[b.Name] {
			for _, m := range []string{"llmproxy_requests_in_flight", "llmproxy_backend_healthy", "llmproxy_backend_ejected"} {
				a.stats.Drop(gauge(m, b.Name))
			}
		}
	}
	kept := map[*engine]bool{}
	for _, e := range next.engines {
		kept[e] = true
	}
	for _, e := range g.engines {
		if !kept[e] {
			e.close()
		}
	}
}

// closeNew ends the engines that the old generation does not have.
func (g *generation) closeNew(old *generation) {
	for _, e := range g.engines {
		if old == nil || !slices.Contains(old.engines, e) {
			e.close()
		}
	}
}

func (g *generation) close() {
	if g.checker != nil {
		g.checker.Close()
	}
	for _, e := range g.engines {
		e.close()
	}
}

// abandon is for the requests of those it replaced too: they run on the same
// host.
func (e *engine) abandon() {
	for ; e != nil; e = e.before {
		e.upstream.Abandon()
	}
}

func (e *engine) close() {
	e.upstream.Close()
	e.client.CloseIdleConnections()
}

// registerConnections shows the listener in the metrics.
func (a *App) registerConnections() {
	l := a.listener
	a.stats.Gauge("llmproxy_connections_open", func() float64 { return float64(l.Stats().Open) })
	a.stats.CounterFunc("llmproxy_connections_accepted_total", func() int64 { return l.Stats().Accepted })
	for reason, f := range map[string]func() int64{
		"max_connections":        func() int64 { return l.Stats().RefusedMaxConns },
		"max_connections_per_ip": func() int64 { return l.Stats().RefusedPerIP },
		"descriptors":            func() int64 { return l.Stats().RefusedDescriptors },
		"unwatchable":            func() int64 { return l.Stats().RefusedUnwatchable },
	} {
		a.stats.CounterFunc(fmt.Sprintf("llmproxy_connections_refused_total{reason=%q}", reason), f)
	}
}
