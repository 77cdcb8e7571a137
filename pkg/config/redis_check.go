package config

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"time"
)

func (c *Config) completeRedis(s redisSection) {
	r, t := c.origin.report, &s.TLS
	if s.Addr != "" {
		s.Addr = strings.Join(s.Addrs(), ",")
	}
	c.secret(&s.Password, &s.PasswordFile, s.key+".password")
	c.secret(&s.SentinelPassword, &s.SentinelPasswordFile, s.key+".sentinel_password")
	if pem, ok := c.file(&t.CAFile, s.key+".tls.ca_file"); ok && !x509.NewCertPool().AppendCertsFromPEM(pem) {
		r.fault(s.key+".tls.ca_file", "%s holds no certificate in PEM", t.CAFile)
	}
	cert, isCert := c.file(&t.CertFile, s.key+".tls.cert_file")
	key, isKey := c.file(&t.KeyFile, s.key+".tls.key_file")
	if isKey {
		c.warnOfReaders(t.KeyFile)
	}
	if isCert && isKey {
		if _, err := tls.X509KeyPair(cert, key); err != nil {
			r.fault(s.key+".tls.cert_file", "does not go with key_file: %v", err)
		}
	}
}

// checkRedis wants each Redis that is written to be one that can be reached, and
// one to be there for each storage that needs it.
func (c *Config) checkRedis() {
	r, known := c.origin.report, true
	for _, s := range c.redisSections() {
		if r.faulty[s.key] || r.faulty[s.key+".addr"] {
			known = false // this may have been the one
		}
		if s.Addr != "" {
			r.checkServer(s)
		} else if *s.Redis != defaultRedis() {
			r.fault(s.key+".addr", "must be set: the rest of this section has no effect without it")
		}
	}
	if !known {
		return
	}
	const message = "must be set when storage is redis, here or in the top-level redis"
	if isOn := c.Auth.Enabled || c.Admin.Token != ""; isOn && c.Auth.Storage == "redis" && c.KeyRedis() == nil {
		r.fault("auth.redis.addr", message)
	}
	if c.RateLimit.Storage == "redis" && c.LimitRedis() == nil {
		r.fault("rate_limit.redis.addr", message)
	}
}

func (r *report) checkServer(s redisSection) {
	r.checkServers(s)
	switch t := Duration(time.Millisecond); {
	case s.Timeout < t:
		r.fault(s.key+".timeout", "must be at least %v: no Redis could answer", t)
	case s.Timeout > 1000*t:
		r.fault(s.key+".timeout", "must be at most 1s: while Redis hangs, requests wait so long")
	}
	if !isPrefix(s.Prefix) {
		r.fault(s.key+".prefix", "%s is not 1 to 64 letters, digits or . _ : / -; braces would take from Redis Cluster what says where a key is", quote(s.Prefix))
	}
	isSentinel := s.Mode == "sentinel"
	if isSentinel && s.Master == "" {
		r.fault(s.key+".master", "must be set when mode is sentinel: the name after \"sentinel monitor\" in sentinel.conf")
	}
	for _, own := range []struct {
		key, value string
		isFor      bool
		message    string
	}{
		{".master", s.Master, isSentinel, "mode: sentinel"},
		{".sentinel_username", s.SentinelUsername, isSentinel, "mode: sentinel"},
		{".sentinel_password", string(s.SentinelPassword), isSentinel, "mode: sentinel"},
		{".tls.ca_file", s.TLS.CAFile, s.TLS.Enabled, "tls.enabled: true"},
		{".tls.cert_file", s.TLS.CertFile, s.TLS.Enabled, "tls.enabled: true"},
		{".tls.key_file", s.TLS.KeyFile, s.TLS.Enabled, "tls.enabled: true"},
		{".tls.server_name", s.TLS.ServerName, s.TLS.Enabled, "tls.enabled: true"},
	} {
		if own.value != "" && !own.isFor {
			r.fault(s.key+own.key, "is of use with %s only", own.message)
		}
	}
	if s.Mode == "cluster" && s.DB > 0 {
		r.fault(s.key+".db", "must be 0 with mode: cluster: a Redis Cluster has one database")
	}
	if (s.TLS.CertFile == "") != (s.TLS.KeyFile == "") {
		r.fault(s.key+".tls", "needs both cert_file and key_file, or neither")
	}
}

// checkServers wants host:port, and of one server just one.
func (r *report) checkServers(s redisSection) {
	key, all := s.key+".addr", s.Addrs()
	for _, a := range all {
		host, port, ok := splitAddress(a)
		switch {
		case strings.ContainsAny(a, "@/"): // a password may be in it
			r.fault(key, "is not host:port; write for example redis:6379, and username, password, db and tls beside it")
		case !ok || port == 0 || !isHost(host):
			r.fault(key, "%s is not host:port; write for example redis:6379", quote(a))
		}
	}
	if len(all) > 1 && s.Mode == "single" {
		r.fault(key, "holds %d addresses; several need mode: sentinel or cluster", len(all))
	}
}

// isPrefix accepts what the name of a key may begin with, so that a pattern of an
// ACL can end in it and Redis Cluster finds its braces behind it.
func isPrefix(s string) bool {
	isOdd := func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._:/-", c))
	}
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, isOdd)
}

// warnRedis looks for a Redis that nothing asks, and for half of what two
// gateways need.
func (c *Config) warnRedis() {
	keys, limits := c.KeyRedis(), c.LimitRedis()
	isOff := c.Auth.Storage == "redis" && keys == nil // with auth, as a whole
	for _, s := range c.redisSections() {
		if s.Addr != "" && s.Redis != keys && s.Redis != limits && !isOff {
			c.warnOf(s.key, "no storage uses this Redis: auth.storage is %s, rate_limit.storage is %s, and each looks into its own section first", c.Auth.Storage, c.RateLimit.Storage)
		}
	}
	if keys != nil && c.RateLimit.Enabled && limits == nil && !c.origin.has("rate_limit.storage") {
		c.warnOf("rate_limit", "keys are shared through Redis but limits are not: each gateway lets all of them through; write storage: redis, or storage: memory if that is meant")
	}
}
