package config

import (
	"errors"
	"strings"
	"testing"
)

// good is a valid rest of a file; it is two lines.
const good = "backends:\n  - url: http://gpu-1:8000\n"

// faults parses a file called f.yaml and wants exactly these faults, in order.
func faults(t *testing.T, text string, environ []string, want ...string) {
	t.Helper()
	_, err := Parse("f.yaml", []byte(text), environ)
	got := ""
	if err != nil {
		var e *Error
		if !errors.As(err, &e) || len(e.Faults) == 0 {
			t.Fatalf("want an *Error with faults, got %T %v", err, err)
		}
		got = err.Error()
	}
	if wanted := strings.Join(want, "\n"); got != wanted {
		t.Errorf("got\n%s\nwant\n%s", got, wanted)
	}
	if strings.Contains(got, "hunter2") {
		t.Error("a fault shows a secret")
	}
}

func TestFaultsOfTheFile(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"empty file starts with defaults", "", "f.yaml: the file is empty"},
		{"comments only is empty", "# nothing\n", "f.yaml: the file is empty"},
		{"document marker only is empty", "---\n", "f.yaml: the file is empty"},
		{"a list", "- a\n", "f.yaml:1: wants a section, not a list"},
		{"plain text is shown though it may be a secret", "password:hunter2\n", "f.yaml:1: wants a section, not a string"},
		{"second document is ignored", good + "---\nlisten: :9000\n", "f.yaml:3: a second document begins here; one file is one document"},
		{"second document is broken", good + "---\n{\n", "f.yaml:4: cannot parse YAML: did not find expected node content"},
		{"line of the grammar is counted from 0", "listen: \":8000\"\nlog: {level: info\n", "f.yaml:2: cannot parse YAML: did not find expected ',' or '}'"},
		{"first line has no line", "log: {level: info", "f.yaml:1: cannot parse YAML: did not find expected ',' or '}'"},
		{"colon", "listen: a\nregion: b: c\n", "f.yaml:2: cannot parse YAML: mapping values are not allowed in this context"},
		{"latin-1", "listen: a\nregion: \xfc\n", "f.yaml:2: not UTF-8 text, or a control character"},
		{"control character", "listen: a\n\nregion: \x00\n", "f.yaml:3: not UTF-8 text, or a control character"},
		{"tab", "log:\n\tlevel: info\n", "f.yaml:2: cannot parse YAML: found character that cannot start any token"},
		{"unknown anchor shows the secret", "log: {}\nusage_hook: {secret: *hunter2}\n", "f.yaml:2: cannot parse YAML: unknown anchor: a value that begins with * must be in quotes"},
	} {
		t.Run(c.name, func(t *testing.T) { faults(t, c.text, nil, c.want) })
	}
}

func TestFaultsOfKeys(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"swap in a list entry is too far to suggest", "backends:\n  - url: http://a\n    wieght: 2\n", `f.yaml:3: backends[0].wieght: unknown key; did you mean "weight"?`},
		{"a misspelt key is missing as well", "backends:\n  - ulr: http://a\n", `f.yaml:2: backends[0].ulr: unknown key; did you mean "url"?`},
		{"top level", "bakcends:\n  - url: http://a\n", `f.yaml:1: bakcends: unknown key; did you mean "backends"?`},
		{"case is ignored", "Listen: :8000\n" + good, `f.yaml:1: Listen: unknown key; did you mean "listen"?`},
		{"dashes for underscores", "load-balance-strategy: round_robin\n" + good, `f.yaml:1: load-balance-strategy: unknown key; did you mean "load_balance_strategy"?`},
		{"wrong indentation", "routing:\n  max_retries: 2\n" + good, "f.yaml:2: routing.max_retries: unknown key; it belongs under routing.retry"},
		{"nothing is near", "frobnicate: 1\n" + good, "f.yaml:1: frobnicate: unknown key"},
		{"missing space shows the secret", "usage_hook: {secret:hunter2, retry: 1}\n" + good, "f.yaml:1: usage_hook.secret: unknown key: a space is missing after the colon"},
		{"missing space in a section", "auth:\n  redis:\n    password:hunter2\n" + good, "f.yaml:3: auth.redis: wants a section, not a string"},
		{"duplicate", "listen: :8000\n" + good + "listen: :9000\n", "f.yaml:4: listen: duplicate key: already set on line 1"},
		{"duplicate name in a table", good + "routing:\n  model_mapping:\n    a: b\n    a: c\n", "f.yaml:6: routing.model_mapping.a: duplicate key: already set on line 5"},
		{"duplicate in the secret's place is shown", "usage_hook: {secret: hunter2hunter2hunter2, secret: hunter2}\n" + good, "f.yaml:1: usage_hook.secret: duplicate key: already set on line 1"},
		{"merge key", "log: &l {level: info}\nmetrics:\n  <<: *l\n" + good, "f.yaml:3: metrics: merge keys (<<) are not supported: write the keys out"},
		{"alias", "region: &r north\nregion_header: *r\n" + good, "f.yaml:2: region_header: aliases are not supported: write the value out"},
		{"list as a key", good + "? [a]\n: b\n", "f.yaml:3: a key must be a plain word"},
		{"number as a model name", good + "routing: {model_mapping: {4: gpt}}\n", "f.yaml:3: routing.model_mapping.4: a name must be a string: put it in quotes"},
		{"control characters in a key reach the terminal", good + "\"a\\e[31m\": 1\n", `f.yaml:3: ["a\x1b[31m"]: unknown key`},
	} {
		t.Run(c.name, func(t *testing.T) { faults(t, c.text, nil, c.want) })
	}
}

func TestFaultsOfTypes(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"a bare number of seconds is read as nanoseconds", "timeouts: {connect: 5}", "timeouts.connect: a duration needs a unit: write 5ms, 5s or 5m"},
		{"quoted bare number", "timeouts: {connect: \"0.5\"}", "timeouts.connect: a duration needs a unit: write 0.5ms, 0.5s or 0.5m"},
		{"days", "timeouts: {connect: 1d}", `timeouts.connect: "1d" is not a duration; write for example 500ms, 3s, 2m or 1h`},
		{"negative duration", "timeouts: {connect: -1s}", "timeouts.connect: must not be negative"},
		{"true is a duration of 1ns", "timeouts: {connect: true}", `timeouts.connect: wants a duration such as 500ms or 3s, not a boolean: "true"`},
		{"null means default", "timeouts: {connect: }", "timeouts.connect: has no value"},
		{"section without content", "timeouts:", "timeouts: has no value"},
		{"list for a section", "timeouts: [3s]", "timeouts: wants a section, not a list"},
		{"section for a list", "trusted_proxies: {a: b}", "trusted_proxies: wants a list, not a section"},
		{"string for a list", "trusted_proxies: 10.0.0.1", "trusted_proxies: wants a list, not a string"},
		{"string for an integer", "server: {max_connections: many}", `server.max_connections: wants an integer, not a string: "many"`},
		{"octal", "server: {max_connections: 010}", "server.max_connections: write it as a plain decimal number"},
		{"fraction", "server: {max_connections: 1.5}", `server.max_connections: wants an integer, not a number: "1.5"`},
		{"negative", "server: {max_connections: -1}", "server.max_connections: must not be negative"},
		{"overflow", "server: {max_connections: 9223372036854775808}", "server.max_connections: too large"},
		{"yes is not true", "cors: {enabled: yes}", `cors.enabled: wants true or false, not a string: "yes"`},
		{"number for a string", "region: 7", "region: wants a string, not a number: put it in quotes"},
		{"line break in a string", "region: \"a\\nb\"", "region: must not hold control characters or line breaks"},
		{"unit in the wrong case", "server: {max_body_size: 64mb}", `server.max_body_size: "64mb" is not a size; write for example 16KiB, 64MiB, 1GB or a plain number of bytes`},
		{"size overflows", "server: {max_body_size: 9999999999999GiB}", "server.max_body_size: too large"},
		{"negative size", "server: {max_body_size: -1}", "server.max_body_size: must not be negative"},
		{"no address", "trusted_proxies: [proxy]", `trusted_proxies[0]: "proxy" is neither an address nor a CIDR range; write for example 10.0.0.7 or 10.0.0.0/8`},
		{"a host address with the mask of its network", "trusted_proxies: [10.0.1.5/24]", `trusted_proxies[0]: "10.0.1.5/24" has bits beyond its /24; did you mean "10.0.1.0/24"?`},
		{"secret of the wrong type is shown", "usage_hook: {secret: 12345}", "usage_hook.secret: wants a string, not a number: put it in quotes"},
		{"secret with a tag is shown", "usage_hook: {secret: !hunter2 x}", "usage_hook.secret: wants a string, not a value with a tag of its own: put it in quotes"},
	} {
		t.Run(c.name, func(t *testing.T) { faults(t, good+c.text+"\n", nil, "f.yaml:3: "+c.want) })
	}
	faults(t, good+"api_keys:\n  - key: k\n    expires_at: 2026-12-31\n", nil,
		`f.yaml:5: api_keys[0].expires_at: "2026-12-31" is not a time in RFC 3339; write for example 2026-12-31T23:59:59Z`)
}

func TestMappingIntoNothing(t *testing.T) {
	faults(t, "backends: [{url: http://a, models: [qwen-72b]}]\nrouting: {model_mapping: {qwen: qwne-72b}}\n", nil,
		`f.yaml:2: routing.model_mapping.qwen: no backend serves "qwne-72b"; did you mean "qwen-72b"?`)
}

func TestFaultsOfRules(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"address without a port", "listen: localhost", `listen: "localhost" is not an address; write host:port, for example 127.0.0.1:8000 or :8000`},
		{"port out of range", "listen: :80000", `listen: ":80000" is not an address; write host:port, for example 127.0.0.1:8000 or :8000`},
		{"two listeners on one address", "metrics: {listen: \":8000\"}", "metrics.listen: is the address of the main listener; leave it out to serve metrics there"},
		{"two listeners on one port, one on every address", "metrics: {listen: \"127.0.0.1:8000\"}", "metrics.listen: is the address of the main listener; leave it out to serve metrics there"},
		{"every address in another spelling", "metrics: {listen: \"0.0.0.0:08000\"}", "metrics.listen: is the address of the main listener; leave it out to serve metrics there"},
		{"metrics hide readiness", "metrics: {path: /readyz}", `metrics.path: "/readyz" is taken on the main listener`},
		{"metrics hide an endpoint of TGI", "metrics: {path: /generate_stream}", `metrics.path: "/generate_stream" is taken on the main listener`},
		{"metrics hide an endpoint of vLLM", "metrics: {path: /score}", `metrics.path: "/score" is taken on the main listener`},
		{"metrics hide an endpoint that clients of Cohere call", "metrics: {path: /v2/rerank}", `metrics.path: "/v2/rerank" is taken on the main listener`},
		{"metrics hide the operator's API", "metrics: {path: /admin}", `metrics.path: "/admin" is taken on the main listener`},
		{"metrics hide a part of the operator's API", "metrics: {path: /admin/metrics}", `metrics.path: "/admin/metrics" is taken on the main listener`},
		{"metrics hide the models", "metrics: {path: /v1/models}", `metrics.path: "/v1/models" is taken on the main listener`},
		{"interval in milliseconds", "server: {sse_ping_interval: 15ms}", "server.sse_ping_interval: must be at least 1s, or 0 to send none"},
		{"uploads into nothing", "server: {upload_dir: absent}", "server.upload_dir: cannot put files into absent: no such file or directory"},
		{"uploads into a file", "server: {upload_dir: fault.go}", "server.upload_dir: cannot put files into fault.go: not a directory"},
		{"version as a number", "tls: {min_version: 1.3}", "tls.min_version: wants a string, not a number: put it in quotes"},
		{"version that nobody should speak", "tls: {min_version: \"1.0\"}", `tls.min_version: "1.0" is not one of 1.2, 1.3; did you mean "1.2"?`},
		{"clients are asked for certificates in plain HTTP", "tls: {client_ca_file: testdata/ca.pem}", "tls.client_ca_file: needs cert_file and key_file: without TLS no client shows a certificate"},
		{"authorities that are none refuse every client", "tls: {client_ca_file: fault.go}", "tls.client_ca_file: fault.go holds no certificate in PEM"},
		{"certificate without its key", "tls: {cert_file: fault.go}", "tls: needs both cert_file and key_file, or neither"},
		{
			"missing certificate", "tls: {cert_file: absent.pem, key_file: absent.pem}",
			"tls.cert_file: cannot read absent.pem: no such file or directory\nf.yaml:3: tls.key_file: cannot read absent.pem: no such file or directory",
		},
		{"no limit on the body", "server: {max_body_size: 0}", "server.max_body_size: must be at least 1 byte"},
		{"bodies that fill the memory", "server: {max_body_size: 1073741825}", "server.max_body_size: must be at most 1GiB: each body is held in memory as a whole"},
		{"strategy", "load_balance_strategy: least_conections", `load_balance_strategy: "least_conections" is not one of least_connections, round_robin, latency_based; did you mean "least_connections"?`},
		{"log level", "log: {level: trace}", `log.level: "trace" is not one of debug, info, warn, error`},
		{"max_wait below initial_wait", "routing: {retry: {max_wait: 50ms}}", "routing.retry.max_wait: initial_wait (100ms) is longer than max_wait (50ms)"},
		{"probing without a pause", "health_check: {interval: 0}", "health_check.interval: must not be 0; to turn the checks off write enabled: false"},
		{"probing all the time", "health_check: {interval: 99ms}", "health_check.interval: must be at least 100ms: probes would keep the engines busy"},
		{"threshold of none", "health_check: {healthy_threshold: 0}", "health_check.healthy_threshold: must be at least 1"},
		{"path without a slash", "health_check: {path: health}", `health_check.path: "health" is not a path; write for example /health`},
		{"browsers refuse * with credentials", "cors: {enabled: true, allowed_origins: [\"*\"], allow_credentials: true}", "cors.allow_credentials: cannot go with the origin *: browsers refuse it"},
		{"origin with a path", "cors: {allowed_origins: [https://a/b]}", `cors.allowed_origins[0]: "https://a/b" is not an origin; write for example https://app.example.com, or *`},
		{"cors for nobody", "cors: {enabled: true}", "cors.allowed_origins: must name an origin when cors is enabled"},
		{"header injection", "region_header: \"X Region\"", `region_header: "X Region" is not the name of a header`},
		{"hook without a URL", "usage_hook: {enabled: true}", "usage_hook.url: must be set when the hook is enabled"},
		{"batches of nothing", "usage_hook: {max_events: 0}", "usage_hook.max_events: must be at least 1"},
		{"batches of one number", "usage_hook: {max_bytes: 256}", "usage_hook.max_bytes: must be at least 1KiB"},
		{"batches of one", "usage_hook: {max_age: 0}", "usage_hook.max_age: must not be 0; for small batches write a short time such as 10ms"},
		{"a journal that is always full", "usage_hook: {max_size: 0}", "usage_hook.max_size: must be at least 1MiB: every request that is billed needs room in the journal"},
		{"fsync by another name", "usage_hook: {sync: never}", `usage_hook.sync: "never" is not one of interval, always, os`},
		{"journal errors by another name", "usage_hook: {on_journal_error: rejct}", `usage_hook.on_journal_error: "rejct" is not one of reject, allow; did you mean "reject"?`},
		{"data in a file", "data_dir: fault.go\nusage_hook: {enabled: true, url: http://a}", "data_dir: fault.go is not a directory"},
		{"redis without an address", "rate_limit: {enabled: true, storage: redis}", "rate_limit.redis.addr: must be set when storage is redis, here or in the top-level redis"},
		{"both twins", "usage_hook: {secret: 16 bytes of text, secret_file: fault.go}", "usage_hook.secret_file: is set together with usage_hook.secret; one of them must go"},
		{"missing secret file", "usage_hook: {secret_file: absent}", "usage_hook.secret_file: cannot read absent: no such file or directory"},
		{"endless secret file", "usage_hook: {secret_file: /dev/zero}", "usage_hook.secret_file: cannot read /dev/zero: not a regular file"},
		{"secret file of many lines breaks a header", "usage_hook: {secret_file: fault.go}", "usage_hook.secret_file: fault.go holds more than one line, or control characters"},
		{"empty target", "routing: {model_mapping: {a: \"\"}}", "routing.model_mapping.a: must not be empty"},
		{"key without a key", "api_keys: [{name: x}]", "api_keys[0].key: must be set, or key_file, or key_hash"},
		{"the same key twice is shown", "api_keys: [{key: hunter2}, {key: hunter2}]", "api_keys[1].key: the same key as api_keys[0]"},
		{"status is ignored", "api_keys: [{key: k, status: disable}]", `api_keys[0].status: "disable" is not one of active, disabled; did you mean "disabled"?`},
		{"period", "auth: {defaults: {quota_reset_period: day}}", `auth.defaults.quota_reset_period: "day" is not one of daily, weekly, monthly, never`},
	} {
		t.Run(c.name, func(t *testing.T) { faults(t, good+c.text+"\n", nil, "f.yaml:3: "+c.want) })
	}
}

func TestFaultsOfBackends(t *testing.T) {
	for _, c := range []struct{ name, entry, want string }{
		{"no scheme", "url: gpu-1:8000", `url: "gpu-1:8000" must begin with http:// or https://`},
		{"other scheme", "url: ftp://gpu", `url: "ftp://gpu" must begin with http:// or https://`},
		{"no host", "url: http://:8000", `url: "http://:8000" has no host that can be looked up`},
		{"port out of range", "url: http://gpu:70000", `url: "http://gpu:70000" has no port between 1 and 65535`},
		{"empty port", `url: "http://gpu:"`, `url: "http://gpu:" has no port between 1 and 65535`},
		{"port is a word", "url: http://gpu:http", `url: "http://gpu:http" is not a URL`},
		{"password is shown", "url: http://me:hunter2@gpu", "url: must not hold a user name or password"},
		{"password without a scheme is shown", "url: me:hunter2@gpu", "url: the URL must begin with http:// or https://"},
		{"query", "url: http://gpu/?token=hunter2", "url: must not hold a query"},
		{"fragment", `url: "http://gpu/#"`, "url: must not hold a fragment"},
		{"path climbs", "url: http://gpu/a/../b", `url: "http://gpu/a/../b" has a path with . or .. or // in it`},
		{"no url", "name: gpu", "url: must be set"},
		{"weight of none takes a backend out", "{url: http://gpu, weight: 0}", "weight: must be between 1 and 1000, not 0"},
		{"weight too large", "{url: http://gpu, weight: 1001}", "weight: must be between 1 and 1000, not 1001"},
		{"engine", "{url: http://gpu, engine: vlm}", `engine: "vlm" is not one of vllm, vllm-rust, sglang, tgi, llamacpp; did you mean "vllm"?`},
		{"empty pattern matches nothing", "{url: http://gpu, models: [\"\"]}", "models[0]: must not be empty"},
		{"empty name", "{url: http://gpu, name: \"\"}", "name: must not be empty"},
		{"authority without TLS", "{url: http://gpu, ca_file: fault.go}", "ca_file: is of use with an https:// URL only"},
		{"missing key file", "{url: http://gpu, api_key_file: absent}", "api_key_file: cannot read absent: no such file or directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			faults(t, "backends:\n  - "+c.entry+"\n", nil, "f.yaml:2: backends[0]."+c.want)
		})
	}
	faults(t, "listen: :8000\n", nil, "f.yaml: backends: no backends; at least one is needed")
	faults(t, "backends: []\n", nil, "f.yaml:1: backends: no backends; at least one is needed")
	t.Run("the same server in another spelling", func(t *testing.T) {
		faults(t, "backends:\n  - url: http://gpu\n  - url: http://GPU:80/\n", nil, "f.yaml:3: backends[1].url: the same URL as backends[0]")
	})
	t.Run("two paths of one server share the default name", func(t *testing.T) {
		faults(t, "backends:\n  - url: http://gpu/a\n  - url: http://gpu/b\n", nil, `f.yaml:3: backends[1].name: the same name as backends[0]: "gpu", from the host of its url; set name`)
	})
	t.Run("the same name written twice", func(t *testing.T) {
		faults(t, "backends:\n  - {url: http://a, name: gpu}\n  - {url: http://b, name: gpu}\n", nil, `f.yaml:3: backends[1].name: the same name as backends[0]: "gpu"`)
	})
}

func TestFaultsOfFallback(t *testing.T) {
	const three = "backends: [{url: http://gpu-1.internal:8000}, {url: http://gpu-2.internal:8000}]\nrouting:\n  fallback:\n"
	for _, c := range []struct{ name, entry, want string }{
		{
			"unknown primary never fails over", "{primary: http://gpu1.internal:8000, fallback: [http://gpu-2.internal:8000]}",
			`primary: "http://gpu1.internal:8000" is not among the backends; did you mean "http://gpu-1.internal:8000"?`,
		},
		{
			"unknown next", "{primary: http://gpu-1.internal:8000, fallback: [http://gpu-2.internal:800]}",
			`fallback[0]: "http://gpu-2.internal:800" is not among the backends; did you mean "http://gpu-2.internal:8000"?`,
		},
		{"nothing near", "{primary: http://gpu-1.internal:8000, fallback: [http://x]}", `fallback[0]: "http://x" is not among the backends`},
		{"falls back to itself", "{primary: http://gpu-1.internal:8000, fallback: [http://gpu-1.internal:8000/]}", "fallback[0]: is the primary itself"},
		{
			"named twice", "{primary: http://gpu-1.internal:8000, fallback: [http://gpu-2.internal:8000, http://gpu-2.internal:8000]}",
			"fallback[1]: the same URL as routing.fallback[0].fallback[0]",
		},
		{"no next", "{primary: http://gpu-1.internal:8000}", "fallback: must name at least one backend"},
		{"no primary", "{fallback: [http://gpu-2.internal:8000]}", "primary: must be set"},
		{
			"password is shown", "{primary: \"http://u:hunter2@gpu-1.internal:8000\", fallback: [http://gpu-2.internal:8000]}",
			`primary: the URL is not among the backends; did you mean "http://gpu-1.internal:8000"?`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			faults(t, three+"    - "+c.entry+"\n", nil, "f.yaml:4: routing.fallback[0]."+c.want)
		})
	}
}

// A suggestion must not show what a fault next to it hides.
func TestSuggestionHidesPasswords(t *testing.T) {
	faults(t, "backends: [{url: \"http://u:hunter2@gpu\"}, {url: http://x}]\nrouting:\n  fallback:\n    - {primary: \"http://u:hunter3@gpu\", fallback: [http://x]}\n", nil,
		"f.yaml:1: backends[0].url: must not hold a user name or password",
		"f.yaml:4: routing.fallback[0].primary: the URL is not among the backends")
}

// One run tells everything; and what follows from a fault is not a fault more.
func TestAllFaultsInOneGo(t *testing.T) {
	faults(t, `listen: 8000
backends:
  - url: http://gpu-1:8000
    wieght: 5
  - http://gpu-2:8000
  - url: 7
    weight: 0
routing:
  fallback:
    - primary: http://gpu-9:8000
log: {level: loud}
listen: ":9000"
`, []string{"LLMPROXY__LOG__FORMAT=xml", "LLMPROXY__NOPE=1"},
		`f.yaml:1: listen: wants a string, not a number: put it in quotes`,
		`f.yaml:4: backends[0].wieght: unknown key; did you mean "weight"?`,
		`f.yaml:5: backends[1]: wants a section, not a string`,
		`f.yaml:6: backends[2].url: wants a string, not a number: put it in quotes`,
		`f.yaml:10: routing.fallback[0].fallback: must name at least one backend`,
		`f.yaml:11: log.level: "loud" is not one of debug, info, warn, error`,
		`f.yaml:12: listen: duplicate key: already set on line 1`,
		`environment LLMPROXY__NOPE: unknown key`,
		`environment LLMPROXY__LOG__FORMAT: log.format: "xml" is not one of text, json`)
}
