// Package config is what the operator writes: one YAML file, overridden by
// environment variables, read strictly.
//
// A Config that Load or Parse returned is complete: defaults are filled in,
// secrets are read from their files, URLs and addresses are in canonical form,
// and every rule of this package holds. Nothing of it is read on the hot path.
package config

import (
	"io/fs"
	"net/netip"
	"time"
)

// Config is the whole configuration. An absent key has its default; durations
// are written with a unit ("3s"), and 0 means "none" or "no limit".
// Relative paths are relative to the directory of the configuration file.
type Config struct {
	// Listen is where the main listener waits: host:port, where an empty host
	// means every address of the machine, IPv4 and IPv6; unix:/path for a unix
	// socket; or systemd for the first socket that systemd passed
	// (LISTEN_FDS), systemd:NAME for the one with this name (LISTEN_FDNAMES).
	// Default ":8000".
	Listen string `yaml:"listen"`
	// ListenMode is who may connect to the unix sockets of Listen, metrics.listen
	// and admin.listen: an octal file mode in quotes. Default "0660": the user
	// and the group of the process.
	ListenMode fs.FileMode `yaml:"listen_mode"`
	// TLS makes the main listener speak TLS. Default: plain HTTP.
	TLS TLS `yaml:"tls"`
	// Server bounds what clients may cost.
	Server Server `yaml:"server"`
	// TrustedProxies are the peers whose X-Forwarded-For and region header are
	// believed, as addresses or CIDR ranges. Default: none. Danger: whoever is
	// listed may claim any client address.
	TrustedProxies []netip.Prefix `yaml:"trusted_proxies"`
	// Region is where this gateway stands: backends of the same region are
	// preferred while they are healthy and not overloaded. Default: none.
	Region string `yaml:"region"`
	// RegionHeader names the request header that overrides Region; it is
	// believed from TrustedProxies only. Default "X-Region".
	RegionHeader string `yaml:"region_header"`
	// CORS lets browsers of other origins call the gateway. Default: off.
	CORS CORS `yaml:"cors"`
	// Backends are the engines behind the gateway; at least one.
	Backends []Backend `yaml:"backends"`
	// Strategy picks among equal backends: least_connections (default),
	// round_robin or latency_based.
	Strategy string `yaml:"load_balance_strategy" oneof:"least_connections,round_robin,latency_based"`
	// Routing says which model goes where, and what follows a failure.
	Routing Routing `yaml:"routing"`
	// Timeouts bound the phases of a request towards a backend.
	Timeouts Timeouts `yaml:"timeouts"`
	// HealthCheck probes the backends.
	HealthCheck HealthCheck `yaml:"health_check"`
	// Auth asks clients for a key.
	Auth Auth `yaml:"auth"`
	// APIKeys are the keys that this file gives, besides those made at run time. A
	// list that is not empty turns Auth on unless auth.enabled says false.
	APIKeys []APIKey `yaml:"api_keys"`
	// RateLimit protects the backends and the clients from each other.
	RateLimit RateLimit `yaml:"rate_limit"`
	// Redis is where several gateways share keys and limits: the Redis of
	// auth.storage and rate_limit.storage where those have none of their own.
	Redis Redis `yaml:"redis"`
	// Admin is the API of the operator.
	Admin Admin `yaml:"admin"`
	// DataDir is the directory of what must outlive the process: the keys made at
	// run time, or a copy of those in Redis; what each key has used of its quota; and
	// the reports of UsageHook until they are delivered, and for a while after. It is made, for this user
	// alone, when Auth or the hook is on; two gateways cannot share one.
	// Default: the state directory that systemd has prepared (STATE_DIRECTORY),
	// else data beside the file.
	DataDir string `yaml:"data_dir"`
	// UsageHook reports the tokens of every request to a billing system.
	UsageHook UsageHook `yaml:"usage_hook"`
	// Metrics serves Prometheus metrics.
	Metrics Metrics `yaml:"metrics"`
	// Log is what the gateway writes to standard error.
	Log Log `yaml:"log"`

	origin *origin // where the values came from; nil for Default
}

// TLS is the certificate of the main listener; both files or neither.
type TLS struct {
	// CertFile is a PEM file: the certificate and its chain.
	CertFile string `yaml:"cert_file"`
	// KeyFile is a PEM file: the private key of the certificate.
	KeyFile string `yaml:"key_file"`
	// MinVersion is the oldest version of TLS that a client may speak: "1.2"
	// (default) or "1.3".
	MinVersion string `yaml:"min_version" oneof:"1.2,1.3"`
	// ClientCAFile is a PEM file of the authorities one of which must have
	// signed the certificate of every client; it needs CertFile. Default:
	// clients need no certificate.
	ClientCAFile string `yaml:"client_ca_file"`
}

// Server bounds what a client may cost, and how the process ends. A timeout of
// 0 is none.
type Server struct {
	// MaxBodySize is the largest request body; more is answered 413. Default
	// 64MiB; at most 1GiB, because each body is held in memory as a whole.
	MaxBodySize Size `yaml:"max_body_size"`
	// MaxHeaderSize is the largest request head; more is answered 431. Default 16KiB.
	MaxHeaderSize Size `yaml:"max_header_size"`
	// HeaderTimeout is the time a client has to send the request head. Default
	// 10s. Danger: 0 lets slow clients hold connections for ever.
	HeaderTimeout Duration `yaml:"header_timeout"`
	// BodyTimeout is the time a client has to send the request body. Default 60s.
	BodyTimeout Duration `yaml:"body_timeout"`
	// IdleTimeout is how long a client's connection is kept between requests.
	// Default 75s; it must be longer than that of a proxy in front.
	IdleTimeout Duration `yaml:"idle_timeout"`
	// WriteTimeout is the time one write to a client may take; it starts anew
	// with each chunk, so it never cuts a long stream. Default 60s.
	WriteTimeout Duration `yaml:"write_timeout"`
	// MaxConnections is the number of open client connections. Default 0: no limit.
	MaxConnections int `yaml:"max_connections"`
	// MaxConnectionsPerIP is the same for one peer address. Default 0: no
	// limit. Danger: behind a proxy all clients have one address.
	MaxConnectionsPerIP int `yaml:"max_connections_per_ip"`
	// SSEPingInterval is how often an SSE comment is sent to a client whose
	// stream is silent, so that balancers which cut silent connections do not;
	// at least 1s. The first one commits the status 200: a later failure comes
	// as an error event of the stream. Default 0: none is sent.
	SSEPingInterval Duration `yaml:"sse_ping_interval"`
	// UploadDir is the directory where large uploads (audio) wait while they
	// are sent, as files without a name; it must exist and be writable.
	// Default: the temporary directory of the system.
	UploadDir string `yaml:"upload_dir"`
	// ShutdownDelay is how long the gateway still accepts requests after it
	// has reported itself not ready. Default 0.
	ShutdownDelay Duration `yaml:"shutdown_delay"`
	// ShutdownTimeout is how long open requests may then go on. Default 30s; 0
	// waits for the last one.
	ShutdownTimeout Duration `yaml:"shutdown_timeout"`
}

// CORS is the cross-origin policy for browsers (https://fetch.spec.whatwg.org/#http-cors-protocol).
type CORS struct {
	// Enabled turns it on. Default false.
	Enabled bool `yaml:"enabled"`
	// AllowedOrigins are origins such as https://app.example.com, or "*" for all.
	AllowedOrigins []string `yaml:"allowed_origins"`
	// AllowedHeaders are the request headers a page may send. Default
	// Authorization and Content-Type.
	AllowedHeaders []string `yaml:"allowed_headers"`
	// AllowCredentials lets cookies pass; not together with the origin "*".
	AllowCredentials bool `yaml:"allow_credentials"`
	// MaxAge is how long a browser may remember the answer. Default 10m.
	MaxAge Duration `yaml:"max_age"`
}

// Backend is one inference server.
type Backend struct {
	// URL is http:// or https://, host, port and an optional path prefix, to
	// which the endpoint's path, such as /v1/chat/completions, is added.
	URL string `yaml:"url"`
	// Name stands for the backend in metrics and logs; no two have the same.
	// Default: host[:port] of URL.
	Name string `yaml:"name"`
	// Weight is its share of the requests, 1 to 1000. Default 1.
	Weight int `yaml:"weight"`
	// Models are the models it serves, with * and ? as wildcards. Default: any model.
	Models []string `yaml:"models"`
	// Region is where it stands. Default: none.
	Region string `yaml:"region"`
	// Engine is what runs there: vllm, vllm-rust (vLLM with its Rust front end,
	// which has fewer endpoints), sglang, tgi or llamacpp. Told, the backend gets
	// only what that engine serves, and /generate is read in its dialect. Default:
	// not told, every endpoint is tried.
	Engine string `yaml:"engine" oneof:",vllm,vllm-rust,sglang,tgi,llamacpp"`
	// ContinuousUsage has the engine count in every event of a stream, so that a
	// stream that breaks off is counted exactly and not estimated; vllm and
	// sglang can. Danger: the engine writes about 100 bytes more an event, which
	// the gateway takes out again. Default false.
	ContinuousUsage bool `yaml:"continuous_usage"`
	// Drain lets its open requests end and gives it no new ones. Default false.
	Drain bool `yaml:"drain"`
	// MaxInFlight is the number of requests it is given at a time. Default 0: no limit.
	MaxInFlight int `yaml:"max_in_flight"`
	// APIKey is sent to the backend as a bearer token. Default: none. A
	// client's own Authorization is never forwarded.
	APIKey Secret `yaml:"api_key"`
	// APIKeyFile holds APIKey in a file.
	APIKeyFile string `yaml:"api_key_file"`
	// CAFile is a PEM file of the authorities that may have signed its
	// certificate. Default: those of the system.
	CAFile string `yaml:"ca_file"`
	// KeepAlive is how long an idle connection to it is kept. Default 4s.
	// Danger: it must be shorter than the server's own (uvicorn: 5 s), else
	// requests meet connections that are being closed.
	KeepAlive Duration `yaml:"keep_alive"`
}

// Routing says which model goes where, and what follows a failure.
type Routing struct {
	// ModelMapping renames models: the name a client asks for -> the name the
	// engine knows. Applied once; other names pass unchanged.
	ModelMapping map[string]string `yaml:"model_mapping"`
	// Retry is how often a request is tried again before its first byte.
	Retry Retry `yaml:"retry"`
	// Fallback orders what follows a failure of a backend.
	Fallback []Fallback `yaml:"fallback"`
}

// Retry bounds the attempts of one request. Nothing is tried again once the
// client has got a byte.
type Retry struct {
	// Enabled turns it on. Default true.
	Enabled bool `yaml:"enabled"`
	// MaxRetries counts the attempts after the first. Default 2.
	MaxRetries int `yaml:"max_retries"`
	// InitialWait is the wait before a backend is tried a second time; it
	// doubles, with jitter. Another backend is tried at once. Default 100ms.
	InitialWait Duration `yaml:"initial_wait"`
	// MaxWait is where the doubling ends. Default 10s.
	MaxWait Duration `yaml:"max_wait"`
}

// Fallback is the order of backends after a failure of one. It never changes
// the first pick. Without an entry, the rest of the pool follows.
type Fallback struct {
	// Primary is the URL of the backend that failed.
	Primary string `yaml:"primary"`
	// Next are the URLs of those to try then, in this order.
	Next []string `yaml:"fallback"`
	// Models restricts the entry to models (after mapping), with * and ? as
	// wildcards. Default: any model.
	Models []string `yaml:"models"`
}

// Timeouts bound the phases of a request towards a backend; 0 is no limit.
type Timeouts struct {
	// Connect is the time to connect, TLS included. Default 3s.
	Connect Duration `yaml:"connect"`
	// FirstByte is the time to the first byte of the answer. Default 0: a long
	// prompt in a full queue is slow, not broken.
	FirstByte Duration `yaml:"first_byte"`
	// BetweenChunks is the longest silence within an answer. Default 120s.
	BetweenChunks Duration `yaml:"between_chunks"`
	// Total is the time for all attempts together. Default 0. Danger: it cuts
	// long generations.
	Total Duration `yaml:"total"`
}

// HealthCheck probes every backend at an interval.
type HealthCheck struct {
	// Enabled turns it on. Default true; failures of requests count in any case.
	Enabled bool `yaml:"enabled"`
	// Interval lies between two probes of a backend, with jitter. Default 5s;
	// at least 100ms.
	Interval Duration `yaml:"interval"`
	// Path is asked for with GET; any answer below 500, and 501, is a sign of life. Default "/health".
	Path string `yaml:"path"`
	// Timeout is the time a probe may take. Default 3s; not 0.
	Timeout Duration `yaml:"timeout"`
	// UnhealthyThreshold is the number of failed probes in a row that take a
	// backend out. Default 3.
	UnhealthyThreshold int `yaml:"unhealthy_threshold"`
	// HealthyThreshold is the number of good ones that bring it back. Default 2.
	HealthyThreshold int `yaml:"healthy_threshold"`
	// SlowStart is the time over which a backend that came back gets a growing
	// share of the requests. Default 10s; 0 gives it all of its share at once.
	SlowStart Duration `yaml:"slow_start"`
}

// Metrics is the exposition for Prometheus and VictoriaMetrics.
type Metrics struct {
	// Enabled turns it on. Default true.
	Enabled bool `yaml:"enabled"`
	// Path is where it is served. Default "/metrics"; on the main listener it
	// cannot be an endpoint's, nor lie under /v1/, /v2/ or /admin/.
	Path string `yaml:"path"`
	// Listen gives it a listener of its own, host:port or unix:/path, not on
	// the address of the main one.
	// Default: the main listener, for loopback and private peers only.
	Listen string `yaml:"listen"`
	// Public lets anyone read it on the main listener. Default false. Danger:
	// it names models and backends.
	Public bool `yaml:"public"`
}

// Log is what the gateway writes to standard error.
type Log struct {
	// Level is debug, info (default), warn or error.
	Level string `yaml:"level" oneof:"debug,info,warn,error"`
	// Format is text (default) or json.
	Format string `yaml:"format" oneof:"text,json"`
	// Access writes one JSON line a request. Default false.
	Access bool `yaml:"access"`
}

// Default returns the configuration of an empty file. It has no backends, so
// it is not valid on its own.
func Default() *Config {
	return &Config{
		Listen:     ":8000",
		ListenMode: 0o660,
		TLS:        TLS{MinVersion: "1.2"},
		Server: Server{
			MaxBodySize:     64 << 20,
			MaxHeaderSize:   16 << 10,
			HeaderTimeout:   Duration(10 * time.Second),
			BodyTimeout:     Duration(60 * time.Second),
			IdleTimeout:     Duration(75 * time.Second),
			WriteTimeout:    Duration(60 * time.Second),
			ShutdownTimeout: Duration(30 * time.Second),
		},
		RegionHeader: "X-Region",
		CORS: CORS{
			AllowedHeaders: []string{"Authorization", "Content-Type"},
			MaxAge:         Duration(10 * time.Minute),
		},
		Strategy: "least_connections",
		Routing: Routing{Retry: Retry{
			Enabled:     true,
			MaxRetries:  2,
			InitialWait: Duration(100 * time.Millisecond),
			MaxWait:     Duration(10 * time.Second),
		}},
		Timeouts: Timeouts{
			Connect:       Duration(3 * time.Second),
			BetweenChunks: Duration(120 * time.Second),
		},
		HealthCheck: HealthCheck{
			Enabled:            true,
			Interval:           Duration(5 * time.Second),
			Path:               "/health",
			Timeout:            Duration(3 * time.Second),
			UnhealthyThreshold: 3,
			HealthyThreshold:   2,
			SlowStart:          Duration(10 * time.Second),
		},
		Auth: Auth{
			Storage:        "file",
			Redis:          defaultRedis(),
			SnapshotMaxAge: Duration(10 * time.Minute),
			OnStoreError:   "local_share",
			Defaults:       KeyDefaults{QuotaResetPeriod: "daily"},
		},
		RateLimit: RateLimit{Storage: "memory", Redis: defaultRedis(), OnStoreError: "local_share"},
		Redis:     defaultRedis(),
		UsageHook: UsageHook{
			Timeout:        Duration(2 * time.Second),
			Retry:          3,
			MaxEvents:      500,
			MaxBytes:       256 << 10,
			MaxAge:         Duration(time.Second),
			Sync:           "interval",
			OnJournalError: "reject",
			MaxSize:        10 << 30,
			Retention:      Duration(24 * time.Hour),
		},
		Metrics: Metrics{Enabled: true, Path: "/metrics"},
		Log:     Log{Level: "info", Format: "text"},
	}
}
