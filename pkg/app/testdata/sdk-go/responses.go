package main

import (
	"bytes"
	"context"
	"strings"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
	"github.com/openai/openai-go/v3/responses"
)

func answerParams() responses.ResponseNewParams {
	return responses.ResponseNewParams{
		Model: "mock-model", MaxOutputTokens: param.NewOpt(int64(100)),
		Input: responses.ResponseNewParamsInputUnion{OfString: param.NewOpt("hello")},
	}
}

var five = set("mock_tokens", 5)

func (s *suite) respond(opts ...option.RequestOption) any {
	return result(s.client.Responses.New(s.ctx, answerParams(), append([]option.RequestOption{five}, opts...)...))
}

func (s *suite) respondStream(opts ...option.RequestOption) any {
	return chunks(s.client.Responses.NewStreaming(s.ctx, answerParams(), append([]option.RequestOption{five}, opts...)...), nil)
}

// made is the id of a new response.
func (s *suite) made(opts ...option.RequestOption) string {
	r, err := s.client.Responses.New(s.ctx, answerParams(), append([]option.RequestOption{five}, opts...)...)
	must(err)
	return r.ID
}

func after(id string) option.RequestOption { return set("previous_response_id", id) }

func (s *suite) responses() cases {
	all := &s.client.Responses
	tool := map[string]any{"type": "function", "name": "weather", "parameters": city, "strict": false}
	tools := []option.RequestOption{set("tool_choice", "required"), set("tools", []any{tool})}
	items := []any{map[string]any{"role": "user", "content": []any{map[string]any{"type": "input_text", "text": "hello"}}}}
	get := func(id string) any { return result(all.Get(s.ctx, id, responses.ResponseGetParams{})) }
	return cases{
		"response":                       func() any { return s.respond() },
		"response items":                 func() any { return s.respond(set("instructions", "Be brief."), set("input", items)) },
		"response incomplete":            func() any { return s.respond(set("max_output_tokens", 3)) },
		"response tools":                 func() any { return s.respond(tools...) },
		"response stream":                func() any { return s.respondStream() },
		"response stream incomplete":     func() any { return s.respondStream(set("max_output_tokens", 3)) },
		"response stream tools":          func() any { return s.respondStream(tools...) },
		"response stream helper":         s.lastOfStream,
		"response continued":             func() any { return s.respond(after(s.made())) },
		"response continued stream":      func() any { return s.respondStream(after(s.made())) },
		"response continued thrice":      func() any { return s.respond(after(s.made(after(s.made())))) },
		"response retrieved":             func() any { return get(s.made()) },
		"response of a stream retrieved": func() any { return get(s.streamed().ID) },
		"response background cancelled":  s.cancelled,
		"response deleted": func() any {
			id := s.made()
			err := all.Delete(s.ctx, id)
			return map[string]any{"deleted": failure(err), "after": get(id)}
		},
		"response unknown continued":  func() any { return s.respond(after("resp_unknown")) },
		"response unknown retrieved":  func() any { return get("resp_unknown") },
		"response unknown cancelled":  func() any { return result(all.Cancel(s.ctx, "resp_unknown")) },
		"response error 400 field":    func() any { return s.respond(set("max_output_tokens", "many")) },
		"response error 404 model":    func() any { return s.respond(set("model", "no-model")) },
		"response error 429":          func() any { return s.respond(set("mock_fault", "429")) },
		"response error 500":          func() any { return s.respond(set("mock_fault", "500-json")) },
		"response stream error event": func() any { return s.respondStream(set("mock_fault", "error-event=4")) },
		"response stream broken":      func() any { return s.respondStream(set("mock_fault", "fin=5")) },
	}
}

// streamed is the response that the last event of a stream tells.
func (s *suite) streamed() (last responses.Response) {
	stream := s.client.Responses.NewStreaming(s.ctx, answerParams(), five)
	for stream.Next() {
		last = stream.Current().Response
	}
	must(stream.Err())
	return last
}

func (s *suite) lastOfStream() any {
	last := s.streamed()
	return map[string]any{"status": last.Status, "output_text": last.OutputText()}
}

func (s *suite) cancelled() any {
	queued, err := s.client.Responses.New(s.ctx, answerParams(), set("background", true), set("mock_prefill_ms", 1<<30))
	must(err)
	return map[string]any{"created": queued.Status, "cancelled": result(s.client.Responses.Cancel(s.ctx, queued.ID))}
}

func (s *suite) abortResponse() any {
	return s.abort("response", "decode", 5, func(ctx context.Context, each func(int)) any {
		return chunks(s.client.Responses.NewStreaming(ctx, answerParams(), five, set("mock_tag", "response"), set("mock_fault", "stall=5")), each)
	})
}

func clip() openai.AudioTranscriptionNewParams {
	file := openai.File(strings.NewReader(strings.Repeat("RIFF", 2000)), "clip.wav", "audio/wav")
	return openai.AudioTranscriptionNewParams{Model: "mock-model", File: file}
}

func (s *suite) transcribe(p openai.AudioTranscriptionNewParams, opts ...option.RequestOption) any {
	return result(s.client.Audio.Transcriptions.New(s.ctx, p, opts...))
}

func (s *suite) audio() cases {
	format := func(f openai.AudioResponseFormat) func() any {
		return func() any {
			p := clip()
			p.ResponseFormat = f
			return s.transcribe(p)
		}
	}
	text := func(f openai.AudioResponseFormat) func() any {
		return func() any {
			p := clip()
			p.ResponseFormat = f
			var body []byte
			_, err := s.client.Audio.Transcriptions.New(s.ctx, p, option.WithResponseBodyInto(&body))
			if err != nil {
				return map[string]any{"error": failure(err)}
			}
			return string(bytes.TrimSpace(body))
		}
	}
	faulty := func(fault string) func() any {
		return func() any {
			p := clip()
			p.SetExtraFields(map[string]any{"mock_fault": fault})
			return s.transcribe(p)
		}
	}
	return cases{
		"transcription":                  func() any { return s.transcribe(clip()) },
		"transcription text":             text("text"),
		"transcription verbose":          format("verbose_json"),
		"transcription error 400 format": format("srt"),
		"transcription stream":           func() any { return chunks(s.client.Audio.Transcriptions.NewStreaming(s.ctx, clip()), nil) },
		"translation": func() any {
			c := clip()
			return result(s.client.Audio.Translations.New(s.ctx, openai.AudioTranslationNewParams{Model: c.Model, File: c.File}))
		},
		"transcription error 404 model": func() any {
			p := clip()
			p.Model = "no-model"
			return s.transcribe(p)
		},
		"transcription error 429": faulty("429"),
		"transcription error 500": faulty("500-json"),
	}
}

func (s *suite) abortTranscription() any {
	return s.abort("transcription", "queued", 0, func(ctx context.Context, _ func(int)) any {
		p := clip()
		p.SetExtraFields(map[string]any{"mock_tag": "transcription", "mock_fault": "hang"})
		return result(s.client.Audio.Transcriptions.New(ctx, p))
	})
}
