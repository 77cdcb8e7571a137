package app_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// nginx is a real one that runs configs/nginx/llmproxy.conf, with other
// addresses and files, in front of a real gateway.
type nginx struct {
	*process
	t       *testing.T
	command []string
	url     string
	roots   *x509.CertPool
	gateway *gatewayProcess
}

// startNginx puts it in front of a gateway over an engine. Before the gateway
// there is another one, which is down.
func startNginx(t *testing.T, engineURL string) *nginx {
	t.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		path = "/usr/sbin/nginx" // not in everybody's PATH
	}
	if _, err := os.Stat(path); err != nil {
		skipUnlessRequired(t, "no nginx: apt-get install nginx-light")
	}
	n := &nginx{t: t, gateway: startGateway(t, fmt.Sprintf(`
backends:
  - {url: %q, name: e0, region: here}
  - {url: "http://127.0.0.1:1", name: e1, region: elsewhere}
region: here
trusted_proxies: [127.0.0.1]
log: {access: true}
health_check: {enabled: false}
`, engineURL))}
	cert, key := selfSigned(t)
	pem, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	n.roots = x509.NewCertPool()
	n.roots.AppendCertsFromPEM(pem)
	dir, addr := t.TempDir(), fixedAddr(t)
	n.url = "https://" + addr
	writeFile(t, filepath.Join(dir, "llmproxy.conf"), shipped(t, "nginx/llmproxy.conf", map[string]string{
		"server 127.0.0.1:8000 max_fails=0;":       "server 127.0.0.1:1;\n\tserver " + n.gateway.addr + ";",
		"listen 443 ssl":                           "listen " + addr + " ssl",
		"listen [::]:443 ssl":                      "listen unix:" + dir + "/s ssl",
		"/etc/nginx/tls/llm.example.com.crt":       cert,
		"/etc/nginx/tls/llm.example.com.key":       key,
		"/var/log/nginx/llmproxy.log":              dir + "/access.log",
		"http2 so_keepalive=30s:10s:3;\n\tserver_": "http2;\n\tserver_", // a unix socket has none
	}))
	writeFile(t, filepath.Join(dir, "nginx.conf"), nginxMain(dir))
	n.command = []string{path, "-p", dir, "-c", dir + "/nginx.conf", "-e", "stderr"}
	n.start()
	return n
}

// nginxMain is what surrounds the file: with compression, as Debian's has it, of
// all that could be compressed.
func nginxMain(dir string) string {
	user := ""
	if os.Getuid() == 0 {
		user = "user root;\n" // nobody may not enter the test's directory
	}
	return user + `daemon off;
worker_processes 1;
error_log stderr notice;
pid nginx.pid;
events { worker_connections 512; }
http {
	gzip on;
	gzip_proxied any;
	gzip_min_length 1;
	gzip_types *;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	include ` + dir + `/llmproxy.conf;
}
`
}

// shipped is a file of configs/ with other addresses and paths; each must be in
// it once.
func shipped(t *testing.T, name string, replace map[string]string) string {
	t.Helper()
	raw, err := os.ReadFile("../../configs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for old, other := range replace {
		if n := strings.Count(text, old); n != 1 {
			t.Fatalf("%s has %q %d times, want once", name, old, n)
		}
		text = strings.Replace(text, old, other, 1)
	}
	return text
}

func (n *nginx) start() {
	n.t.Helper()
	p := startProcess(n.t, n.command[0], n.command[1:]...)
	n.process = p
	n.t.Cleanup(func() {
		// A worker whose master is killed lives on.
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err == nil {
			p.exit()
		}
	})
	p.says("start worker process ")
}

// clientAddr is where the test's clients come from: not where nginx does.
const clientAddr = "127.0.0.2"

// client is one with connections of its own.
func (n *nginx) client(version string) *http.Client {
	n.t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(clientAddr)}}
	tr := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: n.roots},
		DialContext:       dialer.DialContext,
		ForceAttemptHTTP2: version == "HTTP/2.0",
	}
	n.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// ask sends a chat, and returns the answer when its head is there.
func (n *nginx) ask(ctx context.Context, c *http.Client, version, body string) *http.Response {
	n.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.url+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept-Encoding", "gzip")
	req.Header.Set("X-Forwarded-For", "9.9.9.9") // a claim
	req.Header.Set("X-Region", "elsewhere")      // another
	resp, err := c.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { resp.Body.Close() })
	if resp.Proto != version || resp.Header.Get("Content-Encoding") != "" {
		n.t.Fatalf("an answer in %s, compressed as %q", resp.Proto, resp.Header.Get("Content-Encoding"))
	}
	return resp
}

// gatedEngine makes the first event of a stream at once, and each further one when
// it is told to by let; a close of the channel ends the stream.
func gatedEngine(t *testing.T) (url string, gate chan struct{}) {
	t.Helper()
	gate = make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		for i := 0; ; i++ {
			fmt.Fprintf(w, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%d\"}}]}\n\n", i)
			_ = http.NewResponseController(w).Flush()
			select {
			case _, more := <-gate:
				if !more {
					_, _ = io.WriteString(w, "data: [DONE]\n\n")
					return
				}
			case <-r.Context().Done():
				return
			}
		}
	}))
	t.Cleanup(s.Close)
	return s.URL, gate
}

// let has a gated engine make one event.
func let(t *testing.T, gate chan<- struct{}) {
	t.Helper()
	select {
	case gate <- struct{}{}:
	case <-time.After(patience):
		t.Fatal("the engine waits for nothing")
	}
}

// nextEvent reads one event of a stream, without its empty line.
func nextEvent(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	line, err := r.ReadString('\n')
	if err == nil {
		_, err = r.Discard(1)
	}
	if err != nil {
		t.Fatalf("the stream ended: %v after %q", err, line)
	}
	return line
}

// bothVersions runs a test over HTTP/1.1 and over HTTP/2.
func bothVersions(t *testing.T, test func(t *testing.T, version string)) {
	for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(version, func(t *testing.T) { test(t, version) })
	}
}

// stay reads an answer until ctx ends.
func (n *nginx) stay(ctx context.Context, c *http.Client, body string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.url+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		n.t.Error(err)
		return
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if !errors.Is(err, context.Canceled) {
		n.t.Errorf("the answer ended before its client left: %v", err)
	}
}
