package mockvllm

import (
	"bytes"
	"fmt"
	"math"
	"time"
)

// What audio costs: it is taken for 16-bit samples at 16 kHz, Whisper hears 50
// frames a second in windows of 30 s, and its prompt has four tokens more.
const (
	audioBytesPerSecond = 32000
	audioFrames         = 50
	audioWindow         = 1500
	audioPrompt         = 4
)

// speech is one request for the text of an audio file.
type speech struct {
	generation
	seconds   float64
	format    string
	language  string
	translate bool
}

// transcribe answers POST /v1/audio/transcriptions and /v1/audio/translations.
func (x *call) transcribe() error {
	if x.form == nil || x.form.flaw == "" && !x.form.file {
		return x.refuse(invalid("file", "missing", "Field required"))
	}
	if x.form.flaw != "" {
		return x.refuse(&apiError{400, vllmError(x.form.flaw, "Bad Request", "", 400)})
	}
	p, bad := parseParams(x.body)
	if bad != nil {
		return x.refuse(bad)
	}
	if n := x.req.Header.Get("X-Mock-Tokens"); n != "" {
		p.raw["mock_tokens"] = []byte(n)
	}
	s := x.readSpeech(p)
	g := &s.generation
	x.set(func(r *Entry) { r.Model, r.Stream = g.model, g.stream })
	limit := p.integer("max_completion_tokens", 0)
	plan := x.planAnswer(p, limit)
	if bad := x.check(p, g.model); bad != nil {
		return x.refuse(bad)
	}
	if bad := x.fits(g.prompts[0], limit); bad != nil {
		return x.refuse(bad)
	}
	if !g.begin(x, p, plan) {
		return x.full(g.stream)
	}
	if g.stream {
		return s.streamText()
	}
	if err := g.wait(); err != nil {
		return err
	}
	return s.answer()
}

// readSpeech reads the fields of the form.
func (x *call) readSpeech(p *params) *speech {
	s := &speech{
		seconds:   float64(x.form.bytes) / audioBytesPerSecond,
		format:    p.text("response_format"),
		language:  p.text("language"),
		translate: x.req.URL.Path == "/v1/audio/translations",
	}
	setDefault(&s.format, "json")
	setDefault(&s.language, "en")
	task := "transcribe-"
	if s.translate {
		task = "translate-"
	}
	s.id, s.model, s.stream, s.n = task+x.id, x.model(p), p.boolean("stream", false), 1
	s.include = p.boolean("stream_include_usage", false) || x.e.opt.ForceUsage
	s.continuous = p.boolean("stream_continuous_usage_stats", false) && s.include
	s.prompts = []prompt{{append(bytes.Clone(x.form.hash), p.text("prompt")...), audioPrompt + int(min(audioWindow, s.seconds*audioFrames))}}
	switch s.format {
	case "json", "text":
	case "verbose_json":
		if s.stream {
			p.fail(badRequest("", "verbose_json format doesn't support streaming case"))
		}
	case "srt", "vtt":
		if x.e.opt.Dialect == DialectVLLM {
			p.fail(badRequest("", "Currently only support response_format: `text`, `json` or `verbose_json`"))
		}
	default:
		p.fail(invalid("response_format", "literal_error", "Input should be \\'json\\', \\'text\\', \\'srt\\', \\'verbose_json\\' or \\'vtt\\'"))
	}
	if !s.stream && (p.has("stream_include_usage") || p.has("stream_continuous_usage_stats")) {
		p.fail(badRequest("stream_include_usage", "Stream options can only be defined when `stream=True`."))
	}
	return s
}

// streamText writes the chunks of both APIs; they differ in one word.
func (s *speech) streamText() error {
	g := &s.generation
	object := "transcription.chunk"
	if s.translate {
		object = "translation.chunk"
	}
	h := sseHead
	out, err := g.x.open(&h)
	if err != nil {
		return err
	}
	var b []byte
	err = g.deliver(func(i, j int) error {
		c := &g.choices[i]
		b = g.appendHead(b[:0], object)
		b = append(b, `,"choices":[{"delta":{"content":`...)
		b = appendString(b, c.pieces[j].text)
		b = append(b, '}')
		if j == len(c.pieces)-1 {
			b = append(b, `,"finish_reason":`...)
			b = appendString(b, c.finish)
			b = append(b, `,"stop_reason":`...)
			b = appendOptional(b, c.stop)
		}
		b = g.appendChunkUsage(append(b, "}]"...), j+1)
		return out.event(append(b, '}'))
	})
	if err != nil {
		return err
	}
	if g.include && !g.x.fault.is("usage-missing") {
		b = g.appendHead(b[:0], object)
		b = append(b, `,"choices":[],"usage":`...)
		b = g.appendUsage(b, g.promptTokens(), g.tokens(), false)
		if err := out.event(append(b, '}')); err != nil {
			return err
		}
	}
	return out.close(true)
}

// duration is the usage of a transcription.
type duration struct {
	Type    string `json:"type"`
	Seconds int    `json:"seconds"`
}

// segment is a part of a verbose answer.
type segment struct {
	ID          int     `json:"id"`
	AvgLogprob  float64 `json:"avg_logprob"`
	Compression float64 `json:"compression_ratio"`
	End         float64 `json:"end"`
	NoSpeech    any     `json:"no_speech_prob"`
	Seek        int     `json:"seek"`
	Start       float64 `json:"start"`
	Temperature float64 `json:"temperature"`
	Text        string  `json:"text"`
	Tokens      []int   `json:"tokens"`
}

// answer writes the whole text in the format asked for. vLLM's "text" is JSON
// too; other engines answer it, srt and vtt in plain text.
func (s *speech) answer() error {
	x, text, end := s.x, s.choices[0].text(pieceText), s.seconds
	switch {
	case s.format == "verbose_json":
		return x.json(struct {
			Duration float64   `json:"duration"`
			Language string    `json:"language"`
			Text     string    `json:"text"`
			Segments []segment `json:"segments"`
			Words    any       `json:"words"`
		}{end, s.language, text, []segment{{AvgLogprob: -0.5, Compression: 1, End: end, Text: text, Tokens: tokenIDs([]byte(text))}}, nil})
	case s.format != "json" && x.e.opt.Dialect != DialectVLLM:
		return x.whole(&head{status: 200, contentType: "text/plain; charset=utf-8"}, []byte(s.plain(text)))
	}
	answer := struct {
		Text  string    `json:"text"`
		Usage *duration `json:"usage,omitempty"`
	}{Text: text}
	if !s.translate && !x.fault.is("usage-missing") {
		answer.Usage = &duration{"duration", int(math.Ceil(s.seconds))}
		if x.fault.is("usage-zero") {
			answer.Usage.Seconds = 0
		}
	}
	return x.json(answer)
}

// plain is the text as one subtitle, or as it is.
func (s *speech) plain(text string) string {
	end := time.Time{}.Add(time.Duration(s.seconds * float64(time.Second)))
	switch s.format {
	case "srt":
		return fmt.Sprintf("1\n00:00:00,000 --> %s\n%s\n\n", end.Format("15:04:05,000"), text)
	case "vtt":
		return fmt.Sprintf("WEBVTT\n\n00:00:00.000 --> %s\n%s\n\n", end.Format("15:04:05.000"), text)
	}
	return text + "\n"
}
