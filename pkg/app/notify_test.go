package app_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// manager is the end of NOTIFY_SOCKET that systemd has.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

func listenManager(t *testing.T, name string) *manager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &manager{t, conn}
}

// hears returns the lines of the next message that is none of the watchdog's.
func (m *manager) hears() []string {
	m.t.Helper()
	for {
		if lines := m.next(); !slices.Contains(lines, "WATCHDOG=1") {
			return lines
		}
	}
}

func (m *manager) next() []string {
	m.t.Helper()
	_ = m.conn.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 4096)
	n, err := m.conn.Read(b)
	if err != nil {
		m.t.Fatalf("the service says nothing: %v", err)
	}
	return strings.Split(string(b[:n]), "\n")
}

// wants checks that a message has these lines, and a status that begins so.
func (m *manager) wants(status string, lines ...string) []string {
	m.t.Helper()
	got := m.hears()
	for _, line := range lines {
		if !slices.Contains(got, line) {
			m.t.Errorf("it says %q, without %q", got, line)
		}
	}
	if !slices.ContainsFunc(got, func(line string) bool { return strings.HasPrefix(line, "STATUS="+status) }) {
		m.t.Errorf("it says %q, without the status %q", got, status)
	}
	return got
}

// TestNotify: systemd is told when the gateway serves, reloads, has failed to, and
// drains, in this order.
func TestNotify(t *testing.T) {
	leavesNothing(t)
	for _, w := range []struct{ name, socket string }{
		{"a socket in the file system", filepath.Join(t.TempDir(), "n")},
		{"an abstract one", fmt.Sprintf("@llmproxy-test-%d", time.Now().UnixNano())},
	} {
		t.Run(w.name, func(t *testing.T) {
			m := listenManager(t, w.socket)
			g := newGateway(t)
			config := "listen: " + g.addr + "\nbackends: [{url: http://127.0.0.1:1}]\n"
			writeFile(t, g.file, config)
			g.process = startUnit(t, g.file, "", nil, "NOTIFY_SOCKET="+w.socket, "WATCHDOG_USEC=100000")
			m.wants("serving 1 backends on "+g.addr, "READY=1")
			if status, _ := g.get("/healthz"); status != 200 {
				t.Error("it was ready before it served")
			}
			for range 2 {
				for !slices.Contains(m.next(), "WATCHDOG=1") {
				}
			}
			g.signal(syscall.SIGHUP)
			m.wantsReload()
			m.wants("serving 1 backends", "READY=1")
			writeFile(t, g.file, config+"nonsense: 1\n")
			m.wantsReload()
			m.wants("serving; the configuration was not reloaded", "READY=1")
			g.signal(syscall.SIGTERM)
			m.wants("draining", "STOPPING=1")
			if code := g.exit(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// wantsReload checks what Type=notify-reload needs: when it was, by the clock of
// the whole system.
func (m *manager) wantsReload() {
	m.t.Helper()
	lines := m.wants("reloading", "RELOADING=1")
	i := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "MONOTONIC_USEC=") })
	if i < 0 {
		m.t.Fatalf("it says %q, without MONOTONIC_USEC", lines)
	}
	if n, err := strconv.Atoi(strings.TrimPrefix(lines[i], "MONOTONIC_USEC=")); err != nil || n <= 0 {
		m.t.Errorf("it says %s", lines[i])
	}
}

// TestWatchdog: the watchdog hears of a gateway that serves, and not of one that
// does not.
func TestWatchdog(t *testing.T) {
	m := listenManager(t, filepath.Join(t.TempDir(), "n"))
	t.Setenv("NOTIFY_SOCKET", m.conn.LocalAddr().String())
	t.Setenv("WATCHDOG_USEC", "20000")
	logs := &apptest.Log{}
	service := &app.Service{Log: slog.New(slog.NewTextHandler(logs, nil))}
	ctx, cancel := context.WithCancel(t.Context())
	asked, done := 0, make(chan struct{})
	go func() {
		defer close(done)
		service.Watchdog(ctx, func() bool {
			if asked++; asked == 3 {
				cancel()
			}
			return asked == 2
		})
	}()
	<-done
	service.Stopping()
	service.Ready("too late")
	service.Reloading()
	if got := m.next(); !slices.Contains(got, "WATCHDOG=1") {
		t.Errorf("it says %q", got)
	}
	m.wants("draining", "STOPPING=1") // and not a second WATCHDOG=1 before it
	_ = m.conn.SetReadDeadline(time.Now())
	if n, err := m.conn.Read(make([]byte, 100)); err == nil {
		t.Errorf("%d bytes follow STOPPING=1", n)
	}
	if n := strings.Count(logs.String(), "does not answer itself"); n < 2 {
		t.Errorf("%d lines in the log, want one each time: %s", n, logs)
	}
}

// brokenListener takes no connection.
type brokenListener struct{ net.Listener }

func (brokenListener) Accept() (net.Conn, error) { return nil, syscall.EINVAL }

// TestAlive: a gateway that nobody can reach any more does not call itself alive,
// one that drains does.
func TestAlive(t *testing.T) {
	g := apptest.Start(t, "backends: [{url: http://127.0.0.1:1}]\n")
	if !g.Alive() {
		t.Error("it serves, and calls itself dead")
	}
	g.Close()
	if !g.Alive() {
		t.Error("it was asked to end, and calls itself dead")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a, err := app.New(apptest.Config(t, "backends: [{url: http://127.0.0.1:1}]\n"), app.Options{
		Listener: brokenListener{ln}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	apptest.Eventually(t, "it is not called alive", func() bool { return !a.Alive() })
}
