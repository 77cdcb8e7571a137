package usage_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/usage"
)

// What a request may cost must be told by the fields that its engine reads: another
// field must not make it cheap.
func TestExpect(t *testing.T) {
	type want struct{ output, atLeast, answers int64 }
	nothing := want{-1, 0, 1}
	for name, c := range map[string]struct {
		kind usage.Kind
		body string
		want want
	}{
		"nothing said":                          {usage.KindChat, `{}`, nothing},
		"chat":                                  {usage.KindChat, `{"max_tokens":200}`, want{200, 0, 1}},
		"chat, the newer name":                  {usage.KindChat, `{"max_completion_tokens":200}`, want{200, 0, 1}},
		"engines prefer one or the other":       {usage.KindChat, `{"max_tokens":200,"max_completion_tokens":1}`, want{200, 0, 1}},
		"chat by the Responses API's":           {usage.KindChat, `{"max_output_tokens":0}`, nothing},
		"chat by TGI's":                         {usage.KindChat, `{"parameters":{"max_new_tokens":0}}`, nothing},
		"llama.cpp's goes first there":          {usage.KindChat, `{"max_tokens":1,"n_predict":100000}`, want{100000, 0, 1}},
		"llama.cpp's alone":                     {usage.KindChat, `{"n_predict":500}`, want{-1, 500, 1}},
		"completions have no such field":        {usage.KindCompletions, `{"max_tokens":20000,"max_completion_tokens":1}`, want{20000, 0, 1}},
		"completions by that field":             {usage.KindCompletions, `{"max_completion_tokens":1}`, want{-1, 1, 1}},
		"messages":                              {usage.KindMessages, `{"max_tokens":20000,"max_completion_tokens":1}`, want{20000, 0, 1}},
		"responses":                             {usage.KindResponses, `{"max_output_tokens":30}`, want{30, 0, 1}},
		"responses by another field":            {usage.KindResponses, `{"max_tokens":1}`, want{-1, 1, 1}},
		"a number in quotes":                    {usage.KindResponses, `{"max_output_tokens":" 20_000 "}`, want{20000, 0, 1}},
		"TGI":                                   {usage.KindTGI, `{"inputs":"x","parameters":{"max_new_tokens":40,"best_of":3}}`, want{40, 0, 3}},
		"SGLang":                                {usage.KindSGLang, `{"text":"x","sampling_params":{"max_new_tokens":40,"n":3}}`, want{40, 0, 3}},
		"SGLang, texts":                         {usage.KindSGLang, `{"text":["a","b"],"sampling_params":{"max_new_tokens":40,"n":3}}`, want{40, 0, 6}},
		"SGLang, a list of parameters":          {usage.KindSGLang, `{"text":["a","b"],"sampling_params":[{"max_new_tokens":1},{"max_new_tokens":50}]}`, want{50, 0, 2}},
		"SGLang, tokens":                        {usage.KindSGLang, `{"input_ids":[1,2,3]}`, nothing},
		"SGLang, lists of tokens":               {usage.KindSGLang, `{"input_ids":[[1,2],[3]]}`, want{-1, 0, 2}},
		"embeddings generate nothing":           {usage.KindPooling, `{"input":["a","b"],"max_tokens":9}`, want{0, 0, 1}},
		"twice: whichever the engine takes":     {usage.KindChat, `{"max_tokens":200,"max_tokens":1,"n":9,"n":1}`, want{200, 0, 9}},
		"written in escapes":                    {usage.KindChat, `{"max_tok\u0065ns":200,"\u006e":5}`, want{200, 0, 5}},
		"another spelling is another field":     {usage.KindChat, `{"Max_Tokens":200}`, nothing},
		"null":                                  {usage.KindChat, `{"max_tokens":null,"n":null}`, nothing},
		"no limit, the llama.cpp way":           {usage.KindChat, `{"max_tokens":-1}`, nothing},
		"a float":                               {usage.KindChat, `{"max_tokens":256.0,"n":128.0}`, want{256, 0, 128}},
		"an exponent":                           {usage.KindChat, `{"max_tokens":1e3}`, want{1000, 0, 1}},
		"absurd":                                {usage.KindChat, `{"max_tokens":1e400,"n":99999999999999999999}`, want{1 << 40, 0, 1 << 20}},
		"n as a text":                           {usage.KindChat, `{"max_tokens":200,"n":"100"}`, want{200, 0, 100}},
		"n that is none":                        {usage.KindChat, `{"n":"many"}`, nothing},
		"more are made than given":              {usage.KindCompletions, `{"n":2,"best_of":5}`, want{-1, 0, 5}},
		"prompts":                               {usage.KindCompletions, `{"prompt":["a","\"],[","c"],"n":2}`, want{-1, 0, 6}},
		"tokens of one prompt":                  {usage.KindCompletions, `{"prompt":[1,2,3]}`, nothing},
		"a prompt of that name in a chat is no": {usage.KindChat, `{"prompt":["a","b"]}`, nothing},
		"deeper down it is nothing":             {usage.KindChat, `{"metadata":{"max_tokens":1,"n":5}}`, nothing},
	} {
		e := usage.Expect(c.kind, []byte(c.body))
		if got := (want{e.Output, e.AtLeast, e.Answers}); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
		if e.Bytes != len(c.body) || e.Background {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

func TestExpectBackground(t *testing.T) {
	for body, want := range map[string]bool{
		`{"background":true}`: true, `{"background":"yes"}`: true, `{"background":false}`: false, `{}`: false,
		`{"background":true,"background":false}`: true, `{"metadata":{"background":true}}`: false,
	} {
		if got := usage.Expect(usage.KindResponses, []byte(body)).Background; got != want {
			t.Errorf("%s: %t", body, got)
		}
	}
}

func FuzzExpect(f *testing.F) {
	f.Add(`{"max_tokens":1,"n":"2","prompt":["a",["b"]],"sampling_params":[{"n":1}],"messages":[{"url":"data:a;base64,AA"}]}`)
	f.Add(`{"max_tok\u0065ns":1e9,"input_ids":[[1],[]]}`)
	f.Add(`{"messages":[{"data":"` + strings.Repeat("A", 20_000) + `"}]}`)
	f.Fuzz(func(t *testing.T, body string) {
		if !json.Valid([]byte(body)) {
			return // nothing else comes so far
		}
		for kind := usage.KindNone; kind <= usage.KindAudio; kind++ {
			e := usage.Expect(kind, []byte(body))
			if e.Bytes < 0 || e.Bytes > len(body) || e.Output < -1 || e.Output > 1<<40 || e.AtLeast < 0 || e.AtLeast > 1<<40 || e.Answers < 1 || e.Answers > 1<<40 {
				t.Fatalf("%+v", e)
			}
		}
	})
}
