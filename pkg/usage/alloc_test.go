//go:build !race

package usage

import (
	"bytes"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/openai"
)

// The race detector allocates on its own; these run without it.
func TestAllocations(t *testing.T) {
	_, stream := answer(t, "vllm-chat-stream-continuous-usage-n2")
	_, embeddings := answer(t, "vllm-embeddings")
	body := []byte(`{"model":"m","stream":true,"stream_options":{"include_usage":false}}`)
	var r openai.Request
	if err := r.Parse(body); err != nil {
		t.Fatal(err)
	}
	var (
		m            Meter
		f            Filter
		model, parts [][]byte
		p            = bytes.Clone(stream)
	)
	asked := []byte(`{"model":"m","max_tokens":256,"n":2,"messages":[{"role":"user","content":"` + strings.Repeat("x", largeBody) + `"}]}`)
	for name, run := range map[string]func(){
		"Expect": func() {
			if e := Expect(KindChat, asked); e.Output != 256 || e.Answers != 2 {
				t.Fail()
			}
		},
		"Scan": func() {
			m.Reset(KindChat)
			m.Scan(stream[:700])
			m.Scan(stream[700:])
			if u, _ := m.Usage(); u != used(8, 4) || !m.Exact() {
				t.Fail()
			}
		},
		"Whole": func() {
			m.Reset(KindPooling)
			m.Whole(embeddings[:300])
			m.Whole(embeddings[300:])
			if u, _ := m.Usage(); u != used(2, 0) {
				t.Fail()
			}
		},
		"Filter": func() {
			copy(p, stream)
			f.Reset(Take{Final: true, Chunks: ChunksRemove})
			if n := len(f.Filter(p[:700])) + len(f.Filter(p[700:])); n >= len(stream) {
				t.Fail()
			}
		},
		"Ask": func() {
			a := Ask(&r, body, StyleOf("vllm", KindChat), true)
			model = append(model[:0], body)
			parts = a.Splice(parts[:0], model)
			if len(parts) != 5 {
				t.Fail()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			if n := testing.AllocsPerRun(100, run); n != 0 {
				t.Errorf("%v allocations, want none", n)
			}
		})
	}
}
