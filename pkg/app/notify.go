package app

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/valyala/fasthttp"
)

// Service tells the service manager that started this process, such as systemd
// with Type=notify or notify-reload, how it does, as sd_notify(3) has it. Without
// NOTIFY_SOCKET in the environment it tells nobody. A message that cannot be sent
// is logged.
type Service struct {
	Log *slog.Logger

	mu       sync.Mutex // keeps the messages in their order
	stopping bool
}

// Ready says that the process serves, for the first time or again after
// Reloading, and what stands in the output of systemctl status.
func (s *Service) Ready(status string) { s.tell(false, daemon.SdNotifyReady, "STATUS="+status) }

// Reloading says that the configuration is read anew; Ready follows, whatever
// comes of it.
func (s *Service) Reloading() {
	s.tell(false, daemon.SdNotifyReloading, strings.TrimSpace(daemon.SdNotifyMonotonicUsec()), "STATUS=reloading")
}

// Stopping says that the process drains and will end. Ready and Reloading say
// nothing any more.
func (s *Service) Stopping() { s.tell(true, daemon.SdNotifyStopping, "STATUS=draining") }

// Watchdog says that the process lives, twice in each WATCHDOG_USEC, for as long
// as alive says so and returns, until ctx ends. It does nothing when the service
// manager watches no clock.
func (s *Service) Watchdog(ctx context.Context, alive func() bool) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.Log.Warn("cannot read WATCHDOG_USEC; the service manager may end this process", "error", err)
	}
	if err != nil || limit == 0 {
		return
	}
	tick := time.NewTicker(limit / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !alive() {
			s.Log.Error("the gateway does not answer itself; the watchdog is not told that it lives")
			continue
		}
		s.send(daemon.SdNotifyWatchdog)
	}
}

func (s *Service) tell(last bool, lines ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return
	}
	s.stopping = last
	s.send(lines...)
}

func (s *Service) send(lines ...string) {
	if err := notify(strings.Join(lines, "\n")); err != nil {
		s.Log.Warn("cannot tell the service manager", "message", lines[0], "error", err)
	}
}

// notifyTimeout bounds the wait for a manager that does not read.
const notifyTimeout = time.Second

// notify is daemon.SdNotify with an end to its patience.
func notify(state string) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetWriteDeadline(time.Now().Add(notifyTimeout)); err != nil {
		return err
	}
	_, err = c.Write([]byte(state))
	return err
}

// acceptLimit is how long a server may take to come back for the next
// connection.
const acceptLimit = time.Second

// Alive tells whether the gateway could serve: somebody waits for connections,
// and the gateway's handler, called within the process, answers /healthz. It says
// nothing about the backends, and while the gateway drains it is true. It hangs
// where a request would.
func (a *App) Alive() bool {
	if a.listener.Away() > acceptLimit {
		return false
	}
	a.listener.Stats() // takes the lock that every connection takes
	var r fasthttp.Request
	r.SetRequestURI("/healthz")
	var ctx fasthttp.RequestCtx
	ctx.Init(&r, nil, nil)
	a.server.Handler(&ctx)
	return ctx.Response.StatusCode() == fasthttp.StatusOK
}
