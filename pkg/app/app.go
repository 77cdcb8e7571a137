// Package app puts the gateway together from a configuration, runs it,
// reloads it and takes it apart. It is the only place that knows everything.
package app

import (
	"context"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/auth"
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
	// Load reads the configuration anew, for App.ReloadFile; nil: it cannot.
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
	sharing       *sharing      // nil: this gateway is the only one
	keys          *keys         // nil where nobody is asked for one, nor can make one
	tidying       context.CancelFunc
	adminFailures *auth.Failures // by the time since born
	born          time.Time

	metrics, operator side // listeners of their own

	ending sync.Once
	mu     sync.Mutex // one reload at a time; guards what follows until closed is set
	config *config.Config
	now    *generation
	access *gateway.AccessLog
	onMain bool // the admin API is on the main port
	closed bool

	digest digest // of the configuration in force
}

// New builds a gateway, opens its listeners and serves. Close ends it.
func New(c *config.Config, o Options) (*App, error) {
	a := &App{
		options: o, log: o.Log, config: c, stats: stats.New(o.Version, o.GoVersion), hangups: forward.NewHangups(),
		adminFailures: auth.NewFailures(), born: time.Now(),
	}
	a.mu.Lock() // a request for a reload may come before all is in its place
	defer a.mu.Unlock()
	g, err := a.build(c, nil)
	if err != nil {
		a.hangups.Close()
		return nil, err
	}
	a.now = g
	a.gateway = gateway.New(g.view, a.stats, o.Log)
	a.gateway.SetClock(o.Now)
	a.setAccessLog(c.Log.Access)
	a.digest.Store(c)
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
	if err := a.openSharing(c); err != nil {
		return err
	}
	if err := a.useKeys(c); err != nil {
		return err
	}
	return a.listen(c)
}

// useKeys puts the keys of a configuration in force. The first configuration that
// needs the keys file opens it.
func (a *App) useKeys(c *config.Config) (err error) {
	if a.keys != nil {
		if err = a.keys.use(c); err == nil {
			a.keys.reload()
		}
		return err
	}
	if a.keys, err = openKeys(c, a.gateway, a.sharing, a.options); a.keys != nil {
		a.keys.register(a.stats)
	}
	return err
}

// closeRecords closes what open opened on the disk.
func (a *App) closeRecords() {
	if a.keys != nil {
		a.keys.close()
	}
	if a.sharing != nil {
		a.sharing.close()
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

// Addr is where the gateway listens.
func (a *App) Addr() net.Addr { return a.listener.Addr() }

// Stats are the gateway's metrics.
func (a *App) Stats() *stats.Set { return a.stats }

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

// Close drains the gateway and stops it: not ready at once, no new connection
// after server.shutdown_delay, an error event to whatever is still open after
// server.shutdown_timeout. It may be called again.
func (a *App) Close() { a.ending.Do(a.close) }

func (a *App) close() {
	// Not for longer: a reload that an operator asks for now must not wait for
	// the end, which waits for its connection.
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
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
	var sides sync.WaitGroup
	sides.Go(a.metrics.close)
	sides.Go(a.operator.close)
	sides.Wait()
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
