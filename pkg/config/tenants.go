package config

import (
	"crypto/sha256"
	"net/netip"
	"time"
)

// Auth asks clients for a key.
type Auth struct {
	// Enabled turns it on. Default false, or true when there are APIKeys.
	Enabled bool `yaml:"enabled"`
	// Storage is where keys live that are made at run time: file (default:
	// keys.json in data_dir) or redis.
	Storage string `yaml:"storage" oneof:"file,redis"`
	// Redis has the keys with storage "redis". Default: the top-level redis, else
	// rate_limit.redis.
	Redis Redis `yaml:"redis"`
	// SnapshotMaxAge is how old the copy of the keys in data_dir may be from which
	// a gateway serves that starts while Redis is away. Default 10m; at least 10s.
	// Danger: a key that was revoked elsewhere in that time still serves there.
	SnapshotMaxAge Duration `yaml:"snapshot_max_age"`
	// OnStoreError says what becomes of quotas while Redis is away: local_share
	// (default) grants each gateway an equal part of what was left, open asks for
	// no quota, closed answers 503 to keys that have one. Danger: open lets a key
	// use more than it has; what it uses is counted in any case.
	OnStoreError string `yaml:"on_store_error" oneof:"local_share,open,closed"`
	// Timezone is where days, weeks and months of quotas end: the name of a zone
	// such as Asia/Shanghai or UTC. Default: the zone of this machine.
	Timezone string `yaml:"timezone"`
	// Defaults hold for keys that do not say otherwise, also for those made at
	// run time.
	Defaults KeyDefaults `yaml:"defaults"`
}

// Location is the zone that Timezone names, the machine's if it names none.
func (a *Auth) Location() *time.Location {
	if a.Timezone == "" {
		return time.Local
	}
	zone, err := time.LoadLocation(a.Timezone)
	if err != nil {
		panic("BUG: a time zone that was not checked: " + err.Error())
	}
	return zone
}

// KeyDefaults hold for keys that do not say otherwise.
type KeyDefaults struct {
	// QuotaResetPeriod is when a quota starts anew: daily (default), weekly (on
	// Monday), monthly or never.
	QuotaResetPeriod string `yaml:"quota_reset_period" oneof:"daily,weekly,monthly,never"`
	// TotalQuota is the number of tokens in a period. Absent: no limit.
	TotalQuota int64 `yaml:"total_quota" most:"1000000000000000"`
	// AllowedIPs are the addresses and CIDR ranges a key may be used from.
	// Default: any.
	AllowedIPs []netip.Prefix `yaml:"allowed_ips"`
	// AllowedModels are the models a key may be used for, as the client names
	// them, with * and ? as wildcards. Default: any.
	AllowedModels []string `yaml:"allowed_models"`
}

// APIKey is one client of the gateway. It has a key, a key_file or a key_hash.
type APIKey struct {
	// Key is the bearer token the client sends, in any form.
	Key Secret `yaml:"key"`
	// KeyFile holds Key in a file.
	KeyFile string `yaml:"key_file"`
	// KeyHash is sha256: and the SHA-256 of Key in 64 hex digits, for a file that
	// does not hold the key itself; `llmproxy keys hash` makes it. Danger: the
	// hash of a key that can be guessed is as good as the key.
	KeyHash Secret `yaml:"key_hash"`
	// Name is for people; at most 200 characters.
	Name string `yaml:"name"`
	// UserID stands for the client in usage reports; at most 200 characters.
	UserID string `yaml:"user_id"`
	// Status is active (default) or disabled, which refuses the key.
	Status string `yaml:"status" oneof:"active,disabled"`
	// TotalQuota is the number of tokens in a period. Absent:
	// auth.defaults.total_quota.
	TotalQuota int64 `yaml:"total_quota" most:"1000000000000000"`
	// QuotaResetPeriod is when the quota starts anew: daily, weekly (on Monday),
	// monthly or never. Default: auth.defaults.quota_reset_period.
	QuotaResetPeriod string `yaml:"quota_reset_period" oneof:"daily,weekly,monthly,never"`
	// AllowedIPs are the addresses and CIDR ranges it may be used from; an empty
	// list is any. Default: auth.defaults.allowed_ips.
	AllowedIPs []netip.Prefix `yaml:"allowed_ips"`
	// AllowedModels are the models it may be used for, as the client names
	// them, with * and ? as wildcards; an empty list is any. Default:
	// auth.defaults.allowed_models.
	AllowedModels []string `yaml:"allowed_models"`
	// ExpiresAt is when it ends (RFC 3339); a past time refuses the key.
	// Default: never.
	ExpiresAt time.Time `yaml:"expires_at"`
	// Metadata is whatever else belongs to the key, for the operator; at most
	// 4KiB as JSON. Default: none.
	Metadata map[string]any `yaml:"metadata"`
	// KeyLimit are limits of its own. They go before those of rate_limit.per_key,
	// one by one, and hold even when rate_limit is off.
	KeyLimit
}

// Hash is the SHA-256 of the key, whether the key or its hash is written.
func (k *APIKey) Hash() [sha256.Size]byte {
	if k.KeyHash == "" {
		return sha256.Sum256([]byte(k.Key))
	}
	sum, err := parseHash(string(k.KeyHash))
	if err != nil {
		panic("BUG: the hash of a key that was not checked: " + err.Error())
	}
	return sum
}

// RateLimit protects the backends and the clients from each other. What is over
// a limit is answered 429 at once; nothing waits.
type RateLimit struct {
	// Enabled turns it on. Default false. Limits that a key has of its own hold
	// in any case.
	Enabled bool `yaml:"enabled"`
	// Storage is where the counts live: memory (default: each gateway counts
	// for itself) or redis (all gateways together).
	Storage string `yaml:"storage" oneof:"memory,redis"`
	// Redis has the counts with storage "redis". Default: the top-level redis, else
	// auth.redis.
	Redis Redis `yaml:"redis"`
	// OnStoreError says what becomes of limits while Redis is away: local_share
	// (default) gives each gateway an equal part of them, open lets everything
	// pass, closed answers 503 to requests that are limited. Danger: with open
	// nothing protects the backends.
	OnStoreError string `yaml:"on_store_error" oneof:"local_share,open,closed"`
	// Global holds for all requests together.
	Global GlobalLimit `yaml:"global"`
	// PerKey holds for each key, but for what a key says itself; with auth off, for
	// each bearer token together with the client's address.
	PerKey KeyLimit `yaml:"per_key"`
}

// GlobalLimit holds for all requests together.
type GlobalLimit struct {
	// RequestsPerSecond is the sustained rate. Absent: no limit.
	RequestsPerSecond int64 `yaml:"requests_per_second" most:"1000000000"`
	// BurstSize is the number of requests that may come at once. Absent:
	// RequestsPerSecond, the requests of one second.
	BurstSize int64 `yaml:"burst_size" most:"1000000000"`
}

// KeyLimit holds for each key.
type KeyLimit struct {
	// RequestsPerSecond is the sustained rate. Absent, as each of these limits: no
	// limit, and in api_keys that of rate_limit.per_key.
	RequestsPerSecond int64 `yaml:"requests_per_second" most:"1000000000"`
	// BurstSize is the number of requests that may come at once. Absent:
	// RequestsPerSecond, the requests of one second.
	BurstSize int64 `yaml:"burst_size" most:"1000000000"`
	// RequestsPerMinute is the number in a minute. All of them may come at once,
	// so that a first minute can see twice as many.
	RequestsPerMinute int64 `yaml:"requests_per_minute" most:"1000000000"`
	// TokensPerMinute is the number of tokens, prompt and answer, in a minute; the
	// same is true of a first minute.
	TokensPerMinute int64 `yaml:"tokens_per_minute" most:"1000000000"`
	// MaxConcurrent is the number of requests at a time; a stream counts until
	// its last byte.
	MaxConcurrent int64 `yaml:"max_concurrent" most:"1000000000"`
}

// Admin is the API of the operator: keys, backends, the configuration in force.
// It is there when it has a token.
type Admin struct {
	// Token is the bearer token of the operator: at least 8 bytes, better 16, in
	// ASCII and without spaces. Default: none, and no API. Danger: who has it can
	// make keys.
	Token Secret `yaml:"token"`
	// TokenFile holds Token in a file.
	TokenFile string `yaml:"token_file"`
	// Listen gives the API a listener of its own, host:port or unix:/path.
	// Default: the main listener.
	Listen string `yaml:"listen"`
}

// UsageHook reports the tokens of every request to a billing system. A report
// is in a journal in data_dir before the client has its last byte, and is sent
// from there, in batches, until the billing system has it.
type UsageHook struct {
	// Enabled turns it on. Default false.
	Enabled bool `yaml:"enabled"`
	// URL receives the reports as POST: batches of CloudEvents in JSON.
	URL string `yaml:"url"`
	// Timeout is the time one delivery may take. Default 2s; not 0.
	Timeout Duration `yaml:"timeout"`
	// Retry is the number of further deliveries tried at once before the
	// report waits for a later round. Default 3.
	Retry int `yaml:"retry"`
	// Secret signs the reports as Standard Webhooks says: whsec_ and base64, or
	// plain text, of at least 16 bytes. Default: reports are not signed.
	Secret Secret `yaml:"secret"`
	// SecretFile holds Secret in a file.
	SecretFile string `yaml:"secret_file"`
	// MaxEvents is the number of reports in a batch. Default 500; at least 1.
	MaxEvents int `yaml:"max_events"`
	// MaxBytes is the size of a batch; a single report may be larger. Default
	// 256KiB; at least 1KiB.
	MaxBytes Size `yaml:"max_bytes"`
	// MaxAge is how long a report waits for others to fill its batch. Default
	// 1s; not 0.
	MaxAge Duration `yaml:"max_age"`
	// Sync is when the journal is forced to the disk: interval (default), every
	// 10 ms; always, before a request goes on; or os, when the kernel likes. The
	// end of the process loses nothing in any case; a power loss loses what was
	// not forced.
	Sync string `yaml:"sync" oneof:"interval,always,os"`
	// OnJournalError says what becomes of requests that would be billed while
	// the journal cannot be written, because the disk is full for example:
	// reject (default) answers 503, allow serves them. Danger: what allow serves
	// then may never be billed.
	OnJournalError string `yaml:"on_journal_error" oneof:"reject,allow"`
	// MaxSize is how large the journal may become with reports that are not
	// delivered; beyond it is as if the disk were full. Default 10GiB; at least
	// 1MiB.
	MaxSize Size `yaml:"max_size"`
	// Retention is how long a report is kept in the journal after its delivery,
	// at least. Default 24h.
	Retention Duration `yaml:"retention"`
}
