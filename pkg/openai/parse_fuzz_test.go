package openai

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-json/jsontext"
)

// oracle reads a body by go-json's token decoder, under the rules that
// Request.Parse adds to JSON.
type oracle struct {
	model  string
	prev   string
	stream bool
	tokens map[string]int64
}

var errRule = errors.New("against a rule of ours")

func readOracle(body []byte) (o oracle, err error) {
	o.tokens = map[string]int64{}
	d := jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true))
	if d.PeekKind() != jsontext.KindBeginObject {
		return o, errRule
	}
	seen := map[string]bool{}
	path := []string{""} // the name of the member that each open value belongs to
	for {
		isName := false
		if kind, n := d.StackIndex(d.StackDepth()); d.StackDepth() > 0 {
			isName = kind == jsontext.KindBeginObject && n%2 == 0
		}
		tok, err := d.ReadToken()
		if errors.Is(err, io.EOF) {
			return o, nil
		}
		if err != nil {
			return o, err
		}
		depth := d.StackDepth()
		if depth == 0 && d.PeekKind() != 0 {
			return o, errRule // a second value
		}
		if depth > 64 {
			return o, errRule
		}
		kind := tok.Kind()
		if kind == jsontext.KindEndObject || kind == jsontext.KindEndArray {
			continue
		}
		level := depth
		if kind == jsontext.KindBeginObject || kind == jsontext.KindBeginArray {
			level-- // of the member whose value begins
		}
		if level == 0 {
			continue
		}
		if isName {
			path = append(path[:level], tok.String())
			if err := checkName(path, seen); err != nil {
				return o, err
			}
			continue
		}
		if parent, _ := d.StackIndex(level); parent != jsontext.KindBeginObject {
			path = append(path[:level], "[]")
			continue
		}
		if err := o.take(path[1:level+1], tok); err != nil {
			return o, err
		}
	}
}

func checkName(path []string, seen map[string]bool) error {
	known := []string{"model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "parameters", "previous_response_id"}
	switch {
	case len(path) == 3 && path[1] == "parameters":
		known = []string{"max_new_tokens"}
	case len(path) != 2:
		return nil
	}
	name := path[len(path)-1]
	for _, k := range known {
		if strings.EqualFold(k, name) {
			if k != name || seen[k] {
				return errRule
			}
			seen[k] = true
		}
	}
	return nil
}

func (o *oracle) take(path []string, tok jsontext.Token) error {
	kind := tok.Kind()
	switch strings.Join(path, ".") {
	case "model":
		if kind != jsontext.KindString && kind != jsontext.KindNull {
			return errRule
		}
		if kind == jsontext.KindString {
			o.model = tok.String()
		}
	case "previous_response_id":
		if kind != jsontext.KindString && kind != jsontext.KindNull || kind == jsontext.KindString && len(tok.String()) > 512 {
			return errRule
		}
		if kind == jsontext.KindString {
			o.prev = tok.String()
		}
	case "stream":
		if kind != jsontext.KindTrue && kind != jsontext.KindFalse && kind != jsontext.KindNull {
			return errRule
		}
		o.stream = kind == jsontext.KindTrue
	case "max_tokens", "max_completion_tokens", "parameters.max_new_tokens":
		if kind == jsontext.KindNull {
			return nil
		}
		if kind != jsontext.KindNumber {
			return errRule
		}
		n, err := strconv.ParseInt(tok.String(), 10, 64)
		if err != nil {
			x, err := strconv.ParseFloat(tok.String(), 64)
			if err != nil || x != math.Trunc(x) || math.Abs(x) >= 1<<53 {
				return errRule
			}
			n = int64(x)
		}
		o.tokens[path[len(path)-1]] = max(n, -1)
	}
	return nil
}

func (o *oracle) maxTokens() int64 {
	for _, name := range []string{"max_completion_tokens", "max_tokens", "max_new_tokens"} {
		if n, ok := o.tokens[name]; ok {
			return n
		}
	}
	return -1
}

// FuzzParse compares with two other readers: go-json's strict one, which must
// agree on everything, and encoding/json, which must know what we accept.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"model":"m","stream":true,"stream_options":{"include_usage":true},"max_tokens":5}`,
		`{"m\u006fdel":"\ud83d\ude00","ſtream":1}`, `{"model":"a","Model":"b"}`, `{"previous_response_id":"\u0072","model":"\u006d"}`, `{"stream":"true"}`,
		`{"inputs":"x","parameters":{"max_new_tokens":1e2,"stop":["\n"]},"parameters":1}`,
		`{"max_tokens":1,"max_completion_tokens":null}`, `{"a":[1,-0.5e+3,{"b":[]}],"model":null}`,
		"{\"model\":\"\xff\"}", `{"a":"\ud800"}`, `{} {}`, "\xef\xbb\xbf{}", `{"a":01}`,
		strings.Repeat(`{"a":`, 64) + "1" + strings.Repeat("}", 64), `{"a":` + strings.Repeat(`[`, 70),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		var r Request
		err := r.Parse(body)
		if !bytes.Equal(body, before) {
			t.Fatal("the body was changed")
		}
		o, oracleErr := readOracle(body)
		if (err == nil) != (oracleErr == nil) {
			t.Fatalf("%q: ours says %v, go-json %v", body, err, oracleErr)
		}
		if err != nil {
			return
		}
		if r.Model != o.model || r.PreviousResponseID != o.prev || r.Stream != o.stream || r.MaxTokens != o.maxTokens() {
			t.Fatalf("%q: ours found %+v, go-json %+v", body, r, o)
		}
		compareWithStd(t, body, &r)
		checkSplice(t, body, &r)
	})
}

func compareWithStd(t *testing.T, body []byte, r *Request) {
	var members map[string]stdjson.RawMessage
	if err := stdjson.Unmarshal(body, &members); err != nil {
		t.Fatalf("%q: encoding/json refuses what we accept: %v", body, err)
	}
	for name, at := range map[string]Span{"model": r.ModelSpan, "stream": r.StreamSpan, "stream_options": r.StreamOptionsSpan} {
		if got, want := body[at.Start:at.End], members[name]; !bytes.Equal(got, want) {
			t.Fatalf("%q: span of %s is %q, want %q", body, name, got, want)
		}
	}
	if body[r.ObjectEnd] != '}' || len(bytes.TrimRight(body[r.ObjectEnd+1:], " \t\r\n")) > 0 {
		t.Fatalf("%q: ObjectEnd = %d", body, r.ObjectEnd)
	}
}

func checkSplice(t *testing.T, body []byte, r *Request) {
	spliced := bytes.Join(r.Splice(nil, body, "näme\""), nil)
	var again Request
	if err := again.Parse(spliced); err != nil {
		t.Fatalf("%q is refused once spliced, %q: %v", body, spliced, err)
	}
	if again.Model != "näme\"" || again.PreviousResponseID != r.PreviousResponseID || again.Stream != r.Stream || again.MaxTokens != r.MaxTokens {
		t.Fatalf("%q spliced to %q", body, spliced)
	}
}
