package usage

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/llmproxy/llmproxy/pkg/mockvllm"
	"github.com/llmproxy/llmproxy/pkg/openai"
)

// pipes is a listener without a network.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// ask has a new engine answer body, and returns the answer with the row that the
// engine's ledger has of it. It must run in a bubble, whose clock stands still.
func ask(t *testing.T, o mockvllm.Options, path string, body []byte) ([]byte, mockvllm.Entry) {
	t.Helper()
	e, p := mockvllm.New(o), make(pipes)
	go func() { _ = e.Serve(p) }()
	client, server := net.Pipe()
	p <- server
	go func() {
		_, _ = fmt.Fprintf(client, "POST %s HTTP/1.1\r\nHost: e\r\nConnection: close\r\nX-Request-Id: r1\r\n"+
			"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	}()
	r, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != 200 {
		t.Fatal(err, r.Status, string(got))
	}
	synctest.Wait()
	rows := e.Ledger()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return got, rows[0]
}

// filtered is the stream as a client gets it.
func filtered(f *Filter, take Take, cut [][]byte) []byte {
	f.Reset(take)
	var got []byte
	for _, p := range cut {
		got = append(got, f.Filter(bytes.Clone(p))...)
	}
	return append(got, f.Flush()...)
}

// TestUnasked: a client that does not ask gets the bytes that the engine sends
// when nobody does, and the Meter tells what the ledger does.
func TestUnasked(t *testing.T) {
	const (
		chat = `{"messages":[{"role":"user","content":"hello"}],"stream":true,"mock_tokens":2`
		text = `{"prompt":["ab","cd"],"stream":true,"mock_tokens":2`
		tool = `,"tool_choice":"required","tools":[{"type":"function","function":{"name":"weather","parameters":{"properties":{"usage":{}}}}}]`
	)
	engines := map[string]string{
		mockvllm.DialectVLLM: "vllm", mockvllm.DialectVLLMRust: "vllm-rust", mockvllm.DialectSGLang: "sglang",
		mockvllm.DialectTGI: "tgi", mockvllm.DialectLlamaCPP: "llamacpp",
	}
	for _, c := range []struct {
		name, body string
		kind       Kind
	}{
		{"chat", chat, KindChat},
		{"chat of two choices", chat + `,"n":2`, KindChat},
		{"chat that reasons", chat + `,"mock_reasoning":1,"logprobs":true`, KindChat},
		{"chat with a tool", chat + tool, KindChat},
		{"chat whose options say no", chat + `,"stream_options":{"include_usage":false}`, KindChat},
		{"chat that wants stats without usage", chat + `,"stream_options":{"include_usage":false,"continuous_usage_stats":true}`, KindChat},
		{"chat that asks", chat + `,"stream_options":{"include_usage":true}`, KindChat},
		{"chat that asks for all", chat + `,"stream_options":{"include_usage":true,"continuous_usage_stats":true}`, KindChat},
		{"chat whose options are null", chat + `,"stream_options":null`, KindChat},
		{"completions", text, KindCompletions},
		{"completions of two choices", text + `,"n":2`, KindCompletions},
		{"completions whose options are empty", text + `,"stream_options":{}`, KindCompletions},
		{"chat whose options are empty", chat + `,"stream_options":{}`, KindChat},
		{"CRLF", chat + `,"mock_fault":"crlf"`, KindChat},
		{"data in several lines", chat + `,"mock_fault":"multi-line"`, KindChat},
		{"an error event", chat + `,"mock_fault":"error-event=1"`, KindChat},
		{"usage is missing", chat + `,"mock_fault":"usage-missing"`, KindChat},
	} {
		for dialect, engine := range engines {
			for _, continuous := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/continuous=%v", c.name, dialect, continuous), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						checkUnasked(t, dialect, engine, c.kind, []byte(c.body+"}"), continuous)
					})
				})
			}
		}
	}
}

func checkUnasked(t *testing.T, dialect, engine string, kind Kind, body []byte, continuous bool) {
	path := "/v1/completions"
	if kind == KindChat {
		path = "/v1/chat/completions"
	}
	opt := mockvllm.Options{Dialect: dialect, PromptTokenDetails: true}
	want, _ := ask(t, opt, path, body)
	var r openai.Request
	if err := r.Parse(body); err != nil {
		t.Fatal(err)
	}
	a := Ask(&r, body, StyleOf(engine, kind), continuous)
	stream, row := ask(t, opt, path, bytes.Join(a.Splice(nil, [][]byte{body}), nil))

	var m Meter
	m.Reset(kind)
	m.Scan(stream)
	u, found := m.Usage()
	complete := !bytes.Contains(body, []byte("mock_fault")) || bytes.Contains(body, []byte("crlf")) || bytes.Contains(body, []byte("multi"))
	if complete && (!found || !m.Exact() || u.Prompt != int64(row.PromptTokens) || u.Completion != int64(row.Tokens)) {
		t.Errorf("%+v, %v, the ledger has %d and %d; stream %s", u, m.Exact(), row.PromptTokens, row.Tokens, stream)
	}
	if a.Take == (Take{}) && !a.Changes() && !bytes.Equal(stream, want) {
		t.Fatal("the engine does not repeat itself")
	}
	var f Filter
	check := func(name string, cut [][]byte) {
		if got := filtered(&f, a.Take, cut); !bytes.Equal(got, want) {
			t.Fatalf("%s: got\n%s\nwant\n%s\nof\n%s", name, got, want, stream)
		}
	}
	if bytes.Equal(stream, want) {
		check("whole", [][]byte{stream})
		return
	}
	pieces(stream, check)
}

// TestFilter: what no dialect of the fake engine does.
func TestFilter(t *testing.T) {
	all := Take{Final: true, Chunks: ChunksRemove}
	const last = `data: {"choices":[],"usage":{"a":1}}` + "\n\n"
	long := `data: {"choices":[{"text":"` + strings.Repeat("x", eventLen) + "\\n\"}],\"usage\":{\"a\":1}}\r\n\r\n"
	for _, c := range []struct {
		name     string
		take     Take
		in, want string
	}{
		{"an older vLLM writes null when it is asked", all, `data: {"choices":[{}],"usage":null}` + "\n\n" + last, `data: {"choices":[{}]}` + "\n\n"},
		{"nulls that are always there", Take{Final: true}, `data: {"choices":[{}],"usage":null}` + "\n\n" + last, `data: {"choices":[{}],"usage":null}` + "\n\n"},
		{"usage that takes the place of a null", Take{Chunks: ChunksNull}, `data: {"choices":[{}],"usage":{"a":1},"b":2}` + "\n\n" + last, `data: {"choices":[{}],"usage":null,"b":2}` + "\n\n" + last},
		{"the client asked for the total", Take{Chunks: ChunksRemove}, `data: {"choices":[{}],"usage":{"a":1}}` + "\n\n" + last, `data: {"choices":[{}]}` + "\n\n" + last},
		{"usage first", all, `data: {"usage": {"a":"}\""} , "choices":[{}]}` + "\n\n", `data: {"choices":[{}]}` + "\n\n"},
		{"usage alone", all, `data: {"usage":{}}` + "\n\n", `data: {}` + "\n\n"},
		{"white space", all, `data: { "choices" : [ ] , "usage" : { } }` + "\n\n", ""},
		{"an event without choices that tells something else", all, `data: {"choices":[],"sglext":{"usage":{"a":1}}}` + "\n\n", `data: {"choices":[],"sglext":{"usage":{"a":1}}}` + "\n\n"},
		{"a text that says usage", all, `data: {"choices":[{"text":"\"usage\":{}\\"}]}` + "\n\n", `data: {"choices":[{"text":"\"usage\":{}\\"}]}` + "\n\n"},
		{"a comment that says usage", all, ": \"usage\"\n\n" + last + ":\n\n", ": \"usage\"\n\n:\n\n"},
		{"an event with a name", all, "event: x\n" + last, ""},
		{"no JSON", all, "data: {\"usage\":{\"a\n\n", "data: {\"usage\":{\"a\n\n"},
		{"an event without an end", all, strings.TrimSuffix(last, "\n"), strings.TrimSuffix(last, "\n")},
		{"an event too long passes whole, the next does not", all, last + long + last + long + last, long + long},
	} {
		t.Run(c.name, func(t *testing.T) {
			var f Filter
			check := func(name string, cut [][]byte) {
				if got := filtered(&f, c.take, cut); string(got) != c.want {
					t.Fatalf("%s: got %.500q, want %.500q", name, got, c.want)
				}
			}
			if len(c.in) < 1000 {
				pieces([]byte(c.in), check)
				return
			}
			for _, n := range []int{1, 7, 4096, 1 << 20} {
				var cut [][]byte
				for rest := []byte(c.in); len(rest) > 0; rest = rest[min(n, len(rest)):] {
					cut = append(cut, rest[:min(n, len(rest))])
				}
				if n > 1 || !testing.Short() {
					check(fmt.Sprint("by ", n), cut)
				}
			}
		})
	}
}

// TestHeldBack: a token must not wait for the one after it.
func TestHeldBack(t *testing.T) {
	var f Filter
	f.Reset(Take{Final: true})
	in := []byte(bare + bare[:20])
	if got := f.Filter(in); string(got) != bare || &got[0] != &in[0] {
		t.Errorf("got %q", got)
	}
	if got := f.Filter([]byte(bare[20:])); string(got) != bare {
		t.Errorf("got %q", got)
	}
	if got := f.Flush(); len(got) != 0 {
		t.Errorf("still holds %q", got)
	}
}
