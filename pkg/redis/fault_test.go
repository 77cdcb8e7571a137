package redis_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/redis"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

const secret = "correct-horse-battery"

func TestWrongCredentialsAreAwayAndNeverShown(t *testing.T) {
	s := redistest.Start(t, "--requirepass", "other-"+secret)
	s.Must("ACL", "SETUSER", "gateway", "on", ">"+secret, "~llmproxy:*", "+@all", "-@dangerous")
	for name, test := range map[string]struct {
		o    redis.Options
		want string
	}{
		"no password":    {redis.Options{}, "NOAUTH"},
		"wrong password": {redis.Options{Password: "wrong-" + secret}, "WRONGPASS"},
		"unknown user":   {redis.Options{Username: "nobody", Password: secret}, "WRONGPASS"},
		"no such db":     {redis.Options{Password: "other-" + secret, DB: 99}, "DB index"},
	} {
		t.Run(name, func(t *testing.T) {
			var j journal
			test.o.Addrs, test.o.Log = []string{s.Addr()}, j.log()
			c := open(t, test.o)
			var err error
			eventually(t, "the cause is known", func() bool {
				err = says(c, "x", long)
				return errors.Is(err, redis.ErrAway) && strings.Contains(err.Error(), test.want)
			})
			j.check(t, 1, 0)
			if text := err.Error() + j.String(); strings.Contains(text, secret) {
				t.Errorf("the password is shown: %s", text)
			}
		})
	}
}

// Redis repeats the arguments of a command that it does not know.
func TestPasswordIsNotInWhatTheServerRepeats(t *testing.T) {
	s := redistest.Start(t, "--rename-command", "HELLO", "", "--rename-command", "AUTH", "")
	c := open(t, redis.Options{Addrs: []string{s.Addr()}, Password: secret})
	var err error
	eventually(t, "it is refused", func() bool {
		err = says(c, "x", long)
		return errors.Is(err, redis.ErrAway) && strings.Contains(err.Error(), "unknown command")
	})
	if strings.Contains(err.Error(), secret) {
		t.Errorf("the password is shown: %v", err)
	}
}

func TestUserMayOnlyWhatItMay(t *testing.T) {
	s := redistest.Start(t)
	s.Must("ACL", "SETUSER", "gateway", "on", ">"+secret, "~llmproxy:*", "+@all", "-@dangerous", "-ping")
	c := connected(t, redis.Options{Addrs: []string{s.Addr()}, Username: "gateway", Password: secret})
	for key, want := range map[string]error{"llmproxy:{a}:b": nil, "foreign": redis.ErrAway} {
		if _, err := c.Run(redis.Call{Script: count, Keys: []string{key}}, long); !errors.Is(err, want) {
			t.Errorf("%s: %v", key, err)
		}
	}
	// A script that may be run may still not do everything: the server does not call that NOPERM.
	s.Must("ACL", "SETUSER", "gateway", "-get")
	for lua, want := range map[string]string{"return redis.call('GET', KEYS[1])": "can't run this command", "return redis.call('TTL', 'foreign')": "can't access"} {
		_, err := c.Run(redis.Call{Script: redis.NewScript(lua), Keys: []string{"llmproxy:{a}:b"}}, long)
		if !errors.Is(err, redis.ErrAway) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", lua, err)
		}
	}
	warnings, err := c.Check(long)
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "INFO") {
		t.Errorf("got %q, %v", warnings, err)
	}
}

func TestServerThatRefusesIsAway(t *testing.T) {
	s := redistest.Start(t)
	c := connected(t, redis.Options{Addrs: []string{s.Addr()}})
	run := func(lua string) error {
		_, err := c.Run(redis.Call{Script: redis.NewScript(lua), Keys: []string{"k"}}, long)
		return err
	}
	const incr = "return redis.call('INCR', KEYS[1])"
	for name, test := range map[string]struct {
		before, after []string
		lua, want     string
		away          bool
	}{
		"full":     {[]string{"CONFIG", "SET", "maxmemory", "1"}, []string{"CONFIG", "SET", "maxmemory", "0"}, incr, "OOM", true},
		"replica":  {[]string{"REPLICAOF", "127.0.0.1", "1"}, []string{"REPLICAOF", "NO", "ONE"}, incr, "READONLY", true},
		"replicas": {[]string{"CONFIG", "SET", "min-replicas-to-write", "1"}, []string{"CONFIG", "SET", "min-replicas-to-write", "0"}, incr, "NOREPLICAS", true},
		"type":     {[]string{"RPUSH", "k", "a"}, []string{"DEL", "k"}, incr, "WRONGTYPE", false},
		"own":      {nil, nil, "return redis.error_reply('EPOCH other')", "EPOCH other", false},
		"busy key": {nil, nil, "return redis.error_reply('BUSYKEY x')", "BUSYKEY", false},
		"6.2":      {nil, nil, "return redis.error_reply('ERR Error running script (call to f_0): @user_script:1: @user_script: 1: -OOM command not allowed')", "OOM", true},
		"6.2 bug":  {nil, nil, "return redis.error_reply('ERR Error running script (call to f_0): @user_script:1: OOM - nil')", "nil", false},
		"6.2 acl":  {nil, nil, "return redis.error_reply(\"ERR Error running script (call to f_0): @user_script:1: @user_script: 1: The user executing the script can't run this command or subcommand\")", "can't run", true},
		"bug":      {nil, nil, "return nosuch", "nosuch", false},
		"command":  {nil, nil, "return redis.call('NOSUCH')", "Unknown Redis command", false},
	} {
		t.Run(name, func(t *testing.T) {
			if test.before != nil {
				s.Must(test.before...)
				defer s.Must(test.after...)
			}
			err := run(test.lua)
			if err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, redis.ErrAway) != test.away {
				t.Errorf("got %v", err)
			}
		})
	}
	if err := run(incr); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestServerBusyWithAScriptIsAway(t *testing.T) {
	s := redistest.Start(t, "--lua-time-limit", "10")
	var j journal
	c := connected(t, redis.Options{Addrs: []string{s.Addr()}, Log: j.log()})
	if _, err := c.Run(redis.Call{Script: redis.NewScript("while true do end")}, soon); !errors.Is(err, redis.ErrAway) {
		t.Fatalf("got %v", err)
	}
	eventually(t, "it says so", func() bool {
		_, err := c.Do(long, "GET", "k")
		return errors.Is(err, redis.ErrAway) && strings.Contains(err.Error(), "BUSY")
	})
	s.Must("SCRIPT", "KILL")
	eventually(t, "it answers", func() bool { return says(c, "x", soon) == nil })
}

func TestTLSWithClientCertificate(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, dir)
	ca.issue(t, dir, "server")
	client := ca.issue(t, dir, "client")
	port := freePort(t)
	redistest.Start(t, "--tls-port", port, "--tls-ca-cert-file", filepath.Join(dir, "ca.pem"),
		"--tls-cert-file", filepath.Join(dir, "server.pem"), "--tls-key-file", filepath.Join(dir, "server.key"))
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	addrs := []string{"127.0.0.1:" + port}
	c := connected(t, redis.Options{Addrs: addrs, TLS: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{client}}})
	if err := says(c, "x", long); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]*tls.Config{
		"no certificate":    {RootCAs: roots},
		"unknown authority": {Certificates: []tls.Certificate{client}},
		"other name":        {RootCAs: roots, Certificates: []tls.Certificate{client}, ServerName: "elsewhere"},
		"none at all":       nil,
	} {
		c := open(t, redis.Options{Addrs: addrs, TLS: bad})
		eventually(t, name+" is refused", func() bool {
			err := says(c, "x", long)
			return errors.Is(err, redis.ErrAway) && !strings.Contains(err.Error(), "not connected yet")
		})
	}
}

// authority signs certificates for 127.0.0.1.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, dir string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{
		key: key,
		cert: &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		},
	}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(dir, "ca.pem"), "CERTIFICATE", der)
	return a
}

func (a *authority) issue(t *testing.T, dir, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	writePEM(t, certFile, "CERTIFICATE", der)
	writePEM(t, keyFile, "PRIVATE KEY", private)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
