package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/llmproxy/llmproxy/pkg/config"
	"github.com/llmproxy/llmproxy/pkg/stats"
)

// secrets is what was read from the files of a config.TLS. It does not change.
type secrets struct {
	config *tls.Config
	expiry time.Time
}

// readSecrets reads the files. An error names the one that is at fault.
func readSecrets(c config.TLS) (*secrets, error) {
	certPEM, err := os.ReadFile(c.CertFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read tls.cert_file: %w", err)
	}
	keyPEM, err := os.ReadFile(c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read tls.key_file: %w", err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("cannot use tls.cert_file %s with tls.key_file %s: %w", c.CertFile, c.KeyFile, err)
	}
	t := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if c.MinVersion == "1.3" {
		t.MinVersion = tls.VersionTLS13
	}
	if c.ClientCAFile != "" {
		pem, err := os.ReadFile(c.ClientCAFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read tls.client_ca_file: %w", err)
		}
		t.ClientAuth, t.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		if !t.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("cannot use tls.client_ca_file %s: it holds no certificate in PEM", c.ClientCAFile)
		}
	}
	return &secrets{config: t, expiry: pair.Leaf.NotAfter}, nil
}

// certificates are the secrets in force, which follow their files. A connection
// keeps those that it shook hands with.
type certificates struct {
	log     *slog.Logger
	now     atomic.Pointer[secrets]
	refused atomic.Int64   // handshakes that failed
	reports rate.Sometimes // a line in the log about them

	mu        sync.Mutex // one change at a time; protects the rest
	files     config.TLS
	stopWatch context.CancelFunc
}

// newCertificates reads the files and follows them until close.
func newCertificates(c config.TLS, log *slog.Logger) (*certificates, error) {
	s, err := readSecrets(c)
	if err != nil {
		return nil, err
	}
	cs := &certificates{log: log, reports: rate.Sometimes{First: 1, Interval: 10 * time.Second}, stopWatch: func() {}}
	cs.use(c, s)
	return cs, nil
}

// register shows them in the metrics.
func (cs *certificates) register(set *stats.Set) {
	set.Gauge("llmproxy_certificate_expiry_seconds", func() float64 { return float64(cs.now.Load().expiry.Unix()) })
	set.CounterFunc("llmproxy_tls_handshake_failures_total", cs.refused.Load)
}

// use puts in force what was read from the files of c, and follows these.
func (cs *certificates) use(c config.TLS, s *secrets) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.now.Store(s)
	if cs.files == c {
		return // they are followed already
	}
	cs.files = c
	cs.stopWatch()
	ctx, cancel := context.WithCancel(context.Background())
	cs.stopWatch = cancel
	files := []string{c.CertFile, c.KeyFile}
	if c.ClientCAFile != "" {
		files = append(files, c.ClientCAFile)
	}
	if err := watchFiles(ctx, files, cs.log, false, cs.changed); err != nil {
		cs.log.Warn("cannot watch the certificate; SIGHUP still works", "files", files, "error", err)
	}
}

// changed reads the files anew. Those that do not fit together leave the old
// secrets in force.
func (cs *certificates) changed() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	s, err := readSecrets(cs.files)
	if err != nil {
		cs.log.Error("the certificate was not reloaded; the old one stays in force", "error", err)
		return
	}
	cs.now.Store(s)
	cs.log.Info("certificate reloaded", "file", cs.files.CertFile, "expires", s.expiry)
}

// close stops following the files.
func (cs *certificates) close() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.stopWatch()
}
