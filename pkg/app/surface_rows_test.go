package app_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// apiDialects are the columns of the table of surfaces: the fake engine's
// dialects, and which engine the configuration calls such a one.
var apiDialects = []struct{ name, engine, title string }{
	{mockvllm.DialectVLLM, "vllm", "vLLM"},
	{mockvllm.DialectVLLMRust, "vllm", "vLLM (Rust)"},
	{mockvllm.DialectSGLang, "sglang", "SGLang"},
	{mockvllm.DialectTGI, "tgi", "TGI"},
	{mockvllm.DialectLlamaCPP, "llamacpp", "llama.cpp"},
}

// apiRow is a row of the gateway's table of endpoints.
type apiRow struct {
	method, path  string
	api           string // whose clients it is for: apiOpenAI and so on
	engines       []string
	form, stored  bool
	sharesItsPath bool // with a row before or after it
}

func (r *apiRow) name() string {
	name := r.method + " " + r.path
	if r.sharesItsPath {
		name += " (" + strings.Join(r.engines, ", ") + ")"
	}
	return name
}

// apiRows reads the table from the gateway's source, so that no surface comes
// without a line in the documentation.
func apiRows(t *testing.T) []*apiRow {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../gateway/endpoint.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var rows []*apiRow
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Names[0].Name != "endpoints" {
			return true
		}
		for _, line := range spec.Values[0].(*ast.CompositeLit).Elts {
			rows = append(rows, readRow(t, line.(*ast.CompositeLit)))
		}
		return false
	})
	for _, r := range rows {
		r.sharesItsPath = slices.ContainsFunc(rows, func(o *apiRow) bool { return o != r && o.path == r.path && o.method == r.method })
	}
	if len(rows) < 20 {
		t.Fatalf("%d rows", len(rows))
	}
	return rows
}

func readRow(t *testing.T, line *ast.CompositeLit) *apiRow {
	t.Helper()
	r := &apiRow{method: "POST", api: "apiOpenAI"}
	for _, field := range line.Elts {
		kv := field.(*ast.KeyValueExpr)
		var words []string
		ast.Inspect(kv.Value, func(n ast.Node) bool {
			switch v := n.(type) {
			case *ast.Ident:
				words = append(words, v.Name)
			case *ast.BasicLit:
				text, err := strconv.Unquote(v.Value)
				if err != nil {
					t.Fatal(err)
				}
				words = append(words, text)
			}
			return true
		})
		switch key := kv.Key.(*ast.Ident).Name; key {
		case "path":
			r.path = words[0]
		case "method":
			r.method = words[0]
		case "api":
			r.api = words[0]
		case "form":
			r.form = true
		case "stored":
			r.stored = true
		case "engines":
			if r.engines = words; words[0] == "all" {
				r.engines = []string{"vllm", "sglang", "tgi", "llamacpp"}
			}
		}
	}
	return r
}

// apiBodies are the fields of a request beside model and stream, by path or by
// dialect and path; N is the length of the answer.
var apiBodies = map[string]string{
	"/v1/chat/completions":       `"messages":[{"role":"user","content":"hi"}],"max_tokens":N`,
	"/v1/completions":            `"prompt":"hi","max_tokens":N`,
	"/v1/embeddings":             `"input":"hi"`,
	"/v1/responses":              `"input":"hi","max_output_tokens":N`,
	"/v1/responses/input_tokens": `"input":"hi"`,
	"/v1/messages":               `"messages":[{"role":"user","content":"hi"}],"max_tokens":N`,
	"/v1/messages/count_tokens":  `"messages":[{"role":"user","content":"hi"}]`,
	"/v1/rerank":                 `"query":"a","documents":["b","c"]`,
	"/v2/rerank":                 `"query":"a","documents":["b","c"]`,
	"/rerank":                    `"query":"a","documents":["b","c"]`,
	"/v1/reranking":              `"query":"a","documents":["b","c"]`,
	"/reranking":                 `"query":"a","documents":["b","c"]`,
	"/v1/score":                  `"text_1":"a","text_2":["b","c"]`,
	"sglang /v1/score":           `"query":"a","items":["b","c"],"label_token_ids":[1,2]`,
	"/score":                     `"text_1":"a","text_2":["b","c"]`,
	"/v1/classify":               `"input":"a"`,
	"/classify":                  `"input":"a"`,
	"sglang /classify":           `"text":"a"`,
	"/pooling":                   `"input":"a"`,
	"/tokenize":                  `"prompt":"hello"`,
	"tgi /tokenize":              `"inputs":"hello"`,
	"llamacpp /tokenize":         `"content":"hello"`,
	"/detokenize":                `"tokens":[1819043176,111]`,
	"/v1/tokenize":               `"prompt":"hello"`,
	"/v1/detokenize":             `"tokens":[1819043176,111]`,
	"/v1/audio/transcriptions":   `"max_completion_tokens":N`,
	"/v1/audio/translations":     `"max_completion_tokens":N`,
	"/generate":                  `"inputs":"hi","parameters":{"max_new_tokens":N,"details":true}`,
	"sglang /generate":           `"text":"hi","sampling_params":{"max_new_tokens":N}`,
	"/generate_stream":           `"inputs":"hi","parameters":{"max_new_tokens":N,"details":true}`,
}

// apiAsk is what is asked of a surface.
type apiAsk struct {
	model     string
	stream    bool
	tokens    int  // of the answer, 4 when 0
	prefill   bool // never comes to its first token
	wrong     bool // something that must be there is not
	modelLast bool // of a form: after the file
	id        string
}

// request is the head of an HTTP request up to its Content-Length, and its
// body. Of the surfaces of an engine's own, which know no models, none is named.
func (r *apiRow) request(t *testing.T, dialect string, a apiAsk) (head, body string) {
	t.Helper()
	path, contentType := strings.Replace(r.path, "{id}", a.id, 1), "application/json"
	switch {
	case r.stored && a.stream:
		path += "?stream=true"
	case r.form:
		contentType = "multipart/form-data; boundary=frontier"
		body = r.formBody(a)
	case !r.stored:
		body = r.jsonBody(t, dialect, a)
	}
	head = r.method + " " + path + " HTTP/1.1\r\nHost: gateway\r\n"
	if !r.stored {
		head += "Content-Type: " + contentType + "\r\n"
	}
	return head, body
}

func (r *apiRow) jsonBody(t *testing.T, dialect string, a apiAsk) string {
	t.Helper()
	fields, ok := apiBodies[dialect+" "+r.path]
	if !ok {
		fields, ok = apiBodies[r.path]
	}
	if !ok {
		t.Fatalf("no request is known for %s", r.path)
	}
	if a.wrong {
		fields = `"inputs":"","nothing":1`
	}
	if r.hasModel() {
		fields = `"model":` + strconv.Quote(a.model) + `,` + fields
	}
	if a.stream && r.path != "/generate_stream" {
		fields += `,"stream":true`
	}
	if a.prefill {
		fields += `,"mock_prefill_ms":3600000`
	}
	return strings.ReplaceAll("{"+fields+"}", ":N", ":"+strconv.Itoa(max(a.tokens, 4)))
}

// hasModel tells whether a request of the surface names a model.
func (r *apiRow) hasModel() bool { return !r.stored && !strings.HasPrefix(r.path, "/generate") }

func (r *apiRow) formBody(a apiAsk) string {
	var b strings.Builder
	field := func(name, value string) {
		fmt.Fprintf(&b, "--frontier\r\nContent-Disposition: form-data; name=%q\r\n\r\n%s\r\n", name, value)
	}
	if !a.modelLast {
		field("model", a.model)
	}
	field("max_completion_tokens", strconv.Itoa(max(a.tokens, 4)))
	if !a.wrong {
		b.WriteString("--frontier\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n" +
			"Content-Type: audio/wav\r\n\r\n" + strings.Repeat("wave\r\n--front", 500) + "\r\n")
	}
	if a.stream {
		field("stream", "true")
	}
	if a.prefill {
		field("mock_prefill_ms", "3600000")
	}
	if a.modelLast {
		field("model", a.model)
	}
	b.WriteString("--frontier--\r\n")
	return b.String()
}
