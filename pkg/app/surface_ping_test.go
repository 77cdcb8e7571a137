package app_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/config"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// pingEvery is far less than a configuration file may ask for.
const pingEvery = 10 * time.Millisecond

// startPinging runs a gateway that pings silent streams.
func startPinging(t *testing.T, yaml string) *apptest.Gateway {
	t.Helper()
	g := apptest.Start(t, yaml)
	c := apptest.Config(t, yaml)
	c.Server.SSEPingInterval = config.Duration(pingEvery)
	if err := g.Reload(c); err != nil {
		t.Fatal(err)
	}
	return g
}

// pingFront is a way to come to the gateway.
type pingFront struct {
	name, version string
	tls           bool
}

var pingFronts = []pingFront{{"HTTP/1.1", "HTTP/1.1", false}, {"HTTP/1.0", "HTTP/1.0", false}, {"TLS", "HTTP/1.1", true}}

// yaml lets a gateway be reached in that way.
func (f *pingFront) yaml(t *testing.T) string {
	if !f.tls {
		return ""
	}
	cert, key := selfSigned(t)
	return fmt.Sprintf("tls: {cert_file: %q, key_file: %q}\n", cert, key)
}

// pingedStream is a stream that is being read; body is what there was so far.
type pingedStream struct {
	*rawClient
	stream io.Reader
	body   string
}

func (f *pingFront) ask(t *testing.T, g *apptest.Gateway, path, body string) *pingedStream {
	t.Helper()
	c := dialRaw(t, g.Addr)
	if f.tls {
		c.Conn = tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true})
		c.br = bufio.NewReader(c.Conn)
	}
	c.send(strings.Replace(post(path, body), "HTTP/1.1", f.version, 1))
	resp, err := http.ReadResponse(c.br, &http.Request{Method: "POST"})
	if err != nil {
		t.Fatal(err)
	}
	if ct := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || !strings.HasPrefix(ct, "text/event-stream") {
		t.Errorf("%d %s", resp.StatusCode, ct)
	}
	return &pingedStream{rawClient: c, stream: resp.Body}
}

// until reads until text has come once more.
func (s *pingedStream) until(text string) {
	s.t.Helper()
	from, b := len(s.body), make([]byte, 1)
	for !strings.Contains(s.body[from:], text) {
		n, err := s.stream.Read(b)
		if s.body += string(b[:n]); err != nil {
			s.t.Fatalf("%v instead of %q after %q", err, text, s.body)
		}
	}
}

// rest reads the stream to its end.
func (s *pingedStream) rest() string {
	s.t.Helper()
	b, err := io.ReadAll(s.stream)
	if err != nil {
		s.t.Errorf("the stream ended early: %v", err)
	}
	s.body += string(b)
	return s.body
}

// pausing is an engine that says its parts one by one, each but the first when
// it is told to go on.
func pausing(t *testing.T, parts ...string) (url string, goOn chan struct{}) {
	t.Helper()
	goOn = make(chan struct{})
	return rawEngine(t, func(_ *http.Request, c net.Conn) {
		for i, part := range parts {
			if i > 0 {
				select {
				case <-goOn:
				case <-t.Context().Done():
					return
				}
			}
			say(c, part)
		}
	}), goOn
}

const (
	pingFirst  = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one\"}}]}\n\n"
	pingSecond = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"two\"}}]}\n\n"
)

// TestPingsBeforeTheFirstToken: a client that is pinged has been promised a
// stream. It gets the engine's, another engine's, or an error event that its SDK
// knows.
func TestPingsBeforeTheFirstToken(t *testing.T) {
	leavesNothing(t)
	fast := apptest.StartEngine(t, mockvllm.Options{})
	refusal := whole(503, "application/json", `{"error":{"message":"no","type":"server_error","param":null,"code":null}}`)
	stream := chunkedHead + chunk(pingFirst).wire + chunk(doneEvent).wire + lastChunk.wire
	for _, w := range []struct {
		name, path, body string
		answer           string // of the engine, once the client was pinged
		fallback         bool
		end              string // of the stream
	}{
		{"the engine answers", chatPath, streamChat, stream, false, pingFirst + doneEvent},
		{"the engine refuses, another answers", chatPath, streamChat, refusal, true, doneEvent},
		{"the engine is lost, another answers", chatPath, streamChat, "", true, doneEvent},
		{"the engine refuses", chatPath, streamChat, refusal, false, "OpenAI error"},
		{"the engine is lost", chatPath, streamChat, "", false, "OpenAI error"},
		{"the engine has no stream", chatPath, streamChat, whole(200, "application/json", "{}"), false, "OpenAI error"},
		{"a client's mistake", chatPath, streamChat, whole(400, "application/json", `{"error":{"message":"bad","type":"BadRequestError"}}`), false, "OpenAI error"},
		{"Responses", "/v1/responses", `{"model":"m","input":"hi","stream":true}`, refusal, false, "`error` event of Responses"},
		{"Messages", "/v1/messages", `{"model":"m","max_tokens":4,"messages":[],"stream":true}`, refusal, false, "`error` event of Anthropic"},
		{"TGI", "/generate_stream", `{"inputs":"hi"}`, refusal, false, "TGI error"},
	} {
		for _, f := range pingFronts {
			t.Run(w.name+"/"+f.name, func(t *testing.T) {
				url, goOn := pausing(t, "", w.answer)
				yaml := "backends: [{url: " + url + ", name: e0}]\n" + unretried
				if w.fallback {
					yaml = inOrder(url, fast.URL)
				}
				g := startPinging(t, yaml+f.yaml(t))
				s := f.ask(t, g, w.path, w.body)
				s.until(keepAlive)
				s.until(keepAlive)
				close(goOn)
				body := strings.ReplaceAll(s.rest(), keepAlive, "")
				events := readSSE(body)
				if len(events) == 0 || !strings.HasPrefix(body, "data:") && !strings.HasPrefix(body, "event:") {
					t.Fatalf("%q", s.body)
				}
				last := events[len(events)-1]
				if strings.HasPrefix(w.end, "data:") && !strings.HasSuffix(body, w.end) ||
					!strings.HasPrefix(w.end, "data:") && (len(events) != 1 || last.errorEvent() != w.end) {
					t.Errorf("%q\nwant %s", s.body, w.end)
				}
				s.Close()
				quiet(t, g)
			})
		}
	}
}

// TestPingsBetweenTokens: comments come while an engine is silent, never inside
// an event, and change nothing else.
func TestPingsBetweenTokens(t *testing.T) {
	leavesNothing(t)
	for _, f := range pingFronts {
		t.Run("silence/"+f.name, func(t *testing.T) {
			url, goOn := pausing(t, chunkedHead+chunk(pingFirst).wire, chunk(pingSecond).wire, chunk(doneEvent).wire+lastChunk.wire)
			g := startPinging(t, "backends: [{url: "+url+", name: e0}]\n"+unretried+f.yaml(t))
			s := f.ask(t, g, chatPath, streamChat)
			s.until(pingFirst)
			s.until(keepAlive)
			goOn <- struct{}{}
			s.until(pingSecond)
			s.until(keepAlive)
			s.until(keepAlive)
			goOn <- struct{}{}
			if body := strings.ReplaceAll(s.rest(), keepAlive, ""); body != pingFirst+pingSecond+doneEvent {
				t.Errorf("%q", s.body)
			}
			s.Close()
			quiet(t, g)
		})
		for at, cut := range map[string]int{"in a line": 20, "between its last two bytes": len(pingSecond) - 1} {
			t.Run("half an event, "+at+"/"+f.name, func(t *testing.T) {
				url, goOn := pausing(t, chunkedHead+chunk(pingFirst).wire+chunk(pingSecond[:cut]).wire,
					chunk(pingSecond[cut:]).wire, chunk(doneEvent).wire+lastChunk.wire)
				g := startPinging(t, "backends: [{url: "+url+", name: e0}]\n"+unretried+f.yaml(t))
				s := f.ask(t, g, chatPath, streamChat)
				s.until(pingSecond[:cut])
				<-time.After(5 * pingEvery) // what does not happen cannot be waited for
				goOn <- struct{}{}
				s.until(keepAlive) // they go on after it
				goOn <- struct{}{}
				if body := s.rest(); !strings.Contains(body, pingSecond) || strings.ReplaceAll(body, keepAlive, "") != pingFirst+pingSecond+doneEvent {
					t.Errorf("%q", body)
				}
				s.Close()
				quiet(t, g)
			})
		}
	}
}

// TestPingsAreForStreams: an answer that is no stream has none, and a client
// that leaves while it is pinged ends the engine's work.
func TestPingsAreForStreams(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{PrefillDelay: 5 * pingEvery})
	g := startPinging(t, "backends: [{url: "+e.URL+", name: e0}]\nhealth_check: {enabled: false}\n")
	if status, body := g.Post(t, chatPath, wholeChat); status != 200 || strings.Contains(body, "keep-alive") || body[0] != '{' {
		t.Errorf("%d %s", status, body)
	}
	for i, f := range pingFronts {
		t.Run("client leaves/"+f.name, func(t *testing.T) {
			e := apptest.StartEngine(t, mockvllm.Options{PrefillDelay: time.Hour})
			g := startPinging(t, "backends: [{url: "+e.URL+", name: e0}]\nhealth_check: {enabled: false}\n"+f.yaml(t))
			s := f.ask(t, g, chatPath, streamChat)
			s.until(keepAlive)
			left := time.Now()
			departures[i].leave(s.Conn)
			apptest.Eventually(t, "the engine knows", func() bool { rows := posts(e); return len(rows) == 1 && rows[0].Ended() })
			if row := posts(e)[0]; row.State != mockvllm.StateAborted || row.Aborted.Sub(left) > time.Second {
				t.Errorf("the engine saw %+v", row)
			}
			s.Close()
			quiet(t, g)
			if n := g.Metric(`llmproxy_requests_total{model="*",backend="e0",status="499"}`); n != 1 {
				t.Errorf("%v requests with 499\n%s", n, g.Metrics())
			}
		})
	}
	quiet(t, g)
}
