package config

import (
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

// Warnings are what is allowed but hardly meant, one sentence each.
func (c *Config) Warnings() []string {
	if c.origin == nil {
		return nil
	}
	return slices.Clone(c.origin.warnings)
}

func (c *Config) warning(format string, args ...any) {
	c.origin.warnings = append(c.origin.warnings, fmt.Sprintf(format, args...))
}

// warnOf is a warning about a key, with its place.
func (c *Config) warnOf(key, format string, args ...any) {
	c.warning("%v: %s: %s", c.origin.where(key), key, fmt.Sprintf(format, args...))
}

// warnOfReaders warns if every user of the machine can read the secrets in a file.
func (c *Config) warnOfReaders(path string) {
	if path == c.origin.file && !c.holdsSecrets() {
		return
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o004 != 0 {
		message := fmt.Sprintf("%s holds secrets and every user of this machine can read it; chmod 600 it", path)
		if !slices.Contains(c.origin.warnings, message) {
			c.warning("%s", message)
		}
	}
}

// holdsSecrets tells whether a secret stands in the configuration file itself.
func (c *Config) holdsSecrets() bool {
	inFile := func(key string, value Secret) bool {
		p, ok := c.origin.places[key]
		return ok && p.file == c.origin.file && value != ""
	}
	for i, b := range c.Backends {
		if inFile(index("backends", i)+".api_key", b.APIKey) {
			return true
		}
	}
	for i, k := range c.APIKeys {
		if inFile(index("api_keys", i)+".key", k.Key) {
			return true
		}
	}
	for _, r := range c.redisSections() {
		if inFile(r.key+".password", r.Password) || inFile(r.key+".sentinel_password", r.SentinelPassword) {
			return true
		}
	}
	return inFile("admin.token", c.Admin.Token) ||
		inFile("usage_hook.secret", c.UsageHook.Secret)
}

// warn looks for settings that have no effect or an unexpected one.
func (c *Config) warn() {
	for i, b := range c.Backends {
		if u, err := url.Parse(b.URL); err == nil && strings.HasSuffix(u.Path, "/v1") {
			c.warnOf(index("backends", i)+".url", "ends in /v1, and the gateway adds the endpoint's own: requests will go to %s/v1/...", b.URL)
		}
		if b.KeepAlive == 0 || b.KeepAlive >= Duration(5*time.Second) {
			c.warnOf(index("backends", i)+".keep_alive", "is not below 5s, when uvicorn closes idle connections: requests will meet closed ones unless the engine was told otherwise")
		}
	}
	for i, b := range c.Backends {
		if b.ContinuousUsage && (b.Engine == "tgi" || b.Engine == "llamacpp") {
			c.warnOf(index("backends", i)+".continuous_usage", "has no effect: %s cannot count in every event", b.Engine)
		}
	}
	for i, p := range c.TrustedProxies {
		if p.Bits() == 0 {
			c.warnOf(index("trusted_proxies", i), "trusts everyone: any client may claim any address")
		}
	}
	if !slices.ContainsFunc(c.Backends, func(b Backend) bool { return !b.Drain }) {
		c.warnOf("backends", "all of them drain: every request will be refused")
	}
	c.warnRouting()
	c.warnOff("cors.enabled", len(c.CORS.AllowedOrigins) > 0)
	c.warnOff("rate_limit.enabled", c.RateLimit.Global != GlobalLimit{} || c.RateLimit.PerKey != KeyLimit{})
	c.warnOff("usage_hook.enabled", c.UsageHook.URL != "")
	c.warnAuth()
	c.warnLimits()
	c.warnRedis()
}

func (c *Config) warnAuth() {
	const weakBelow = 16 // bytes
	key := c.tokenKey()
	switch token := c.Admin.Token; {
	case token == "" && c.Auth.Enabled && c.Auth.Storage == "file" && len(c.APIKeys) == 0:
		c.warnOf("auth.enabled", "is true but there are no api_keys, and no admin.token to make keys with: every request will be refused, until `llmproxy keys new` has made one")
	case token != "" && len(token) < weakBelow:
		c.warnOf(key, "has %s", weak(len(token), weakBelow))
	}
	if c.Admin.Token != "" && !c.Auth.Enabled {
		c.warnOf(key, "auth is off, so the keys that the admin API makes have no effect; write auth.enabled: true")
	}
}

// warnLimits looks for limits that limit nothing.
func (c *Config) warnLimits() {
	on, all, each := c.RateLimit.Enabled, c.RateLimit.Global, c.RateLimit.PerKey
	const useless = "has no effect without requests_per_second"
	if on && all.BurstSize > 0 && all.RequestsPerSecond == 0 {
		c.warnOf("rate_limit.global.burst_size", useless)
	}
	hasRate := func(k APIKey) bool { return k.RequestsPerSecond > 0 }
	if on && each.BurstSize > 0 && each.RequestsPerSecond == 0 && !slices.ContainsFunc(c.APIKeys, hasRate) {
		c.warnOf("rate_limit.per_key.burst_size", useless)
	}
	for i, k := range c.APIKeys {
		if k.BurstSize > 0 && k.RequestsPerSecond == 0 && (each.RequestsPerSecond == 0 || !on) {
			c.warnOf(index("api_keys", i)+".burst_size", useless)
		}
	}
	if on && all == (GlobalLimit{}) && each == (KeyLimit{}) {
		c.warnOf("rate_limit.enabled", "is true but no limit is set")
	}
}

// warnOff warns of a section that is filled in but not turned on.
func (c *Config) warnOff(key string, filled bool) {
	if filled && !c.origin.has(key) {
		c.warnOf(key, "is not set, so this section has no effect; write true or false")
	}
}

func (c *Config) warnRouting() {
	isHere := func(b Backend) bool { return b.Region == c.Region }
	if c.Region != "" && !slices.ContainsFunc(c.Backends, isHere) {
		c.warnOf("region", "no backend stands in %s", quote(c.Region))
	}
}
