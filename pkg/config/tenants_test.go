package config

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// hashOfFoo is the SHA-256 of "foo".
const hashOfFoo = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"

func TestKeysAndTheirHashes(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.key"), "foo\n", 0o600)
	for name, entry := range map[string]string{
		"the key":               "{key: foo}",
		"its file":              "{key_file: " + dir + "/a.key}",
		"its hash":              "{key_hash: \"" + hashOfFoo + "\"}",
		"its hash in capitals":  "{key_hash: \"sha256:" + strings.ToUpper(hashOfFoo[7:]) + "\"}",
		"the empty names aside": "{key: \"\", key_file: \"\", key_hash: \"" + hashOfFoo + "\"}",
	} {
		k := parse(t, good+"api_keys: ["+entry+"]\n").APIKeys[0]
		if k.Hash() != sha256.Sum256([]byte("foo")) {
			t.Errorf("%s: the hash is %x", name, k.Hash())
		}
	}
	if k := parse(t, good+"api_keys: [{key: \"клю-ч,'=%\"}]\n").APIKeys[0]; k.Key != "клю-ч,'=%" {
		t.Error("a key may have any form")
	}
}

func TestFaultsOfKeysOfClients(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "foo.key"), "foo", 0o600)
	const hash, one = "is not sha256: and 64 hex digits; `llmproxy keys hash` makes it", "one of them must go"
	for _, c := range []struct{ name, text, want string }{
		{"a key in the place of its hash is shown", "{key_hash: hunter2}", "key_hash: " + hash},
		{"a hash without its kind", "{key_hash: " + hashOfFoo[7:] + "}", "key_hash: " + hash},
		{"half a hash", "{key_hash: " + hashOfFoo[:70] + "}", "key_hash: " + hash},
		{"a hash and more", "{key_hash: " + hashOfFoo + "0}", "key_hash: " + hash},
		{"a digit that is none", "{key_hash: " + hashOfFoo[:70] + "g}", "key_hash: " + hash},
		{"an unset variable was hashed", fmt.Sprintf("{key_hash: \"sha256:%x\"}", sha256.Sum256(nil)), "key_hash: is the hash of an empty key"},
		{"the hash of another key stays", "{key: hunter2, key_hash: " + hashOfFoo + "}", "key_hash: is set together with api_keys[0].key; " + one},
		{"a file and a hash", "{key_file: " + dir + "/foo.key, key_hash: " + hashOfFoo + "}", "key_hash: is set together with api_keys[0].key_file; " + one},
		{"a missing file is a missing key too", "{key_file: " + dir + "/bar.key}", "key_file: cannot read " + dir + "/bar.key: no such file or directory"},
		{"empty", "{key: \"\"}", "key: must be set, or key_file, or key_hash"},
		{"no client can send it", "{key: \"hunter2 hunter2\"}", "key: must not hold a space: no client could send it"},
		{"a list for a key is shown", "{key: [hunter2]}", "key: wants a string, not a list"},
		{"Go's zero time is never", "{key: k, expires_at: 0001-01-01T00:00:00Z}", "expires_at: must be after 1970; for a key that never ends remove it"},
		{"zero seconds are never", "{key: k, expires_at: 1970-01-01T00:00:00Z}", "expires_at: must be after 1970; for a key that never ends remove it"},
		{"a network with bits of a host refuses its hosts", "{key: k, allowed_ips: [10.0.1.1/24]}", `allowed_ips[0]: "10.0.1.1/24" has bits beyond its /24; did you mean "10.0.1.0/24"?`},
		{"an empty model matches nothing", "{key: k, allowed_models: [\"\"]}", "allowed_models[0]: must not be empty"},
		{"a name without an end", "{key: k, name: " + strings.Repeat("ü", 201) + "}", "name: has more than 200 characters"},
		{"a user without an end", "{key: k, user_id: " + strings.Repeat("u", 201) + "}", "user_id: has more than 200 characters"},
		{"models without an end", "{key: k, allowed_models: [" + strings.Repeat("m,", 101) + "]}", "allowed_models: has more than 100 entries"},
		{"addresses without an end", "{key: k, allowed_ips: [" + strings.Repeat("10.0.0.1,", 101) + "]}", "allowed_ips: has more than 100 entries"},
	} {
		t.Run(c.name, func(t *testing.T) {
			faults(t, good+"api_keys: ["+c.text+"]\n", nil, "f.yaml:3: api_keys[0]."+c.want)
		})
	}
	t.Run("one key in two spellings", func(t *testing.T) {
		faults(t, good+"api_keys:\n  - key: foo\n  - key_hash: "+hashOfFoo+"\n", nil, "f.yaml:5: api_keys[1].key_hash: the same key as api_keys[0]")
		faults(t, good+"api_keys:\n  - key_hash: "+hashOfFoo+"\n  - key_file: "+dir+"/foo.key\n", nil, "f.yaml:5: api_keys[1].key_file: the same key as api_keys[0]")
	})
	t.Run("a client is the operator", func(t *testing.T) {
		faults(t, good+"admin: {token: hunter2hunter2}\napi_keys:\n  - key: hunter2hunter2\n", nil, "f.yaml:5: api_keys[0].key: the same key as admin.token")
	})
}

func TestKeysTakeDefaults(t *testing.T) {
	c := parse(t, good+`auth: {defaults: {total_quota: 7, quota_reset_period: never, allowed_models: [a*], allowed_ips: [10.0.0.0/8]}}
api_keys:
  - {key: k1}
  - {key: k2, total_quota: 8, quota_reset_period: weekly, allowed_models: [b], allowed_ips: ["::ffff:10.0.0.1"], max_concurrent: 2, burst_size: 3}
  - {key: k3, allowed_models: [], allowed_ips: [], expires_at: 2001-01-01T00:00:00Z}
`)
	one, two, three := c.APIKeys[0], c.APIKeys[1], c.APIKeys[2]
	if one.TotalQuota != 7 || one.QuotaResetPeriod != "never" || fmt.Sprint(one.AllowedModels, one.AllowedIPs) != "[a*] [10.0.0.0/8]" || one.KeyLimit != (KeyLimit{}) {
		t.Errorf("defaults: %+v", one)
	}
	if two.TotalQuota != 8 || two.QuotaResetPeriod != "weekly" || fmt.Sprint(two.AllowedModels) != "[b]" || two.KeyLimit != (KeyLimit{MaxConcurrent: 2, BurstSize: 3}) {
		t.Errorf("a key's own: %+v", two)
	}
	if got := fmt.Sprint(two.AllowedIPs); got != "[10.0.0.1/32]" {
		t.Errorf("IPv4 in the form of IPv6 would match no client: %s", got)
	}
	if len(three.AllowedModels)+len(three.AllowedIPs) != 0 {
		t.Errorf("an empty list must not become the default: %+v", three)
	}
	if three.ExpiresAt.Year() != 2001 {
		t.Errorf("a past time: %v", three.ExpiresAt)
	}
}

func TestMetadata(t *testing.T) {
	const text = `{name: Ω, n: -3, big: 9007199254740993, rate: 1.50, small: 1e-3, on: true, since: 2026-01-01, "a.b/c": {list: [1, [x]], none: {}}}`
	want := map[string]any{
		"name": "Ω", "n": int64(-3), "big": int64(9007199254740993), "rate": 1.5, "small": 1e-3, "on": true, "since": "2026-01-01",
		"a.b/c": map[string]any{"list": []any{int64(1), []any{"x"}}, "none": map[string]any{}},
	}
	if got := parse(t, good+"api_keys: [{key: k, metadata: "+text+"}]\n").APIKeys[0].Metadata; !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%#v\nwant\n%#v", got, want)
	}
	c := parse(t, good, `LLMPROXY__API_KEYS=[{"key": "k", "metadata": {"n": 1, "s": "1", "deep": [{"on": true}]}}]`)
	if got := fmt.Sprintf("%#v", c.APIKeys[0].Metadata["deep"]); got != `[]interface {}{map[string]interface {}{"on":true}}` {
		t.Errorf("from the environment: %s", got)
	}
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "{a: }", "metadata.a: has no value"},
		{"octal", "{a: [010]}", "metadata.a[0]: write it as a plain decimal number"},
		{"no number of JSON", "{a: .inf}", "metadata.a: write it as a plain decimal number"},
		{"truth in another spelling", "{a: True}", "metadata.a: wants a string, not a boolean: put it in quotes"},
		{"line break", `{a: "b\nc"}`, "metadata.a: must not hold control characters or line breaks"},
		{"a tag of its own", "{a: !hunter2 x}", "metadata.a: wants a string, not a value with a tag of its own: put it in quotes"},
		{"a number as a name", "{a: {1: b}}", "metadata.a.1: a name must be a string: put it in quotes"},
		{"a list", "[a]", "metadata: wants a section, not a list"},
		{"an archive", "{a: " + strings.Repeat("x", 4<<10) + "}", "metadata: is larger than 4KiB as JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			faults(t, good+"api_keys: [{key: k, metadata: "+c.text+"}]\n", nil, "f.yaml:3: api_keys[0]."+c.want)
		})
	}
	parse(t, good+"api_keys: [{key: k, metadata: {a: "+strings.Repeat("x", 4<<10-len(`{"a":""}`))+"}}]\n")
}

// 0 is no limit to some and nothing at all to others.
func TestLimitsAreNotZero(t *testing.T) {
	limits := []string{"requests_per_second", "burst_size", "requests_per_minute", "tokens_per_minute", "max_concurrent"}
	sections := map[string][]string{
		"rate_limit.per_key": limits, "rate_limit.global": limits[:2],
		"auth.defaults": {"total_quota"}, "api_keys[0]": append([]string{"total_quota"}, limits...),
	}
	tested := 0
	for section, keys := range sections {
		remedy := "for no limit remove it"
		text := strings.Replace(section, ".", ": {", 1) + ": {%s: %s}}"
		if section == "api_keys[0]" {
			remedy = "for the default remove it, to refuse the key write status: disabled"
			text = "api_keys: [{key: k, %s: %s}]"
		}
		for _, key := range keys {
			tested++
			most, digits := "1000000000", "1000000001"
			if key == "total_quota" {
				most, digits = "1000000000000000", "1000000000000001"
			}
			for value, want := range map[string]string{
				"0": "must not be 0; " + remedy, "-1": "must not be negative", digits: "must be at most " + most + "; " + remedy,
			} {
				faults(t, good+fmt.Sprintf(text, key, value)+"\n", nil, "f.yaml:3: "+section+"."+key+": "+want)
			}
			parse(t, good+fmt.Sprintf(text, key, "1")+"\n")
			parse(t, good+fmt.Sprintf(text, key, most)+"\n")
		}
	}
	if n := countLimits(reflect.TypeFor[Config]()); n != tested {
		t.Errorf("%d limits in all, %d tested", n, tested)
	}
	faults(t, good, []string{"LLMPROXY__RATE_LIMIT__GLOBAL__BURST_SIZE=0"},
		"environment LLMPROXY__RATE_LIMIT__GLOBAL__BURST_SIZE: rate_limit.global.burst_size: must not be 0; for no limit remove it")
	faults(t, good+"rate_limit: {global: {requests_per_minute: 5}}\n", nil,
		`f.yaml:3: rate_limit.global.requests_per_minute: unknown key; did you mean "requests_per_second"?`)
}

func countLimits(t reflect.Type) int {
	n := 0
	for _, f := range reflect.VisibleFields(t) {
		switch {
		case f.Tag.Get("yaml") == "":
		case limitOf(f) > 0:
			n++
		case isSection(f.Type):
			n += countLimits(f.Type)
		case f.Type.Kind() == reflect.Slice && isSection(f.Type.Elem()):
			n += countLimits(f.Type.Elem())
		}
	}
	return n
}

func TestTimezone(t *testing.T) {
	if zone := parse(t, good).Auth.Location(); zone != time.Local {
		t.Errorf("the default is %v, want the machine's", zone)
	}
	if zone := parse(t, good+"auth: {timezone: Asia/Shanghai}\n").Auth.Location(); zone.String() != "Asia/Shanghai" {
		t.Errorf("got %v", zone)
	}
	for _, wrong := range []string{"Asia/Shangai", "CST8", "+08:00", "../etc/passwd"} {
		faults(t, good+"auth: {timezone: \""+wrong+"\"}\n", nil,
			`f.yaml:3: auth.timezone: "`+wrong+`" is not a time zone; write for example Asia/Shanghai or UTC`)
	}
}

// What the journal and the keys need must be there before the first request.
func TestDataDirOfKeys(t *testing.T) {
	faults(t, good+"data_dir: fault.go\napi_keys: [{key: k}]\n", nil, "f.yaml:3: data_dir: fault.go is not a directory")
	parse(t, good+"data_dir: fault.go\nauth: {enabled: false}\n")
}

func TestWarningsOfTenants(t *testing.T) {
	const useless = "has no effect without requests_per_second"
	for _, c := range []struct{ name, text, want string }{
		{"nobody has a key", "auth: {enabled: true}", "auth.enabled: is true but there are no api_keys, and no admin.token to make keys with: every request will be refused, until `llmproxy keys new` has made one"},
		{"a burst of nothing", "rate_limit: {enabled: true, global: {burst_size: 5}}", "rate_limit.global.burst_size: " + useless},
		{"a burst of nothing for each", "rate_limit: {enabled: true, per_key: {burst_size: 5}}", "rate_limit.per_key.burst_size: " + useless},
		{"a burst of a rate that is off", "api_keys: [{key: k, burst_size: 5}]\nrate_limit: {enabled: false, per_key: {requests_per_second: 1}}", "api_keys[0].burst_size: " + useless},
		{"limits that are not there", "rate_limit: {enabled: true}", "rate_limit.enabled: is true but no limit is set"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantWarnings(t, parse(t, good+c.text+"\n"), "f.yaml:3: "+c.want)
		})
	}
	t.Run("noise", func(t *testing.T) {
		for _, text := range []string{
			"auth: {enabled: true}\nadmin: {token: hunter2hunter2hunter2}",
			"auth: {enabled: true, storage: redis, redis: {addr: \"r:1\"}}",
			"api_keys: [{key: k, requests_per_second: 1, burst_size: 5}]",
			"api_keys: [{key: k, requests_per_second: 1}]\nrate_limit: {enabled: true, per_key: {burst_size: 5}}",
			"api_keys: [{key: k, burst_size: 5}]\nrate_limit: {enabled: true, per_key: {requests_per_second: 5}}",
		} {
			wantWarnings(t, parse(t, good+text+"\n"))
		}
	})
}

func TestFilesWithKeysAreWarnedOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.yaml")
	const hash, token = "api_keys: [{key_hash: " + hashOfFoo + "}]\n", "hunter2hunter2hunter2"
	for _, c := range []struct {
		name, text string
		warned     bool
		environ    []string
	}{
		{"a key", "api_keys: [{key: k}]\n", true, nil},
		{"a token", hash + "admin: {token: " + token + "}\n", true, nil},
		{"a hash is not a key", hash, false, nil},
		{"a token in the environment", hash + "admin: {listen: \":80\"}\n", false, []string{"LLMPROXY__ADMIN__TOKEN=" + token}},
	} {
		t.Run(c.name, func(t *testing.T) {
			write(t, path, good+c.text, 0o644)
			got, err := Load(path, c.environ)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			if c.warned {
				want = []string{path + " holds secrets and every user of this machine can read it; chmod 600 it"}
			}
			wantWarnings(t, got, want...)
		})
	}
}
