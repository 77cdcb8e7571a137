package app

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"

	"github.com/llmproxy/llmproxy/pkg/listener"
)

// listener returns ln under TLS.
func (cs *certificates) listener(ln net.Listener) net.Listener {
	// The keys of session tickets are this config's, so that a session outlives
	// a change of the certificate. What is resumed is held against the
	// authorities of then.
	c := &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return cs.now.Load().config, nil }}
	return &tlsListener{ln, c, cs}
}

type tlsListener struct {
	net.Listener
	config       *tls.Config
	certificates *certificates
}

func (l *tlsListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &tlsConn{Conn: tls.Server(c, l.config), certificates: l.certificates}, nil
}

// tlsConn is a connection whose handshake, when it fails, is counted and told.
type tlsConn struct {
	*tls.Conn
	certificates *certificates
	failed       bool // by the goroutine that reads
}

// Handshake is called by the server before it reads.
func (c *tlsConn) Handshake() error {
	err := c.Conn.Handshake()
	if err != nil {
		c.failed = true
		c.certificates.refuse(c, err)
	}
	return err
}

// Read ends where the handshake failed: the server would take the error for a
// request that it must answer.
func (c *tlsConn) Read(p []byte) (int, error) {
	if c.failed {
		return 0, net.ErrClosed
	}
	return c.Conn.Read(p)
}

// refuse is for a connection whose handshake failed.
func (cs *certificates) refuse(c net.Conn, err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) {
		return // the client changed its mind, as the probe of a balancer does
	}
	// A client of TLS 1.3 may be sending its request already: without this, the
	// alert that says why would be lost to it.
	if on := listener.FromConn(c); on != nil {
		on.Linger()
	}
	n := cs.refused.Add(1)
	cs.reports.Do(func() {
		cs.log.Warn("a TLS handshake failed", "client", c.RemoteAddr().String(), "error", err, "failures", n)
	})
}
