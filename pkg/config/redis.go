package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Redis is a store that several gateways share.
type Redis struct {
	// Addr is host:port of the server; with mode sentinel of Sentinels, with mode
	// cluster of some nodes: several with commas between them. Default: none.
	Addr string `yaml:"addr"`
	// Mode is what answers at Addr: single (default), one server; sentinel,
	// Sentinels that know which server it is now; or cluster, a Redis Cluster.
	Mode string `yaml:"mode" oneof:"single,sentinel,cluster"`
	// Master is the name that the Sentinels know the server by.
	Master string `yaml:"master"`
	// Username is the ACL user. Default: Redis's own, default.
	Username string `yaml:"username"`
	// Password is that of Username. Default: none.
	Password Secret `yaml:"password"`
	// PasswordFile holds Password in a file.
	PasswordFile string `yaml:"password_file"`
	// SentinelUsername is the ACL user at the Sentinels. Default: theirs.
	SentinelUsername string `yaml:"sentinel_username"`
	// SentinelPassword is that of the Sentinels. Default: none.
	SentinelPassword Secret `yaml:"sentinel_password"`
	// SentinelPasswordFile holds SentinelPassword in a file.
	SentinelPasswordFile string `yaml:"sentinel_password_file"`
	// DB is the number of the database; a Redis Cluster has one only. Default 0.
	DB int `yaml:"db"`
	// Timeout is how long a request waits for an answer of Redis, which it asks
	// once, before its gateway decides alone. Default 20ms; 1ms to 1s.
	Timeout Duration `yaml:"timeout"`
	// Prefix begins the names of all keys in Redis: gateways that share keys and
	// limits have the same. Default "llmproxy:".
	Prefix string `yaml:"prefix"`
	// TLS is for the connections to Redis, and to the Sentinels.
	TLS RedisTLS `yaml:"tls"`
}

// RedisTLS is for the connections to Redis.
type RedisTLS struct {
	// Enabled turns it on. Default false.
	Enabled bool `yaml:"enabled"`
	// CAFile is a PEM file of the authorities that may have signed Redis's
	// certificate. Default: those of the system.
	CAFile string `yaml:"ca_file"`
	// CertFile is a PEM file: the certificate that the gateway shows, and its
	// chain. Default: none.
	CertFile string `yaml:"cert_file"`
	// KeyFile is a PEM file: the private key of that certificate.
	KeyFile string `yaml:"key_file"`
	// ServerName is the name that Redis's certificate must have. Default: the host
	// that is connected to; nodes that are known by address need it.
	ServerName string `yaml:"server_name"`
}

func defaultRedis() Redis {
	return Redis{Mode: "single", Timeout: Duration(20 * time.Millisecond), Prefix: "llmproxy:"}
}

// Addrs are the addresses in Addr.
func (r *Redis) Addrs() []string {
	all := strings.Split(r.Addr, ",")
	for i := range all {
		all[i] = strings.TrimSpace(all[i])
	}
	return all
}

// KeyRedis is the Redis that has the keys made at run time: that of auth.redis,
// else of redis, else of rate_limit.redis. It is nil where keys are in a file,
// or are neither asked for nor made.
func (c *Config) KeyRedis() *Redis {
	if c.Auth.Storage != "redis" || !c.Auth.Enabled && c.Admin.Token == "" {
		return nil
	}
	return firstRedis(&c.Auth.Redis, &c.Redis, &c.RateLimit.Redis)
}

// LimitRedis is the Redis in which limits are counted: that of rate_limit.redis,
// else of redis, else of auth.redis. It is nil where each gateway counts for
// itself. It may be the same as KeyRedis. With rate_limit off it is there for
// the limits that keys have of their own.
func (c *Config) LimitRedis() *Redis {
	if c.RateLimit.Storage != "redis" {
		return nil
	}
	return firstRedis(&c.RateLimit.Redis, &c.Redis, &c.Auth.Redis)
}

func firstRedis(all ...*Redis) *Redis {
	if i := slices.IndexFunc(all, func(r *Redis) bool { return r.Addr != "" }); i >= 0 {
		return all[i]
	}
	return nil
}

// redisSection is one of the three places where a Redis can be written.
type redisSection struct {
	key string
	*Redis
}

func (c *Config) redisSections() []redisSection {
	return []redisSection{{"redis", &c.Redis}, {"auth.redis", &c.Auth.Redis}, {"rate_limit.redis", &c.RateLimit.Redis}}
}

// describeRedis says what is asked of which Redis, and what holds without it.
func (c *Config) describeRedis(row func(...string)) {
	keys, limits := c.KeyRedis(), c.LimitRedis()
	var lines []string
	switch {
	case keys == nil && limits == nil:
		return
	case keys != nil && limits != nil && *keys == *limits:
		lines = append(lines, "keys and limits: "+keys.text())
	default:
		if keys != nil {
			lines = append(lines, "keys: "+keys.text())
		}
		if limits != nil {
			lines = append(lines, "limits: "+limits.text())
		}
	}
	if keys != nil {
		lines = append(lines, fmt.Sprintf("a copy of the keys serves for %v at a start without Redis", c.Auth.SnapshotMaxAge))
	}
	away := "while it is away: quotas " + c.Auth.OnStoreError
	if limits != nil {
		away += ", limits " + c.RateLimit.OnStoreError
	}
	label := "redis"
	for _, line := range append(lines, away) {
		row(label, line)
		label = ""
	}
}

func (r *Redis) text() string {
	text := strings.Join(r.Addrs(), ", ")
	switch r.Mode {
	case "sentinel":
		text = fmt.Sprintf("%s of the Sentinels at %s", r.Master, text)
	case "cluster":
		text = "the cluster of " + text
	}
	if r.DB > 0 {
		text += fmt.Sprintf(", database %d", r.DB)
	}
	if r.Username != "" {
		text += ", as " + r.Username
	}
	if r.Password != "" {
		text += ", with a password"
	}
	transport := "without TLS"
	if r.TLS.Enabled {
		transport = "TLS"
	}
	return fmt.Sprintf("%s, %s, names begin with %s, %v for an answer", text, transport, r.Prefix, r.Timeout)
}
