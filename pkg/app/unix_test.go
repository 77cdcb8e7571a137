package app_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// startUnix runs a gateway on a unix socket.
func startUnix(t *testing.T, yaml string, engines ...*apptest.Engine) *apptest.Gateway {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	c := apptest.Config(t, fmt.Sprintf("listen: %q\n", "unix:"+path)+yaml, engines...)
	logs := &apptest.Log{}
	access, err := os.Create(filepath.Join(t.TempDir(), "access.log"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := app.New(c, app.Options{Version: "test", GoVersion: "go", Log: slog.New(slog.NewTextHandler(logs, nil)), AccessLog: access})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); access.Close() })
	return &apptest.Gateway{App: a, Addr: path, URL: access.Name(), Logs: logs}
}

func dialUnix(t *testing.T, path string) *rawClient {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &rawClient{t: t, Conn: c, br: bufio.NewReader(c)}
}

// TestUnixSocket: a gateway that is reached by a file serves as any other, and
// takes the file away when it ends.
func TestUnixSocket(t *testing.T) {
	leavesNothing(t)
	g := startUnix(t, "listen_mode: \"0600\"\nserver: {max_connections_per_ip: 1}\n", apptest.StartEngine(t, mockvllm.Options{}))
	if info, err := os.Stat(g.Addr); err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("its file is %v, %v", info.Mode(), err)
	}
	for range 2 { // more than of one address
		c := dialUnix(t, g.Addr)
		for _, body := range []string{wholeChat, streamChat, wholeChat} {
			c.send(post("/v1/chat/completions", body))
			if resp, answer := c.answer("POST"); resp.StatusCode != 200 || resp.Close {
				t.Fatalf("%d %s, closing %v", resp.StatusCode, answer, resp.Close)
			}
		}
	}
	g.Close()
	if _, err := os.Lstat(g.Addr); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its file is left: %v", err)
	}
}

// TestUnixClientLeaves: the engine hears within milliseconds that the client of a
// unix socket has gone, whatever it was doing.
func TestUnixClientLeaves(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{StepBase: slowToken})
	g := startUnix(t, "", e)
	s := &site{t: t, Gateway: g, engine: e}
	for _, w := range []struct {
		name, more string
		stream     bool
		leave      func(*net.UnixConn) error
		there      func(*mockvllm.Entry) bool
	}{
		{"a stream's client closes", "", true, (*net.UnixConn).Close, func(r *mockvllm.Entry) bool { return r.Events > 2 }},
		{"a stream's client half-closes", "", true, (*net.UnixConn).CloseWrite, func(r *mockvllm.Entry) bool { return r.Events > 2 }},
		{"a client closes before the first token", `,"mock_prefill_ms":3600000`, true, (*net.UnixConn).Close, func(r *mockvllm.Entry) bool { return r.State == mockvllm.StatePrefill }},
		{"a client closes before a whole answer", "", false, (*net.UnixConn).Close, func(r *mockvllm.Entry) bool { return r.State == mockvllm.StateDecode }},
	} {
		t.Run(w.name, func(t *testing.T) {
			tag := s.tag()
			c := dialUnix(t, g.Addr)
			c.send(post("/v1/chat/completions", fmt.Sprintf(
				`{"model":"mock-model","messages":[{"role":"user","content":"hi"}],"max_tokens":100000,"stream":%t,"mock_tag":%q%s}`, w.stream, tag, w.more)))
			s.await(tag, "under way", w.there)
			left := time.Now()
			if err := w.leave(c.Conn.(*net.UnixConn)); err != nil {
				t.Fatal(err)
			}
			s.gone++
			row := s.await(tag, "to its end", (*mockvllm.Entry).Ended)
			if took := row.Aborted.Sub(left); row.State != mockvllm.StateAborted || took > time.Second {
				t.Errorf("after %v the engine saw %+v", took, row)
			}
			c.Close()
		})
	}
	s.nothingLeft()
	s.notBlamed()
}

// TestUnixPeer: the client of a unix socket has no address. It counts as
// 127.0.0.1, for what it may see and for whom it may speak.
func TestUnixPeer(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	for _, w := range []struct {
		name, yaml string
		lines      []string
		metrics    int
		client     string
	}{
		{"it may read the metrics", "", nil, 200, "127.0.0.1"},
		{"for somebody else it may not", "", []string{"X-Forwarded-For: 192.0.2.9"}, 404, "127.0.0.1"},
		{"it is believed when loopback is", "trusted_proxies: [127.0.0.1]\n", []string{"X-Forwarded-For: 192.0.2.9"}, 404, "192.0.2.9"},
		{"it is not when others are", "trusted_proxies: [10.0.0.0/8]\n", []string{"X-Forwarded-For: 192.0.2.9"}, 404, "127.0.0.1"},
	} {
		t.Run(w.name, func(t *testing.T) {
			g := startUnix(t, "log: {access: true}\n"+w.yaml, e)
			c := dialUnix(t, g.Addr)
			c.send("GET /metrics HTTP/1.1\r\nHost: g\r\n" + strings.Join(append(w.lines, "", ""), "\r\n"))
			if resp, body := c.answer("GET"); resp.StatusCode != w.metrics {
				t.Errorf("the metrics: %d %.100s", resp.StatusCode, body)
			}
			c.send(post("/v1/chat/completions", wholeChat, w.lines...))
			if resp, body := c.answer("POST"); resp.StatusCode != 200 {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
			c.Close()
			g.Close()
			log, err := os.ReadFile(g.URL)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(log), `"client":"`+w.client+`"`) {
				t.Errorf("the access log has no client %s: %s", w.client, log)
			}
		})
	}
}
