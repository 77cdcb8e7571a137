package usage

import (
	"bytes"
	"strings"
	"testing"
)

// What vLLM writes for a token, of 250 bytes, and the same with its usage.
const (
	tokenChunk = `data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1750000000,"model":"meta-llama/Llama-3.1-8B-Instruct","choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null,"token_ids":null}]}` + "\n\n"
	usageChunk = `data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1750000000,"model":"meta-llama/Llama-3.1-8B-Instruct","choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null,"token_ids":null}],"usage":{"prompt_tokens":812,"total_tokens":1013,"completion_tokens":201}}` + "\n\n"
)

// BenchmarkScan: one event a turn.
func BenchmarkScan(b *testing.B) {
	for name, chunk := range map[string][]byte{"token": []byte(tokenChunk), "continuous": []byte(usageChunk)} {
		run := func(name string, f func(m *Meter)) {
			b.Run(name, func(b *testing.B) {
				var m Meter
				m.Reset(KindChat)
				b.SetBytes(int64(len(chunk)))
				b.ReportAllocs()
				for b.Loop() {
					f(&m)
				}
			})
		}
		run(name, func(m *Meter) { m.Scan(chunk) })
		run(name+" in two", func(m *Meter) { m.Scan(chunk[:100]); m.Scan(chunk[100:]) })
	}
}

// BenchmarkFilter: one event a turn, with the copy that gives it back its bytes.
func BenchmarkFilter(b *testing.B) {
	for name, chunk := range map[string][]byte{"token": []byte(tokenChunk), "continuous": []byte(usageChunk)} {
		run := func(name string, f func(f *Filter, p []byte)) {
			b.Run(name, func(b *testing.B) {
				var fl Filter
				fl.Reset(Take{Final: true, Chunks: ChunksRemove})
				p := bytes.Clone(chunk)
				b.SetBytes(int64(len(chunk)))
				b.ReportAllocs()
				for b.Loop() {
					copy(p, chunk)
					f(&fl, p)
				}
			})
		}
		run(name, func(f *Filter, p []byte) { f.Filter(p) })
		run(name+" in two", func(f *Filter, p []byte) { f.Filter(p[:100]); f.Filter(p[100:]) })
	}
}

// BenchmarkWhole: a megabyte of embeddings, and a chat of 8 KiB.
func BenchmarkWhole(b *testing.B) {
	const tail = `],"usage":{"prompt_tokens":812,"total_tokens":812}}`
	for name, body := range map[string]string{
		"numbers": `{"data":[{"embedding":[` + strings.Repeat("0.54332834,-0.8395203,", 1<<20/22) + `0]}` + tail,
		"base64":  `{"data":[{"embedding":"` + strings.Repeat("mFkLP0mCVr8", 1<<20/11) + `"}` + tail,
		"chat":    `{"choices":[{"message":{"content":"` + strings.Repeat(`a line of text with a \"quote\"\n`, 8<<10/34) + `"}}` + tail,
	} {
		b.Run(name, func(b *testing.B) {
			p := []byte(body)
			var m Meter
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for b.Loop() {
				m.Reset(KindPooling)
				m.Whole(p)
				if !m.Exact() {
					b.Fatal("no usage")
				}
			}
		})
	}
}

// What a request with a limit on tokens pays for its estimate.
func BenchmarkExpect(b *testing.B) {
	body := []byte(`{"model":"m","stream":true,"max_tokens":256,"temperature":0.7,"messages":[{"role":"user","content":"` + strings.Repeat("Tell me about rivers. ", 40) + `"}]}`)
	for b.Loop() {
		Expect(KindChat, body)
	}
}
