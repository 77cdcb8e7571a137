package config

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"net/netip"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

// object is a piece of the JSON Schema; its keys are written in order.
type object = map[string]any

// generator turns the types of this package, their tags, defaults and comments
// into a JSON Schema.
type generator struct {
	docs   map[string]string // by "Type" and "Type.Field"
	extras map[string]object // by the path of a key; [] is any entry of a list
}

// generate is the whole schema.
func generate(t *testing.T) object {
	g := generator{docs: comments(t, "config.go", "tenants.go", "redis.go"), extras: extras()}
	sample, err := Parse("sample", []byte("backends: [{url: http://a}]\napi_keys: [{key: k}]"), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := Default()
	c.Backends, c.APIKeys, c.Routing.Fallback = sample.Backends, sample.APIKeys, []Fallback{{}}
	c.Backends[0].URL, c.Backends[0].Name = "", "" // these have no default of their own
	schema := g.section(reflect.ValueOf(*c), "")
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	schema["title"] = "LLMProxy"
	schema["description"] = inWords("Config", g.docs["Config"], reflect.TypeFor[Config]())
	schema["$defs"] = definitions()
	if len(g.extras) > 0 {
		t.Errorf("no such keys: %v", g.extras)
	}
	return schema
}

// section is the schema of a struct with its defaults.
func (g generator) section(v reflect.Value, path string) object {
	properties := object{}
	for _, f := range reflect.VisibleFields(v.Type()) {
		tag := f.Tag.Get("yaml")
		if tag == "" {
			continue
		}
		p := g.property(f, v.FieldByIndex(f.Index), child(path, tag))
		home := v.Type()
		if outer := f.Index[:len(f.Index)-1]; len(outer) > 0 {
			home = home.FieldByIndex(outer).Type // embedded, where its comment is
		}
		p["description"] = inWords(f.Name, g.docs[home.Name()+"."+f.Name], v.Type())
		properties[tag] = p
	}
	return object{"type": "object", "additionalProperties": false, "properties": properties}
}

func (g generator) property(f reflect.StructField, v reflect.Value, path string) object {
	var p object
	switch {
	case isSection(f.Type):
		p = g.section(v, path)
	case f.Type == reflect.TypeFor[map[string]any]():
		p = object{"type": "object"}
	case f.Type.Kind() == reflect.Map:
		p = object{"type": "object", "additionalProperties": object{"type": "string", "minLength": 1}}
	case f.Type.Kind() == reflect.Slice && isSection(f.Type.Elem()):
		entry := g.section(v.Index(0), path+"[]")
		entry["description"] = g.docs[f.Type.Elem().Name()]
		g.add(entry, path+"[]")
		p = object{"type": "array", "items": entry}
	case f.Type.Kind() == reflect.Slice:
		p = object{"type": "array", "items": scalarSchema(f.Type.Elem())}
	default:
		p = scalarSchema(f.Type)
	}
	right := words(f)
	if right != nil {
		p["enum"] = right
	}
	if most := limitOf(f); most > 0 {
		p["minimum"], p["maximum"] = 1, most
	} else if d := written(v); d != nil && (d != "" || right != nil) {
		p["default"] = d
	}
	g.add(p, path)
	return p
}

func (g generator) add(p object, path string) {
	maps.Copy(p, g.extras[path])
	delete(g.extras, path)
}

func scalarSchema(t reflect.Type) object {
	switch {
	case t == reflect.TypeFor[Duration]():
		return object{"$ref": "#/$defs/duration"}
	case t == reflect.TypeFor[Size]():
		return object{"$ref": "#/$defs/size"}
	case t == reflect.TypeFor[netip.Prefix]():
		return object{"$ref": "#/$defs/prefix"}
	case t == reflect.TypeFor[fs.FileMode]():
		return object{"type": "string", "pattern": "^0[0-7]{3}$"}
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t.Kind() == reflect.Bool:
		return object{"type": "boolean"}
	case t.Kind() == reflect.String:
		return object{"type": "string"}
	default:
		return object{"type": "integer", "minimum": 0}
	}
}

func definitions() object {
	return object{
		"duration": object{
			"anyOf": []object{
				{"const": 0},
				{"type": "string", "pattern": `^(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$`},
			},
			"examples": []any{"500ms", "3s", "2m", "1h30m", 0},
		},
		"size": object{
			"anyOf": []object{
				{"type": "integer", "minimum": 0},
				{"type": "string", "pattern": "^(0|[1-9][0-9]*)(B|KB|MB|GB|KiB|MiB|GiB)?$"},
			},
			"examples": []any{"16KiB", "64MiB", "1GB", 4096},
		},
		"prefix": object{
			"type":     "string",
			"pattern":  "^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$",
			"examples": []any{"10.0.0.7", "10.0.0.0/8", "fd00::/8"},
		},
	}
}

// written is a default as it would stand in the file, nil if there is none.
func written(v reflect.Value) any {
	switch d := v.Interface().(type) {
	case Duration:
		if d == 0 {
			return 0
		}
		return d.String()
	case Size:
		return d.String()
	case fs.FileMode:
		return fmt.Sprintf("%04o", d)
	case string, bool, int, int64:
		return d
	case []string:
		if len(d) > 0 {
			return d
		}
	}
	return nil
}

// extras is what the types do not tell.
func extras() map[string]object {
	atLeastOne := object{"minimum": 1}
	models := object{"examples": []any{[]string{"qwen-72b*"}}}
	path := object{"pattern": "^/[^?# ]*$"}
	short, few := object{"maxLength": 200}, object{"maxItems": 100}
	redis, prefix := object{"examples": []any{"redis:6379", "sentinel-1:26379,sentinel-2:26379,sentinel-3:26379"}}, object{"pattern": "^[A-Za-z0-9._:/-]{1,64}$"}
	return map[string]object{
		"listen":                           {"examples": []any{":8000", "127.0.0.1:8000", "unix:/run/llmproxy/llmproxy.sock", "systemd"}},
		"listen_mode":                      {"examples": []any{"0660", "0666"}},
		"metrics.listen":                   {"examples": []any{"127.0.0.1:9090", "unix:/run/llmproxy/metrics.sock"}},
		"metrics.path":                     path,
		"cors.allowed_origins":             {"examples": []any{[]string{"https://app.example.com"}, []string{"*"}}},
		"backends[]":                       {"required": []string{"url"}},
		"backends[].url":                   {"pattern": "^https?://", "examples": []any{"http://gpu-1:8000", "https://gpu-2.internal:8443/llm"}},
		"backends[].name":                  {"minLength": 1},
		"backends[].weight":                {"minimum": 1, "maximum": 1000},
		"backends[].models":                models,
		"routing.model_mapping":            {"examples": []any{object{"qwen": "qwen-72b-chat"}}},
		"routing.fallback[]":               {"required": []string{"primary", "fallback"}},
		"routing.fallback[].fallback":      {"minItems": 1},
		"routing.fallback[].models":        models,
		"health_check.path":                path,
		"health_check.unhealthy_threshold": atLeastOne,
		"health_check.healthy_threshold":   atLeastOne,
		"usage_hook.max_events":            atLeastOne,
		"data_dir":                         {"examples": []any{"/var/lib/llmproxy"}},
		"redis.addr":                       redis,
		"redis.prefix":                     prefix,
		"auth.redis.addr":                  redis,
		"auth.redis.prefix":                prefix,
		"rate_limit.redis.addr":            redis,
		"rate_limit.redis.prefix":          prefix,
		"auth.timezone":                    {"examples": []any{"Asia/Shanghai", "UTC"}},
		"auth.defaults.allowed_models":     models,
		"api_keys[]":                       {"anyOf": []object{{"required": []string{"key"}}, {"required": []string{"key_file"}}, {"required": []string{"key_hash"}}}},
		"api_keys[].key_hash":              {"pattern": "^sha256:[0-9A-Fa-f]{64}$"},
		"api_keys[].name":                  short,
		"api_keys[].user_id":               short,
		"api_keys[].allowed_ips":           few,
		"api_keys[].allowed_models":        {"examples": models["examples"], "maxItems": 100},
		"api_keys[].expires_at":            {"examples": []any{"2026-12-31T23:59:59Z"}},
		"api_keys[].metadata":              {"examples": []any{object{"contract": "2026-117"}}},
		"admin.token":                      {"pattern": "^[!-~]{8,}$"},
		"admin.listen":                     {"examples": []any{"127.0.0.1:8001", "unix:/run/llmproxy/admin.sock"}},
	}
}

// comments are the doc comments of the types in files and of their fields, each
// in one line.
func comments(t *testing.T, files ...string) map[string]string {
	docs := map[string]string{}
	line := func(c *ast.CommentGroup) string { return strings.Join(strings.Fields(c.Text()), " ") }
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			decl, ok := d.(*ast.GenDecl)
			if !ok || decl.Tok != token.TYPE {
				continue
			}
			spec := decl.Specs[0].(*ast.TypeSpec)
			docs[spec.Name.Name] = line(decl.Doc)
			if s, ok := spec.Type.(*ast.StructType); ok {
				for _, f := range s.Fields.List {
					if len(f.Names) == 0 {
						continue // embedded: its fields have comments of their own
					}
					docs[spec.Name.Name+"."+f.Names[0].Name] = line(f.Doc)
				}
			}
		}
	}
	return docs
}

// inWords is a comment for who does not see the Go types: names of fields become
// those of keys, at the beginning and, if they are fields beside it or at the
// top, within a sentence. All capitals are left alone: TLS is a word as well.
func inWords(name, doc string, beside reflect.Type) string {
	rest, begins := strings.CutPrefix(doc, name)
	text := regexp.MustCompile(`[^.] \(?[A-Z][A-Za-z]*`).ReplaceAllStringFunc(rest, func(match string) string {
		i := strings.LastIndexAny(match, " (") + 1
		for _, t := range []reflect.Type{beside, reflect.TypeFor[Config]()} {
			if f, ok := t.FieldByName(match[i:]); ok && match[i:] != strings.ToUpper(match[i:]) {
				return match[:i] + f.Tag.Get("yaml")
			}
		}
		return match
	})
	if f, ok := beside.FieldByName(name); ok && begins {
		return f.Tag.Get("yaml") + text
	}
	return name + text
}
