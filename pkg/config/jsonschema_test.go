package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// An editor must know the keys that the gateway knows. LLMPROXY_WRITE=1 writes
// the schema anew.
func TestSchemaIsCurrent(t *testing.T) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(generate(t)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"llmproxy.schema.json", filepath.Join(configs, "llmproxy.schema.json")} {
		if os.Getenv("LLMPROXY_WRITE") != "" {
			if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if text, err := os.ReadFile(path); err != nil || !bytes.Equal(text, b.Bytes()) {
			t.Errorf("%s is not what the types say (%v); LLMPROXY_WRITE=1 go test ./pkg/config writes it", path, err)
		}
	}
}

// compiled is the schema as an editor uses it.
func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("llmproxy.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("llmproxy.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// tree is the mapping in a YAML text.
func tree(t *testing.T, text []byte) *yaml.Node {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return doc.Content[0]
}

// plain is n as an editor hands it to a validator of JSON.
func plain(n *yaml.Node) any {
	switch {
	case n.Kind == yaml.MappingNode:
		out := map[string]any{}
		for i := 0; i < len(n.Content); i += 2 {
			out[n.Content[i].Value] = plain(n.Content[i+1])
		}
		return out
	case n.Kind == yaml.SequenceNode:
		out := []any{}
		for _, e := range n.Content {
			out = append(out, plain(e))
		}
		return out
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		return json.Number(n.Value)
	case "!!bool":
		return n.Value == "true"
	case "!!null":
		return nil
	default:
		return n.Value
	}
}

func TestSchemaAcceptsWhatIsThere(t *testing.T) {
	schema := compiled(t)
	files := []string{"testdata/describe.yaml", "../../cmd/llmproxy/default.yaml"}
	for _, pattern := range []string{"testdata/scenario*.yaml", filepath.Join(configs, "*.yaml")} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) < 5 {
			t.Fatalf("%s: %v %v", pattern, found, err)
		}
		files = append(files, found...)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(plain(tree(t, text))); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if err := schema.Validate(plain(tree(t, []byte(uncomment(string(text)))))); err != nil {
			t.Errorf("the examples of %s: %v", file, err)
		}
	}
}

// Wherever a file goes wrong, the editor and the gateway must both say so.
func TestSchemaRefusesWhatTheGatewayRefuses(t *testing.T) {
	schema, done := compiled(t), map[string]bool{}
	for i := range 5 {
		file := fmt.Sprintf("testdata/scenario%d.yaml", i+1)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		root := tree(t, text)
		mutate(root, "the file", done, func(what string) {
			if schema.Validate(plain(root)) == nil {
				t.Errorf("%s: the schema accepts %s", file, what)
			}
			broken, err := yaml.Marshal(root)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Parse(file, broken, nil); err == nil {
				t.Errorf("%s: the gateway accepts %s", file, what)
			}
		})
	}
}

// mutate breaks n and all below it in one place at a time, each kind of place
// once.
func mutate(n *yaml.Node, path string, done map[string]bool, broken func(what string)) {
	for i, e := range n.Content {
		switch {
		case n.Kind == yaml.SequenceNode:
			mutate(e, path+"[]", done, broken)
		case i%2 == 1:
			mutate(e, path+"."+n.Content[i-1].Value, done, broken)
		}
	}
	if done[path] {
		return
	}
	done[path] = true
	saved := *n
	if n.Kind == yaml.MappingNode && path != "the file.routing.model_mapping" {
		n.Content = append(slices.Clip(n.Content),
			&yaml.Node{Kind: yaml.ScalarNode, Value: "no_such_key"}, &yaml.Node{Kind: yaml.ScalarNode, Value: "a"})
		broken("an unknown key in " + path)
	}
	*n = yaml.Node{Kind: yaml.ScalarNode, Value: "null"}
	if saved.Kind == yaml.ScalarNode {
		*n = yaml.Node{Kind: yaml.SequenceNode}
	}
	broken("another type for " + path)
	*n = saved
}

// The schema and the gateway must read a value the same way.
func TestSchemaReadsValuesAsTheGateway(t *testing.T) {
	schema := compiled(t)
	for _, c := range []struct {
		key    string // what the value of %s is
		values []string
		right  bool
	}{
		{"timeouts: {total: %s}", []string{"0", "\"0\"", "5s", "1h30m", "1.5s", ".5s", "5.s", "100µs", "7ns"}, true},
		{"timeouts: {total: %s}", []string{"5", "\"5\"", "1.5", "1d", "-1s", "5 s", "s", ".s", "1S", "true", "\"\""}, false},
		{"server: {max_body_size: %s}", []string{"4096", "\"4096\"", "16KiB", "64MiB", "1GB", "10B"}, true},
		{"server: {max_body_size: %s}", []string{"-1", "1.5", "64mb", "64 MiB", "064KiB", "MiB", "1TiB", "true"}, false},
		{"server: {max_connections: %s}", []string{"0", "1000"}, true},
		{"server: {max_connections: %s}", []string{"-1", "1.5", "many", "\"7\""}, false},
		{"metrics: {public: %s}", []string{"true", "false"}, true},
		{"metrics: {public: %s}", []string{"yes", "\"true\"", "1"}, false},
		{"region: %s", []string{"north", "\"7\"", "\"\""}, true},
		{"region: %s", []string{"7", "true", "[a]"}, false},
		{"trusted_proxies: [%s]", []string{"10.0.0.7", "10.0.0.0/8", "\"::1\"", "\"fd00::/8\"", "\"::ffff:10.0.0.1\""}, true},
		{"trusted_proxies: [%s]", []string{"proxy", "10.0.0.0/", "10", "\"\"", "\"fe80::1%eth0\""}, false},
		{"listen: unix:/run/a\nlisten_mode: %s", []string{"\"0600\"", "\"0777\""}, true},
		{"listen: unix:/run/a\nlisten_mode: %s", []string{"0660", "\"660\"", "\"0680\"", "rw-rw----"}, false},
		{"tls: {min_version: %s}", []string{"\"1.2\"", "\"1.3\""}, true},
		{"tls: {min_version: %s}", []string{"1.3", "\"1.1\"", "\"\""}, false},
		{"log: {level: %s}", []string{"debug"}, true},
		{"log: {level: %s}", []string{"trace", "Debug"}, false},
		{"health_check: {path: %s}", []string{"/health"}, true},
		{"health_check: {path: %s}", []string{"health", "/a#b", "/a b"}, false},
		{"api_keys: [{key: k, expires_at: %s}]", []string{"2026-12-31T23:59:59Z", "2026-12-31T23:59:59+08:00"}, true},
		{"api_keys: [{key: k, expires_at: %s}]", []string{"2026-12-31", "tomorrow", "7"}, false},
		{"api_keys: [%s]", []string{"{name: x}"}, false},
		{"routing: {model_mapping: {a: %s}}", []string{"b"}, true},
		{"routing: {model_mapping: {a: %s}}", []string{"7", "\"\"", "[b]"}, false},
		{"routing: {fallback: [%s]}", []string{"{primary: http://gpu-1:8000}", "{primary: http://gpu-1:8000, fallback: []}", "{fallback: [http://gpu-1:8000]}"}, false},
	} {
		for _, value := range c.values {
			check(t, schema, good+fmt.Sprintf(c.key, value)+"\n", c.right)
		}
	}
	for entry, right := range map[string]bool{
		"{url: http://a, weight: 1000, engine: \"\", drain: true}": true, "{url: https://a, engine: tgi, weight: 1}": true,
		"{name: a}": false, "{url: a}": false, "{url: http://a, weight: 0}": false, "{url: http://a, weight: 1001}": false,
		"{url: http://a, engine: vlm}": false, "{url: http://a, drain: 1}": false, "{url: http://a, name: \"\"}": false, "http://a": false,
	} {
		check(t, schema, "backends: ["+entry+"]\n", right)
	}
}

func check(t *testing.T, schema *jsonschema.Schema, text string, right bool) {
	t.Helper()
	if err := schema.Validate(plain(tree(t, []byte(text)))); (err == nil) != right {
		t.Errorf("the schema: %v for\n%s", err, text)
	}
	if _, err := Parse("f.yaml", []byte(text), nil); (err == nil) != right {
		t.Errorf("the gateway: %v for\n%s", err, text)
	}
}
