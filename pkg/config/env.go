package config

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"

	"github.com/knadh/koanf/providers/env/v2"
	"go.yaml.in/yaml/v3"
)

// envPrefix begins the names of our environment variables. One underscore
// would not do: Kubernetes sets LLMPROXY_PORT=tcp://... in every pod beside a
// Service called llmproxy.
const envPrefix = "LLMPROXY__"

// environment provides the variables LLMPROXY__SECTION__KEY=value. A list is
// JSON or separated by commas; model_mapping is JSON and merged with the
// file's; the entries of backends and api_keys can only be replaced as a whole.
func environment(r *report, environ []string) *env.Env {
	return env.Provider(levels, env.Opt{
		Prefix:      envPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			w := &walker{report: r, source: "environment " + name}
			return w.variable(name, value)
		},
	})
}

// variable is the path that name sets and its value; no path after a fault.
func (w *walker) variable(name, value string) (string, any) {
	path := strings.Split(strings.ToLower(strings.TrimPrefix(name, envPrefix)), "__")
	key := strings.Join(path, ".")
	t, ok := typeOf(path)
	switch {
	case !ok || name != variableOf(key):
		w.add(place{file: w.source}, "", "unknown key"+nearVariable(name))
		return "", nil
	case isSection(t):
		w.add(place{file: w.source}, "", "names a section; set one of its keys, such as "+variableOf(leaves(t, key)[0]))
		return "", nil
	}
	n, message := node(value, t)
	if n == nil {
		w.add(place{file: w.source}, key, message)
		return "", nil
	}
	w.forget(key, t)
	return strings.Join(path, levels), w.value(n, t, key)
}

// forget drops what the file said about a list that is replaced.
func (w *walker) forget(key string, t reflect.Type) {
	if t.Kind() != reflect.Slice {
		return
	}
	for k := range w.places {
		if strings.HasPrefix(k, key+"[") {
			delete(w.places, k)
		}
	}
}

// node is the value of a variable as a YAML tree, or nil and what is wrong.
func node(value string, t reflect.Type) (*yaml.Node, string) {
	text := strings.TrimSpace(value)
	isList := shape(t) == yaml.SequenceNode
	switch {
	case isQuoted(t):
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value}, ""
	case shape(t) == yaml.ScalarNode:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: value}, ""
	case isList && !strings.HasPrefix(text, "[") && shape(t.Elem()) == yaml.ScalarNode:
		return commaList(text), ""
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	n, err := jsonNode(d)
	if _, more := d.Token(); err == nil && more == io.EOF && n.Kind == shape(t) {
		return n, ""
	}
	if isList {
		return nil, "wants a list in JSON"
	}
	return nil, "wants an object in JSON"
}

// jsonNode reads one JSON value. YAML is almost a superset of JSON, but not in
// tabs and surrogate pairs.
func jsonNode(d *json.Decoder) (*yaml.Node, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	n := &yaml.Node{Kind: yaml.ScalarNode}
	switch v := token.(type) {
	case string:
		n.Tag, n.Value = "!!str", v
	case json.Number:
		n.Value = v.String()
	case bool:
		n.Value = strconv.FormatBool(v)
	case nil:
		n.Tag = "!!null"
	case json.Delim:
		n.Kind = map[json.Delim]yaml.Kind{'[': yaml.SequenceNode, '{': yaml.MappingNode}[v]
		for d.More() {
			e, err := jsonNode(d)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, e)
		}
		_, err = d.Token() // the closing bracket
	}
	return n, err
}

func commaList(text string) *yaml.Node {
	list := &yaml.Node{Kind: yaml.SequenceNode}
	if text == "" {
		return list
	}
	for item := range strings.SplitSeq(text, ",") {
		list.Content = append(list.Content, &yaml.Node{
			Kind: yaml.ScalarNode, Tag: "!!str", Value: strings.TrimSpace(item),
		})
	}
	return list
}

func variableOf(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "__"))
}

// nearVariable ends a message with the name that may have been meant. The
// prefix does not count: it would make all names look alike.
func nearVariable(name string) string {
	all := leaves(reflect.TypeFor[Config](), "")
	for i, key := range all {
		all[i] = strings.TrimPrefix(variableOf(key), envPrefix)
	}
	near := nearest(strings.TrimPrefix(name, envPrefix), all)
	if near == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", envPrefix+near)
}
