package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Which Redis is asked for what; "" is none.
func TestWhichRedis(t *testing.T) {
	const all = "\nredis: {addr: \"all:1\"}"
	for _, c := range []struct{ name, text, keys, limits string }{
		{"nobody asked for one", "redis: {addr: \"all:1\"}\napi_keys: [{key: k}]\nrate_limit: {enabled: true}", "", ""},
		{"scenario 3 writes it once", "auth: {enabled: true, storage: redis, redis: {addr: \"auth:1\"}}\nrate_limit: {enabled: true, storage: redis}", "auth:1", "auth:1"},
		{"the other way round", "auth: {enabled: true, storage: redis}\nrate_limit: {enabled: true, storage: redis, redis: {addr: \"limit:1\"}}", "limit:1", "limit:1"},
		{"one for both", "auth: {enabled: true, storage: redis}\nrate_limit: {storage: redis}" + all, "all:1", "all:1"},
		{"the top level goes before the other's", "auth: {enabled: true, storage: redis, redis: {addr: \"auth:1\"}}\nrate_limit: {storage: redis}" + all, "auth:1", "all:1"},
		{"each its own", "auth: {enabled: true, storage: redis, redis: {addr: \"auth:1\"}}\nrate_limit: {storage: redis, redis: {addr: \"limit:1\"}}" + all, "auth:1", "limit:1"},
		{"keys alone", "auth: {enabled: true, storage: redis, redis: {addr: \"auth:1\"}}\nrate_limit: {enabled: true, storage: memory}", "auth:1", ""},
		{"limits alone", "api_keys: [{key: k}]\nrate_limit: {storage: redis, redis: {addr: \"limit:1\"}}", "", "limit:1"},
		{"limits of keys hold with rate_limit off", "rate_limit: {enabled: false, storage: redis}" + all, "", "all:1"},
		{"nobody is asked for a key", "auth: {enabled: false, storage: redis}", "", ""},
		{"keys that are made before they are asked for", "auth: {enabled: false, storage: redis}\nadmin: {token: hunter2hunter2hunter2}" + all, "all:1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := parse(t, good+c.text+"\n")
			for _, of := range []struct {
				what, want string
				is         *Redis
			}{{"keys", c.keys, got.KeyRedis()}, {"limits", c.limits, got.LimitRedis()}} {
				addr := ""
				if of.is != nil {
					addr = of.is.Addr
				}
				if addr != of.want {
					t.Errorf("%s are in %q, want %q", of.what, addr, of.want)
				}
			}
		})
	}
}

func TestRedisHasDefaults(t *testing.T) {
	c := parse(t, good+"rate_limit: {storage: redis}\nredis: {addr: \"a-1:6379 , [fd00::1]:6380\", mode: cluster}\n", "LLMPROXY__REDIS__PASSWORD=hunter2")
	r := c.LimitRedis()
	if want := (Redis{Addr: "a-1:6379,[fd00::1]:6380", Mode: "cluster", Password: "hunter2", Timeout: Duration(20 * time.Millisecond), Prefix: "llmproxy:"}); *r != want {
		t.Errorf("got %+v, want %+v", *r, want)
	}
	if got := r.Addrs(); !slices.Equal(got, []string{"a-1:6379", "[fd00::1]:6380"}) {
		t.Errorf("addresses: %q", got)
	}
	if c.Auth.SnapshotMaxAge != Duration(10*time.Minute) || c.Auth.OnStoreError != "local_share" || c.RateLimit.OnStoreError != "local_share" {
		t.Errorf("%+v %+v", c.Auth, c.RateLimit)
	}
}

func TestFaultsOfRedis(t *testing.T) {
	const address = "is not host:port; write for example redis:6379"
	const named = "is not 1 to 64 letters, digits or . _ : / -; braces would take from Redis Cluster what says where a key is"
	for _, c := range []struct{ name, text, want string }{
		{"limits without an address", "rate_limit: {storage: redis}", "rate_limit.redis.addr: must be set when storage is redis, here or in the top-level redis"},
		{"keys without an address", "auth: {enabled: true, storage: redis}", "auth.redis.addr: must be set when storage is redis, here or in the top-level redis"},
		{"made keys without an address", "auth: {storage: redis}\nadmin: {token: hunter2hunter2hunter2}", "auth.redis.addr: must be set when storage is redis, here or in the top-level redis"},
		{"a section of the wrong type is missing too", "rate_limit: {storage: redis, redis: \"redis:6379\"}", "rate_limit.redis: wants a section, not a string"},
		{"an address of the wrong type is missing too", "redis: {addr: 6379}\nauth: {enabled: true, storage: redis}", "redis.addr: wants a string, not a number: put it in quotes"},
		{"a misspelt address is missing too", "redis: {adr: \"r:1\"}\nauth: {enabled: true, storage: redis}", `redis.adr: unknown key; did you mean "addr"?`},
		{"half a section is taken for none", "rate_limit: {storage: redis, redis: {db: 1}}\nauth: {enabled: true, storage: redis, redis: {addr: \"r:1\"}}", "rate_limit.redis.addr: must be set: the rest of this section has no effect without it"},
		{"no port", "redis: {addr: redis}", `redis.addr: "redis" ` + address},
		{"no host", "redis: {addr: \":6379\"}", `redis.addr: ":6379" ` + address},
		{"port 0", "redis: {addr: \"redis:0\"}", `redis.addr: "redis:0" ` + address},
		{"a comma too many", "redis: {addr: \"a:1,\", mode: cluster}", `redis.addr: "" ` + address},
		{"a URL shows its password", "redis: {addr: \"redis://:hunter2@redis:6379/0\"}", "redis.addr: " + address + ", and username, password, db and tls beside it"},
		{"a password before the host is shown", "redis: {addr: \"hunter2@redis:6379\"}", "redis.addr: " + address + ", and username, password, db and tls beside it"},
		{"the second address is ignored", "redis: {addr: \"a:1,b:1\"}", "redis.addr: holds 2 addresses; several need mode: sentinel or cluster"},
		{"a mode by another name", "redis: {addr: \"a:1\", mode: clustr}", `redis.mode: "clustr" is not one of single, sentinel, cluster; did you mean "cluster"?`},
		{"Sentinels are asked for nobody", "redis: {addr: \"a:1\", mode: sentinel}", `redis.master: must be set when mode is sentinel: the name after "sentinel monitor" in sentinel.conf`},
		{"a master without Sentinels", "redis: {addr: \"a:1\", master: m}", "redis.master: is of use with mode: sentinel only"},
		{"a user of no Sentinels", "redis: {addr: \"a:1\", mode: cluster, sentinel_username: m}", "redis.sentinel_username: is of use with mode: sentinel only"},
		{"a password of no Sentinels", "redis: {addr: \"a:1\", sentinel_password: hunter2}", "redis.sentinel_password: is of use with mode: sentinel only"},
		{"clusters have one database", "redis: {addr: \"a:1\", mode: cluster, db: 1}", "redis.db: must be 0 with mode: cluster: a Redis Cluster has one database"},
		{"0 waits for ever", "redis: {addr: \"a:1\", timeout: 0}", "redis.timeout: must be at least 1ms: no Redis could answer"},
		{"a Redis that hangs holds up all", "redis: {addr: \"a:1\", timeout: 1001ms}", "redis.timeout: must be at most 1s: while Redis hangs, requests wait so long"},
		{"a tag before the tag scatters one key over a cluster", "redis: {addr: \"a:1\", prefix: \"llmproxy:{a}\"}", `redis.prefix: "llmproxy:{a}" ` + named},
		{"a pattern for ACLs", "redis: {addr: \"a:1\", prefix: \"llm*\"}", `redis.prefix: "llm*" ` + named},
		{"names that begin with nothing", "redis: {addr: \"a:1\", prefix: \"\"}", `redis.prefix: "" ` + named},
		{"names without an end", "redis: {addr: \"a:1\", prefix: " + strings.Repeat("a", 65) + "}", `redis.prefix: "` + strings.Repeat("a", 65) + `" ` + named},
		{"TLS that is off", "redis: {addr: \"a:1\", tls: {ca_file: testdata/ca.pem}}", "redis.tls.ca_file: is of use with tls.enabled: true only"},
		{"a name for TLS that is off", "redis: {addr: \"a:1\", tls: {server_name: redis}}", "redis.tls.server_name: is of use with tls.enabled: true only"},
		{"authorities that are none", "redis: {addr: \"a:1\", tls: {enabled: true, ca_file: fault.go}}", "redis.tls.ca_file: fault.go holds no certificate in PEM"},
		{"missing authorities", "redis: {addr: \"a:1\", tls: {enabled: true, ca_file: absent}}", "redis.tls.ca_file: cannot read absent: no such file or directory"},
		{"certificate without its key", "redis: {addr: \"a:1\", tls: {enabled: true, cert_file: testdata/ca.pem}}", "redis.tls: needs both cert_file and key_file, or neither"},
		{"password in two places", "redis: {addr: \"a:1\", password: hunter2, password_file: fault.go}", "redis.password_file: is set together with redis.password; one of them must go"},
		{"missing password", "redis: {addr: \"a:1\", sentinel_password_file: absent}", "redis.sentinel_password_file: cannot read absent: no such file or directory"},
		{"a copy that is always too old", "auth: {snapshot_max_age: 9s}", "auth.snapshot_max_age: must be at least 10s: the copy is written ten times as often"},
		{"what becomes of quotas by another name", "auth: {on_store_error: allow}", `auth.on_store_error: "allow" is not one of local_share, open, closed`},
		{"what becomes of limits by another name", "rate_limit: {on_store_error: close}", `rate_limit.on_store_error: "close" is not one of local_share, open, closed; did you mean "closed"?`},
	} {
		t.Run(c.name, func(t *testing.T) { faults(t, good+c.text+"\n", nil, "f.yaml:3: "+c.want) })
	}
}

// The certificate must be the one of the key, and who reads the key is the gateway.
func TestCertificateForRedis(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir, "a")
	writePair(t, dir, "b")
	path := filepath.Join(dir, "f.yaml")
	load := func(key string) (*Config, error) {
		write(t, path, good+"rate_limit: {storage: redis}\nredis: {addr: \"r:1\", tls: {enabled: true, ca_file: a.pem, cert_file: a.pem, key_file: "+key+"}}\n", 0o644)
		return Load(path, nil)
	}
	c, err := load("a.key")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Redis.TLS; got != (RedisTLS{Enabled: true, CAFile: dir + "/a.pem", CertFile: dir + "/a.pem", KeyFile: dir + "/a.key"}) {
		t.Errorf("files are not looked for beside the configuration: %+v", got)
	}
	wantWarnings(t, c, dir+"/a.key holds secrets and every user of this machine can read it; chmod 600 it")
	want := path + ":4: redis.tls.cert_file: does not go with key_file: tls: private key does not match public key"
	if _, err := load("b.key"); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// writePair makes name.pem and name.key, which everybody can read.
func writePair(t *testing.T, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, name+".pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})), 0o644)
	write(t, filepath.Join(dir, name+".key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})), 0o644)
}

func TestWarningsOfRedis(t *testing.T) {
	unused := func(section, auth, limits string) string {
		return fmt.Sprintf("f.yaml:3: %s: no storage uses this Redis: auth.storage is %s, rate_limit.storage is %s, and each looks into its own section first", section, auth, limits)
	}
	const half = "f.yaml:4: rate_limit: keys are shared through Redis but limits are not: each gateway lets all of them through; write storage: redis, or storage: memory if that is meant"
	const keys = "auth: {enabled: true, storage: redis, redis: {addr: \"r:1\"}}\n"
	for _, c := range []struct{ name, text, want string }{
		{"storage was forgotten", "redis: {addr: \"r:1\"}", unused("redis", "file", "memory")},
		{"storage of keys was forgotten", "auth: {redis: {addr: \"r:1\"}}", unused("auth.redis", "file", "memory")},
		{"storage of limits was forgotten", "rate_limit: {redis: {addr: \"r:1\"}}\n" + keys, unused("rate_limit.redis", "redis", "memory")},
		{"one that the others hide", "redis: {addr: \"r:1\"}\n" + keys, unused("redis", "redis", "memory")},
		{"limits by the number of gateways", keys + "rate_limit: {enabled: true, global: {requests_per_second: 5}}", half},
		{"limits that are meant for each", keys + "rate_limit: {enabled: true, storage: memory, global: {requests_per_second: 5}}", ""},
		{"keys are off for a while", "auth: {enabled: false, storage: redis, redis: {addr: \"r:1\"}}", ""},
		{"all that two gateways need", keys + "rate_limit: {enabled: true, storage: redis, global: {requests_per_second: 5}}", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var want []string
			if c.want != "" {
				want = []string{c.want}
			}
			wantWarnings(t, parse(t, good+c.text+"\n"), want...)
		})
	}
}

// Each password of Redis is a secret of the file that it stands in.
func TestPasswordsOfRedisAreWarnedOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.yaml")
	const limits = "rate_limit: {storage: redis}\n"
	for _, section := range []string{limits + "redis: {%s}", limits + "auth: {redis: {%s}}", "rate_limit: {storage: redis, redis: {%s}}"} {
		for _, key := range []string{"password", "sentinel_password"} {
			write(t, path, good+fmt.Sprintf(section, "addr: \"r:1\", mode: sentinel, master: m, "+key+": hunter2")+"\n", 0o644)
			c, err := Load(path, nil)
			if err != nil {
				t.Fatal(err)
			}
			wantWarnings(t, c, path+" holds secrets and every user of this machine can read it; chmod 600 it")
			if text := redacted(t, c); strings.Contains(text, "hunter2") || !strings.Contains(text, `"`+key+`": "***"`) {
				t.Errorf("%s of %s:\n%s", key, section, text)
			}
		}
	}
}
