// Package app puts the gateway together from a configuration, runs it,
// reloads it and takes it apart. It is the only place that knows everything.
package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/config"
	"github.com/llmproxy/llmproxy/pkg/forward"
	"github.com/llmproxy/llmproxy/pkg/gateway"
	"github.com/llmproxy/llmproxy/pkg/listener"
	"github.com/llmproxy/llmproxy/pkg/stats"
)

// Options are what a gateway is given beside its configuration.
type Options struct {
	Version, GoVersion string
	Log                *slog.Logger
	// Listener is what the gateway serves on in place of the address in the
	// configuration; Dial is how it reaches the backends. Tests use both.
	Listener net.Listener
	Dial     func(ctx context.Context, network, addr string) (net.Conn, error)
	// AccessLog is where the access log goes; nil is standard output.
	AccessLog *os.File
}

// App is a running gateway.
type App struct {
	options  Options
	log      *slog.Logger
	stats    *stats.Set
	gateway  *gateway.Gateway
	listener *listener.Listener
	server   *fasthttp.Server
	serving  sync.WaitGroup
	hangups  *forward.Hangups

	metrics         *fasthttp.Server // on a listener of its own, nil without
	metricsListener *listener.Listener

	mu     sync.Mutex // one reload at a time
	config *config.Config
	now    *generation
	access *gateway.AccessLog
	closed bool
}

// New builds a gateway, opens its listeners and serves. Close ends it.
func New(c *config.Config, o Options) (*App, error) {
	if pending := c.Pending(); len(pending) > 0 {
		return nil, &UnsupportedError{Settings: pending}
	}
	a := &App{options: o, log: o.Log, config: c, stats: stats.New(o.Version, o.GoVersion), hangups: forward.NewHangups()}
	g, err := a.build(c, nil)
	if err != nil {
		a.hangups.Close()
		return nil, err
	}
	a.now = g
	a.gateway = gateway.New(g.view, a.stats, o.Log)
	a.setAccessLog(c.Log.Access)
	if err := a.listen(c); err != nil {
		a.now.close()
		a.hangups.Close()
		a.setAccessLog(false)
		return nil, err
	}
	a.now.start(a)
	a.stats.Reloaded(true, time.Now().Unix())
	return a, nil
}

// UnsupportedError is a configuration that asks for features which this build
// does not have. Serving without them would not be what the operator wrote.
type UnsupportedError struct{ Settings []string }

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("this build cannot serve %d setting(s) of the configuration", len(e.Settings))
}

func (a *App) listen(c *config.Config) error {
	o := listener.Options{
		MaxConns:      c.Server.MaxConnections,
		MaxConnsPerIP: c.Server.MaxConnectionsPerIP,
		WriteTimeout:  time.Duration(c.Server.WriteTimeout),
		UserTimeout:   userTimeout(time.Duration(c.Server.WriteTimeout)),
		Logf:          func(format string, args ...any) { a.log.Warn(fmt.Sprintf(format, args...)) },
	}
	var err error
	if a.options.Listener != nil {
		a.listener, err = listener.New(a.options.Listener, o)
	} else {
		a.listener, err = listener.Listen("tcp", c.Listen, o)
	}
	if err != nil {
		return err
	}
	var ln net.Listener = a.listener
	if c.TLS.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(c.TLS.CertFile, c.TLS.KeyFile)
		if err != nil {
			a.listener.Close()
			return fmt.Errorf("cannot load tls.cert_file %s with tls.key_file %s: %w", c.TLS.CertFile, c.TLS.KeyFile, err)
		}
		ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	}
	a.server = a.gateway.Server(gateway.Limits{
		MaxHeader:     int(c.Server.MaxHeaderSize),
		HeaderTimeout: time.Duration(c.Server.HeaderTimeout),
		IdleTimeout:   time.Duration(c.Server.IdleTimeout),
	})
	a.registerConnections()
	if err := a.listenMetrics(c); err != nil {
		a.listener.Close()
		return err
	}
	a.serve(a.server, ln)
	return nil
}

// userTimeout is how long the kernel may wait for a client's acknowledgement.
// It also ends a client that keeps its window shut, so it must not be shorter
// than server.write_timeout.
func userTimeout(write time.Duration) time.Duration {
	if write == 0 {
		return -1 // the kernel's own, a quarter of an hour
	}
	return max(write, 30*time.Second)
}

// listenMetrics gives the metrics their own port when the configuration names
// one.
func (a *App) listenMetrics(c *config.Config) error {
	if !c.Metrics.Enabled || c.Metrics.Listen == "" {
		return nil
	}
	ln, err := listener.Listen("tcp", c.Metrics.Listen, listener.Options{WriteTimeout: scrapeTimeout})
	if err != nil {
		return fmt.Errorf("cannot listen on metrics.listen: %w", err)
	}
	path := c.Metrics.Path
	a.metrics = &fasthttp.Server{
		NoDefaultServerHeader: true,
		ReadTimeout:           scrapeTimeout,
		Logger:                slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
		Handler: func(ctx *fasthttp.RequestCtx) {
			if string(ctx.Path()) != path {
				ctx.Error("the metrics are at "+path+"\n", fasthttp.StatusNotFound)
				return
			}
			a.gateway.Metrics(ctx)
		},
	}
	a.metricsListener = ln
	a.serve(a.metrics, ln)
	return nil
}

// scrapeTimeout is how long a scraper may be silent.
const scrapeTimeout = 10 * time.Second

// serve runs a server until its listener is closed.
func (a *App) serve(s *fasthttp.Server, ln net.Listener) {
	a.serving.Go(func() {
		if err := s.Serve(ln); err != nil && !errors.Is(err, net.ErrClosed) {
			a.log.Error("the server ended", "address", ln.Addr().String(), "error", err)
		}
	})
}

// Addr is where the gateway listens.
func (a *App) Addr() net.Addr { return a.listener.Addr() }

// Stats are the gateway's metrics.
func (a *App) Stats() *stats.Set { return a.stats }

// Reload puts a configuration in the place of the one in force. A request
// under way keeps the old one. On an error nothing has changed.
func (a *App) Reload(c *config.Config) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return errors.New("cannot reload: the gateway is shutting down")
	}
	if pending := c.Pending(); len(pending) > 0 {
		return &UnsupportedError{Settings: pending}
	}
	next, err := a.build(c, a.now)
	if err != nil {
		return err
	}
	for _, key := range needRestart(a.config, c) {
		a.log.Warn("this setting takes effect after a restart", "key", key)
	}
	a.gateway.SetView(next.view)
	a.now.checker.Close() // its last word must not come after the next one's first
	next.start(a)
	a.now.retire(a, next)
	a.now, a.config = next, c
	a.setAccessLog(c.Log.Access)
	return nil
}

// ReloadFailed counts a configuration that could not be put in force.
func (a *App) ReloadFailed() { a.stats.Reloaded(false, 0) }

// Reloaded counts one that was.
func (a *App) Reloaded() { a.stats.Reloaded(true, time.Now().Unix()) }

func (a *App) setAccessLog(on bool) {
	switch {
	case on && a.access == nil:
		w := a.options.AccessLog
		if w == nil {
			w = os.Stdout
		}
		a.access = gateway.NewAccessLog(w, a.stats)
		a.gateway.SetAccessLog(a.access)
	case !on && a.access != nil:
		a.gateway.SetAccessLog(nil)
		a.access.Close()
		a.access = nil
	}
}

// needRestart lists the keys that differ and are fixed while the server runs.
func needRestart(old, new *config.Config) []string {
	ownListener := old.Metrics.Listen != "" || new.Metrics.Listen != "" // for the metrics
	var keys []string
	for _, k := range []struct {
		key     string
		differs bool
	}{
		{"listen", old.Listen != new.Listen},
		{"tls", old.TLS != new.TLS},
		{"server.max_header_size", old.Server.MaxHeaderSize != new.Server.MaxHeaderSize},
		{"server.header_timeout", old.Server.HeaderTimeout != new.Server.HeaderTimeout},
		{"server.idle_timeout", old.Server.IdleTimeout != new.Server.IdleTimeout},
		{"server.write_timeout", old.Server.WriteTimeout != new.Server.WriteTimeout},
		{"server.max_connections", old.Server.MaxConnections != new.Server.MaxConnections},
		{"server.max_connections_per_ip", old.Server.MaxConnectionsPerIP != new.Server.MaxConnectionsPerIP},
		{"metrics.listen", old.Metrics.Listen != new.Metrics.Listen},
		{"metrics.path", old.Metrics.Path != new.Metrics.Path && ownListener},
		{"metrics.enabled", old.Metrics.Enabled != new.Metrics.Enabled && ownListener},
		{"log.level", old.Log.Level != new.Log.Level},
		{"log.format", old.Log.Format != new.Log.Format},
	} {
		if k.differs {
			keys = append(keys, k.key)
		}
	}
	return keys
}

// Close drains the gateway and stops it: not ready at once, no new connection
// after server.shutdown_delay, an error event to whatever is still open after
// server.shutdown_timeout. It may be called again.
func (a *App) Close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	a.closed = true
	s := a.config.Server
	a.gateway.Drain()
	if d := time.Duration(s.ShutdownDelay); d > 0 {
		a.log.Info("not ready; still serving for shutdown_delay", "delay", d)
		time.Sleep(d)
	}
	a.log.Info("draining", "open_connections", a.listener.Stats().Open)
	ctx, cancel := context.WithCancel(context.Background())
	var stopping sync.WaitGroup
	// It closes the listener and idle connections, and goes on closing them,
	// until ctx ends. What it waits for is no measure: it does not know the
	// connections of streams, nor those idle after one.
	stopping.Go(func() { _ = a.server.ShutdownWithContext(ctx) })
	a.listener.CloseIdle()
	if !a.drained(time.Duration(s.ShutdownTimeout)) {
		a.log.Warn("interrupting what is still open after shutdown_timeout", "open_connections", a.listener.Stats().Open)
		a.listener.Interrupt()
		a.drained(interruptGrace)
	}
	cancel()
	stopping.Wait()
	_ = a.listener.Close() // in case Serve had not begun
	if a.metrics != nil {
		_ = a.metricsListener.Close() // a scrape cut short is no loss
	}
	a.serving.Wait()
	a.now.close()
	a.hangups.Close()
	if a.access != nil {
		a.gateway.SetAccessLog(nil)
		a.access.Close()
	}
	a.log.Info("stopped")
}

// interruptGrace is how long interrupted requests have to say so to their
// clients.
const interruptGrace = 2 * time.Second

// drained waits until no client connection is open; false when d was not
// enough, 0 waits for ever.
func (a *App) drained(d time.Duration) bool {
	var over <-chan time.Time
	if d > 0 {
		over = time.After(d)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for a.listener.Stats().Open > 0 {
		select {
		case <-over:
			return false
		case <-tick.C:
		}
	}
	return true
}
