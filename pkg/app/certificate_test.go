package app_test

import (
	"bytes"
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
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// keyPair is a certificate for 127.0.0.1 that has signed itself, so that it is
// its own authority, for servers and clients.
type keyPair struct{ cert, key []byte } // PEM

func newKeyPair(t testing.TB, life time.Duration) keyPair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
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
	return keyPair{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})}
}

func (k keyPair) tls(t testing.TB) tls.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair(k.cert, k.key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// write puts the pair into a directory, which it makes.
func (k keyPair) write(t testing.TB, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "cert.pem"), string(k.cert))
	writeFile(t, filepath.Join(dir, "key.pem"), string(k.key))
}

// tlsYAML is for the pair in dir; more is the rest of the section.
func tlsYAML(dir, more string) string {
	return fmt.Sprintf("tls: {cert_file: %q, key_file: %q%s}\n", filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), more)
}

// shakeHands connects and makes a request, and returns what the gateway showed.
func shakeHands(g *apptest.Gateway, c *tls.Config) (tls.ConnectionState, error) {
	c.InsecureSkipVerify = true
	conn, err := tls.Dial("tcp", g.Addr, c)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	// In TLS 1.3 the server's verdict about the client comes with its first answer.
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte("GET /healthz HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")); err != nil {
		return tls.ConnectionState{}, err
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return tls.ConnectionState{}, err
	}
	return conn.ConnectionState(), nil
}

// shows tells whether the gateway presents that certificate, and no error.
func shows(t *testing.T, g *apptest.Gateway, k keyPair) bool {
	t.Helper()
	state, err := shakeHands(g, &tls.Config{})
	if err != nil {
		t.Fatalf("a handshake failed: %v", err)
	}
	return bytes.Equal(state.PeerCertificates[0].Raw, k.tls(t).Certificate[0])
}

// renewals are the ways in which a pair of files comes to hold another.
var renewals = []struct {
	name string
	do   func(t *testing.T, k keyPair, dir, next string) // next is a new name
}{
	{"written in place", func(t *testing.T, k keyPair, dir, _ string) { k.write(t, dir) }},
	{"renamed over", func(t *testing.T, k keyPair, dir, next string) {
		k.write(t, filepath.Join(dir, next))
		rename(t, filepath.Join(dir, next, "key.pem"), filepath.Join(dir, "key.pem"))
		rename(t, filepath.Join(dir, next, "cert.pem"), filepath.Join(dir, "cert.pem"))
	}},
	{"certbot leads each link elsewhere", func(t *testing.T, k keyPair, dir, next string) {
		k.write(t, filepath.Join(dir, "archive", next))
		link(t, filepath.Join("archive", next, "cert.pem"), filepath.Join(dir, "cert.pem"))
		link(t, filepath.Join("archive", next, "key.pem"), filepath.Join(dir, "key.pem"))
	}},
	{"Kubernetes swaps the directory", func(t *testing.T, k keyPair, dir, next string) {
		k.write(t, filepath.Join(dir, next))
		link(t, next, filepath.Join(dir, "..data"))
		for _, name := range []string{"cert.pem", "key.pem"} {
			if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
				link(t, filepath.Join("..data", name), filepath.Join(dir, name))
			}
		}
	}},
}

// TestCertificateIsRenewed: a new pair of files is what the next client sees, and
// the connections there are stay.
func TestCertificateIsRenewed(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	for _, r := range renewals {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			first := newKeyPair(t, time.Hour)
			r.do(t, first, dir, "a")
			g := apptest.Start(t, tlsYAML(dir, ""), e)
			before := (&site{t: t, Gateway: g, front: true}).dial()
			ask := func() {
				before.send(post("/v1/chat/completions", wholeChat))
				if resp, body := before.answer("POST"); resp.StatusCode != 200 || resp.Close {
					t.Fatalf("on the connection that was there: %d %s, closing %v", resp.StatusCode, body, resp.Close)
				}
			}
			ask()
			if !shows(t, g, first) {
				t.Fatal("it shows another certificate than the file's")
			}
			for i, name := range []string{"b", "c"} { // the second time it is still followed
				next := newKeyPair(t, time.Duration(2+i)*time.Hour)
				r.do(t, next, dir, name)
				apptest.Eventually(t, "the new certificate is shown", func() bool { return shows(t, g, next) })
				ask()
				if got, want := g.Metric("llmproxy_certificate_expiry_seconds"), float64(next.tls(t).Leaf.NotAfter.Unix()); got != want {
					t.Errorf("it is said to expire at %.0f, not %.0f", got, want)
				}
			}
			before.Close()
			quiet(t, g)
		})
	}
}

// TestCertificateWithFaults: files that cannot be used change nothing, and the log
// names the one at fault.
func TestCertificateWithFaults(t *testing.T) {
	for _, w := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		says  []string
	}{
		{"the key is another one's", func(t *testing.T, dir string) {
			writeFile(t, filepath.Join(dir, "key.pem"), string(newKeyPair(t, time.Hour).key))
		}, []string{"tls.cert_file", "tls.key_file", "private key does not match public key"}},
		{"the certificate is cut short", func(t *testing.T, dir string) {
			writeFile(t, filepath.Join(dir, "cert.pem"), "-----BEGIN CERTIFICATE-----\nMIIB")
		}, []string{"tls.cert_file", "cert.pem", "failed to find any PEM data in certificate input"}},
		{"the key has gone", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "key.pem")); err != nil {
				t.Fatal(err)
			}
		}, []string{"tls.key_file", "key.pem", "no such file"}},
		{"the authorities are none", func(t *testing.T, dir string) {
			writeFile(t, filepath.Join(dir, "ca.pem"), "")
		}, []string{"tls.client_ca_file", "ca.pem", "no certificate"}},
	} {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			dir, old := t.TempDir(), newKeyPair(t, time.Hour)
			old.write(t, dir)
			writeFile(t, filepath.Join(dir, "ca.pem"), string(old.cert))
			yaml := tlsYAML(dir, fmt.Sprintf(", client_ca_file: %q", filepath.Join(dir, "ca.pem"))) + "backends: [{url: http://127.0.0.1:1}]\n"
			g, c := apptest.Start(t, yaml), apptest.Config(t, yaml)
			serves := func(want keyPair) bool {
				state, err := shakeHands(g, &tls.Config{Certificates: []tls.Certificate{old.tls(t)}})
				return err == nil && bytes.Equal(state.PeerCertificates[0].Raw, want.tls(t).Certificate[0])
			}
			w.spoil(t, dir)
			apptest.Eventually(t, "the log tells it", func() bool { return strings.Contains(g.Logs.String(), "the certificate was not reloaded") })
			err := g.Reload(c)
			if err == nil {
				t.Fatal("a reload takes it")
			}
			for _, text := range w.says {
				if !strings.Contains(g.Logs.String(), text) || !strings.Contains(err.Error(), text) {
					t.Errorf("%q is not told by the log and the reload:\n%s%v", text, g.Logs, err)
				}
			}
			if !serves(old) {
				t.Error("the old certificate is not shown any more")
			}
			next := newKeyPair(t, time.Hour)
			next.write(t, dir)
			writeFile(t, filepath.Join(dir, "ca.pem"), string(old.cert))
			if err := g.Reload(c); err != nil || !serves(next) {
				t.Errorf("once they are right, a reload does not take them: %v", err)
			}
		})
	}
}

// TestTLSVersion: clients of an old version are refused, also after a reload that
// raises it.
func TestTLSVersion(t *testing.T) {
	dir := t.TempDir()
	newKeyPair(t, time.Hour).write(t, dir)
	yaml := func(version string) string {
		return tlsYAML(dir, fmt.Sprintf(", min_version: %q", version)) + "backends: [{url: http://127.0.0.1:1}]\n"
	}
	g := apptest.Start(t, yaml("1.2"))
	for _, w := range []struct {
		configured string
		client     uint16
		served     bool
	}{
		{"1.2", tls.VersionTLS11, false},
		{"1.2", tls.VersionTLS12, true},
		{"1.2", tls.VersionTLS13, true},
		{"1.3", tls.VersionTLS12, false},
		{"1.3", tls.VersionTLS13, true},
	} {
		if err := g.Reload(apptest.Config(t, yaml(w.configured))); err != nil {
			t.Fatal(err)
		}
		_, err := shakeHands(g, &tls.Config{MinVersion: w.client, MaxVersion: w.client})
		if (err == nil) != w.served {
			t.Errorf("min_version %s: a client of %s: %v", w.configured, tls.VersionName(w.client), err)
		}
	}
	if log := g.Logs.String(); strings.Contains(log, "after a restart") {
		t.Errorf("it took effect, and yet:\n%s", log)
	}
}

// TestClientCertificate: who may come in, and what the others are told.
func TestClientCertificate(t *testing.T) {
	leavesNothing(t)
	dir, server, ours, other := t.TempDir(), newKeyPair(t, time.Hour), newKeyPair(t, time.Hour), newKeyPair(t, time.Hour)
	expired := newKeyPair(t, -time.Minute)
	server.write(t, dir)
	ca := filepath.Join(dir, "ca.pem")
	writeFile(t, ca, string(ours.cert)+string(expired.cert))
	g := apptest.Start(t, tlsYAML(dir, fmt.Sprintf(", client_ca_file: %q", ca))+"backends: [{url: http://127.0.0.1:1}]\n")
	refused := 0.0
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, w := range []struct {
			name  string
			pairs []tls.Certificate
			alert string // "" = it is served
		}{
			{"a client of ours", []tls.Certificate{ours.tls(t)}, ""},
			{"one without a certificate", nil, "certificate required"},
			{"one of another authority", []tls.Certificate{other.tls(t)}, "unknown certificate authority"},
			{"one whose time is over", []tls.Certificate{expired.tls(t)}, "expired certificate"},
		} {
			t.Run(tls.VersionName(version)+"/"+w.name, func(t *testing.T) {
				pair := &tls.Certificate{}
				if len(w.pairs) > 0 {
					pair = &w.pairs[0]
				}
				_, err := shakeHands(g, &tls.Config{
					MaxVersion: version,
					// Whatever authorities the gateway names.
					GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil },
				})
				if w.alert == "" {
					if err != nil {
						t.Error(err)
					}
					return
				}
				refused++
				alert := w.alert
				if len(w.pairs) == 0 && version == tls.VersionTLS12 {
					alert = "handshake failure" // it has no better word
				}
				if err == nil || !strings.Contains(err.Error(), "remote error: tls: "+alert) {
					t.Errorf("it is told %v, want the alert %s", err, alert)
				}
			})
		}
	}
	apptest.Eventually(t, fmt.Sprint(refused, " failures are counted"), func() bool { return g.Metric("llmproxy_tls_handshake_failures_total") == refused })
	if n := strings.Count(g.Logs.String(), "TLS handshake failed"); n != 1 {
		t.Errorf("%d lines in the log, want one in ten seconds\n%s", n, g.Logs)
	}
	quiet(t, g)
}

// TestClientAuthorityChanges: once an authority is taken off the list, its clients
// do not come in with the ticket of an earlier session either.
func TestClientAuthorityChanges(t *testing.T) {
	dir, ours, other := t.TempDir(), newKeyPair(t, time.Hour), newKeyPair(t, time.Hour)
	newKeyPair(t, time.Hour).write(t, dir)
	ca := filepath.Join(dir, "ca.pem")
	writeFile(t, ca, string(ours.cert))
	g := apptest.Start(t, tlsYAML(dir, fmt.Sprintf(", client_ca_file: %q", ca))+"backends: [{url: http://127.0.0.1:1}]\n")
	client := func(k keyPair) *tls.Config {
		return &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(8), Certificates: []tls.Certificate{k.tls(t)}}
	}
	known, unknown := client(ours), client(other)
	resumes := func() bool {
		state, err := shakeHands(g, known)
		if err != nil {
			t.Fatal(err)
		}
		return state.DidResume
	}
	resumes()
	if !resumes() {
		t.Fatal("sessions are not resumed, so this test tests nothing")
	}
	writeFile(t, ca, string(other.cert))
	apptest.Eventually(t, "the new authority's clients come in", func() bool { _, err := shakeHands(g, unknown); return err == nil })
	if state, err := shakeHands(g, known); err == nil {
		t.Errorf("a client of the old authority came in, resumed: %v", state.DidResume)
	}
}

// TestBackendAuthority: an engine behind TLS is believed when ca_file has signed
// its certificate, and a reload reads that file anew.
func TestBackendAuthority(t *testing.T) {
	leavesNothing(t)
	dir, engine := t.TempDir(), newKeyPair(t, time.Hour)
	engine.write(t, dir)
	e := serveTLS(t, mockvllm.Options{}, filepath.Join(dir, "cert.pem"))
	ca := filepath.Join(dir, "ca.pem")
	yaml := fmt.Sprintf("backends: [{url: %q, name: e0, ca_file: %q, keep_alive: 100ms}]\nhealth_check: {interval: 100ms, healthy_threshold: 1}\n", e.URL, ca)
	writeFile(t, ca, string(newKeyPair(t, time.Hour).cert))
	g := apptest.Start(t, yaml)
	if status, body := g.Post(t, "/v1/chat/completions", wholeChat); status != 502 && status != 503 {
		t.Errorf("with another authority: %d %s", status, body)
	}
	if n := len(posts(e)); n != 0 {
		t.Errorf("%d requests went to an engine that cannot show who it is", n)
	}
	writeFile(t, ca, string(engine.cert))
	if err := g.Reload(apptest.Config(t, yaml)); err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{wholeChat, streamChat} {
		apptest.Eventually(t, "it is served", func() bool { status, _ := g.Post(t, "/v1/chat/completions", body); return status == 200 })
	}
	apptest.Eventually(t, "it is healthy", func() bool { return g.Metric(`llmproxy_backend_healthy{backend="e0"}`) == 1 })
	quiet(t, g)
}
