package config

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"
)

// complete fills in what depends on other keys: the defaults of list entries,
// canonical URLs, absolute file names and the secrets that live in files.
func (c *Config) complete(environ []string) {
	r := c.origin.report
	for i := range c.Backends {
		c.completeBackend(&c.Backends[i], fmt.Sprintf("backends[%d]", i))
	}
	for i := range c.Routing.Fallback {
		f := &c.Routing.Fallback[i]
		f.Primary = canonicalURL(f.Primary)
		for j := range f.Next {
			f.Next[j] = canonicalURL(f.Next[j])
		}
	}
	for i := range c.APIKeys {
		c.completeKey(&c.APIKeys[i], fmt.Sprintf("api_keys[%d]", i))
	}
	if !r.has("auth.enabled") {
		c.Auth.Enabled = len(c.APIKeys) > 0
	}
	for _, s := range c.redisSections() {
		c.completeRedis(s)
	}
	c.secret(&c.Admin.Token, &c.Admin.TokenFile, "admin.token")
	c.secret(&c.UsageHook.Secret, &c.UsageHook.SecretFile, "usage_hook.secret")
	c.file(&c.TLS.CertFile, "tls.cert_file")
	c.file(&c.TLS.KeyFile, "tls.key_file")
	if pem, ok := c.file(&c.TLS.ClientCAFile, "tls.client_ca_file"); ok && !x509.NewCertPool().AppendCertsFromPEM(pem) {
		r.fault("tls.client_ca_file", "%s holds no certificate in PEM", c.TLS.ClientCAFile)
	}
	if c.TLS.KeyFile != "" {
		c.warnOfReaders(c.TLS.KeyFile)
	}
	c.absolute(&c.Server.UploadDir)
	if c.DataDir == "" {
		c.DataDir = stateDirectory(environ)
	}
	c.absolute(&c.DataDir)
}

// stateDirectory is the first directory that systemd made for StateDirectory=,
// else "data". See STATE_DIRECTORY in systemd.exec(5).
func stateDirectory(environ []string) string {
	for _, v := range environ {
		if list, ok := strings.CutPrefix(v, "STATE_DIRECTORY="); ok {
			if first, _, _ := strings.Cut(list, ":"); first != "" {
				return first
			}
		}
	}
	return "data"
}

func (c *Config) completeBackend(b *Backend, key string) {
	r := c.origin.report
	b.URL = canonicalURL(b.URL)
	if u, err := url.Parse(b.URL); err == nil && !r.has(key+".name") {
		b.Name = u.Host
	}
	if !r.has(key + ".weight") {
		b.Weight = 1
	}
	if !r.has(key + ".keep_alive") {
		b.KeepAlive = Duration(4 * time.Second)
	}
	c.secret(&b.APIKey, &b.APIKeyFile, key+".api_key")
	c.file(&b.CAFile, key+".ca_file")
}

func (c *Config) completeKey(k *APIKey, key string) {
	r := c.origin.report
	if !r.has(key + ".status") {
		k.Status = "active"
	}
	if !r.has(key + ".total_quota") {
		k.TotalQuota = c.Auth.Defaults.TotalQuota
	}
	if !r.has(key + ".quota_reset_period") {
		k.QuotaResetPeriod = c.Auth.Defaults.QuotaResetPeriod
	}
	if !r.has(key + ".allowed_ips") {
		k.AllowedIPs = c.Auth.Defaults.AllowedIPs
	}
	if !r.has(key + ".allowed_models") {
		k.AllowedModels = c.Auth.Defaults.AllowedModels
	}
	c.secret(&k.Key, &k.KeyFile, key+".key")
}

// secret reads the twin of a secret key, the key with _file after it.
func (c *Config) secret(value *Secret, path *string, key string) {
	r, fileKey := c.origin.report, key+"_file"
	if *path == "" {
		return
	}
	if *value != "" {
		r.fault(fileKey, "is set together with %s; one of them must go", key)
		return
	}
	data, ok := c.file(path, fileKey)
	if !ok {
		return
	}
	*value = Secret(strings.TrimSpace(string(data)))
	switch {
	case *value == "":
		r.fault(fileKey, "%s is empty", *path)
	case hasControl(string(*value)):
		r.fault(fileKey, "%s holds more than one line, or control characters", *path)
	default:
		c.warnOfReaders(*path)
	}
}

// file makes the path absolute and reads what is there: a file that will be
// missed at the first request is better missed now.
func (c *Config) file(path *string, key string) ([]byte, bool) {
	if *path == "" {
		return nil, false
	}
	c.absolute(path)
	data, err := readFile(*path, 1<<20) // no key or certificate is larger
	if err != nil {
		c.origin.fault(key, "cannot read %s: %v", *path, reason(err))
		return nil, false
	}
	return data, true
}

// absolute makes a relative path begin at the directory of the configuration.
func (c *Config) absolute(path *string) {
	if *path != "" && !filepath.IsAbs(*path) {
		*path = filepath.Join(filepath.Dir(c.origin.file), *path)
	}
}

// canonicalURL makes equal URLs equal strings: the host in lower case, no
// default port, no slash at the end. What is no URL stays as it is.
func canonicalURL(s string) string {
	u, err := url.Parse(s)
	if err != nil || badURL(s, false) != "" {
		return s
	}
	u.Host = strings.ToLower(u.Host)
	if port := map[string]string{"http": ":80", "https": ":443"}[u.Scheme]; port != "" {
		u.Host = strings.TrimSuffix(u.Host, port)
	}
	return strings.TrimRight(u.String(), "/")
}
