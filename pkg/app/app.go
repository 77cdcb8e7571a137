// Package app puts the gateway together from a configuration, runs it,
// reloads it and takes it apart. It is the only place that knows everything.
package app

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/config"
	"github.com/llmproxy/llmproxy/pkg/forward"
	"github.com/llmproxy/llmproxy/pkg/gateway"
	"github.com/llmproxy/llmproxy/pkg/listener"
	"github.com/llmproxy/llmproxy/pkg/stats"
	"github.com/llmproxy/llmproxy/pkg/webhook"
)

// Options are what a gateway is given beside its configuration.
type Options struct {
	Version, GoVersion string
	Log                *slog.Logger
	// Listener is what the gateway serves on in place of the address in the
	// configuration; Dial is how it reaches the backends. Tests use both.
	Listener net.Listener
	Dial     func(ctx context.Context, network, addr string) (net.Conn, error)
	// Load reads the configuration anew, for the admin API; nil: it cannot.
	Load func() (*config.Config, error)
	// Now is the time by which keys expire and quotas start anew; nil is the
	// system's.
	Now func() time.Time
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
	serving  sync.WaitGroup // accepting connections
	hangups  *forward.Hangups

	certificates  *certificates // nil without TLS
	records       *records      // nil where usage is neither reported nor limited by quotas
	usage         *usageReports // nil without the hook
	keys          *keys         // nil where nobody is asked for one, nor can make one
	tidying       context.CancelFunc
	adminFailures *auth.Failures

	metrics, operator side // listeners of their own

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
	a := &App{options: o, log: o.Log, config: c, stats: stats.New(o.Version, o.GoVersion), hangups: forward.NewHangups(), adminFailures: auth.NewFailures()}
	g, err := a.build(c, nil)
	if err != nil {
		a.hangups.Close()
		return nil, err
	}
	a.now = g
	a.gateway = gateway.New(g.view, a.stats, o.Log)
	a.gateway.SetClock(o.Now)
	a.setAccessLog(c.Log.Access)
	if err := a.open(c); err != nil {
		a.closeRecords()
		a.now.close()
		a.hangups.Close()
		a.setAccessLog(false)
		return nil, err
	}
	a.now.start(a)
	a.tidy()
	a.stats.Reloaded(true, time.Now().Unix())
	return a, nil
}

// open opens what is kept on the disk, and then the listeners.
func (a *App) open(c *config.Config) (err error) {
	if a.records, err = openRecords(c, a.gateway, a.options); err != nil {
		return err
	}
	if a.records != nil {
		a.gateway.SetUsage(gateway.Recording{
			Log: a.records.log, All: c.UsageHook.Enabled, AllowUnrecorded: c.UsageHook.OnJournalError == "allow",
		})
		if a.usage, err = openUsage(c, a.records, a.options); err != nil {
			return err
		}
		a.records.register(a.stats)
	}
	if a.usage != nil {
		a.usage.register(a.stats)
	}
	if a.keys, err = openKeys(c, a.gateway, a.options); err != nil {
		return err
	}
	if a.keys != nil {
		a.keys.register(a.stats)
	}
	a.setAdmin(c)
	return a.listen(c)
}

// closeRecords closes what open opened on the disk.
func (a *App) closeRecords() {
	if a.keys != nil {
		a.keys.close()
	}
	if a.records != nil {
		a.records.close(a.usage)
	}
}

// tidy has the gateway forget idle clients now and then.
func (a *App) tidy() {
	a.stats.Gauge("llmproxy_limited_clients", func() float64 { return float64(a.gateway.Clients()) })
	var ctx context.Context
	ctx, a.tidying = context.WithCancel(context.Background())
	go func() {
		tick := time.NewTicker(forgetEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				a.gateway.Tidy()
			}
		}
	}()
}

// forgetEvery is how often idle clients are looked for.
const forgetEvery = 30 * time.Second

// UnsupportedError is a configuration that asks for features which this build
// does not have. Serving without them would not be what the operator wrote.
type UnsupportedError struct{ Settings []string }

func (e *UnsupportedError) Error() string {
	return "this build cannot serve these settings of the configuration: " + strings.Join(e.Settings, "; ")
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
	if c.Auth.Enabled != a.config.Auth.Enabled {
		return errors.New("auth.enabled: to turn keys on or off takes a restart")
	}
	secured, err := a.readTLS(c)
	if err != nil {
		return err
	}
	var sender *webhook.Sender
	if a.usage != nil {
		if sender, err = a.usage.next(c); err != nil {
			return err
		}
	}
	next, err := a.build(c, a.now)
	if err != nil {
		return err
	}
	if a.keys != nil {
		if err := a.keys.use(c); err != nil {
			next.closeNew(a.now)
			return err
		}
		a.keys.reload()
	}
	for _, key := range needRestart(a.config, c) {
		a.log.Warn("this setting takes effect after a restart", "key", key)
	}
	if secured != nil {
		a.certificates.use(c.TLS, secured)
	}
	if sender != nil {
		a.usage.use(c.UsageHook, sender)
	}
	a.gateway.SetView(next.view)
	a.now.checker.Close() // its last word must not come after the next one's first
	next.start(a)
	a.now.retire(a, next)
	a.now, a.config = next, c
	a.setAdmin(c)
	a.setAccessLog(c.Log.Access)
	return nil
}

// readTLS reads the files of the main listener's certificate anew; nil when TLS
// is off, before or after.
func (a *App) readTLS(c *config.Config) (*secrets, error) {
	if a.certificates == nil || c.TLS.CertFile == "" {
		return nil, nil
	}
	return readSecrets(c.TLS)
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
	hook := old.UsageHook.Enabled || new.UsageHook.Enabled
	ownListener := old.Metrics.Listen != "" || new.Metrics.Listen != "" // for the metrics
	var keys []string
	for _, k := range []struct {
		key     string
		differs bool
	}{
		{"listen", old.Listen != new.Listen},
		{"listen_mode", old.ListenMode != new.ListenMode},
		{"tls", (old.TLS.CertFile == "") != (new.TLS.CertFile == "")},
		{"server.max_header_size", old.Server.MaxHeaderSize != new.Server.MaxHeaderSize},
		{"server.header_timeout", old.Server.HeaderTimeout != new.Server.HeaderTimeout},
		{"server.idle_timeout", old.Server.IdleTimeout != new.Server.IdleTimeout},
		{"server.write_timeout", old.Server.WriteTimeout != new.Server.WriteTimeout},
		{"server.max_connections", old.Server.MaxConnections != new.Server.MaxConnections},
		{"server.max_connections_per_ip", old.Server.MaxConnectionsPerIP != new.Server.MaxConnectionsPerIP},
		{"admin.listen", old.Admin.Listen != new.Admin.Listen},
		{"metrics.listen", old.Metrics.Listen != new.Metrics.Listen},
		{"metrics.path", old.Metrics.Path != new.Metrics.Path && ownListener},
		{"metrics.enabled", old.Metrics.Enabled != new.Metrics.Enabled && ownListener},
		{"data_dir", old.DataDir != new.DataDir && hook},
		{"usage_hook.enabled", old.UsageHook.Enabled != new.UsageHook.Enabled},
		{"usage_hook.sync", old.UsageHook.Sync != new.UsageHook.Sync && hook},
		{"usage_hook.on_journal_error", old.UsageHook.OnJournalError != new.UsageHook.OnJournalError && hook},
		{"usage_hook.max_size", old.UsageHook.MaxSize != new.UsageHook.MaxSize && hook},
		{"usage_hook.retention", old.UsageHook.Retention != new.UsageHook.Retention && hook},
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
	// What was accepted is served, so nobody is missing when connections are
	// counted below. What waits in the queue of a passed socket stays there.
	_ = a.listener.Close()
	a.serving.Wait()
	ctx, cancel := context.WithCancel(context.Background())
	var stopping sync.WaitGroup
	// It closes idle connections, and goes on closing them, until ctx ends.
	// What it waits for is no measure: it does not know the connections of
	// streams, nor those idle after one.
	stopping.Go(func() { _ = a.server.ShutdownWithContext(ctx) })
	a.listener.CloseIdle()
	if !a.drained(time.Duration(s.ShutdownTimeout)) {
		a.log.Warn("interrupting what is still open after shutdown_timeout", "open_connections", a.listener.Stats().Open)
		a.listener.Interrupt()
		a.drained(interruptGrace)
	}
	cancel()
	stopping.Wait()
	if a.certificates != nil {
		a.certificates.close()
	}
	a.tidying()
	a.metrics.close()
	a.operator.close()
	a.now.close()
	a.hangups.Close()
	a.closeRecords() // after the last request has ended
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
