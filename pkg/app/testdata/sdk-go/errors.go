package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
)

func (s *suite) errors() cases {
	chat := func(p openai.ChatCompletionNewParams) any { return result(s.client.Chat.Completions.New(s.ctx, p)) }
	all := cases{
		"error 400 field":          func() any { return s.chat(set("n", "many")) },
		"error 400 context length": func() any { return s.chat(set("max_tokens", 200000)) },
		"error 400 stream":         func() any { return s.chat(set("stream", "yes")) },
		"error 404 model":          func() any { return chat(chatParams("no-model", 5)) },
		"error 413": func() any {
			big := chatParams("mock-model", 5)
			big.Messages[0] = openai.UserMessage(strings.Repeat("\x00", 300<<10)) // 6 bytes each in JSON
			return chat(big)
		},
		"error 422":                func() any { return result(s.tgi.Chat.Completions.New(s.ctx, chatParams("tgi-model", 200000))) },
		"stream error event":       func() any { return s.stream(set("mock_fault", "error-event=3")) },
		"stream error event first": func() any { return s.stream(set("mock_fault", "error-event-first")) },
		"stream broken":            func() any { return s.stream(set("mock_fault", "fin=3")) },
	}
	for name, fault := range map[string]string{
		"error 401": "401", "error 404 unloaded": "404", "error 429": "429", "error 429 retry-after": "429=2",
		"error 500": "500-json", "error 500 engine dead": "500-engine-dead", "error 500 empty": "500-empty", "error 503": "503",
	} {
		all[name] = func() any { return s.chat(set("mock_fault", fault)) }
	}
	for _, code := range []int{400, 401, 403, 404, 409, 422, 429, 500, 503} {
		all[fmt.Sprintf("status %d", code)] = func() any {
			return result(s.status.Chat.Completions.New(s.ctx, chatParams(fmt.Sprintf("status-%d", code), 5)))
		}
	}
	return all
}

// retries: an engine sees the fault at the library's first request, however
// often the gateway sends that; the second goes through.
func (s *suite) retries() cases {
	retry := func(fault, tag string) func() any {
		var sent atomic.Int32
		client := connect(s.base, option.WithMaxRetries(1),
			option.WithMiddleware(func(req *http.Request, next option.MiddlewareNext) (*http.Response, error) {
				fields := map[string]any{"mock_tag": tag}
				if sent.Add(1) == 1 {
					fields["mock_fault"] = fault
				}
				if err := mark(req, fields); err != nil {
					return nil, err
				}
				return next(req)
			}))
		return func() any { return result(client.Chat.Completions.New(s.ctx, chatParams("mock-model", 5))) }
	}
	return cases{"retry after 503": retry("503", "retry-503"), "retry after 429": retry("429=1", "retry-429")}
}

// mark puts fields into a request's body.
func mark(req *http.Request, fields map[string]any) error {
	body := map[string]any{}
	if err := json.NewDecoder(req.Body).Decode(&body); err != nil {
		return err
	}
	maps.Copy(body, fields)
	b, err := json.Marshal(body)
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	return err
}

func (s *suite) aborts() cases {
	forever, tag := set("mock_prefill_ms", 1<<30), func(name string) option.RequestOption { return set("mock_tag", name) }
	whole := func(ctx context.Context, opts ...option.RequestOption) any {
		return result(s.client.Chat.Completions.New(ctx, chatParams("mock-model", 5), opts...))
	}
	streamed := func(name, state string, after int, opts ...option.RequestOption) any {
		return s.abort(name, state, after, func(ctx context.Context, each func(int)) any {
			return chunks(s.client.Chat.Completions.NewStreaming(ctx, chatParams("mock-model", 5), append(opts, tag(name))...), each)
		})
	}
	return cases{
		"abort whole": func() any {
			return s.abort("whole", "prefill", 0, func(ctx context.Context, _ func(int)) any { return whole(ctx, tag("whole"), forever) })
		},
		"abort before the first token": func() any { return streamed("first", "prefill", 0, forever) },
		"abort before the head":        func() any { return streamed("head", "queued", 0, set("mock_fault", "hang")) },
		"abort mid-stream":             func() any { return streamed("middle", "decode", 3, set("mock_fault", "stall=3")) },
		"abort queued": func() any {
			one := set("model", "one-model")
			ctx, release := context.WithCancel(s.ctx)
			defer release()
			seated := make(chan any, 1)
			go func() { seated <- whole(ctx, one, tag("seated"), forever, set("n", seats())) }()
			s.seen("seated", "prefill")
			got := streamed("queued", "queued", 0, one)
			release()
			<-seated
			s.seen("seated", "aborted")
			return got
		},
		"abort completion":    s.abortCompletion,
		"abort response":      s.abortResponse,
		"abort transcription": s.abortTranscription,
	}
}

func (s *suite) abortCompletion() any {
	p := openai.CompletionNewParams{
		Model: "mock-model", MaxTokens: param.NewOpt(int64(4)),
		Prompt: openai.CompletionNewParamsPromptUnion{OfString: param.NewOpt("once")},
	}
	return s.abort("completion", "decode", 2, func(ctx context.Context, each func(int)) any {
		return chunks(s.client.Completions.NewStreaming(ctx, p, set("mock_tag", "completion"), set("mock_fault", "stall=2")), each)
	})
}
