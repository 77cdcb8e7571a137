package usage

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/openai"
)

// parsed is a request with the body that it was parsed from.
func parsed(t testing.TB, body string) (*openai.Request, []byte) {
	t.Helper()
	var r openai.Request
	if err := r.Parse([]byte(body)); err != nil {
		t.Fatal(err)
	}
	return &r, []byte(body)
}

func TestAsk(t *testing.T) {
	var (
		plain = Style{Plain: ChunksRemove}
		every = Style{Continuous: true, Every: ChunksNull}
		empty = Style{EmptyAsks: true, Continuous: true, Every: ChunksNull}
		once  = Take{Final: true, Chunks: ChunksRemove}
		all   = Take{Final: true, Chunks: ChunksNull}
		stats = Take{Chunks: ChunksNull}
	)
	for _, c := range []struct {
		name       string
		style      Style
		continuous bool
		in, want   string
		asked      bool
		take       Take
	}{
		{"no stream", plain, false, `{"stream":false}`, `{"stream":false}`, false, Take{}},
		{"an engine that tells anyway", Style{Told: true}, true, `{"stream":true}`, `{"stream":true}`, false, Take{}},
		{"no options", plain, false, `{"stream":true }`, `{"stream":true ,"stream_options":{"include_usage":true}}`, false, once},
		{"no options, continuous", every, true, `{"stream":true}`, `{"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}`, false, all},
		{"an engine that knows no continuous usage", plain, true, `{"stream":true}`, `{"stream":true,"stream_options":{"include_usage":true}}`, false, once},
		{"null", plain, false, `{"stream_options":null,"stream":true}`, `{"stream_options":{"include_usage":true},"stream":true}`, false, once},
		{"empty", plain, false, `{"stream":true,"stream_options":{ }}`, `{"stream":true,"stream_options":{"include_usage":true}}`, false, once},
		{"empty, where that asks", empty, false, `{"stream":true,"stream_options":{}}`, `{"stream":true,"stream_options":{}}`, true, Take{}},
		{"empty, where that asks, continuous", empty, true, `{"stream":true,"stream_options":{}}`, `{"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}`, true, stats},
		{"others, where that asks, continuous", empty, true, `{"stream":true,"stream_options":{"a":[1]}}`, `{"stream":true,"stream_options":{"continuous_usage_stats":true,"a":[1]}}`, true, stats},
		{"others", plain, false, `{"stream":true,"stream_options":{"a":{"include_usage":true}}}`, `{"stream":true,"stream_options":{"include_usage":true,"a":{"include_usage":true}}}`, false, once},
		{"false", plain, false, `{"stream":true,"stream_options":{"include_usage": false,"a":1}}`, `{"stream":true,"stream_options":{"include_usage": true,"a":1}}`, false, once},
		{"null inside", empty, false, `{"stream":true,"stream_options":{"include_usage":null}}`, `{"stream":true,"stream_options":{"include_usage":true}}`, false, Take{Final: true}},
		{"true", plain, false, `{"stream":true,"stream_options":{"include_usage":true}}`, `{"stream":true,"stream_options":{"include_usage":true}}`, true, Take{}},
		{"true, continuous", every, true, `{"stream":true,"stream_options":{"include_usage":true}}`, `{"stream":true,"stream_options":{"continuous_usage_stats":true,"include_usage":true}}`, true, stats},
		{"both", every, true, `{"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}`, `{"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}`, true, Take{}},
		{"both false, in the other order", every, true, `{"stream":true,"stream_options":{"continuous_usage_stats":false,"include_usage":false}}`, `{"stream":true,"stream_options":{"continuous_usage_stats":true,"include_usage":true}}`, false, all},
		{"stats without usage take effect", every, false, `{"stream":true,"stream_options":{"continuous_usage_stats":true}}`, `{"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}`, false, all},
		{"named twice, of which engines take the last", every, false, `{"stream":true,"stream_options":{"include_usage":true,"include_usage":false}}`, `{"stream":true,"stream_options":{"include_usage":true}}`, false, Take{Final: true}},
		{"named by escapes", plain, false, `{"stream":true,"stream_options":{"include_usag\u0065":false}}`, `{"stream":true,"stream_options":{"include_usage":true}}`, false, once},
		{"nothing that an engine takes", plain, false, `{"stream":true,"stream_options":[]}`, `{"stream":true,"stream_options":[]}`, false, Take{}},
		{"a value that pydantic takes for true", plain, false, `{"stream":true,"stream_options":{"include_usage":"Yes"}}`, `{"stream":true,"stream_options":{"include_usage":"Yes"}}`, true, Take{}},
		{"a value that pydantic takes for false", plain, false, `{"stream":true,"stream_options":{"include_usage":"no"}}`, `{"stream":true,"stream_options":{"include_usage":true}}`, false, Take{Final: true, Chunks: plain.Plain}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, body := parsed(t, c.in)
			a := Ask(r, body, c.style, c.continuous)
			got := bytes.Join(a.Splice(nil, [][]byte{body}), nil)
			if string(got) != c.want || a.Asked != c.asked || a.Take != c.take {
				t.Errorf("got %s, %v, %+v", got, a.Asked, a.Take)
			}
		})
	}
}

// TestSplice: the model before, behind and among what is put in.
func TestSplice(t *testing.T) {
	s := Style{Continuous: true}
	for _, c := range []struct{ name, in, want string }{
		{"model first", `{"model":"a","stream":true}`, `{"model":"b","stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}`},
		{"model last", `{"stream_options":{"continuous_usage_stats":false,"include_usage":false},"stream":true,"model":"a"}`, `{"stream_options":{"continuous_usage_stats":true,"include_usage":true},"stream":true,"model":"b"}`},
		{"no model", `{"stream":true}`, `{"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true},"model":"b"}`},
		{"insert and replace", `{"stream":true,"stream_options":{"x":0,"include_usage":false},"model":"a"}`, `{"stream":true,"stream_options":{"continuous_usage_stats":true,"x":0,"include_usage":true},"model":"b"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, body := parsed(t, c.in)
			a := Ask(r, body, s, true)
			parts := a.Splice(nil, r.Splice(nil, body, "b"))
			if got := bytes.Join(parts, nil); string(got) != c.want || len(parts) > 7 {
				t.Errorf("got %s in %d parts", got, len(parts))
			}
		})
	}
}

func FuzzAsk(f *testing.F) {
	for _, o := range []string{`null`, `{}`, `{"include_usage":false}`, `{"continuous_usage_stats":true,"a":"}"}`, `{"include_usage":null,"include_usage":true}`} {
		f.Add(`{"stream":true,"stream_options":` + o + `,"model":"m"}`)
	}
	f.Fuzz(func(t *testing.T, in string) {
		var r openai.Request
		body := []byte(in)
		if r.Parse(body) != nil || !r.Stream {
			return
		}
		for _, continuous := range []bool{false, true} {
			a := Ask(&r, body, Style{Continuous: true}, continuous)
			if !a.Changes() {
				continue
			}
			var got struct {
				Options struct {
					Usage bool `json:"include_usage"`
					Stats any  `json:"continuous_usage_stats"`
				} `json:"stream_options"`
			}
			out := bytes.Join(a.Splice(nil, r.Splice(nil, body, "other")), nil)
			if err := json.Unmarshal(out, &got); err != nil {
				t.Fatalf("%v in %s", err, out)
			}
			stats, is := got.Options.Stats.(bool)
			if !got.Options.Usage || continuous && is && !stats {
				t.Fatalf("%s asks for nothing", out)
			}
		}
	})
}

// TestAnswers: a prompt with several answers is billed once.
func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		name string
		kind Kind
		body string
		want int
	}{
		{"none", KindCompletions, `{"prompt":"\"n\":3"}`, 1},
		{"some", KindCompletions, `{ "prompt" : ["a","b"], "n" : 2 , "stream":true}`, 2},
		{"null", KindCompletions, `{"n":null}`, 1},
		{"as a text, which vLLM takes", KindCompletions, `{"n":"3"}`, 3},
		{"absurd", KindCompletions, `{"n":-1}`, 1},
		{"of another object", KindCompletions, `{"sampling_params":{"n":2}}`, 1},
		{"SGLang's", KindSGLang, `{"text":"a","sampling_params":{"max_new_tokens":4,"n":2}}`, 2},
		{"a list of SGLang's", KindSGLang, `{"text":["a"],"sampling_params":[{"n":2}]}`, 1},
		{"an empty object", KindSGLang, `{}`, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Answers(c.kind, []byte(c.body)); got != c.want {
				t.Errorf("%d, want %d", got, c.want)
			}
		})
	}
}
