package config

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestAdminToken(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "admin.token")
	write(t, file, "a token of a file\n", 0o600)
	write(t, filepath.Join(dir, "good.token"), "hunter2hunter2hunter2\n", 0o600)
	if c := parse(t, good); c.Admin != (Admin{}) {
		t.Errorf("there must be no default token: %+v", c.Admin)
	}
	if c := parse(t, good+"admin: {token: \"\", token_file: "+dir+"/good.token}\n"); c.Admin.Token != "hunter2hunter2hunter2" {
		t.Error("the token is not read from its file")
	}
	c := parse(t, good, "LLMPROXY__ADMIN__TOKEN=admin-token", "LLMPROXY__AUTH__ENABLED=true")
	if c.Admin.Token != "admin-token" {
		t.Error("the token is not read from the environment")
	}
	const fewer = "anybody could guess it; `openssl rand -base64 32` makes one"
	wantWarnings(t, c, "environment LLMPROXY__ADMIN__TOKEN: admin.token: has 11 bytes, fewer than 16: "+fewer)

	const ascii = "must be printable ASCII without spaces: no client could send it"
	for _, c := range []struct {
		name, text string
		environ    []string
		want       string
	}{
		{"the variable is unset", "", []string{"LLMPROXY__ADMIN__TOKEN="}, "environment LLMPROXY__ADMIN__TOKEN: admin.token: is empty; to have no admin API remove it"},
		{"empty", `admin: {token: ""}`, nil, "f.yaml:3: admin.token: is empty; to have no admin API remove it"},
		{"too short is shown", "admin: {token: hunter2}", nil, "f.yaml:3: admin.token: has 7 bytes, fewer than 8: " + fewer},
		{"a space", "admin: {token: \"hunter2 hunter2\"}", nil, "f.yaml:3: admin.token: " + ascii},
		{"letters that headers do not have", "admin: {token: hunter2ünter}", nil, "f.yaml:3: admin.token: " + ascii},
		{"a file of words", "admin: {token_file: " + file + "}", nil, "f.yaml:3: admin.token_file: " + ascii},
		{"no file", "admin: {token_file: " + dir + "/none, listen: \":1\"}", nil, "f.yaml:3: admin.token_file: cannot read " + dir + "/none: no such file or directory"},
		{"two tokens", "admin: {token: hunter2hunter2, token_file: " + file + "}", nil, "f.yaml:3: admin.token_file: is set together with admin.token; one of them must go"},
		{"a listener of nothing", "admin: {listen: \":8001\"}", nil, "f.yaml:3: admin.listen: is of use with admin.token only: without one there is no admin API"},
		{"a token that is a number", "admin: {token: 123456789}", nil, "f.yaml:3: admin.token: wants a string, not a number: put it in quotes"},
	} {
		t.Run(c.name, func(t *testing.T) { faults(t, good+c.text+"\n", c.environ, c.want) })
	}
}

func TestAdminListener(t *testing.T) {
	const token = "admin: {token: hunter2hunter2hunter2, listen: \"%\"}\n"
	for _, c := range []struct{ name, listen, rest, want string }{
		{"the main one", "127.0.0.1:8000", "", "admin.listen: is the address of the main listener; leave it out to serve the API there"},
		{"that of the metrics", "localhost:9090", "metrics: {listen: 127.0.0.1:9090}", "admin.listen: is the address of metrics.listen"},
		{"one socket for two", "unix:/a", "metrics: {listen: unix:/a}", "admin.listen: is the address of metrics.listen"},
		{"systemd's", "systemd:admin", "", `admin.listen: "systemd:admin" is not an address; write host:port, for example 127.0.0.1:8000 or :8000`},
	} {
		t.Run(c.name, func(t *testing.T) {
			faults(t, good+strings.Replace(token, "%", c.listen, 1)+c.rest+"\n", nil, "f.yaml:3: "+c.want)
		})
	}
	c := parse(t, good+strings.Replace(token, "%", "unix:/run/a.sock", 1)+"listen_mode: \"0600\"\n")
	if c.Admin.Listen != "unix:/run/a.sock" || c.ListenMode != 0o600 {
		t.Errorf("%+v", c.Admin)
	}
}

func TestAdminWithoutAuthIsWarnedOf(t *testing.T) {
	const message = "admin.token: auth is off, so the keys that the admin API makes have no effect; write auth.enabled: true"
	wantWarnings(t, parse(t, good+"admin: {token: hunter2hunter2hunter2}\n"), "f.yaml:3: "+message)
	wantWarnings(t, parse(t, good+"auth: {enabled: true}\nadmin: {token: hunter2hunter2hunter2}\n"))
}

// Who reads the output of check must see who has to show what.
func TestDescribeTenants(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "auth        off: anyone may call\nrate limit  off, but for limits that keys have of their own\nadmin       off: there is no admin.token\n",
		"admin: {token: hunter2hunter2}": "admin       /admin/ on the main listener\n",
		"auth: {enabled: true, storage: redis, redis: {addr: \"r:1\"}}":                       "auth        0 keys in the configuration, and those in Redis\n            no quota unless a key says so; periods end in the zone of this machine\nrate",
		"auth: {enabled: true, defaults: {total_quota: 5, quota_reset_period: never}}":        "            5 tokens in all unless a key says otherwise; periods",
		"rate_limit: {enabled: true, global: {requests_per_second: 500}}":                     "rate limit  all: 500/s; per bearer token and address: no limit; counted in memory\n",
		"rate_limit: {enabled: true, per_key: {requests_per_minute: 7, burst_size: 3}}":       "all: no limit; per bearer token and address: 3 at once, 7/min; counted",
		"api_keys: [{key: k, total_quota: 1, max_concurrent: 1}, {key: l, total_quota: 2}]\n": "auth        2 keys in the configuration, and those in keys.json in data\n",
	} {
		var b strings.Builder
		parse(t, good+text+"\n").Describe(&b)
		if !strings.Contains(b.String(), want) {
			t.Errorf("%s: got\n%s\nwithout\n%s", text, b.String(), want)
		}
	}
}
