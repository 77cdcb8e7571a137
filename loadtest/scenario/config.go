package scenario

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Backend is one backend of the scenario's configuration.
type Backend struct {
	Host   string   // first label of its host name
	Models []string // patterns; none: any
}

// Backends are those of the scenario's configuration file, in its order.
func (s *Scenario) Backends() ([]Backend, error) {
	file, err := s.file()
	if err != nil {
		return nil, err
	}
	var out []Backend
	for _, b := range file.Backends {
		host, err := hostOf(b.URL)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.Config, err)
		}
		if _, ok := s.Engine(host); !ok {
			return nil, fmt.Errorf("%s: no engine of the scenario is %s", s.Config, host)
		}
		out = append(out, Backend{Host: host, Models: b.Models})
	}
	return out, nil
}

// Pool is the hosts that serve a model, as the client names it.
func (s *Scenario) Pool(model string) ([]string, error) {
	file, err := s.file()
	if err != nil {
		return nil, err
	}
	if to, ok := file.Routing.Mapping[model]; ok {
		model = to
	}
	backends, err := s.Backends()
	if err != nil {
		return nil, err
	}
	var hosts []string
	for _, b := range backends {
		if len(b.Models) == 0 || slices.ContainsFunc(b.Models, func(pattern string) bool {
			ok, _ := path.Match(pattern, model) // a broken pattern is the configuration's own to report
			return ok
		}) {
			hosts = append(hosts, b.Host)
		}
	}
	if len(hosts) == 0 {
		return nil, fmt.Errorf("%s: no backend serves %s", s.Config, model)
	}
	return hosts, nil
}

// configured is what a scenario needs to know of its configuration.
type configured struct {
	Backends []struct {
		URL    string   `yaml:"url"`
		Models []string `yaml:"models"`
	} `yaml:"backends"`
	Routing struct {
		Mapping map[string]string `yaml:"model_mapping"`
	} `yaml:"routing"`
	Auth struct {
		Redis struct {
			Addr string `yaml:"addr"`
		} `yaml:"redis"`
	} `yaml:"auth"`
}

func (s *Scenario) file() (*configured, error) {
	var c configured
	return &c, s.decode(&c)
}

func (s *Scenario) decode(into any) error {
	data, err := os.ReadFile(filepath.Join(s.root, s.Config))
	if err == nil {
		err = yaml.Unmarshal(data, into)
	}
	if err != nil {
		return fmt.Errorf("cannot read the scenario's configuration: %w", err)
	}
	return nil
}

func hostOf(backend string) (string, error) {
	u, err := url.Parse(backend)
	if err != nil {
		return "", err
	}
	host, _, _ := strings.Cut(u.Hostname(), ".")
	return host, nil
}

// Gateway is the scenario's configuration as it stands, but for what a run
// needs: where to listen, the URL of the billing system, the addresses of the
// engines and of Redis by host, and the setting. A deployment that makes its keys
// at run time is given those of the load's users.
func (s *Scenario) Gateway(listen, billing string, addrs map[string]string) ([]byte, error) {
	tree := map[string]any{}
	if err := s.decode(&tree); err != nil {
		return nil, err
	}
	moved := map[string]string{}
	for _, item := range tree["backends"].([]any) {
		b := item.(map[string]any)
		at, _ := b["url"].(string)
		host, err := hostOf(at)
		if err != nil {
			return nil, err
		}
		moved[at] = "http://" + addrs[host]
		b["name"] = host
	}
	if hook, ok := tree["usage_hook"].(map[string]any); ok {
		hook["url"] = billing
	}
	tree = replace(tree, moved).(map[string]any)
	redis, err := s.Redis()
	if err != nil {
		return nil, err
	}
	if redis != "" {
		tree = merge(tree, map[string]any{"auth": map[string]any{"redis": map[string]any{"addr": addrs[redis]}}})
	}
	for _, over := range []map[string]any{s.Setting, s.quick} {
		tree = merge(tree, over)
	}
	tree["listen"] = listen
	if auth, _ := tree["auth"].(map[string]any); auth["enabled"] == true && tree["api_keys"] == nil {
		var keys []any
		for _, user := range s.users() {
			keys = append(keys, map[string]any{"key": user, "name": user})
		}
		tree["api_keys"] = keys
	}
	out, err := yaml.Marshal(tree)
	if err != nil {
		return nil, fmt.Errorf("cannot write the configuration: %w", err)
	}
	return out, nil
}

// Redis is the host of the Redis that the scenario's configuration has, "" for none.
func (s *Scenario) Redis() (string, error) {
	file, err := s.file()
	if err != nil {
		return "", err
	}
	host, _, _ := strings.Cut(file.Auth.Redis.Addr, ":")
	return host, nil
}

// replace exchanges every string that is a key of by.
func replace(v any, by map[string]string) any {
	switch v := v.(type) {
	case string:
		if to, ok := by[v]; ok {
			return to
		}
	case []any:
		for i := range v {
			v[i] = replace(v[i], by)
		}
	case map[string]any:
		for k := range v {
			v[k] = replace(v[k], by)
		}
	}
	return v
}

// merge lays over on under: sections are merged, everything else is replaced.
func merge(under, over map[string]any) map[string]any {
	out := maps.Clone(under)
	if out == nil {
		out = map[string]any{}
	}
	for k, v := range over {
		section, ok := v.(map[string]any)
		below, same := out[k].(map[string]any)
		if ok && same {
			out[k] = merge(below, section)
			continue
		}
		out[k] = v
	}
	return out
}

// Changed is the setting, as in "trusted_proxies: [127.0.0.1]".
func (s *Scenario) Changed() []string { return flat("", s.Setting) }

func flat(prefix string, tree map[string]any) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(tree)) {
		if section, ok := tree[k].(map[string]any); ok {
			out = append(out, flat(prefix+k+".", section)...)
			continue
		}
		out = append(out, fmt.Sprintf("%s%s: %v", prefix, k, tree[k]))
	}
	return out
}
