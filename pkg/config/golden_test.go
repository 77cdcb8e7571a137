package config

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const configs = "../../configs"

// The five scenarios of the product must load as they were written, and the
// ready files beside them must say the same.
func TestScenariosAreAccepted(t *testing.T) {
	ready, err := filepath.Glob(filepath.Join(configs, "scenario-*.yaml"))
	if err != nil || len(ready) != 5 {
		t.Fatalf("want 5 ready files, got %v %v", ready, err)
	}
	for i := range 5 {
		written, err := Load(fmt.Sprintf("testdata/scenario%d.yaml", i+1), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Load(ready[i], nil)
		if err != nil {
			t.Fatal(err)
		}
		for j := range written.Backends { // the ready file may tell the engine
			written.Backends[j].Engine = got.Backends[j].Engine
		}
		if !reflect.DeepEqual(values(got), values(written)) {
			t.Errorf("%s differs from the scenario:\n%+v\n%+v", ready[i], values(got), values(written))
		}
	}
}

// values is c without the places of its keys and its file.
func values(c *Config) Config {
	v := *c
	v.origin, v.DataDir = nil, ""
	return v
}

func TestScenarioMeanings(t *testing.T) {
	load := func(n int) *Config {
		c, err := Load(fmt.Sprintf("testdata/scenario%d.yaml", n), nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := load(1); !c.Routing.Retry.Enabled || c.RateLimit.Global.RequestsPerSecond != 500 || c.Auth.Enabled {
		t.Errorf("scenario 1: %+v", c)
	}
	if c := load(2); c.APIKeys[0].AllowedIPs[0].String() != "10.0.1.0/24" || c.APIKeys[0].QuotaResetPeriod != "daily" {
		t.Errorf("scenario 2: addresses or the default period got lost: %+v", c.APIKeys[0])
	}
	if c := load(2); c.Auth.Defaults.TotalQuota != 100000 || c.RateLimit.PerKey != (KeyLimit{RequestsPerMinute: 100, MaxConcurrent: 5}) {
		t.Errorf("scenario 2: defaults or limits got lost: %+v", c)
	}
	if c := load(3); c.RateLimit.Global != (GlobalLimit{1000, 2000}) || c.RateLimit.PerKey.TokensPerMinute != 100000 {
		t.Errorf("scenario 3: limits got lost: %+v", c.RateLimit)
	}
	if c := load(3); c.KeyRedis() != &c.Auth.Redis || c.LimitRedis() != &c.Auth.Redis || c.Auth.Redis.Addr != "redis:6379" || c.Routing.ModelMapping["mistral"] != "mistral-7b-instruct-v0.2" {
		t.Errorf("scenario 3: limits are not in the Redis of the keys, or a mapping got lost: %+v", c)
	}
	if c := load(4); !c.Auth.Enabled || c.APIKeys[2].TotalQuota != 2000000 || c.APIKeys[2].Status != "active" || c.APIKeys[2].QuotaResetPeriod != "daily" {
		t.Errorf("scenario 4: api_keys must turn auth on: %+v", c)
	}
	if c := load(5); c.Strategy != "latency_based" || c.Backends[3].Region != "south" || len(c.Routing.Fallback) != 2 {
		t.Errorf("scenario 5: %+v", c)
	}
}

// The reference file is what people copy from: it must hold the defaults the
// code has.
func TestReferenceFileEqualsDefaults(t *testing.T) {
	c, err := Load(filepath.Join(configs, "llmproxy.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	sample, err := Parse("sample", []byte("backends: [{url: \"http://127.0.0.1:8001\", name: engine-1, models: []}]"), nil)
	if err != nil {
		t.Fatal(err)
	}
	want.Backends = sample.Backends
	if got := normal(c); !reflect.DeepEqual(got, normal(want)) {
		t.Errorf("configs/llmproxy.yaml is\n%+v\nthe defaults are\n%+v", got, normal(want))
	}
	if w := c.Warnings(); len(w) != 0 {
		t.Errorf("warnings: %q", w)
	}
}

// normal takes an empty list or table and an absent one for the same.
func normal(c *Config) string { return fmt.Sprintf("%+v", values(c)) }

// The examples in the comments of the reference file must work when they are
// uncommented, and with them it must show every key, also those of a list's
// entries.
func TestReferenceFileExamples(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(configs, "llmproxy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"gpu-2.key", "ca.pem", "product.key", "redis.password"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("sk-"+name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	full := strings.ReplaceAll(uncomment(string(text)), "/etc/llmproxy", dir)
	c, err := Parse("llmproxy.yaml", []byte(full), nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, full)
	}
	if c.APIKeys[1].Key != "sk-product.key" || c.Routing.ModelMapping["llama"] != "meta-llama/Llama-3.1-8B" {
		t.Errorf("the examples were not read: %+v", values(c))
	}
	for _, key := range leaves(reflect.TypeFor[Config](), "") {
		section := strings.NewReplacer("auth.redis.", "redis.", "rate_limit.redis.", "redis.") // of the same keys
		if !c.origin.has(section.Replace(key)) {
			t.Errorf("configs/llmproxy.yaml does not mention %s", key)
		}
	}
	for list, entry := range map[string]reflect.Type{
		"backends": reflect.TypeFor[Backend](), "api_keys": reflect.TypeFor[APIKey](), "routing.fallback": reflect.TypeFor[Fallback](),
	} {
		for _, tag := range tags(entry) {
			if !slices.ContainsFunc([]string{"[0].", "[1].", "[2]."}, func(i string) bool { return c.origin.has(list + i + tag) }) {
				t.Errorf("configs/llmproxy.yaml does not mention %s[].%s", list, tag)
			}
		}
	}
}

// uncomment turns the examples of the reference file into YAML: an example has
// no space, or at least two, after the #.
func uncomment(text string) string {
	example := regexp.MustCompile(`^( *)#(\S.*|  .*)$`)
	empty := regexp.MustCompile(`^ *(\w+): (\[\]|\{\})$`)
	lines := strings.Split(text, "\n")
	var out []string
	for i, line := range lines {
		if m := empty.FindStringSubmatch(line); m != nil && i+1 < len(lines) && strings.TrimSpace(lines[i+1]) == "#"+m[1]+":" {
			continue
		}
		out = append(out, example.ReplaceAllString(line, "$1$2"))
	}
	return strings.Join(out, "\n")
}

func TestDescribe(t *testing.T) {
	c, err := Load("testdata/describe.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	c.Describe(&b)
	want, err := os.ReadFile("testdata/describe.txt")
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	if strings.Contains(b.String(), "hunter2") {
		t.Error("Describe shows a secret")
	}
}
