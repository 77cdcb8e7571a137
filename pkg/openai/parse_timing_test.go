package openai

import (
	stdjson "encoding/json"
	"strings"
	"testing"

	gojson "github.com/goccy/go-json"
	jsonv2 "github.com/goccy/go-json/v2"
)

// The bodies a gateway sees: a chat, a long chat full of escapes, one in Chinese,
// a prompt of token ids, a picture.
func benchBodies() []struct{ name, body string } {
	turn := `{"role":"user","content":"Explain, in \"plain\" words,\nhow a KV cache works and why it is worth it. Then give one example that a child of ten would like."},`
	chat := func(size int, turn string) string {
		return `{"model":"meta-llama/Llama-3.1-8B-Instruct","messages":[` +
			strings.TrimSuffix(strings.Repeat(turn, size/len(turn)+1), ",") +
			`],"max_tokens":512,"temperature":0.7,"stream":true,"stream_options":{"include_usage":true}}`
	}
	ids := strings.Repeat("128000,", 200<<10/7)
	return []struct{ name, body string }{
		{"chat-4KB", chat(4<<10, turn)},
		{"chat-200KB", chat(200<<10, turn)},
		{"chinese-200KB", chat(200<<10, `{"role":"user","content":"请用简单的语言解释什么是键值缓存,以及为什么它对大型语言模型的推理很重要。"},`)},
		{"ids-200KB", `{"model":"m","prompt":[` + ids + `1],"max_tokens":1}`},
		{"image-10MB", `{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,` +
			strings.Repeat("iVBORw0KGgoAAAANSUhEUgAA/+", 10<<20/26) + `"}}]}]}`},
	}
}

// wanted is what the rivals decode into: less than Request tells.
type wanted struct {
	Model         string            `json:"model"`
	Stream        *bool             `json:"stream"`
	MaxTokens     *int64            `json:"max_tokens"`
	StreamOptions gojson.RawMessage `json:"stream_options"`
}

func BenchmarkParse(b *testing.B) {
	run := func(name, body string, parse func([]byte) error) {
		b.Run(name, func(b *testing.B) {
			data := []byte(body)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if err := parse(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for _, c := range benchBodies() {
		var r Request
		run(c.name+"/ours", c.body, r.Parse)
		run(c.name+"/go-json-v2", c.body, func(p []byte) error {
			var w struct {
				Model     string `json:"model"`
				Stream    bool   `json:"stream"`
				MaxTokens int64  `json:"max_tokens"`
			}
			return jsonv2.Unmarshal(p, &w)
		})
		run(c.name+"/go-json-v1", c.body, func(p []byte) error { var w wanted; return gojson.Unmarshal(p, &w) })
		run(c.name+"/encoding-json", c.body, func(p []byte) error { var w wanted; return stdjson.Unmarshal(p, &w) })
	}
}

func BenchmarkSplice(b *testing.B) {
	body := []byte(benchBodies()[0].body)
	var r Request
	if err := r.Parse(body); err != nil {
		b.Fatal(err)
	}
	var parts [][]byte
	b.ReportAllocs()
	for b.Loop() {
		parts = r.Splice(parts[:0], body, "served")
	}
}
