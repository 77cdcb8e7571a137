package app

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/config"
	"github.com/llmproxy/llmproxy/pkg/gateway"
	"github.com/llmproxy/llmproxy/pkg/listener"
)

// listen opens the listeners and serves on them.
func (a *App) listen(c *config.Config) error {
	sockets, err := receiveSockets()
	if err != nil {
		return err
	}
	defer func() { sockets.close() }() // those that are left
	if err := a.openMetrics(c, &sockets); err != nil {
		return err
	}
	if err := a.openMain(c, &sockets); err != nil {
		if a.metricsListener != nil {
			a.metricsListener.Close()
		}
		return err
	}
	for _, s := range sockets {
		a.log.Warn("systemd passed a socket that nothing listens on", "name", s.name, "address", s.Addr().String())
	}
	var ln net.Listener = a.listener
	if a.certificates != nil {
		ln = a.certificates.listener(ln)
	}
	a.server = a.gateway.Server(gateway.Limits{
		MaxHeader:     int(c.Server.MaxHeaderSize),
		HeaderTimeout: time.Duration(c.Server.HeaderTimeout),
		IdleTimeout:   time.Duration(c.Server.IdleTimeout),
	})
	a.registerConnections()
	if a.metrics != nil {
		a.serve(&a.scraping, a.metrics, a.metricsListener)
	}
	a.serve(&a.serving, a.server, ln)
	return nil
}

// openMain opens the main listener, and reads the certificate.
func (a *App) openMain(c *config.Config, sockets *passedSockets) error {
	if c.TLS.CertFile != "" {
		var err error
		if a.certificates, err = newCertificates(c.TLS, a.log); err != nil {
			return err
		}
		a.certificates.register(a.stats)
	}
	ln, err := a.options.Listener, error(nil)
	if ln == nil {
		ln, err = sockets.main(c.Listen)
	}
	if err == nil {
		a.listener, err = open(ln, c.Listen, listener.Options{
			MaxConns:      c.Server.MaxConnections,
			MaxConnsPerIP: c.Server.MaxConnectionsPerIP,
			WriteTimeout:  time.Duration(c.Server.WriteTimeout),
			UserTimeout:   userTimeout(time.Duration(c.Server.WriteTimeout)),
			SocketMode:    c.ListenMode,
			Logf:          func(format string, args ...any) { a.log.Warn(fmt.Sprintf(format, args...)) },
		})
	}
	if err != nil && a.certificates != nil {
		a.certificates.close()
	}
	return err
}

// open listens on ln, which it closes when that fails, or on the address when ln
// is nil.
func open(ln net.Listener, address string, o listener.Options) (*listener.Listener, error) {
	if ln == nil {
		return listener.Listen("tcp", address, o)
	}
	l, err := listener.New(ln, o)
	if err != nil {
		ln.Close()
	}
	return l, err
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

// scrapeTimeout is how long a scraper may be silent.
const scrapeTimeout = 10 * time.Second

// openMetrics gives the metrics their own listener when the configuration names
// one. A service manager need not pass it.
func (a *App) openMetrics(c *config.Config, sockets *passedSockets) error {
	if !c.Metrics.Enabled || c.Metrics.Listen == "" {
		return nil
	}
	ln := sockets.take(func(s passedSocket) bool { return sameSocket(c.Metrics.Listen, s.Addr()) })
	l, err := open(ln, c.Metrics.Listen, listener.Options{WriteTimeout: scrapeTimeout, SocketMode: c.ListenMode})
	if err != nil {
		return fmt.Errorf("metrics.listen: %w", err)
	}
	path := c.Metrics.Path
	a.metricsListener = l
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
	return nil
}

// serve runs a server until its listener is closed.
func (a *App) serve(running *sync.WaitGroup, s *fasthttp.Server, ln net.Listener) {
	running.Go(func() {
		if err := s.Serve(ln); err != nil && !errors.Is(err, net.ErrClosed) {
			a.log.Error("the server ended", "address", ln.Addr().String(), "error", err)
		}
	})
}
