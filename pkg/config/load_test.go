package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func parse(t *testing.T, text string, environ ...string) *Config {
	t.Helper()
	c, err := Parse("f.yaml", []byte(text), environ)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAbsentKeysHaveDefaults(t *testing.T) {
	c := parse(t, good)
	want := Default()
	want.Backends = []Backend{{URL: "http://gpu-1:8000", Name: "gpu-1:8000", Weight: 1, KeepAlive: Duration(4 * time.Second)}}
	if got := values(c); !reflect.DeepEqual(got, *want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, *want)
	}
	if c := parse(t, good+"cors: {allowed_headers: [X-A]}\n"); !slices.Equal(c.CORS.AllowedHeaders, []string{"X-A"}) {
		t.Errorf("a list must replace the default list, got %v", c.CORS.AllowedHeaders)
	}
}

func TestValues(t *testing.T) {
	c := parse(t, `backends:
  - {url: "https://GPU-1:443/v/", name: big, weight: 1000, keep_alive: 2500ms, models: [a*, z]}
server: {max_body_size: 1GB, max_header_size: 4096, shutdown_delay: 0, idle_timeout: 1h30m}
trusted_proxies: [10.0.0.7, "fd00::/8"]
routing:
  model_mapping: {meta-llama/Llama-3.1-8B: "a.b/c", "x y": z}
auth: {defaults: {total_quota: 7, quota_reset_period: weekly}}
api_keys:
  - {key: k1, expires_at: 2026-12-31T23:59:59+08:00, allowed_ips: ["::1"]}
  - {key: k2, total_quota: 9, status: disabled}
`)
	s := c.Server
	if s.MaxBodySize != 1e9 || s.MaxHeaderSize != 4096 || s.ShutdownDelay != 0 || s.IdleTimeout != Duration(90*time.Minute) {
		t.Errorf("server: %+v", s)
	}
	if b := c.Backends[0]; b.URL != "https://gpu-1/v" || b.Name != "big" || b.KeepAlive != Duration(2500*time.Millisecond) {
		t.Errorf("backend: %+v", b)
	}
	if got := fmt.Sprint(c.TrustedProxies); got != "[10.0.0.7/32 fd00::/8]" {
		t.Errorf("proxies: %s", got)
	}
	if m := c.Routing.ModelMapping; m["meta-llama/Llama-3.1-8B"] != "a.b/c" || m["x y"] != "z" || len(m) != 2 {
		t.Errorf("a name with dots and slashes was split: %v", m)
	}
	one, two := c.APIKeys[0], c.APIKeys[1]
	if want := time.Date(2026, 12, 31, 15, 59, 59, 0, time.UTC); !one.ExpiresAt.Equal(want) || !two.ExpiresAt.IsZero() {
		t.Errorf("expiry: %v %v", one.ExpiresAt, two.ExpiresAt)
	}
	if one.TotalQuota != 7 || one.QuotaResetPeriod != "weekly" || two.TotalQuota != 9 || two.Status != "disabled" {
		t.Errorf("quotas: %+v %+v", one, two)
	}
	if one.AllowedIPs[0].String() != "::1/128" {
		t.Errorf("addresses: %v", one.AllowedIPs)
	}
	if !c.Auth.Enabled || parse(t, good+"api_keys: [{key: k}]\nauth: {enabled: false}\n").Auth.Enabled {
		t.Error("api_keys turn auth on, unless auth.enabled says false")
	}
}

func TestURLsAreCanonical(t *testing.T) {
	for written, want := range map[string]string{
		"http://[FD00::1]:80": "http://[fd00::1]", "http://[::1]:8000/": "http://[::1]:8000", "https://gpu_1.lan:80": "https://gpu_1.lan:80",
		"http://gpu:180/v1//": "http://gpu:180/v1//", "http://gpu/A/": "http://gpu/A",
	} {
		if got := canonicalURL(written); got != want {
			t.Errorf("canonicalURL(%q) = %q, want %q", written, got, want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	c := parse(t, good+"listen: \":1\"\nrouting: {model_mapping: {a: b}}\nregion: north\n",
		"LLMPROXY_PORT=tcp://10.0.0.1:8000", "LLMPROXY_SERVICE_HOST=10.0.0.1", "PATH=/bin", "LLMPROXY__",
		"LLMPROXY__LISTEN=unix:/run/a.sock",
		"LLMPROXY__LISTEN_MODE=0600",
		"LLMPROXY__SERVER__MAX_BODY_SIZE=16MiB",
		"LLMPROXY__TIMEOUTS__TOTAL=0",
		"LLMPROXY__METRICS__ENABLED=false",
		"LLMPROXY__ROUTING__RETRY__MAX_RETRIES=5",
		"LLMPROXY__TRUSTED_PROXIES=10.0.0.1, 10.0.0.2",
		"LLMPROXY__REGION=007",
		`LLMPROXY__CORS__ALLOWED_HEADERS=["X-A", "X-B"]`,
		`LLMPROXY__ROUTING__MODEL_MAPPING={"meta-llama/Llama-3.1-8B": "c"}`,
		"LLMPROXY__BACKENDS=[\n\t{\"url\":\"http:\\/\\/other:1\",\n\t \"weight\":3,\"name\":\"\\ud83d\\ude00\"}\n]",
		"LLMPROXY__USAGE_HOOK__SECRET=a=b, sixteen bytes",
	)
	if c.Listen != "unix:/run/a.sock" || c.ListenMode != 0o600 || c.Server.MaxBodySize != 16<<20 || c.Metrics.Enabled || c.Routing.Retry.MaxRetries != 5 || c.Region != "007" {
		t.Errorf("scalars: %+v", values(c))
	}
	if len(c.TrustedProxies) != 2 || !slices.Equal(c.CORS.AllowedHeaders, []string{"X-A", "X-B"}) {
		t.Errorf("lists: %v %v", c.TrustedProxies, c.CORS.AllowedHeaders)
	}
	if m := c.Routing.ModelMapping; len(m) != 2 || m["a"] != "b" || m["meta-llama/Llama-3.1-8B"] != "c" {
		t.Errorf("the table must be merged: %v", m)
	}
	if len(c.Backends) != 1 || c.Backends[0].URL != "http://other:1" || c.Backends[0].Weight != 3 || c.Backends[0].Name != "\U0001F600" || c.Backends[0].KeepAlive == 0 {
		t.Errorf("the backends must be replaced: %+v", c.Backends)
	}
	if c.UsageHook.Secret != "a=b, sixteen bytes" {
		t.Errorf("secret: %q", string(c.UsageHook.Secret))
	}
}

func TestFaultsOfTheEnvironment(t *testing.T) {
	for _, c := range []struct{ name, variable, want string }{
		{"unknown", "LLMPROXY__LISTN=:1", ` unknown key; did you mean "LLMPROXY__LISTEN"?`},
		{"the prefix counts as likeness", "LLMPROXY__NOPE=1", " unknown key"},
		{"lower case is ignored", "LLMPROXY__listen=:1", ` unknown key; did you mean "LLMPROXY__LISTEN"?`},
		{"three underscores", "LLMPROXY___LISTEN=:1", ` unknown key; did you mean "LLMPROXY__LISTEN"?`},
		{"nothing after the prefix", "LLMPROXY__=1", " unknown key"},
		{"below a value", "LLMPROXY__LISTEN__X=1", ` unknown key; did you mean "LLMPROXY__LISTEN"?`},
		{"section", "LLMPROXY__TLS={}", " names a section; set one of its keys, such as LLMPROXY__TLS__CERT_FILE"},
		{"wrong type", "LLMPROXY__CORS__ENABLED=yes", ` cors.enabled: wants true or false, not a string: "yes"`},
		{"no unit", "LLMPROXY__TIMEOUTS__TOTAL=5", " timeouts.total: a duration needs a unit: write 5ms, 5s or 5m"},
		{"empty", "LLMPROXY__TIMEOUTS__TOTAL=", " timeouts.total: has no value"},
		{"rule", "LLMPROXY__LOG__LEVEL=loud", ` log.level: "loud" is not one of debug, info, warn, error`},
		{"backends by commas", "LLMPROXY__BACKENDS=http://a,http://b", " backends: wants a list in JSON"},
		{"broken JSON shows the secret", `LLMPROXY__API_KEYS=[{"key": "hunter2"`, " api_keys: wants a list in JSON"},
		{"more after the list", `LLMPROXY__BACKENDS=[] []`, " backends: wants a list in JSON"},
		{"object for a list", `LLMPROXY__BACKENDS={}`, " backends: wants a list in JSON"},
		{"list for an object", `LLMPROXY__ROUTING__MODEL_MAPPING=[]`, " routing.model_mapping: wants an object in JSON"},
		{"null for a value", `LLMPROXY__BACKENDS=[{"url": null}]`, " backends[0].url: has no value"},
		{"duplicate in JSON", `LLMPROXY__ROUTING__MODEL_MAPPING={"a": "b", "a": "c"}`, " routing.model_mapping.a: duplicate key"},
		{"fault within JSON", `LLMPROXY__BACKENDS=[{"url": "http://a"}, {"url": "http://a"}]`, " backends[1].url: the same URL as backends[0]"},
		{"line break", "LLMPROXY__REGION=a\nb", " region: must not hold control characters or line breaks"},
	} {
		t.Run(c.name, func(t *testing.T) {
			name, _, _ := strings.Cut(c.variable, "=")
			faults(t, good, []string{c.variable}, "environment "+name+":"+c.want)
		})
	}
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // the umask takes bits away
		t.Fatal(err)
	}
}

func wantWarnings(t *testing.T, c *Config, want ...string) {
	t.Helper()
	if got := c.Warnings(); !slices.Equal(got, want) {
		t.Errorf("warnings:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestWarnings(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"limits that do not hold", "rate_limit: {per_key: {max_concurrent: 3}}", "rate_limit.enabled: is not set, so this section has no effect; write true or false"},
		{"hook that is not called", "usage_hook: {url: http://a}", "usage_hook.enabled: is not set, so this section has no effect; write true or false"},
		{"region of nobody", "region: noth", `region: no backend stands in "noth"`},
		{"everyone is trusted", "trusted_proxies: [0.0.0.0/0]", "trusted_proxies[0]: trusts everyone: any client may claim any address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			head := "backends:\n  - {url: http://a, models: [qwen-*], region: north}\n"
			wantWarnings(t, parse(t, head+c.text+"\n"), "f.yaml:3: "+c.want)
		})
	}
	t.Run("connections outlive uvicorn's", func(t *testing.T) {
		c := parse(t, "backends:\n  - url: http://a\n    keep_alive: 75s\n")
		if w := c.Warnings(); len(w) != 1 || !strings.HasPrefix(w[0], "f.yaml:3: backends[0].keep_alive: is not below 5s") {
			t.Errorf("warnings: %q", w)
		}
	})
	t.Run("an engine that cannot count in every event", func(t *testing.T) {
		wantWarnings(t, parse(t, "backends:\n  - {url: http://a, engine: tgi, continuous_usage: true}\n"),
			"f.yaml:2: backends[0].continuous_usage: has no effect: tgi cannot count in every event")
		wantWarnings(t, parse(t, "backends: [{url: http://a, engine: vllm, continuous_usage: true}, {url: http://b, continuous_usage: true}]\n"))
	})
	t.Run("the endpoint's /v1 in the URL", func(t *testing.T) {
		wantWarnings(t, parse(t, "backends:\n  - url: http://gpu/llm/v1/\n"),
			"f.yaml:2: backends[0].url: ends in /v1, and the gateway adds the endpoint's own: requests will go to http://gpu/llm/v1/v1/...")
		wantWarnings(t, parse(t, "backends: [{url: http://v1}, {url: http://gpu/av1, name: a}, {url: http://gpu/v1/llm, name: b}]\n"))
	})
	t.Run("nobody is left to serve", func(t *testing.T) {
		wantWarnings(t, parse(t, "backends:\n  - {url: http://a, drain: true}\n"), "f.yaml:1: backends: all of them drain: every request will be refused")
		wantWarnings(t, parse(t, "backends:\n  - {url: http://a, drain: true}\n  - url: http://b\n"))
	})
	t.Run("noise", func(t *testing.T) {
		wantWarnings(t, parse(t, good+"rate_limit: {enabled: false, global: {burst_size: 1}}\nrouting: {model_mapping: {a: b}}\n"))
	})
}

// Reports that are looked for in another place after a restart are lost.
func TestDataDir(t *testing.T) {
	for _, c := range []struct {
		name, text string
		environ    []string
		want       string
	}{
		{"default is where the process was started", "", nil, "/etc/llm/data"},
		{"relative to where the process was started", "data_dir: x/y", nil, "/etc/llm/x/y"},
		{"the state directory is not used", "", []string{"STATE_DIRECTORY=/var/lib/llmproxy"}, "/var/lib/llmproxy"},
		{"two state directories are one name", "", []string{"STATE_DIRECTORY=/var/lib/a:/var/lib/b"}, "/var/lib/a"},
		{"no state directory", "", []string{"STATE_DIRECTORY="}, "/etc/llm/data"},
		{"the file is overruled by systemd", "data_dir: /srv/llm", []string{"STATE_DIRECTORY=/var/lib/llmproxy"}, "/srv/llm"},
		{"the copied default is a name", `data_dir: ""`, nil, "/etc/llm/data"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Parse("/etc/llm/f.yaml", []byte(good+c.text+"\n"), c.environ)
			if err != nil {
				t.Fatal(err)
			}
			if got.DataDir != c.want {
				t.Errorf("data_dir is %s, want %s", got.DataDir, c.want)
			}
		})
	}
}

// Uploads that fail at the first large file should have failed at check.
func TestUploadDirMustBeWritable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root writes everywhere")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	faults(t, good+"server: {upload_dir: "+dir+"}\n", nil, "f.yaml:3: server.upload_dir: cannot put files into "+dir+": permission denied")
}

func TestFilesThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	pipe, large := filepath.Join(dir, "pipe"), filepath.Join(dir, "large.yaml")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, large, "", 0o600)
	if err := os.Truncate(large, 16<<20+1); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, path, want string }{
		{"missing", filepath.Join(dir, "absent.yaml"), "no such file or directory"},
		{"a pipe without a writer hangs", pipe, "not a regular file"},
		{"a device without an end", "/dev/zero", "not a regular file"},
		{"a directory", dir, "not a regular file"},
		{"too large", large, "larger than 16MiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Load(c.path, nil); err == nil || err.Error() != c.path+": cannot read it: "+c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestFormats(t *testing.T) {
	for d, want := range map[Duration]string{
		0: "0s", Duration(90 * time.Second): "1m30s", Duration(time.Minute): "1m", Duration(2 * time.Hour): "2h",
		Duration(10*time.Hour + 30*time.Minute): "10h30m", Duration(500 * time.Millisecond): "500ms",
	} {
		if got := d.String(); got != want {
			t.Errorf("Duration(%d) is %s, want %s", d, got, want)
		}
	}
	for s, want := range map[Size]string{0: "0", 64 << 20: "64MiB", 1e9: "1GB", 16 << 10: "16KiB", 1025: "1025B", 1536: "1536B"} {
		if got := s.String(); got != want {
			t.Errorf("Size(%d) is %s, want %s", s, got, want)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"a", "a", true},
		{"a", "ab", false},
		{"a*", "a", true},
		{"a*", "a/b", true},
		{"*b", "aabab", true},
		{"*b", "ba", false},
		{"a?c", "a界c", true},
		{"?", "", false},
		{"**", "", true},
		{"", "", true},
		{"", "a", false},
	} {
		if got := matches(c.pattern, c.name); got != c.want {
			t.Errorf("matches(%q, %q) = %v", c.pattern, c.name, got)
		}
	}
}

// Parse never panics, and answers with a configuration or with faults.
func FuzzParse(f *testing.F) {
	f.Add([]byte(good), "LLMPROXY__LISTEN=:1")
	f.Add([]byte(good+"api_keys: [{key_hash: "+hashOfFoo+", metadata: {a: [{b: 1.5}, [true]]}, burst_size: 0}]\nauth: {timezone: UTC}\n"), "LLMPROXY__ADMIN__TOKEN=hunter2")
	f.Add([]byte(good+"auth: {storage: redis}\nrate_limit: {storage: redis, redis: {db: 1}}\nredis: {addr: \"a:1, b:2\", mode: sentinel, master: m, tls: {enabled: true}}\n"), "LLMPROXY__REDIS__PASSWORD=hunter2")
	f.Add([]byte("a: &a [*a]\n<<: *a\n? {b}\n: !x y\n--- \n"), `LLMPROXY__BACKENDS=[{"url": null}]`)
	for i := range 5 {
		text, err := os.ReadFile(fmt.Sprintf("testdata/scenario%d.yaml", i+1))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, "LLMPROXY__ROUTING__MODEL_MAPPING={}")
	}
	f.Fuzz(func(t *testing.T, text []byte, variable string) {
		c, err := Parse("f.yaml", text, []string{variable})
		if err != nil {
			e := &Error{}
			ok := errors.As(err, &e)
			if !ok || len(e.Faults) == 0 || c != nil {
				t.Fatalf("%T %v, %v", err, err, c)
			}
			for _, fault := range e.Faults {
				if fault.Message == "" || fault.File == "" || strings.HasPrefix(fault.Message, "cannot decode") || strings.HasPrefix(fault.Message, "cannot merge") {
					t.Fatalf("%+v", fault)
				}
			}
			return
		}
		c.Describe(&strings.Builder{})
		c.Warnings()
		c.KeyRedis()
		c.LimitRedis()
		c.Digest()
		c.Auth.Location()
		if _, err := c.Redacted(); err != nil {
			t.Fatal(err)
		}
		if len(c.Backends) == 0 {
			t.Fatal("no backends")
		}
	})
}
