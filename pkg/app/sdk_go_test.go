package app_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
	"github.com/openai/openai-go/v3/packages/ssestream"

	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// TestOpenAIGo: a user of the official Go SDK cannot tell the gateway from the
// engine, but where the table says so.
func TestOpenAIGo(t *testing.T) {
	runSDK(t, func(t *testing.T, site sdkSite) map[string]any {
		transport := &http.Transport{}
		defer transport.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		connect := func(base string) openai.Client {
			return openai.NewClient(option.WithBaseURL(base), option.WithAPIKey("sk-client"), option.WithMaxRetries(0),
				option.WithHTTPClient(&http.Client{Transport: transport}))
		}
		s := &goSuite{t: t, ctx: ctx, site: site, client: connect(site.base), tgi: connect(site.tgi), record: map[string]any{}}
		s.answers()
		s.otherAPIs()
		s.errors()
		s.retries()
		s.aborts()
		return s.record
	})
}

type goSuite struct {
	t           *testing.T
	ctx         context.Context
	site        sdkSite
	client, tgi openai.Client
	record      map[string]any
}

// raw is what the SDK keeps of an answer as it came.
type raw interface{ RawJSON() string }

func goResult(v raw, err error) any {
	if err != nil {
		return map[string]any{"error": goError(err)}
	}
	return jsonText(v.RawJSON())
}

// jsonText is JSON that is put into a record as it is.
type jsonText string

func (j jsonText) MarshalJSON() ([]byte, error) { return []byte(j), nil }

func goError(err error) any {
	var api *openai.Error
	var event *ssestream.StreamError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &api):
		return map[string]any{
			"class": "APIError", "status": api.StatusCode, "type": api.Type, "code": api.Code, "param": api.Param, "message": api.Message,
			"retry_after": api.Response.Header.Get("Retry-After"), "retry_after_ms": api.Response.Header.Get("Retry-After-Ms"),
		}
	case errors.As(err, &event):
		return map[string]any{"class": "StreamError", "status": 0, "message": event.Message}
	case errors.Is(err, context.Canceled):
		return map[string]any{"class": "aborted"}
	}
	return map[string]any{"class": "other", "message": err.Error()}
}

func set(key string, value any) option.RequestOption { return option.WithJSONSet(key, value) }

func chatParams(model string, tokens int64) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model: model, MaxTokens: param.NewOpt(tokens),
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hello")},
	}
}

func toolParams() openai.ChatCompletionNewParams {
	p := chatParams("mock-model", 100)
	p.Tools = []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{
		Name: "weather",
		Parameters: openai.FunctionParameters{
			"type": "object", "properties": map[string]any{"city": map[string]any{"type": "string"}},
		},
	})}
	p.ToolChoice = openai.ChatCompletionToolChoiceOptionUnionParam{OfAuto: param.NewOpt("required")}
	return p
}

func (s *goSuite) chat(opts ...option.RequestOption) any {
	return goResult(s.client.Chat.Completions.New(s.ctx, chatParams("mock-model", 5), opts...))
}

func (s *goSuite) stream(opts ...option.RequestOption) any {
	return goChunks(s.client.Chat.Completions.NewStreaming(s.ctx, chatParams("mock-model", 5), opts...))
}

// goChunks reads a stream to its end.
func goChunks[T raw](stream *ssestream.Stream[T]) any {
	chunks := []any{}
	for stream.Next() {
		chunks = append(chunks, jsonText(stream.Current().RawJSON()))
	}
	return map[string]any{"chunks": chunks, "error": goError(stream.Err())}
}

func (s *goSuite) answers() {
	chats, r := &s.client.Chat.Completions, s.record
	r["chat"] = s.chat()
	r["chat n=2"] = goResult(chats.New(s.ctx, chatParams("mock-model", 4), set("n", 2)))
	r["chat reasoning"] = s.chat(set("mock_reasoning", 2))
	r["chat tools"] = goResult(chats.New(s.ctx, toolParams()))
	r["chat tgi"] = goResult(s.tgi.Chat.Completions.New(s.ctx, chatParams("tgi-model", 5)))

	r["chat stream"] = s.stream()
	r["chat stream usage"] = s.stream(set("stream_options.include_usage", true))
	r["chat stream continuous usage"] = s.stream(set("stream_options.include_usage", true), set("stream_options.continuous_usage_stats", true))
	r["chat stream n=2"] = s.stream(set("n", 2))
	r["chat stream tools"] = goChunks(chats.NewStreaming(s.ctx, toolParams()))
	r["chat stream tgi"] = goChunks(s.tgi.Chat.Completions.NewStreaming(s.ctx, chatParams("tgi-model", 5)))

	var all openai.ChatCompletionAccumulator
	stream := chats.NewStreaming(s.ctx, toolParams())
	for stream.Next() {
		if !all.AddChunk(stream.Current()) {
			s.t.Error("the accumulator refuses a chunk")
		}
	}
	if err := stream.Err(); err != nil || len(all.Choices) != 1 {
		s.t.Fatalf("%d choices, %v", len(all.Choices), err)
	}
	m := all.Choices[0].Message
	helped := map[string]any{"role": m.Role, "content": m.Content}
	for _, call := range m.ToolCalls {
		helped["name"], helped["arguments"] = call.Function.Name, call.Function.Arguments
	}
	r["chat stream helper"] = helped
}

func (s *goSuite) otherAPIs() {
	r := s.record
	text := openai.CompletionNewParams{Model: "mock-model", MaxTokens: param.NewOpt(int64(4))}
	two := text
	text.Prompt.OfString = param.NewOpt("once")
	two.Prompt.OfArrayOfStrings = []string{"once", "twice"}
	r["completion"] = goResult(s.client.Completions.New(s.ctx, two))
	r["completion stream"] = goChunks(s.client.Completions.NewStreaming(s.ctx, text, set("stream_options.include_usage", true)))

	embed := openai.EmbeddingNewParams{Model: "mock-model"}
	embed.Input.OfArrayOfStrings = []string{"one", "two"}
	embeddings := func(opts ...option.RequestOption) any {
		return goResult(s.client.Embeddings.New(s.ctx, embed, opts...))
	}
	r["embeddings"] = embeddings()
	r["embeddings float"] = embeddings(set("encoding_format", "float"))
	r["embeddings base64"] = embeddings(set("encoding_format", "base64"))

	names := []string{}
	for pages := s.client.Models.ListAutoPaging(s.ctx); pages.Next(); {
		names = append(names, pages.Current().ID)
	}
	r["models"] = names
	r["model"] = goResult(s.client.Models.Get(s.ctx, "mock-model"))
	r["model with a slash"] = goResult(s.client.Models.Get(s.ctx, "org/mock-model"))
	r["model unknown"] = goResult(s.client.Models.Get(s.ctx, "no-model"))

	var resp *http.Response
	s.chat(option.WithResponseInto(&resp))
	head := func() any {
		return map[string]any{"status": resp.StatusCode, "content_type": resp.Header.Get("Content-Type")}
	}
	r["headers"], r["request id"] = head(), resp.Header.Get("X-Request-Id") != ""
	s.stream(option.WithResponseInto(&resp))
	r["headers of a stream"] = head()
	s.chat(set("n", "many"), option.WithResponseInto(&resp))
	r["request id of an error"] = resp.Header.Get("X-Request-Id") != ""
}

func (s *goSuite) errors() {
	chats, r := &s.client.Chat.Completions, s.record
	r["error 400 field"] = s.chat(set("n", "many"))
	r["error 400 context length"] = s.chat(set("max_tokens", 200000))
	r["error 400 stream"] = s.chat(set("stream", "yes"))
	r["error 404 model"] = goResult(chats.New(s.ctx, chatParams("no-model", 5)))
	big := chatParams("mock-model", 5)
	big.Messages[0] = openai.UserMessage(string(make([]byte, 300<<10))) // 6 bytes each in JSON
	r["error 413"] = goResult(chats.New(s.ctx, big))
	r["error 422"] = goResult(s.tgi.Chat.Completions.New(s.ctx, chatParams("tgi-model", 200000)))
	for name, fault := range map[string]string{
		"error 401": "401", "error 404 unloaded": "404", "error 429": "429", "error 429 retry-after": "429=2",
		"error 500": "500-json", "error 500 engine dead": "500-engine-dead", "error 500 empty": "500-empty", "error 503": "503",
	} {
		r[name] = s.chat(set("mock_fault", fault))
	}
	r["stream error event"] = s.stream(set("mock_fault", "error-event=3"))
	r["stream error event first"] = s.stream(set("mock_fault", "error-event-first"))
	r["stream broken"] = s.stream(set("mock_fault", "fin=3"))
}

// retries: the gateway gives up first, at once when the engine asks for more
// patience than it has; the SDK does not.
func (s *goSuite) retries() {
	for fault, count := range map[string]int{"503": s.site.attempts, "429=1": 1} {
		if err := s.site.engine.Fault(mockvllm.FaultRule{Fault: fault, Count: count}); err != nil {
			s.t.Fatal(err)
		}
		s.record["retry after "+fault[:3]] = s.chat(option.WithMaxRetries(2), set("mock_tag", "retry-"+fault[:3]))
	}
}

func (s *goSuite) aborts() {
	r := s.record
	forever := set("mock_prefill_ms", 1<<30)
	r["abort whole"] = s.abort("whole", mockvllm.StatePrefill, 0, false, forever)
	r["abort before the first token"] = s.abort("first", mockvllm.StatePrefill, 0, true, forever)
	r["abort before the head"] = s.abort("head", mockvllm.StateQueued, 0, true, set("mock_fault", "hang"))
	r["abort mid-stream"] = s.abort("middle", mockvllm.StateDecode, 3, true, set("mock_fault", "stall=3"))

	ctx, release := context.WithCancel(s.ctx)
	seated := make(chan error)
	go func() {
		_, err := s.client.Chat.Completions.New(ctx, chatParams("mock-model", 5), set("mock_tag", "seated"), forever, set("n", sdkSeats))
		seated <- err
	}()
	s.await("seated", mockvllm.StatePrefill)
	r["abort queued"] = s.abort("queued", mockvllm.StateQueued, 0, true)
	release()
	<-seated
	s.await("seated", mockvllm.StateAborted)
}

// await waits until the engine has the tagged request in that state.
func (s *goSuite) await(tag, state string) mockvllm.Entry {
	e, err := s.site.engine.WaitEntry(s.ctx, func(e mockvllm.Entry) bool { return e.Tag == tag && e.State == state })
	if err != nil {
		s.t.Errorf("%s never came to be %s: %v", tag, state, err)
	}
	return e
}

// abort cancels a request once the engine has it in that state and the client
// that many chunks, and tells what the engine knows of it then.
func (s *goSuite) abort(tag, state string, chunks int, streamed bool, opts ...option.RequestOption) any {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	opts = append(opts, set("mock_tag", tag))
	read, failed := make(chan struct{}), make(chan error)
	go func() {
		if !streamed {
			close(read)
			_, err := s.client.Chat.Completions.New(ctx, chatParams("mock-model", 5), opts...)
			failed <- err
			return
		}
		if chunks == 0 {
			close(read)
		}
		stream := s.client.Chat.Completions.NewStreaming(ctx, chatParams("mock-model", 5), opts...)
		for n := 1; stream.Next(); n++ {
			if n == chunks {
				close(read)
			}
		}
		failed <- stream.Err()
	}()
	<-read
	s.await(tag, state)
	cancel()
	err := <-failed
	e := s.await(tag, mockvllm.StateAborted)
	return map[string]any{"error": goError(err), "state": e.State, "phase": e.AbortPhase}
}
