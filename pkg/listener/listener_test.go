package listener

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// patience is how long a test waits for what should take milliseconds.
const patience = 10 * time.Second

// eventually waits until ok, looking again and again.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// receive waits for a value from ch.
func receive[T any](t *testing.T, what string, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(patience):
		t.Fatalf("not within %v: %s", patience, what)
	}
	return v
}

// listen opens a listener that is closed with the test.
func listen(t testing.TB, network, addr string, o Options) *Listener {
	t.Helper()
	l, err := Listen(network, addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func listenTCP(t testing.TB, o Options) *Listener {
	return listen(t, "tcp", "127.0.0.1:0", o)
}

// pair connects a client to l and accepts it.
func pair(t testing.TB, l *Listener) (client net.Conn, server *Conn) {
	t.Helper()
	client, err := net.Dial(l.Addr().Network(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); c.Close() })
	return client, c.(*Conn)
}

// certificate is a self-signed one for "localhost".
func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// checkNoGoroutine waits until no goroutine of this package's own is left.
func checkNoGoroutine(t *testing.T) {
	t.Helper()
	stacks := make([]byte, 1<<20)
	eventually(t, "the watch and the pumps end", func() bool {
		s := stacks[:runtime.Stack(stacks, true)]
		return !bytes.Contains(s, []byte("listener.(*watch)")) && !bytes.Contains(s, []byte("listener.(*pump)"))
	})
}

func TestAddresses(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct{ name, network, addr string }{
		{"IPv4", "tcp", "127.0.0.1:0"},
		{"dual stack", "tcp", "localhost:0"},
		{"unix by network", "unix", filepath.Join(dir, "a")},
		{"unix by prefix", "tcp", "unix:" + filepath.Join(dir, "b")},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, server := pair(t, listen(t, test.network, test.addr, Options{}))
			go client.Write([]byte("hello"))
			buf := make([]byte, 5)
			if n, err := server.Read(buf); err != nil || n != 5 {
				t.Fatalf("read %d bytes, %v", n, err)
			}
		})
	}
	if _, err := Listen("tcp", "300.0.0.1:0", Options{}); err == nil {
		t.Error("a bad address gives no error")
	}
}

func TestDualStackIsOneListener(t *testing.T) {
	l := listen(t, "tcp", ":0", Options{})
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, host := range []string{"127.0.0.1", "::1"} {
		client, err := net.Dial("tcp", net.JoinHostPort(host, port))
		if err != nil {
			t.Skipf("no %s on this machine: %v", host, err)
		}
		defer client.Close()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

func TestFromConn(t *testing.T) {
	_, server := pair(t, listenTCP(t, Options{}))
	foreign, other := net.Pipe()
	defer foreign.Close()
	defer other.Close()
	for _, test := range []struct {
		name string
		in   net.Conn
		want *Conn
	}{
		{"itself", server, server},
		{"TLS over it", tls.Server(server, &tls.Config{}), server},
		{"foreign", foreign, nil},
		{"TLS over foreign", tls.Server(foreign, &tls.Config{}), nil},
		{"nothing", nil, nil},
	} {
		if got := FromConn(test.in); got != test.want {
			t.Errorf("%s: got %p, want %p", test.name, got, test.want)
		}
	}
}

func TestCloseGivesBackOnce(t *testing.T) {
	l := listenTCP(t, Options{MaxConnsPerIP: 5})
	var conns []*Conn
	for range 3 {
		_, c := pair(t, l)
		conns = append(conns, c)
	}
	conns[0].Close()
	conns[0].Close()
	l.mu.Lock()
	open, ofIP := len(l.conns), l.perIP[conns[0].ip]
	l.mu.Unlock()
	if open != 2 || ofIP != 2 {
		t.Errorf("after one of three was closed twice: %d open, %d of the address; want 2 and 2", open, ofIP)
	}
	conns[1].Close()
	conns[2].Close()
	if len(l.perIP) != 0 {
		t.Errorf("perIP keeps addresses without connections: %v", l.perIP)
	}
}

func TestListenerClose(t *testing.T) {
	l := listenTCP(t, Options{})
	client, server := pair(t, l)
	accepting := make(chan error, 1)
	go func() { _, err := l.Accept(); accepting <- err }()
	for range 2 {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := receive(t, "Accept ends", accepting); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}

	// A draining server still learns that its clients go.
	left := make(chan Cause, 1)
	if server.Watch(func(c Cause) { left <- c }) {
		t.Fatal("gone before it went")
	}
	client.Close()
	if c := receive(t, "leave after the listener's Close", left); c != Left {
		t.Errorf("cause %v", c)
	}
	server.Unwatch()
	server.Close()
	checkNoGoroutine(t)
}
