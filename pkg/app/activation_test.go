package app_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// unitSocket is a socket that systemd holds: the test has it open all the time,
// whether a service runs or not.
func unitSocket(t *testing.T, network, addr string) (*os.File, net.Addr) {
	t.Helper()
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false) // systemd's is plain unless the unit asks for it
	ln, err := lc.Listen(t.Context(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	file, err := ln.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	if u, ok := ln.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	ln.Close()
	t.Cleanup(func() { file.Close() })
	return file, ln.Addr()
}

// startUnit runs the gateway as systemd does: with sockets from descriptor 3 on,
// and variables that tell of them.
func startUnit(t *testing.T, config, names string, sockets []*os.File, env ...string) *process {
	t.Helper()
	// The variable that names the process can only be set by that process.
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, binary(t, "llmproxy"), "serve", "-config", config)
	cmd.ExtraFiles = sockets
	cmd.Env = append(os.Environ(), env...)
	if len(sockets) > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprint("LISTEN_FDS=", len(sockets)), "LISTEN_FDNAMES="+names)
	}
	return startCommand(t, cmd)
}

// TestSocketActivation: which of the passed sockets the gateway serves on, and
// what it says when there is none.
func TestSocketActivation(t *testing.T) {
	leavesNothing(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	web, webAddr := unitSocket(t, "tcp", "127.0.0.1:0")
	all, allAddr := unitSocket(t, "tcp", ":0")
	file, _ := unitSocket(t, "unix", path)
	scrape, scrapeAddr := unitSocket(t, "tcp", "127.0.0.1:0")
	connected := connectedSocket(t)
	_, port, _ := net.SplitHostPort(allAddr.String())
	for _, w := range []struct {
		name, listen string
		sockets      []*os.File
		names        string
		at           net.Addr // where it serves; nil = it ends
		says         string
	}{
		{"an unchanged configuration", webAddr.String(), []*os.File{web}, "llmproxy.socket", webAddr, "msg=serving"},
		{"every address, in the other family's word", "0.0.0.0:" + port, []*os.File{all}, "llmproxy.socket", allAddr, "msg=serving"},
		{"a unix socket by its path", "unix:" + path, []*os.File{web, file}, "a:b", &net.UnixAddr{Name: path, Net: "unix"}, "a socket that nothing listens on"},
		{"the first", "systemd", []*os.File{web, all}, "a:b", webAddr, "a socket that nothing listens on"},
		{"by name", "systemd:b", []*os.File{all, web}, "a:b", webAddr, "name=a"},
		{"the metrics' socket is not the main one", "systemd", []*os.File{scrape, web}, "a:b", webAddr, "msg=serving"},
		{"another address than the unit's", "127.0.0.1:1", []*os.File{web}, "llmproxy.socket", nil, `systemd passed only [\"llmproxy.socket\" at ` + webAddr.String()},
		{"a name that the unit has not", "systemd:c", []*os.File{web}, "a", nil, `systemd passed only`},
		{"started without its socket", "systemd", nil, "", nil, "systemd passed no socket"},
		{"a socket per connection", "systemd", []*os.File{connected}, "a", nil, "Accept=no"},
	} {
		t.Run(w.name, func(t *testing.T) {
			config := filepath.Join(t.TempDir(), "c.yaml")
			writeFile(t, config, fmt.Sprintf("listen: %q\nmetrics: {listen: %q}\nbackends: [{url: http://127.0.0.1:1}]\n", w.listen, metricsAt(w.sockets, scrape, scrapeAddr)))
			p := startUnit(t, config, w.names, w.sockets)
			p.says(w.says)
			if w.at == nil {
				if code := p.exit(); code != 1 {
					t.Errorf("exit code %d", code)
				}
				return
			}
			answers(t, w.at)
			p.signal(syscall.SIGTERM)
			if code := p.exit(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			// systemd's socket takes connections all the same.
			c, err := net.Dial(w.at.Network(), w.at.String())
			if err != nil {
				t.Fatalf("afterwards: %v", err)
			}
			c.Close()
		})
	}
}

// metricsAt is the address of the metrics' own socket when it is among them.
func metricsAt(sockets []*os.File, scrape *os.File, addr net.Addr) string {
	if len(sockets) > 0 && sockets[0] == scrape {
		return addr.String()
	}
	return "127.0.0.1:0"
}

// answers checks that a gateway serves at addr.
func answers(t *testing.T, addr net.Addr) {
	t.Helper()
	c, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	fmt.Fprint(c, "GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("at %s: %v %v", addr, resp, err)
	}
}

// connectedSocket is what a unit with Accept=yes passes.
func connectedSocket(t *testing.T) *os.File {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	file, err := c.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// TestRestartBySocketActivation: while a gateway is restarted over and over,
// clients wait in the queue of systemd's socket: none is refused, and no request
// fails. Those that keep their connections find them closed between requests, if
// shutdown_delay gave them the time to hear of it.
func TestRestartBySocketActivation(t *testing.T) {
	leavesNothing(t)
	restarts := 3
	if long {
		restarts = 30
	}
	engine := startFakeEngine(t, "-itl", "2ms")
	t.Run("all", func(t *testing.T) {
		for _, w := range []struct {
			name, server   string
			fresh, keeping int // clients
		}{
			{"new connections", "shutdown_timeout: 10s", 8, 0},
			{"kept connections too", "shutdown_delay: 200ms, shutdown_timeout: 10s", 4, 4},
		} {
			t.Run(w.name, func(t *testing.T) {
				together(t)
				g := newGateway(t)
				socket, addr := unitSocket(t, "tcp", "127.0.0.1:0")
				g.addr, g.url = addr.String(), "http://"+addr.String()
				writeFile(t, g.file, "listen: "+g.addr+"\n"+backendsYAML([]*fakeEngine{engine})+"server: {"+w.server+"}\n")
				start := func() {
					g.process = startUnit(t, g.file, "llmproxy.socket", []*os.File{socket})
					g.says("msg=serving")
				}
				start()
				l := startSteady(t, g, w.fresh, w.keeping)
				for range restarts {
					l.more(t, 20)
					idle := keptAlive(t, g, 2)
					g.signal(syscall.SIGTERM)
					for _, c := range idle {
						if rest, err := c.br.ReadByte(); err != io.EOF {
							t.Errorf("an idle connection ended with %q, %v, not a clean end", rest, err)
						}
						c.Close()
					}
					if code := g.exit(); code != 0 {
						t.Errorf("exit code %d", code)
					}
					start()
				}
				l.more(t, 20)
				l.finish(t, restarts)
			})
		}
	})
}

// steady is clients that send one request after the other.
type steady struct {
	g    *gatewayProcess
	stop context.CancelFunc
	work sync.WaitGroup

	served, closed atomic.Int64 // requests; connections that ended between two
	longest        atomic.Int64 // nanoseconds
}

const steadyTokens = 10

// startSteady runs clients with a connection for each request, whole answers and
// streams, and clients that keep theirs, all streams.
func startSteady(t *testing.T, g *gatewayProcess, fresh, keeping int) *steady {
	ctx, cancel := context.WithCancel(t.Context())
	s := &steady{g: g, stop: cancel}
	for i := range fresh {
		l := &load{url: g.url + "/v1/chat/completions", model: "mock-model", tokens: steadyTokens, client: g.client}
		s.run(ctx, t, func() bool {
			r := l.request(i%2 == 0)
			if r.verdict != served {
				t.Errorf("a request on a connection of its own: %s: %s", verdictNames[r.verdict], r.detail)
			}
			return r.verdict == served
		})
	}
	for range keeping {
		k := &keeper{t: t, s: s}
		s.run(ctx, t, k.request)
		t.Cleanup(k.leave)
	}
	t.Cleanup(func() { cancel(); s.work.Wait() })
	return s
}

// run makes requests until ctx ends or one fails.
func (s *steady) run(ctx context.Context, t *testing.T, request func() bool) {
	s.work.Go(func() {
		for ctx.Err() == nil {
			at := time.Now()
			if !request() {
				return
			}
			s.served.Add(1)
			if took := int64(time.Since(at)); took > s.longest.Load() {
				s.longest.Store(took)
			}
		}
	})
}

func (s *steady) more(t *testing.T, n int64) {
	t.Helper()
	enough := s.served.Load() + n
	apptest.Eventually(t, "further requests are through", func() bool { return t.Failed() || s.served.Load() >= enough })
}

func (s *steady) finish(t *testing.T, restarts int) {
	s.stop()
	s.work.Wait()
	t.Logf("%d restarts, %d requests served; %d kept connections were closed; the slowest took %v",
		restarts, s.served.Load(), s.closed.Load(), time.Duration(s.longest.Load()))
}

// keeper is a client that uses its connection for as long as it may.
type keeper struct {
	t *testing.T
	s *steady
	c net.Conn
	r *bufio.Reader
}

func (k *keeper) leave() {
	if k.c != nil {
		k.c.Close()
		k.c = nil
	}
}

// request makes one request, on a new connection when the one it has is over.
func (k *keeper) request() bool {
	body := fmt.Sprintf(`{"model":"mock-model","messages":[{"role":"user","content":"hi"}],"max_tokens":%d,"stream":true}`, steadyTokens)
	for {
		reused := k.c != nil
		if !reused {
			c, err := net.Dial("tcp", k.s.g.addr)
			if err != nil {
				k.t.Errorf("a client that comes again: %v", err)
				return false
			}
			k.c, k.r = c, bufio.NewReader(c)
		}
		_ = k.c.SetDeadline(time.Now().Add(patience))
		_, err := io.WriteString(k.c, post("/v1/chat/completions", body))
		if err == nil {
			_, err = k.r.Peek(1)
		}
		if reused && (errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE)) {
			k.s.closed.Add(1) // between two requests
			k.leave()
			continue
		}
		if err != nil {
			k.t.Errorf("no byte of an answer: %v", err)
			return false
		}
		return k.read()
	}
}

func (k *keeper) read() bool {
	resp, err := http.ReadResponse(k.r, nil)
	if err != nil {
		k.t.Errorf("no answer: %v", err)
		return false
	}
	verdict := judgeStream(resp.Body, steadyTokens)
	if resp.StatusCode != 200 || verdict.verdict != served {
		k.t.Errorf("status %d, %s: %s", resp.StatusCode, verdictNames[verdict.verdict], verdict.detail)
		return false
	}
	if resp.Close {
		k.s.closed.Add(1)
		k.leave()
	}
	return true
}
