package main

import (
	"net/http"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
)

func chatParams(model string, tokens int64) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model: model, MaxTokens: param.NewOpt(tokens),
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hello")},
	}
}

var city = map[string]any{"type": "object", "properties": map[string]any{"city": map[string]any{"type": "string"}}}

func toolParams() openai.ChatCompletionNewParams {
	p := chatParams("mock-model", 100)
	p.Tools = []openai.ChatCompletionToolUnionParam{
		openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{Name: "weather", Parameters: city}),
	}
	p.ToolChoice = openai.ChatCompletionToolChoiceOptionUnionParam{OfAuto: param.NewOpt("required")}
	return p
}

func (s *suite) chat(opts ...option.RequestOption) any {
	return result(s.client.Chat.Completions.New(s.ctx, chatParams("mock-model", 5), opts...))
}

func (s *suite) stream(opts ...option.RequestOption) any {
	return chunks(s.client.Chat.Completions.NewStreaming(s.ctx, chatParams("mock-model", 5), opts...), nil)
}

func (s *suite) chats() cases {
	chats, tgi := &s.client.Chat.Completions, &s.tgi.Chat.Completions
	usage := set("stream_options.include_usage", true)
	return cases{
		"chat":                         func() any { return s.chat() },
		"chat n=2":                     func() any { return s.chat(set("n", 2), set("max_tokens", 4)) },
		"chat reasoning":               func() any { return s.chat(set("mock_reasoning", 2)) },
		"chat tools":                   func() any { return result(chats.New(s.ctx, toolParams())) },
		"chat tgi":                     func() any { return result(tgi.New(s.ctx, chatParams("tgi-model", 5))) },
		"chat stream":                  func() any { return s.stream() },
		"chat stream usage":            func() any { return s.stream(usage) },
		"chat stream continuous usage": func() any { return s.stream(usage, set("stream_options.continuous_usage_stats", true)) },
		"chat stream n=2":              func() any { return s.stream(set("n", 2)) },
		"chat stream tools":            func() any { return chunks(chats.NewStreaming(s.ctx, toolParams()), nil) },
		"chat stream tgi":              func() any { return chunks(tgi.NewStreaming(s.ctx, chatParams("tgi-model", 5)), nil) },
		"chat stream helper":           s.accumulated,
	}
}

// accumulated is a stream put together by the library.
func (s *suite) accumulated() any {
	var all openai.ChatCompletionAccumulator
	stream := s.client.Chat.Completions.NewStreaming(s.ctx, toolParams())
	for stream.Next() {
		if !all.AddChunk(stream.Current()) {
			panic("the accumulator refuses a chunk")
		}
	}
	must(stream.Err())
	m := all.Choices[0].Message
	call := m.ToolCalls[0].Function
	return map[string]any{"role": m.Role, "content": m.Content, "name": call.Name, "arguments": call.Arguments}
}

func (s *suite) others() cases {
	completion := func(prompt openai.CompletionNewParamsPromptUnion) openai.CompletionNewParams {
		return openai.CompletionNewParams{Model: "mock-model", MaxTokens: param.NewOpt(int64(4)), Prompt: prompt}
	}
	once := completion(openai.CompletionNewParamsPromptUnion{OfString: param.NewOpt("once")})
	twice := completion(openai.CompletionNewParamsPromptUnion{OfArrayOfStrings: []string{"once", "twice"}})
	texts := func(opts ...option.RequestOption) any {
		return chunks(s.client.Completions.NewStreaming(s.ctx, once, opts...), nil)
	}
	embeddings := func(opts ...option.RequestOption) any {
		input := openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"one", "two"}}
		return result(s.client.Embeddings.New(s.ctx, openai.EmbeddingNewParams{Model: "mock-model", Input: input}, opts...))
	}
	model := func(name string) func() any {
		return func() any { return result(s.client.Models.Get(s.ctx, name)) }
	}
	return cases{
		"completion":              func() any { return result(s.client.Completions.New(s.ctx, twice)) },
		"completion stream":       func() any { return texts() },
		"completion stream usage": func() any { return texts(set("stream_options.include_usage", true)) },
		"embeddings":              func() any { return embeddings() },
		"embeddings float":        func() any { return embeddings(set("encoding_format", "float")) },
		"embeddings base64":       func() any { return embeddings(set("encoding_format", "base64")) },
		"models":                  s.models,
		"model":                   model("mock-model"),
		"model with a slash":      model("org/mock-model"),
		"model unknown":           model("no-model"),
		"headers":                 func() any { return head(func(o option.RequestOption) { s.chat(o) }) },
		"headers of a stream":     func() any { return head(func(o option.RequestOption) { s.stream(o) }) },
		"request id":              func() any { return hasID(func(o option.RequestOption) { s.chat(o) }) },
		"request id of an error":  func() any { return hasID(func(o option.RequestOption) { s.chat(o, set("n", "many")) }) },
	}
}

func (s *suite) models() any {
	names := []string{}
	pages := s.client.Models.ListAutoPaging(s.ctx)
	for pages.Next() {
		names = append(names, pages.Current().ID)
	}
	must(pages.Err())
	return names
}

func responseOf(ask func(option.RequestOption)) *http.Response {
	var resp *http.Response
	ask(option.WithResponseInto(&resp))
	return resp
}

func head(ask func(option.RequestOption)) any {
	resp := responseOf(ask)
	return map[string]any{"status": resp.StatusCode, "content_type": resp.Header.Get("Content-Type")}
}

func hasID(ask func(option.RequestOption)) any {
	return responseOf(ask).Header.Get("X-Request-Id") != ""
}
