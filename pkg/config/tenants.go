package config

import (
	"net/netip"
	"time"
)

// Auth asks clients for a key.
type Auth struct {
	// Enabled turns it on. Default false, or true when there are APIKeys.
	Enabled bool `yaml:"enabled"`
	// Storage is where keys live: file (default: APIKeys) or redis.
	Storage string `yaml:"storage" oneof:"file,redis"`
	// Redis is used with storage "redis".
	Redis Redis `yaml:"redis"`
	// Defaults hold for keys that do not say otherwise.
	Defaults KeyDefaults `yaml:"defaults"`
}

// KeyDefaults hold for keys that do not say otherwise.
type KeyDefaults struct {
	// QuotaResetPeriod is when a quota starts anew: hourly, daily (default),
	// weekly, monthly or never.
	QuotaResetPeriod string `yaml:"quota_reset_period" oneof:"hourly,daily,weekly,monthly,never"`
	// TotalQuota is the number of tokens in a period. Default 0: no limit.
	TotalQuota int64 `yaml:"total_quota"`
}

// Redis is where several gateways share state.
type Redis struct {
	// Addr is host:port.
	Addr string `yaml:"addr"`
	// Password is sent with AUTH. Default: none.
	Password Secret `yaml:"password"`
	// PasswordFile holds Password in a file.
	PasswordFile string `yaml:"password_file"`
	// DB is the number of the database. Default 0.
	DB int `yaml:"db"`
}

// APIKey is one client of the gateway.
type APIKey struct {
	// Key is the bearer token the client sends.
	Key Secret `yaml:"key"`
	// KeyFile holds Key in a file.
	KeyFile string `yaml:"key_file"`
	// Name is for people.
	Name string `yaml:"name"`
	// UserID stands for the client in usage reports.
	UserID string `yaml:"user_id"`
	// Status is active (default) or disabled.
	Status string `yaml:"status" oneof:"active,disabled"`
	// TotalQuota is the number of tokens in a period; 0 is no limit. Default:
	// auth.defaults.total_quota.
	TotalQuota int64 `yaml:"total_quota"`
	// QuotaResetPeriod is when the quota starts anew: hourly, daily, weekly,
	// monthly or never. Default: auth.defaults.quota_reset_period.
	QuotaResetPeriod string `yaml:"quota_reset_period" oneof:"hourly,daily,weekly,monthly,never"`
	// AllowedIPs are the addresses and CIDR ranges it may be used from.
	// Default: any.
	AllowedIPs []netip.Prefix `yaml:"allowed_ips"`
	// AllowedModels are the models it may be used for, as the client names
	// them, with * and ? as wildcards. Default: any.
	AllowedModels []string `yaml:"allowed_models"`
	// ExpiresAt is when it ends (RFC 3339). Default, and the zero time: never.
	ExpiresAt time.Time `yaml:"expires_at"`
}

// RateLimit protects the backends and the clients from each other.
type RateLimit struct {
	// Enabled turns it on. Default false.
	Enabled bool `yaml:"enabled"`
	// Storage is where the counts live: memory (default: each gateway counts
	// for itself) or redis.
	Storage string `yaml:"storage" oneof:"memory,redis"`
	// Redis is used with storage "redis". Default: auth.redis.
	Redis Redis `yaml:"redis"`
	// Global holds for all requests together.
	Global GlobalLimit `yaml:"global"`
	// PerKey holds for each key.
	PerKey KeyLimit `yaml:"per_key"`
}

// GlobalLimit holds for all requests together; 0 is no limit.
type GlobalLimit struct {
	// RequestsPerSecond is the sustained rate.
	RequestsPerSecond int `yaml:"requests_per_second"`
	// RequestsPerMinute is the number in a minute.
	RequestsPerMinute int `yaml:"requests_per_minute"`
	// BurstSize is the number of requests that may come at once. Default 0:
	// RequestsPerSecond.
	BurstSize int `yaml:"burst_size"`
}

// KeyLimit holds for each key; 0 is no limit.
type KeyLimit struct {
	// RequestsPerSecond is the sustained rate.
	RequestsPerSecond int `yaml:"requests_per_second"`
	// RequestsPerMinute is the number in a minute.
	RequestsPerMinute int `yaml:"requests_per_minute"`
	// TokensPerMinute is the number of tokens, prompt and answer, in a minute.
	TokensPerMinute int64 `yaml:"tokens_per_minute"`
	// MaxConcurrent is the number of requests at a time; a stream counts until
	// its last byte.
	MaxConcurrent int `yaml:"max_concurrent"`
	// BurstSize is the number of requests that may come at once. Default 0:
	// RequestsPerSecond.
	BurstSize int `yaml:"burst_size"`
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
