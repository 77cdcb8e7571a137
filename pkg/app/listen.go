package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/admin"
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
	err = a.openAdmin(c, &sockets)
	if err == nil {
		err = a.openMain(c, &sockets)
	}
	if err != nil {
		a.metrics.close()
		a.operator.close()
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
	a.setAdmin(c)
	a.metrics.start(a)
	a.operator.start(a)
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

// side is a listener beside the main one, with what it serves; the zero side is
// none.
type side struct {
	server   *fasthttp.Server
	listener *listener.Listener
	serving  sync.WaitGroup

	mu   sync.Mutex
	open map[net.Conn]bool // connections
}

const (
	// sideTimeout is how long a peer there may be silent.
	sideTimeout = 10 * time.Second
	// sideGrace is how long requests there may take when the gateway ends.
	sideGrace = time.Second
)

// openSide opens the listener at an address. A service manager need not pass it.
func (a *App) openSide(s *side, address string, c *config.Config, sockets *passedSockets, h fasthttp.RequestHandler) (err error) {
	ln := sockets.take(func(s passedSocket) bool { return sameSocket(address, s.Addr()) })
	s.listener, err = open(ln, address, listener.Options{WriteTimeout: sideTimeout, SocketMode: c.ListenMode})
	if err != nil {
		return err
	}
	s.server = &fasthttp.Server{
		NoDefaultServerHeader: true,
		SecureErrorLogMessage: true,
		ReadTimeout:           sideTimeout,
		MaxRequestBodySize:    admin.MaxBody,
		Logger:                slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
		Handler:               h,
		ConnState:             s.track,
	}
	s.open = map[net.Conn]bool{}
	return nil
}

// track is told of each connection.
func (s *side) track(c net.Conn, state fasthttp.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case fasthttp.StateNew:
		s.open[c] = true
	case fasthttp.StateClosed:
		delete(s.open, c)
	}
}

func (s *side) start(a *App) {
	if s.server != nil {
		a.serve(&s.serving, s.server, s.listener)
	}
}

// close ends the listener and its connections. What is cut short is no loss.
func (s *side) close() {
	if s.listener == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), sideGrace)
	defer cancel()
	_ = s.server.ShutdownWithContext(ctx) // leaves those that are silent, or slow
	_ = s.listener.Close()                // nothing may have been served
	s.serving.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		_ = c.Close()
	}
}

// openMetrics gives the metrics their own listener when the configuration names
// one.
func (a *App) openMetrics(c *config.Config, sockets *passedSockets) error {
	if !c.Metrics.Enabled || c.Metrics.Listen == "" {
		return nil
	}
	path := c.Metrics.Path
	err := a.openSide(&a.metrics, c.Metrics.Listen, c, sockets, func(ctx *fasthttp.RequestCtx) {
		if string(ctx.Path()) != path {
			ctx.Error("the metrics are at "+path+"\n", fasthttp.StatusNotFound)
			return
		}
		a.gateway.Metrics(ctx)
	})
	if err != nil {
		return fmt.Errorf("metrics.listen: %w", err)
	}
	return nil
}

// openAdmin does the same for the admin API.
func (a *App) openAdmin(c *config.Config, sockets *passedSockets) error {
	if c.Admin.Token == "" || c.Admin.Listen == "" {
		return nil
	}
	if err := a.openSide(&a.operator, c.Admin.Listen, c, sockets, a.gateway.ServeAdmin); err != nil {
		return fmt.Errorf("admin.listen: %w", err)
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
