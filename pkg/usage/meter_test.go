package usage

import (
	"bufio"
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// answer is the fake engine's golden answer of that name.
func answer(t testing.TB, name string) (http.Header, []byte) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "mockvllm", "testdata", name+".http"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.Header, body
}

// reading is all that a Meter tells.
type reading struct {
	usage  Usage
	found  bool
	tokens int64
	exact  bool
}

func readingOf(m *Meter) reading {
	u, found := m.Usage()
	return reading{u, found, m.Tokens(), m.Exact()}
}

func used(prompt, completion int64) Usage {
	return Usage{Prompt: prompt, Completion: completion, Total: prompt + completion}
}

func reasoned(prompt, completion, reasoning int64) Usage {
	u := used(prompt, completion)
	u.Reasoning = reasoning
	return u
}

// pieces cuts p before every byte, at random, and in two at each place; at each
// second, third and so on when it is long.
func pieces(p []byte, f func(name string, cut [][]byte)) {
	f("whole", [][]byte{p})
	every := make([][]byte, len(p))
	for i := range p {
		every[i] = p[i : i+1]
		if i%(1+len(p)/1000) == 0 {
			f("in two", [][]byte{p[:i], p[i:]})
		}
	}
	f("every byte", every)
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		var cut [][]byte
		for rest := p; len(rest) > 0; {
			n := 1 + random.IntN(min(len(rest), 400))
			cut, rest = append(cut, rest[:n]), rest[n:]
		}
		f("at random", cut)
	}
}

func TestStream(t *testing.T) {
	for _, c := range []struct {
		golden string
		kind   Kind
		want   reading
	}{
		{"vllm-chat-stream", KindChat, reading{Usage{}, false, 3, false}},
		{"vllm-chat-stream-empty-options-mean-usage", KindChat, reading{used(8, 2), true, 2, true}},
		{"vllm-chat-stream-continuous-usage-n2", KindChat, reading{used(8, 4), true, 4, true}},
		{"vllm-chat-stream-tool", KindChat, reading{Usage{}, false, 5, false}},
		{"vllm-chat-stream-reasoning-logprobs", KindChat, reading{Usage{}, false, 2, false}},
		{"vllm-completion-stream-tokens", KindCompletions, reading{used(3, 4), true, 4, true}},
		{"vllm-completion-stream-null-usage", KindCompletions, reading{Usage{}, false, 2, false}},
		{"vllm-rust-chat-stream-continuous-stop", KindChat, reading{used(8, 2), true, 2, true}},
		{"vllm-rust-chat-stream-usage", KindChat, reading{used(8, 2), true, 1, true}},
		{"vllm-rust-completion-stream", KindCompletions, reading{Usage{}, false, 2, false}},
		{"vllm-stream-error-event", KindChat, reading{Usage{}, false, 1, false}},
		{"vllm-responses-stream", KindResponses, reading{used(7, 3), true, 2, true}},
		{"vllm-responses-stream-reasoning", KindResponses, reading{reasoned(7, 2, 1), true, 2, true}},
		{"vllm-responses-stream-tool", KindResponses, reading{used(7, 6), true, 5, true}},
		{"vllm-responses-stream-failed", KindResponses, reading{Usage{}, false, 1, false}},
		{"vllm-messages-stream", KindMessages, reading{used(12, 3), true, 3, true}},
		{"vllm-messages-stream-thinking", KindMessages, reading{used(12, 2), true, 2, true}},
		{"vllm-messages-stream-tool", KindMessages, reading{used(12, 6), true, 5, true}},
		{"vllm-messages-stream-error", KindMessages, reading{used(12, 0), true, 1, false}},
		{"vllm-transcription-stream", KindAudio, reading{used(129, 2), true, 1, true}},
		{"vllm-transcription-stream-continuous", KindAudio, reading{used(129, 2), true, 2, true}},
		{"sglang-chat-stream-continuous", KindChat, reading{reasoned(8, 2, 2), true, 2, true}},
		{"sglang-chat-stream-usage", KindChat, reading{reasoned(8, 3, 1), true, 2, true}},
		{"sglang-chat-stream-tool", KindChat, reading{Usage{}, false, 5, false}},
		{"sglang-completion-stream", KindCompletions, reading{used(1, 2), true, 2, true}},
		{"sglang-generate-stream-is-cumulative", KindSGLang, reading{used(2, 3), true, 3, true}},
		{"sglang-error-event", KindChat, reading{}},
		{"tgi-chat-stream-usage", KindChat, reading{used(8, 2), true, 1, true}},
		{"tgi-completion-stream-usage-per-prompt", KindCompletions, reading{used(2, 4), true, 4, true}},
		{"tgi-stream", KindTGI, reading{Usage{}, false, 3, false}},
		{"tgi-stream-details", KindTGI, reading{used(2, 2), true, 2, true}},
		{"tgi-overloaded-chat-stream", KindChat, reading{}},
		{"tgi-overloaded-stream-is-200", KindTGI, reading{}},
		{"llamacpp-chat-stream-timings", KindChat, reading{used(8, 2), true, 1, true}},
		{"llamacpp-chat-stream-usage", KindChat, reading{used(8, 2), true, 1, true}},
		{"llamacpp-chat-stream-reasoning", KindChat, reading{used(8, 3), true, 2, true}},
		{"llamacpp-chat-stream-tool-cut", KindChat, reading{used(8, 2), true, 2, true}},
		{"llamacpp-completion-stream-usage-unasked", KindCompletions, reading{used(1, 1), true, 1, true}},
		{"llamacpp-error-event-has-no-done", KindChat, reading{}},
	} {
		t.Run(c.golden, func(t *testing.T) {
			_, body := answer(t, c.golden)
			var m Meter
			pieces(body, func(name string, cut [][]byte) {
				m.Reset(c.kind)
				for _, p := range cut {
					m.Scan(p)
				}
				if got := readingOf(&m); got != c.want {
					t.Fatalf("%s: got %+v, want %+v", name, got, c.want)
				}
			})
		})
	}
}

func TestWhole(t *testing.T) {
	for _, c := range []struct {
		golden string
		kind   Kind
		want   Usage // zero: none
	}{
		{"vllm-chat", KindChat, used(8, 3)},
		{"vllm-chat-tool", KindChat, used(8, 6)},
		{"vllm-chat-cached-tokens", KindChat, used(8, 1)},
		{"vllm-completion-n2-echo", KindCompletions, used(2, 8)},
		{"vllm-rust-chat", KindChat, used(8, 2)},
		{"vllm-rust-completion", KindCompletions, used(2, 2)},
		{"vllm-responses", KindResponses, used(12, 3)},
		{"vllm-responses-incomplete", KindResponses, used(7, 2)},
		{"vllm-responses-tool", KindResponses, used(7, 6)},
		{"vllm-messages", KindMessages, used(12, 3)},
		{"vllm-messages-thinking", KindMessages, used(12, 3)},
		{"vllm-messages-count", KindNone, Usage{}},
		{"vllm-tokenize", KindNone, Usage{}},
		{"vllm-embeddings", KindPooling, used(2, 0)},
		{"vllm-embeddings-base64", KindPooling, used(1, 0)},
		{"vllm-rerank", KindPooling, used(6, 0)},
		{"vllm-score", KindPooling, used(2, 0)},
		{"vllm-classify", KindPooling, used(2, 0)},
		{"vllm-pooling", KindPooling, used(7, 0)},
		{"vllm-transcription", KindAudio, Usage{Seconds: 3}},
		{"vllm-transcription-verbose", KindAudio, Usage{Seconds: 2.5}},
		{"vllm-translation", KindAudio, Usage{}},
		{"vllm-unknown-model", KindChat, Usage{}},
		{"sglang-chat", KindChat, reasoned(8, 2, 1)},
		{"sglang-completion-stop", KindCompletions, used(1, 2)},
		{"sglang-generate", KindSGLang, used(2, 2)},
		{"sglang-generate-list", KindSGLang, used(3, 2)},
		{"sglang-rerank-is-a-list", KindPooling, used(2, 0)},
		{"tgi-chat", KindChat, used(8, 2)},
		{"tgi-generate", KindTGI, used(2, 2)},
		{"tgi-generate-details", KindTGI, used(2, 2)},
		{"tgi-compat-is-a-list", KindTGI, used(2, 2)},
		{"tgi-validation", KindTGI, Usage{}},
		{"llamacpp-chat", KindChat, used(8, 2)},
		{"llamacpp-chat-tool", KindChat, used(8, 6)},
	} {
		t.Run(c.golden, func(t *testing.T) {
			head, body := answer(t, c.golden)
			var m Meter
			pieces(body, func(name string, cut [][]byte) {
				m.Reset(c.kind)
				for k, v := range head {
					m.Header([]byte(k), []byte(v[0]))
				}
				for _, p := range cut {
					m.Whole(p)
				}
				if got, found := m.Usage(); got != c.want || found != (c.want != Usage{}) {
					t.Fatalf("%s: got %+v, %v, want %+v", name, got, found, c.want)
				}
			})
		})
	}
}

// TestWords: what no golden answer has.
func TestWords(t *testing.T) {
	cached := Usage{Prompt: 10, Cached: 4, Completion: 5, Total: 15}
	for _, c := range []struct {
		name string
		kind Kind
		body string
		want Usage
	}{
		{"details of OpenAI", KindChat, `{"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}}`, Usage{10, 4, 5, 2, 15, 0}},
		{"details of Responses", KindResponses, `{"usage":{"input_tokens":10,"output_tokens":5,"input_tokens_details":{"cached_tokens":4},"output_tokens_details":{"reasoning_tokens":2}}}`, Usage{10, 4, 5, 2, 15, 0}},
		{"Anthropic counts the cache apart", KindMessages, `{"usage":{"input_tokens":5,"cache_read_input_tokens":4,"cache_creation_input_tokens":1,"output_tokens":5}}`, cached},
		{"timings of a cached prompt", KindChat, `{"timings":{"cache_n":4,"prompt_n":6.0,"predicted_n":5}}`, cached},
		{"usage counts before timings", KindChat, `{"usage":{"prompt_tokens":10,"completion_tokens":5},"timings":{"cache_n":4,"prompt_n":9,"predicted_n":9}}`, cached},
		{"numbers with a fraction and an exponent", KindChat, `{"usage":{"prompt_tokens":12.0,"completion_tokens":1e2}}`, used(12, 100)},
		{"the largest number", KindChat, `{"usage":{"prompt_tokens":1000000000000}}`, used(1e12, 0)},
		{"absurd numbers", KindChat, `{"usage":{"prompt_tokens":-1,"completion_tokens":1e13,"total_tokens":12.5,"reasoning_tokens":99999999999999999999999999999999}}`, Usage{}},
		{"no numbers", KindChat, `{"usage":{"prompt_tokens":"12","completion_tokens":null,"total_tokens":[3]}}`, Usage{}},
		{"a null is no usage", KindChat, `{"usage":null}`, Usage{}},
		{"zeros are no usage", KindChat, `{"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}`, Usage{}},
		{"white space", KindChat, "\n{ \"usage\" :\t{ \"prompt_tokens\" : 3 , \"completion_tokens\" : 4 } }\n", used(3, 4)},
		{"usage that a client's metadata forges", KindResponses, `{"metadata":{"usage":{"input_tokens":1}},"usage":{"input_tokens":10,"output_tokens":5},"tools":[{"parameters":{"usage":{"input_tokens":1}}}]}`, used(10, 5)},
		{"usage that a text forges", KindChat, `{"choices":[{"index":0,"message":{"content":"\\\"usage\":{\"prompt_tokens\":1}"}}],"usage":{"prompt_tokens":10,"completion_tokens":5}}`, used(10, 5)},
		{"backslashes before a quote", KindChat, `{"a":"\\\\","usage":{"prompt_tokens":3},"b":"\\\"","c":"\\"}`, used(3, 0)},
		{"seconds and tokens of audio", KindAudio, `{"text":"x","usage":{"type":"tokens","input_tokens":14,"output_tokens":3,"total_tokens":17},"duration":2.5}`, Usage{Prompt: 14, Completion: 3, Total: 17, Seconds: 2.5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m Meter
			pieces([]byte(c.body), func(name string, cut [][]byte) {
				m.Reset(c.kind)
				for _, p := range cut {
					m.Whole(p)
				}
				if got, found := m.Usage(); got != c.want || found != (c.want != Usage{}) {
					t.Fatalf("%s: got %+v, %v, want %+v", name, got, found, c.want)
				}
			})
		})
	}
}

const (
	chunk0 = `data: {"choices":[{"index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":8,"completion_tokens":2,"total_tokens":10}}` + "\n\n"
	chunk1 = `data: {"choices":[{"index":1,"delta":{"content":"b"}}],"usage":{"prompt_tokens":8,"completion_tokens":1,"total_tokens":9}}` + "\n\n"
	bare   = `data: {"choices":[{"index":0,"delta":{"content":"c"}}],"usage":null}` + "\n\n"
	final  = `data: {"choices":[],"usage":{"prompt_tokens":8,"completion_tokens":4,"total_tokens":12}}` + "\n\n"
)

const (
	cachedStart = `data: {"type":"message_start","message":{"usage":{"input_tokens":5,"cache_read_input_tokens":3,"output_tokens":0}}}` + "\n\n"
	start       = `data: {"type":"message_start","message":{"usage":{"input_tokens":5,"output_tokens":1}}}` + "\n\n"
	lastDelta   = `data: {"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":7}}` + "\n\n"
	generated0  = `data: {"text":"a","meta_info":{"prompt_tokens":3,"completion_tokens":1},"index":0}` + "\n\n"
	generated1  = `data: {"text":"b","meta_info":{"prompt_tokens":3,"completion_tokens":2},"index":1}` + "\n\n"
)

// TestCut: streams as far as they came, and what else no golden answer has.
func TestCut(t *testing.T) {
	long := strings.Repeat("x", 3*lineLen)
	for _, c := range []struct {
		name      string
		kind      Kind
		perPrompt int
		stream    string
		want      reading
	}{
		{"continuous, choices of a chat share the prompt", KindChat, 0, chunk0 + chunk1, reading{used(8, 3), true, 2, true}},
		{"continuous, each completion has its own prompt", KindCompletions, 0, strings.ReplaceAll(chunk0+chunk1, "content", "text"), reading{used(16, 3), true, 2, true}},
		{"continuous, two completions share a prompt", KindCompletions, 2, strings.ReplaceAll(chunk0+chunk1, "content", "text"), reading{used(8, 3), true, 2, true}},
		{"a chunk without usage makes it inexact", KindChat, 0, chunk0 + bare, reading{used(8, 2), true, 2, false}},
		{"the final usage makes it exact again", KindChat, 0, chunk0 + bare + final, reading{used(8, 4), true, 2, true}},
		{"a repeated usage counts once", KindChat, 0, final + final, reading{used(8, 4), true, 0, true}},
		{"usage does not shrink", KindChat, 0, chunk0 + strings.Replace(chunk1, `"index":1`, `"index":0`, 1), reading{used(8, 2), true, 2, true}},
		{"an event that is not complete has no token", KindChat, 0, bare + strings.TrimSuffix(bare, "\n\n"), reading{Usage{}, false, 1, false}},
		{"more events than tokens, of llama.cpp's tool calls", KindChat, 0, bare + bare + `data: {"choices":[{"index":0,"delta":{}}],"timings":{"prompt_n":8,"predicted_n":1}}` + "\n\n", reading{used(8, 1), true, 2, true}},
		{"CRLF", KindChat, 0, strings.ReplaceAll(chunk0+final, "\n", "\r\n"), reading{used(8, 4), true, 1, true}},
		{"no space behind the colon", KindChat, 0, strings.ReplaceAll(chunk0+final, "data: ", "data:"), reading{used(8, 4), true, 1, true}},
		{"data in several lines", KindChat, 0, strings.ReplaceAll(chunk0+final, `],`, "],\ndata: "), reading{used(8, 4), true, 1, true}},
		{"comments", KindChat, 0, ": \"usage\":{\"prompt_tokens\":1}\n\n" + final + ": ping\n\n", reading{used(8, 4), true, 0, true}},
		{"a long event", KindResponses, 0, `data: {"response":{"output":"` + long + `","usage":{"input_tokens":3,"output_tokens":4},"tools":"` + long + `"}}` + "\n\n", reading{used(3, 4), true, 0, true}},
		{"a long comment", KindResponses, 0, `:` + long + `{"usage":{"input_tokens":3}}` + "\n\n", reading{}},
		{"a choice beyond all bounds", KindChat, 0, strings.Replace(chunk0, `"index":0`, `"index":99999`, 1), reading{Usage{}, false, 1, false}},
		{"the first event of Anthropic's with a cache", KindMessages, 0, cachedStart, reading{Usage{Prompt: 8, Cached: 3, Total: 8}, true, 0, true}},
		{"Anthropic's last event tells the answer only", KindMessages, 0, start + lastDelta, reading{used(5, 7), true, 0, true}},
		{"SGLang's choices of one prompt", KindSGLang, 2, generated0 + generated1, reading{used(3, 3), true, 2, true}},
		{"SGLang's own prompts", KindSGLang, 0, generated0 + generated1, reading{used(6, 3), true, 2, true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m Meter
			pieces([]byte(c.stream), func(name string, cut [][]byte) {
				m.Reset(c.kind)
				m.PerPrompt = c.perPrompt
				for _, p := range cut {
					m.Scan(p)
				}
				if got := readingOf(&m); got != c.want {
					t.Fatalf("%s: got %+v, want %+v", name, got, c.want)
				}
			})
		})
	}
}

func TestHeader(t *testing.T) {
	for _, c := range []struct {
		name, field, value string
		kind               Kind
		want               Usage
	}{
		{"embeddings in bytes", "Metadata", `{"usage":{"prompt_tokens":3,"total_tokens":3}}`, KindPooling, used(3, 0)},
		{"TGI's prompt", "X-Prompt-Tokens", "7", KindTGI, used(7, 0)},
		{"no number", "x-prompt-tokens", "7a", KindTGI, Usage{}},
		{"empty", "x-prompt-tokens", "", KindTGI, Usage{}},
		{"another surface's", "x-prompt-tokens", "7", KindChat, Usage{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m Meter
			m.Reset(c.kind)
			m.Header([]byte(c.field), []byte(c.value))
			if got, _ := m.Usage(); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}
