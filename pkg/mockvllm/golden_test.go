package mockvllm

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden holds every byte of an answer, header and chunk framing included.
// The clock of a bubble stands still, so dates are equal in every run.
func TestGolden(t *testing.T) {
	const tools = `"tools":[{"type":"function","function":{"name":"weather","parameters":{"properties":{"city":{}}}}}]`
	vllm, tgi := Options{}, Options{Dialect: DialectTGI, MaxConcurrent: 128}
	cases := []struct {
		name, path, body string
		opt              Options
	}{
		{"vllm-chat", chatPath, chatBody(`"max_tokens":3`), vllm},
		{"vllm-chat-stop-by-itself", chatPath, chatBody(`"mock_tokens":3`), vllm},
		{"vllm-chat-stream", chatPath, chatBody(`"stream":true,"max_tokens":3`), vllm},
		{"vllm-chat-stream-empty-options-mean-usage", chatPath, chatBody(`"stream":true,"max_tokens":2,"stream_options":{}`), vllm},
		{"vllm-chat-stream-continuous-usage-n2", chatPath, chatBody(
			`"stream":true,"n":2,"max_tokens":2,"stream_options":{"include_usage":true,"continuous_usage_stats":true}`), vllm},
		{"vllm-chat-stream-no-usage-when-false", chatPath, chatBody(
			`"stream":true,"mock_tokens":2,"stream_options":{"include_usage":false,"continuous_usage_stats":true}`), vllm},
		{"vllm-chat-stream-tool", chatPath, chatBody(`"stream":true,"tool_choice":"required",` + tools), vllm},
		{"vllm-chat-tool", chatPath, chatBody(`"tool_choice":{"type":"function","function":{"name":"weather"}},` + tools), vllm},
		{"vllm-chat-stream-reasoning-logprobs", chatPath, chatBody(`"stream":true,"mock_reasoning":1,"max_tokens":2,"logprobs":true`), vllm},
		{"vllm-chat-cached-tokens", chatPath, chatBody(`"max_tokens":1`), Options{PromptTokenDetails: true, RequestIDHeaders: true}},
		{"vllm-completion-n2-echo", "/v1/completions", `{"prompt":["ab","cd"],"n":2,"echo":true,"max_tokens":2,"logprobs":1}`, vllm},
		{
			"vllm-completion-stream-tokens", "/v1/completions",
			`{"prompt":[[1,2],[3]],"stream":true,"max_tokens":2,"stream_options":{"continuous_usage_stats":true}}`, vllm,
		},
		{"vllm-completion-stream-null-usage", "/v1/completions", `{"prompt":"ab","stream":true,"max_tokens":2}`, vllm},
		{"vllm-embeddings", "/v1/embeddings", `{"input":["a","b"],"dimensions":2}`, vllm},
		{"vllm-embeddings-base64", "/v1/embeddings", `{"input":"a","dimensions":2,"encoding_format":"base64"}`, vllm},
		{"vllm-unknown-model", chatPath, `{"model":"x","messages":[{"role":"user","content":"hello"}]}`, vllm},
		{"vllm-stream-error-event", chatPath, chatBody(`"stream":true,"mock_fault":"error-event=2"`), vllm},
		{"tgi-generate", "/generate", `{"inputs":"hello","parameters":{"max_new_tokens":2}}`, tgi},
		{"tgi-generate-details", "/generate", `{"inputs":"hello","mock_tokens":2,"parameters":{"details":true,"seed":7}}`, tgi},
		{"tgi-compat-is-a-list", "/", `{"inputs":"hello","parameters":{"max_new_tokens":2,"return_full_text":true}}`, tgi},
		{"tgi-stream", "/generate_stream", `{"inputs":"hello","mock_tokens":3}`, tgi},
		{"tgi-stream-details", "/generate_stream", `{"inputs":"hello","parameters":{"max_new_tokens":2,"details":true}}`, tgi},
		{"tgi-chat", chatPath, chatBody(`"max_tokens":2`), tgi},
		{"tgi-chat-stream-usage", chatPath, chatBody(`"stream":true,"mock_tokens":2,"stream_options":{"include_usage":true}`), tgi},
		{"tgi-completion-stream-usage-per-prompt", "/v1/completions", `{"prompt":["ab","cd"],"stream":true,"max_tokens":2}`, tgi},
		{"tgi-overloaded", "/generate", `{"inputs":"hello","mock_fault":"429"}`, tgi},
		{"tgi-overloaded-stream-is-200", "/generate_stream", `{"inputs":"hello","mock_fault":"429"}`, tgi},
		{"tgi-overloaded-chat-stream", chatPath, chatBody(`"stream":true,"mock_fault":"429"`), tgi},
		{"tgi-validation", "/generate", `{"inputs":"hello","parameters":{"max_new_tokens":0}}`, tgi},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, dial := pipeEngine(c.opt)
				defer e.Close()
				conn := dial()
				go func() { _, _ = io.WriteString(conn, request(c.path, c.body, closing, requestR)) }()
				got, err := io.ReadAll(conn)
				if err != nil {
					t.Fatal(err)
				}
				golden(t, filepath.Join("testdata", c.name+".http"), got)
			})
		})
	}
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
