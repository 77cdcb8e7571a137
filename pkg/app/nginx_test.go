package app_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// TestNginxEventsComeOneByOne: an event has come to the client before the engine
// makes the next one. What waits for more, in a buffer or to be compressed,
// waits for ever.
func TestNginxEventsComeOneByOne(t *testing.T) {
	bothVersions(t, func(t *testing.T, version string) {
		url, gate := gatedEngine(t)
		n := startNginx(t, url)
		r := bufio.NewReader(n.ask(t.Context(), n.client(version), version, streamChat).Body)
		for i := range 20 {
			if i > 0 {
				let(t, gate)
			}
			if event := nextEvent(t, r); !strings.Contains(event, fmt.Sprintf(`"content":"%d"`, i)) {
				t.Fatalf("event %d is %q", i, event)
			}
		}
		close(gate)
		if event := nextEvent(t, r); event != "data: [DONE]\n" {
			t.Errorf("the last event is %q", event)
		}
	})
}

// TestNginxClientLeaves: the engine hears of a client that leaves, in each phase.
func TestNginxClientLeaves(t *testing.T) {
	e := apptest.StartEngine(t, mockvllm.Options{StepBase: slowToken})
	n := startNginx(t, e.URL)
	bothVersions(t, func(t *testing.T, version string) {
		for _, w := range []struct {
			name, more string
			there      func(*mockvllm.Entry) bool
		}{
			{"in a stream", `,"stream":true`, func(r *mockvllm.Entry) bool { return r.Events > 2 }},
			{"before a stream's first token", `,"stream":true,"mock_prefill_ms":3600000`, func(r *mockvllm.Entry) bool { return r.State == mockvllm.StatePrefill }},
			{"before a whole answer", "", func(r *mockvllm.Entry) bool { return r.State == mockvllm.StateDecode }},
		} {
			t.Run(w.name, func(t *testing.T) {
				s := &site{t: t, engine: e}
				tag := version + w.name
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				left := make(chan struct{})
				go func() {
					defer close(left)
					n.stay(ctx, n.client(version), fmt.Sprintf(
						`{"model":"mock-model","messages":[{"role":"user","content":"hi"}],"max_tokens":100000,"mock_tag":%q%s}`, tag, w.more))
				}()
				s.await(tag, "under way", w.there)
				leave()
				<-left
				if row := s.await(tag, "to its end", (*mockvllm.Entry).Ended); row.State != mockvllm.StateAborted {
					t.Errorf("the engine saw %+v", row)
				}
			})
		}
	})
}

// TestNginxTellsWhoAsks: the gateway's access log has the client's address,
// whatever the client claims, and the id that nginx logs.
func TestNginxTellsWhoAsks(t *testing.T) {
	e := apptest.StartEngine(t, mockvllm.Options{})
	n := startNginx(t, e.URL)
	bothVersions(t, func(t *testing.T, version string) {
		resp := n.ask(t.Context(), n.client(version), version, wholeChat)
		if status, body := readAnswer(resp); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		id := resp.Header.Get("X-Request-Id")
		var line struct {
			Client          string `json:"client"`
			ClientRequestID string `json:"client_request_id"`
			Attempts        int    `json:"attempts"`
		}
		apptest.Eventually(t, "the gateway logs the request", func() bool {
			for l := range strings.Lines(n.gateway.output.String()) {
				if strings.Contains(l, `"request_id":"`+id+`"`) {
					return json.Unmarshal([]byte(l), &line) == nil
				}
			}
			return false
		})
		if line.Client != clientAddr || len(line.ClientRequestID) != 32 || line.Attempts != 1 {
			t.Errorf("the gateway logs %+v", line) // more attempts: the client has chosen the region
		}
		apptest.Eventually(t, "nginx logs the request", func() bool {
			log, err := os.ReadFile(filepath.Join(n.command[2], "access.log"))
			return err == nil && strings.Contains(string(log), "id="+line.ClientRequestID+" "+id)
		})
	})
}

// TestNginxBigBodies: what the gateway takes passes nginx, and what it refuses is
// refused by the gateway, whose words clients understand.
func TestNginxBigBodies(t *testing.T) {
	e := apptest.StartEngine(t, mockvllm.Options{})
	n := startNginx(t, e.URL)
	const size = 4 << 20 // nginx's own limit is 1 MiB
	body := wholeChat[:len(wholeChat)-1] + strings.Repeat(" ", size-len(wholeChat)) + "}"
	bothVersions(t, func(t *testing.T, version string) {
		c := n.client(version)
		if status, answer := readAnswer(n.ask(t.Context(), c, version, body)); status != 200 {
			t.Errorf("%d %s", status, answer)
		}
		if rows := posts(e); len(rows) == 0 || rows[len(rows)-1].BodyBytes != size {
			t.Errorf("the engine got %+v, want %d bytes", rows, size)
		}
	})
	t.Run("too large for the gateway", func(t *testing.T) {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(n.url, "https://"), &tls.Config{RootCAs: n.roots})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		c := &rawClient{t: t, Conn: conn, br: bufio.NewReader(conn)}
		c.send(fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n{", 64<<20+1))
		if resp, answer := c.answer("POST"); resp.StatusCode != 413 || !strings.Contains(answer, `"code":"request_too_large"`) {
			t.Errorf("%d %s", resp.StatusCode, answer)
		}
	})
}

// TestNginxKeepsConnections: requests share connections, to nginx and from nginx
// to the gateway. The gateway that is down costs none of them.
func TestNginxKeepsConnections(t *testing.T) {
	e := apptest.StartEngine(t, mockvllm.Options{})
	n := startNginx(t, e.URL)
	bothVersions(t, func(t *testing.T, version string) {
		c := n.client(version)
		const accepted = "llmproxy_connections_accepted_total"
		before := n.gateway.metric(accepted)
		for range 100 {
			if status, answer := readAnswer(n.ask(t.Context(), c, version, wholeChat)); status != 200 {
				t.Fatalf("%d %s", status, answer)
			}
		}
		if got := n.gateway.metric(accepted) - before - 1; got > 1 { // the metrics' own is one
			t.Errorf("100 requests, %v connections to the gateway", got)
		}
	})
}

// TestNginxStreamsOutliveIt: a stream that began before a reload, or before nginx
// was told to end, comes to its end.
func TestNginxStreamsOutliveIt(t *testing.T) {
	for _, w := range []struct {
		name   string
		signal syscall.Signal
		then   func(*nginx)
	}{
		{"reload", syscall.SIGHUP, func(n *nginx) { n.says("gracefully shutting down") }},
		{"restart", syscall.SIGQUIT, func(n *nginx) { n.says("gracefully shutting down"); n.start() }},
	} {
		t.Run(w.name, func(t *testing.T) {
			bothVersions(t, func(t *testing.T, version string) {
				url, gate := gatedEngine(t)
				n := startNginx(t, url)
				old := n.process
				r := bufio.NewReader(n.ask(t.Context(), n.client(version), version, streamChat).Body)
				nextEvent(t, r)
				n.signal(w.signal)
				w.then(n)
				// New clients are served while the old one still has its stream.
				resp, err := n.client(version).Get(n.url + "/healthz")
				if err != nil {
					t.Fatal(err)
				}
				if status, body := readAnswer(resp); status != 200 {
					t.Errorf("a new client: %d %s", status, body)
				}
				let(t, gate)
				if event := nextEvent(t, r); !strings.HasPrefix(event, "data: {") {
					t.Errorf("the stream went on with %q", event)
				}
				close(gate)
				rest, err := io.ReadAll(r)
				if err != nil || !strings.HasSuffix(string(rest), "data: [DONE]\n\n") {
					t.Errorf("the stream ended with %q, %v", rest, err)
				}
				if w.signal == syscall.SIGQUIT {
					if code := old.exit(); code != 0 {
						t.Errorf("nginx ended with exit code %d", code)
					}
				}
			})
		})
	}
}

// TestNginxWithoutGateway: clients get an error that they can read.
func TestNginxWithoutGateway(t *testing.T) {
	n := startNginx(t, "http://127.0.0.1:2")
	n.gateway.kill()
	status, body := readAnswer(n.ask(t.Context(), n.client("HTTP/1.1"), "HTTP/1.1", wholeChat))
	var e struct{ Error struct{ Code string } }
	if err := json.Unmarshal([]byte(body), &e); err != nil || status != 502 || e.Error.Code != "bad_gateway" {
		t.Errorf("%d %s", status, body)
	}
}
