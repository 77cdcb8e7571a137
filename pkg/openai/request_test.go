package openai

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unsafe"

	json "github.com/goccy/go-json/v2"
)

func TestParseFinds(t *testing.T) {
	type want struct {
		model                                    string
		stream                                   bool
		maxTokens                                int64
		modelAt, streamAt, optionsAt, maxTokens_ string // the text of each span
	}
	for name, c := range map[string]struct {
		body string
		want want
	}{
		"plain chat": {
			`{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true},"max_tokens":16}`,
			want{"m", true, 16, `"m"`, "true", `{"include_usage":true}`, "16"},
		},
		"white space everywhere":           {" \r\n\t{ \"model\" : \"m\" ,\n\"stream\" : false } \n", want{"m", false, -1, `"m"`, "false", "", ""}},
		"empty object":                     {`{}`, want{maxTokens: -1}},
		"null model is no model":           {`{"model":null}`, want{maxTokens: -1, modelAt: "null"}},
		"null stream does not stream":      {`{"stream":null}`, want{maxTokens: -1, streamAt: "null"}},
		"empty model":                      {`{"model":""}`, want{maxTokens: -1, modelAt: `""`}},
		"escaped value is decoded":         {`{"model":"a\/b\u00e9\ud83d\ude00"}`, want{model: "a/bé😀", maxTokens: -1, modelAt: `"a\/b\u00e9\ud83d\ude00"`}},
		"escaped name is the same name":    {`{"m\u006fdel":"m"}`, want{model: "m", maxTokens: -1, modelAt: `"m"`}},
		"nested model is not ours":         {`{"metadata":{"model":"x","stream":1,"Model":2},"model":"m"}`, want{model: "m", maxTokens: -1, modelAt: `"m"`}},
		"model in a string is not ours":    {`{"prompt":"\",\"model\":\"x\"","model":"m"}`, want{model: "m", maxTokens: -1, modelAt: `"m"`}},
		"unknown fields twice pass":        {`{"x":1,"x":2,"messages":[],"messages":{}}`, want{maxTokens: -1}},
		"newer name of the limit wins":     {`{"max_completion_tokens":5,"max_tokens":7}`, want{maxTokens: 5, maxTokens_: "5"}},
		"newer name wins from behind":      {`{"max_tokens":7,"max_completion_tokens":5}`, want{maxTokens: 5, maxTokens_: "5"}},
		"null limit yields to the other":   {`{"max_tokens":7,"max_completion_tokens":null}`, want{maxTokens: 7, maxTokens_: "7"}},
		"TGI limit":                        {`{"inputs":"x","parameters":{"max_new_tokens":20,"model":3}}`, want{maxTokens: 20, maxTokens_: "20"}},
		"TGI limit yields to OpenAI's":     {`{"max_tokens":7,"parameters":{"max_new_tokens":20}}`, want{maxTokens: 7, maxTokens_: "7"}},
		"TGI limit elsewhere is not ours":  {`{"max_new_tokens":"x","p":{"parameters":{"max_new_tokens":"x"}}}`, want{maxTokens: -1}},
		"max_tokens below parameters":      {`{"parameters":{"max_tokens":"x"}}`, want{maxTokens: -1}},
		"parameters of another kind":       {`{"parameters":[{"max_new_tokens":1}]}`, want{maxTokens: -1}},
		"no limit the llama.cpp way":       {`{"max_tokens":-1}`, want{maxTokens: -1, maxTokens_: "-1"}},
		"negative limit is none":           {`{"max_tokens":-7}`, want{maxTokens: -1, maxTokens_: "-7"}},
		"integral float, from Python":      {`{"max_tokens":256.0}`, want{maxTokens: 256, maxTokens_: "256.0"}},
		"numbers of every form":            {`{"x":[0,-0,1.5,-1e3,1E+2,0.1e-7,12345678901234567890]}`, want{maxTokens: -1}},
		"prefix and suffix of a known key": {`{"mode":1,"models":2,"streams":3,"s":4,"":5}`, want{maxTokens: -1}},
		"long name written in escapes":     {`{"` + strings.Repeat(`\u006d`, 300) + `":1}`, want{maxTokens: -1}},
		"deepest nesting allowed":          {strings.Repeat(`{"a":`, 63) + `[]` + strings.Repeat(`}`, 63), want{maxTokens: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			body := []byte(c.body)
			at := func(s Span) string { return string(body[s.Start:s.End]) }
			var r Request
			if err := r.Parse(body); err != nil {
				t.Fatal(err)
			}
			got := want{r.Model, r.Stream, r.MaxTokens, at(r.ModelSpan), at(r.StreamSpan), at(r.StreamOptionsSpan), at(r.MaxTokensSpan)}
			if got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
			if end := strings.TrimRight(c.body, " \t\r\n"); r.ObjectEnd != len(end)-1 {
				t.Errorf("ObjectEnd = %d, want %d", r.ObjectEnd, len(end)-1)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for name, c := range map[string]struct{ body, param string }{
		"model twice":                         {`{"model":"a","model":"b"}`, "model"},
		"model twice, once in escapes":        {`{"model":"a","m\u006fdel":"b"}`, "model"},
		"model twice, the same":               {`{"model":"a","model":"a"}`, "model"},
		"model twice, null first":             {`{"model":null,"model":"a"}`, "model"},
		"Model beside model":                  {`{"model":"a","Model":"b"}`, "model"},
		"Model instead of model":              {`{"Model":"a"}`, "model"},
		"Model in escapes":                    {`{"\u004dodel":"a"}`, "model"},
		"stream twice":                        {`{"stream":true,"stream":true}`, "stream"},
		"long s folds to s":                   {`{"ſtream":true}`, "stream"},
		"long s in escapes":                   {`{"\u017ftream":true}`, "stream"},
		"Kelvin sign folds to k":              {"{\"max_to\u212aens\":1}", "max_tokens"},
		"stream_options twice":                {`{"stream_options":{},"stream_options":null}`, "stream_options"},
		"max_tokens twice":                    {`{"max_tokens":1,"max_tokens":2}`, "max_tokens"},
		"parameters twice":                    {`{"parameters":{},"parameters":{"max_new_tokens":1}}`, "parameters"},
		"max_new_tokens twice":                {`{"parameters":{"max_new_tokens":1,"max_new_tokens":2}}`, "max_new_tokens"},
		"previous id twice":                   {`{"previous_response_id":"a","previous_response_id":"a"}`, "previous_response_id"},
		"previous id twice, once in escapes":  {`{"previous_response_id":null,"previous_respons\u0065_id":"a"}`, "previous_response_id"},
		"previous id in another spelling":     {`{"Previous_Response_Id":"a"}`, "previous_response_id"},
		"previous id as a number":             {`{"previous_response_id":7}`, "previous_response_id"},
		"previous id as a list":               {`{"previous_response_id":["a"]}`, "previous_response_id"},
		"previous id as false":                {`{"previous_response_id":false}`, "previous_response_id"},
		"previous id of 513 bytes":            {`{"previous_response_id":"` + strings.Repeat("a", 513) + `"}`, "previous_response_id"},
		"stream as a word":                    {`{"stream":"true"}`, "stream"},
		"stream as a number":                  {`{"stream":1}`, "stream"},
		"stream as an object":                 {`{"stream":{}}`, "stream"},
		"model as a number":                   {`{"model":7}`, "model"},
		"model as a list":                     {`{"model":["m"]}`, "model"},
		"limit as a word":                     {`{"max_tokens":"100"}`, "max_tokens"},
		"limit with a fraction":               {`{"max_tokens":1.5}`, "max_tokens"},
		"limit beyond integers":               {`{"max_tokens":1e30}`, "max_tokens"},
		"limit as a boolean":                  {`{"max_completion_tokens":true}`, "max_completion_tokens"},
		"nothing":                             {``, ""},
		"white space":                         {"  \n", ""},
		"list":                                {`[{"model":"m"}]`, ""},
		"null":                                {`null`, ""},
		"byte order mark":                     {"\xef\xbb\xbf{}", ""},
		"trailing junk":                       {`{} x`, ""},
		"two objects":                         {`{}{}`, ""},
		"NUL behind":                          {"{}\x00", ""},
		"trailing comma":                      {`{"a":1,}`, ""},
		"trailing comma in a list":            {`{"a":[1,]}`, ""},
		"missing comma":                       {`{"a":1 "b":2}`, ""},
		"missing colon":                       {`{"a" 1}`, ""},
		"name without quotes":                 {`{a:1}`, ""},
		"single quotes":                       {`{'a':1}`, ""},
		"comment":                             {`{/**/}`, ""},
		"cut in an object":                    {`{"a":1`, ""},
		"cut in a string":                     {`{"a":"b`, ""},
		"cut in an escape":                    {`{"a":"b\`, ""},
		"cut behind a name":                   {`{"a"`, ""},
		"cut behind a colon":                  {`{"a":`, ""},
		"cut behind the colon of a field":     {`{"model":`, ""},
		"cut behind the colon of parameters":  {`{"parameters":`, ""},
		"cut in a literal":                    {`{"a":tru`, ""},
		"cut number":                          {`{"a":-`, ""},
		"leading zero":                        {`{"a":01}`, ""},
		"leading zero in a list":              {`{"a":[1,02,3]}`, ""},
		"longest name all in escapes, twice":  {`{"max_completion_tokens":1,"` + allEscaped("max_completion_tokens") + `":2}`, "max_completion_tokens"},
		"leading plus":                        {`{"a":+1}`, ""},
		"leading point":                       {`{"a":.5}`, ""},
		"trailing point":                      {`{"a":1.}`, ""},
		"empty exponent":                      {`{"a":1e}`, ""},
		"hex":                                 {`{"a":0x1}`, ""},
		"NaN, from Python":                    {`{"a":NaN}`, ""},
		"Infinity, from Python":               {`{"a":-Infinity}`, ""},
		"literal in capitals":                 {`{"a":True}`, ""},
		"line feed in a string":               {"{\"a\":\"b\nc\"}", ""},
		"control character in a long string":  {"{\"a\":\"0123456789abcdef\x1f0123456789\"}", ""},
		"NUL in a string":                     {"{\"a\":\"b\x00c\"}", ""},
		"control character in a name":         {"{\"a\tb\":1}", ""},
		"unknown escape":                      {`{"a":"\x41"}`, ""},
		"bad hex digit":                       {`{"a":"\u00g0"}`, ""},
		"half a pair":                         {`{"a":"\ud83d"}`, ""},
		"half a pair and another escape":      {`{"a":"\ud83d\u0041"}`, ""},
		"second half alone":                   {`{"a":"\ude00"}`, ""},
		"invalid UTF-8":                       {"{\"a\":\"\xff\"}", ""},
		"invalid UTF-8 in the last word":      {"{\"a\":\"0123456789\xc3\"}", ""},
		"surrogate in UTF-8":                  {"{\"a\":\"\xed\xa0\x80\"}", ""},
		"overlong UTF-8":                      {"{\"a\":\"\xc0\xaf\"}", ""},
		"invalid UTF-8 in the name":           {"{\"mod\xffel\":1}", ""},
		"vertical tab as white space":         {"{\v}", ""},
		"no-break space as white space":       {"{\u00a0}", ""},
		"one level too deep, objects":         {strings.Repeat(`{"a":`, 65) + `1` + strings.Repeat(`}`, 65), ""},
		"one level too deep, lists":           {`{"a":` + strings.Repeat(`[`, 64) + strings.Repeat(`]`, 64) + `}`, ""},
		"a bomb of brackets":                  {`{"a":` + strings.Repeat(`[`, 1<<20), ""},
		"a bomb of brackets below parameters": {`{"parameters":{"a":` + strings.Repeat(`[`, 1<<20), ""},
	} {
		t.Run(name, func(t *testing.T) {
			var r Request
			err := r.Parse([]byte(c.body))
			var syntax *SyntaxError
			if !errors.As(err, &syntax) {
				t.Fatalf("got %v, want a *SyntaxError; found %+v", err, r)
			}
			if syntax.Param != c.param || syntax.Message == "" {
				t.Errorf("got %+v, want param %q", syntax, c.param)
			}
		})
	}
}

func allEscaped(s string) string {
	var b strings.Builder
	for _, r := range s {
		fmt.Fprintf(&b, `\u%04x`, r)
	}
	return b.String()
}

func TestPreviousResponseID(t *testing.T) {
	long := strings.Repeat("a", 512)
	for name, c := range map[string]struct{ body, model, want string }{
		"none":                       {`{"model":"m"}`, "m", ""},
		"plain":                      {`{"previous_response_id":"resp_1","model":"m"}`, "m", "resp_1"},
		"null":                       {`{"previous_response_id":null}`, "", ""},
		"empty":                      {`{"previous_response_id":""}`, "", ""},
		"longest":                    {`{"previous_response_id":"` + long + `"}`, "", long},
		"longest in escapes":         {`{"previous_response_id":"` + allEscaped(long) + `"}`, "", long},
		"nested is not ours":         {`{"input":[{"previous_response_id":7}]}`, "", ""},
		"below parameters":           {`{"parameters":{"previous_response_id":7}}`, "", ""},
		"escapes do not meet":        {`{"model":"\u006d1","previous_response_id":"\u0072esp"}`, "m1", "resp"},
		"escapes do not meet behind": {`{"previous_response_id":"\u0072esp","model":"\u006dodel-with-a-long-name"}`, "model-with-a-long-name", "resp"},
	} {
		t.Run(name, func(t *testing.T) {
			var r Request
			for range 2 { // a second time in memory that is there
				if err := r.Parse([]byte(c.body)); err != nil || r.PreviousResponseID != c.want || r.Model != c.model {
					t.Errorf("got %q of model %q, %v", r.PreviousResponseID, r.Model, err)
				}
			}
		})
	}
}

func TestParseNamesTheRightSpelling(t *testing.T) {
	var r Request
	err := r.Parse([]byte(`{"Stream":true}`))
	if err == nil || !strings.Contains(err.Error(), `"Stream" is not a known field: it is spelled "stream"`) {
		t.Error(err)
	}
}

// Every length and offset around the eight-byte steps, with each byte that must
// stop them.
func TestStringsAtEveryOffset(t *testing.T) {
	for pad := range 20 {
		for fill := range 20 {
			for _, end := range []string{``, `\"`, `\\`, `é`, `\u0041`, "\x7f"} {
				text := strings.Repeat("x", fill) + end
				body := []byte(`{` + strings.Repeat(" ", pad) + `"model":"` + text + `","a":""}`)
				var r Request
				if err := r.Parse(body); err != nil {
					t.Fatalf("%s: %v", body, err)
				}
				if got := string(body[r.ModelSpan.Start:r.ModelSpan.End]); got != `"`+text+`"` {
					t.Fatalf("%s: got %s", body, got)
				}
				for _, bad := range []string{"\x00", "\x1f", "\n", "\xff", `\q`} {
					body := []byte(`{` + strings.Repeat(" ", pad) + `"model":"` + text + bad + `........"}`)
					if r.Parse(body) == nil {
						t.Fatalf("%q accepted", body)
					}
				}
			}
		}
	}
}

func TestModelAliasesTheBody(t *testing.T) {
	body := []byte(`{"model":"name"}`)
	var r Request
	if err := r.Parse(body); err != nil {
		t.Fatal(err)
	}
	if unsafe.StringData(r.Model) != &body[r.ModelSpan.Start+1] {
		t.Error("the name was copied")
	}
}

func TestParseForgetsTheBodyBefore(t *testing.T) {
	var r Request
	if err := r.Parse([]byte(`{"model":"\u0061","stream":true,"stream_options":{},"max_tokens":1}`)); err != nil {
		t.Fatal(err)
	}
	if err := r.Parse([]byte(` {}`)); err != nil {
		t.Fatal(err)
	}
	if r.Model != "" || r.Stream || r.MaxTokens != -1 || r.ModelSpan != (Span{}) || r.StreamSpan != (Span{}) ||
		r.StreamOptionsSpan != (Span{}) || r.MaxTokensSpan != (Span{}) || r.ObjectEnd != 2 {
		t.Errorf("left over: %+v", r)
	}
}

func TestSplice(t *testing.T) {
	for name, c := range map[string]struct{ body, model, want string }{
		"replaced":            {`{"a":1, "model" : "x" ,"b":2}`, "served", `{"a":1, "model" : "served" ,"b":2}`},
		"null replaced":       {`{"model":null}`, "served", `{"model":"served"}`},
		"added":               {`{"a":1 } `, "served", `{"a":1 ,"model":"served"} `},
		"added to nothing":    {` { }`, "served", ` { "model":"served"}`},
		"nested empty object": {`{"a":{}}`, "served", `{"a":{},"model":"served"}`},
		"quoted":              {`{"model":"x"}`, "a\"b\\c\n", `{"model":"a\"b\\c\n"}`},
	} {
		t.Run(name, func(t *testing.T) {
			body := []byte(c.body)
			var r Request
			if err := r.Parse(body); err != nil {
				t.Fatal(err)
			}
			parts := r.Splice(nil, body, c.model)
			got := bytes.Join(parts, nil)
			if string(got) != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			var decoded struct{ Model string }
			if err := json.Unmarshal(got, &decoded, json.MatchCaseInsensitiveNames(true)); err != nil || decoded.Model != c.model {
				t.Errorf("decoded %q, %v", decoded.Model, err)
			}
			if &parts[0][0] != &body[0] {
				t.Error("the body was copied")
			}
			if again := r.Splice(parts[:0], body, c.model); string(bytes.Join(again, nil)) != c.want {
				t.Errorf("a second time: %s", bytes.Join(again, nil))
			}
		})
	}
}
