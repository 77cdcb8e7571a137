package app_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// long is set for the figures of the long run; the normal one has the same
// code and smaller counts.
var long = os.Getenv("LLMPROXY_LONG") == "1"

// surface is a way to ask for text.
type surface struct {
	name    string
	dialect string // of the engine
	path    string
	version string // of HTTP, "" is 1.1
	stream  bool
	format  string // the body, with the number of tokens and the tag
}

var surfaces = []surface{
	{
		name: "chat stream", path: "/v1/chat/completions", stream: true,
		format: `{"model":"mock-model","messages":[{"role":"user","content":"hi"}],"stream":true,"max_tokens":%d,"mock_tag":%q}`,
	},
	{
		name: "chat whole", path: "/v1/chat/completions",
		format: `{"model":"mock-model","messages":[{"role":"user","content":"hi"}],"max_tokens":%d,"mock_tag":%q}`,
	},
	{
		name: "TGI stream", dialect: mockvllm.DialectTGI, path: "/generate_stream", stream: true,
		format: `{"inputs":"hi","parameters":{"max_new_tokens":%d},"mock_tag":%q}`,
	},
	{
		name: "HTTP/1.0 stream", path: "/v1/chat/completions", version: "HTTP/1.0", stream: true,
		format: `{"model":"mock-model","messages":[{"role":"user","content":"hi"}],"stream":true,"max_tokens":%d,"mock_tag":%q}`,
	},
}

// request asks for as many tokens; more is put at the end of the body.
func (s *surface) request(tokens int, tag, more string) string {
	body := fmt.Sprintf(s.format, tokens, tag)
	if more != "" {
		body = body[:len(body)-1] + "," + more + "}"
	}
	raw := post(s.path, body)
	if s.version != "" {
		raw = strings.Replace(raw, "HTTP/1.1", s.version, 1)
	}
	return raw
}

// transport is where there is TLS.
type transport struct {
	name        string
	front, back bool
}

var transports = []transport{
	{name: "plain"},
	{name: "TLS in front", front: true},
	{name: "TLS behind", back: true},
}

// site is a gateway over one engine.
type site struct {
	*apptest.Gateway
	t      *testing.T
	engine *apptest.Engine // nil when the test is the engine
	front  bool
	tags   int
	gone   int // clients that have left
}

// startSite runs a gateway over an engine of its own. An idle connection
// between the two does not live long, so that none being left can be seen.
func startSite(t *testing.T, tr transport, o mockvllm.Options) *site {
	t.Helper()
	s := &site{t: t, front: tr.front}
	backend := "keep_alive: 100ms"
	if tr.back {
		cert, _ := selfSigned(t)
		s.engine = serveTLS(t, o, cert)
		backend += fmt.Sprintf(", ca_file: %q", cert)
	} else {
		s.engine = apptest.StartEngine(t, o)
	}
	s.start("backends: [{url: "+s.engine.URL+", name: e0, "+backend+"}]\n", app.Options{})
	return s
}

// start runs the gateway with backends of the caller's.
func (s *site) start(yaml string, o app.Options) {
	s.t.Helper()
	yaml += "health_check: {enabled: false}\n"
	if s.front {
		cert, key := selfSigned(s.t)
		yaml += fmt.Sprintf("tls: {cert_file: %q, key_file: %q}\n", cert, key)
	}
	s.Gateway = apptest.StartWith(s.t, o, yaml)
}

// dial connects a client, over TLS when the gateway speaks it.
func (s *site) dial() *rawClient {
	s.t.Helper()
	c := dialRaw(s.t, s.Addr)
	if s.front {
		c.Conn = tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true})
		c.br = bufio.NewReader(c.Conn)
	}
	return c
}

// tag is a new one.
func (s *site) tag() string {
	s.tags++
	return fmt.Sprintf("t%05d", s.tags)
}

// await waits for the engine's row with that tag to be as wanted.
func (s *site) await(tag, what string, is func(*mockvllm.Entry) bool) mockvllm.Entry {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	row, err := s.engine.WaitEntry(ctx, func(r mockvllm.Entry) bool { return r.Tag == tag && is(&r) })
	if err != nil {
		s.t.Fatalf("the engine never had the request %s: %+v", what, posts(s.engine))
	}
	return row
}

// departure is how a client leaves.
type departure struct {
	name  string
	leave func(net.Conn)
}

var departures = []departure{
	{"FIN", func(c net.Conn) { c.Close() }},
	{"RST", func(c net.Conn) { tcpOf(c).SetLinger(0); tcpOf(c).Close() }},
	{"half-close", func(c net.Conn) { tcpOf(c).CloseWrite() }},
}

// tcpOf is the connection itself, or what is below its TLS.
func tcpOf(c net.Conn) *net.TCPConn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return c.(*net.TCPConn)
}

// nothingLeft fails the test unless every client that left was counted, as one
// that left and nothing else, and nobody works for any of them.
func (s *site) nothingLeft() {
	s.t.Helper()
	quiet(s.t, s.Gateway)
	if s.engine != nil {
		apptest.Eventually(s.t, "no request and no connection at the engine", func() bool {
			running, waiting, conns := s.engine.Load()
			return running+waiting+conns == 0
		})
	}
	for name, got := range map[string]float64{
		"client_aborts_total": s.Metric(`llmproxy_client_aborts_total{phase="waiting"}`) + s.Metric(`llmproxy_client_aborts_total{phase="streaming"}`),
		"requests_total 499":  s.Metric(`llmproxy_requests_total{model="*",backend="e0",status="499"}`),
	} {
		if got != float64(s.gone) {
			s.t.Errorf("%s: %v, and %d clients left", name, got, s.gone)
		}
	}
	if n := s.Metric(`llmproxy_panics_total`); n != 0 {
		s.t.Errorf("%v panics\n%s", n, s.Logs)
	}
}

// notBlamed fails the test when an attempt was counted as anything but its
// client's leaving: that is no fault of the engine's.
func (s *site) notBlamed() {
	s.t.Helper()
	for line := range strings.Lines(s.Metrics()) {
		if !strings.HasPrefix(line, "llmproxy_attempts_total{") && !strings.HasPrefix(line, "llmproxy_backend_ejections_total{") {
			continue
		}
		want := "0"
		if strings.Contains(line, `outcome="client_gone"`) {
			want = fmt.Sprint(s.gone)
		}
		if !strings.HasSuffix(line, " "+want+"\n") {
			s.t.Errorf("want %s: %s", want, line)
		}
	}
}

// report prints how long something took in the long run, and returns the 99th
// percentile.
func report(t *testing.T, what string, took []time.Duration) (p99 time.Duration) {
	t.Helper()
	slices.Sort(took)
	p99 = took[(len(took)*99+99)/100-1]
	if long {
		t.Logf("%s: p50 %v, p99 %v, max %v of %d", what, took[len(took)/2], p99, took[len(took)-1], len(took))
	}
	return p99
}

// serveTLS is an engine behind TLS.
func serveTLS(t *testing.T, o mockvllm.Options, certFile string) *apptest.Engine {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(certFile, filepath.Join(filepath.Dir(certFile), "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := mockvllm.New(o)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.Serve(tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}})) // ends with Close
	}()
	t.Cleanup(func() {
		_ = e.Close()
		<-done
	})
	return &apptest.Engine{Engine: e, URL: "https://" + ln.Addr().String(), Addr: ln.Addr().String()}
}

// selfSigned writes a certificate for 127.0.0.1 and its key, which stand in one
// directory.
func selfSigned(t testing.TB) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", cert), write("key.pem", "PRIVATE KEY", secret)
}
