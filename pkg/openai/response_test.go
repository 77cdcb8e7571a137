package openai

import (
	"bytes"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-json/jsontext"
	json "github.com/goccy/go-json/v2"
)

const createdEvent = "event: response.created\n" +
	`data: {"response":{"id":"resp_1","created_at":1750000000,"object":"response"},"sequence_number":0,"type":"response.created"}` + "\n\n"

func TestResponseID(t *testing.T) {
	long := strings.Repeat("a", 512)
	for name, c := range map[string]struct {
		answer, want string
		done         bool
	}{
		"nothing":                          {"", "", false},
		"whole":                            {`{"id":"resp_1","object":"response"}`, "resp_1", true},
		"all the characters of ids":        {`{"id":"aZ09._:-"}`, "aZ09._:-", true},
		"behind other keys":                {`{"object":"response","output":[{"id":"msg_1"}],"error":null,"id":"resp_1"}`, "resp_1", true},
		"white space":                      {"\r\n\t { \"id\"\n :\t\"resp_1\" }", "resp_1", true},
		"known before the object ends":     {`{"id":"resp_1","out`, "resp_1", true},
		"half an id is none":               {`{"id":"resp_`, "", false},
		"id of an output only":             {`{"output":[{"id":"msg_1"}]}`, "", true},
		"id in a text":                     {`{"text":"\"id\":\"evil\",","x":"{\"id\":\"evil\"}"}`, "", true},
		"text that ends in a backslash":    {`{"text":"\\","id":"resp_1"}`, "resp_1", true},
		"brackets in a text":               {`{"text":"}]}","id":"resp_1"}`, "resp_1", true},
		"id as a value":                    {`{"a":"id","b":["id","evil"],"id":"resp_1"}`, "resp_1", true},
		"key that ends in id":              {`{"item_id":"evil","idx":"evil","id":"resp_1"}`, "resp_1", true},
		"long key that begins with id":     {`{"id` + long + `":"evil","id":"resp_1"}`, "resp_1", true},
		"response in a whole one":          {`{"response":{"id":"evil"},"id":"resp_1"}`, "resp_1", true},
		"no id":                            {`{"object":"response"}`, "", true},
		"empty object":                     {`{}`, "", true},
		"id as a number":                   {`{"id":7}`, "", true},
		"null":                             {`{"id":null}`, "", true},
		"empty":                            {`{"id":""}`, "", true},
		"longest":                          {`{"id":"` + long + `"}`, long, true},
		"too long":                         {`{"id":"` + long + `a"}`, "", true},
		"with a slash":                     {`{"id":"a/b"}`, "", true},
		"with an escape":                   {`{"id":"a\u0062"}`, "", true},
		"with a letter outside ASCII":      {`{"id":"é"}`, "", true},
		"not an object":                    {`[{"id":"evil"}]`, "", false},
		"a page":                           {"<html>\n\n\n", "", false},
		"streamed":                         {createdEvent, "resp_1", true},
		"streamed, CRLF":                   {strings.ReplaceAll(createdEvent, "\n", "\r\n"), "resp_1", true},
		"streamed, no space, no name":      {`data:{"type":"response.created","response":{"id":"resp_1"`, "resp_1", true},
		"streamed, behind comments":        {": keep-alive\n\n:\r\n\r\n" + createdEvent, "resp_1", true},
		"streamed, over two lines":         {"data: {\"response\":\ndata: {\"id\":\ndata:\"resp_1\"}}\n\n", "resp_1", true},
		"streamed, another field's line":   {"id: 7\nretry: 1\ndat: {\"response\":{\"id\":\"evil\"}}\n" + createdEvent, "resp_1", true},
		"streamed, id of the event":        {`data: {"id":"evil","response":{"object":"response","id":"resp_1"}}` + "\n\n", "resp_1", true},
		"streamed, id of an item":          {`data: {"item":{"id":"evil"},"response":{"output":[{"id":"evil"}]}}` + "\n\n", "", true},
		"streamed, response is a list":     {`data: {"response":[{"id":"evil"}]}` + "\n\n", "", true},
		"streamed, response is null":       {`data: {"response":null,"x":{"id":"evil"}}` + "\n\n", "", true},
		"streamed, response is a text":     {`data: {"response":"id","x":{"id":"evil"}}` + "\n\n", "", true},
		"streamed, only in the second":     {"data: {\"type\":\"x\"}\n\n" + createdEvent, "", true},
		"streamed, first event cut":        {"data: {\"type\":\n\n" + createdEvent, "", true},
		"streamed, second behind CRLF":     {"data: {\"type\":1,\r\n\r\ndata: \"response\":{\"id\":\"evil\"}}\n\n", "", true},
		"streamed, response without an id": {`data: {"response":{},"x":{"id":"evil"}}` + "\n\n", "", true},
		"streamed, response deep inside":   {`data: {"x":{"response":{},"id":"evil"}}` + "\n\n", "", true},
		"streamed, no object":              {doneEvent + createdEvent, "", true},
		"just within the search":           {`{"x":"` + strings.Repeat("x", responseSearch-16) + `","id":"a"}`, "a", true},
		"just behind the search":           {`{"x":"` + strings.Repeat("x", responseSearch-15) + `","id":"a"}`, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			for cut := 0; cut <= len(c.answer); cut += 1 + len(c.answer)/200 {
				var r ResponseID
				r.Scan([]byte(c.answer[:cut]))
				done := r.Scan([]byte(c.answer[cut:]))
				if r.ID() != c.want || done != c.done {
					t.Fatalf("cut at %d: got %q, %v, want %q, %v", cut, r.ID(), done, c.want, c.done)
				}
				if done && (!r.Scan([]byte(`{"id":"evil"}`)) || r.ID() != c.want) {
					t.Fatalf("changed its mind to %q", r.ID())
				}
			}
		})
	}
}

// FuzzResponseID: any cut of the same bytes gives the same result, which is also
// what a JSON reader that has all of them at once finds.
func FuzzResponseID(f *testing.F) {
	for _, s := range []string{
		`{"id":"resp_1","object":"response"}`, `{"a":[{"id":"x"}],"b":"\"id\":","id":"resp_1"}`, createdEvent,
		": c\n\ndata:{\"x\":[1,\ndata: {}],\"response\" : {\"a\":{\"id\":\"x\"},\"id\":\"resp_1\"}}\r\n\r\n", `{"id":7}`, `{"id":"a\u0062"}`,
	} {
		f.Add([]byte(s), uint64(1))
	}
	f.Fuzz(func(t *testing.T, p []byte, seed uint64) {
		var whole, cut, bytewise ResponseID
		done := whole.Scan(p)
		rnd := rand.New(rand.NewPCG(seed, 0))
		for rest := p; len(rest) > 0; {
			n := 1 + rnd.IntN(min(len(rest), 100))
			cut.Scan(rest[:n])
			rest = rest[n:]
		}
		for i := range p {
			bytewise.Scan(p[i : i+1])
		}
		for _, r := range []*ResponseID{&cut, &bytewise} {
			if r.ID() != whole.ID() || r.Scan(nil) != done {
				t.Fatalf("%q, seed %d: %q in pieces, %q whole", p, seed, r.ID(), whole.ID())
			}
		}
		if want, ok := plainResponseID(p); ok && (!done || whole.ID() != want) {
			t.Fatalf("%q: got %q, %v, want %q", p, whole.ID(), done, want)
		}
	})
}

// plainResponseID decodes the answer; ok is false if it is none that an engine
// could have sent.
func plainResponseID(p []byte) (id string, ok bool) {
	type object struct {
		ID jsontext.Value `json:"id"`
	}
	var whole object
	if body := bytes.TrimLeft(p, " \t\r\n"); len(body) > 0 && body[0] == '{' {
		err := json.Unmarshal(body, &whole)
		return plainID(whole.ID), err == nil && plainKeys(body)
	}
	event, complete := firstData(p)
	var first struct {
		Response jsontext.Value `json:"response"`
	}
	if !complete || json.Unmarshal(event, &first) != nil || !plainKeys(event) {
		return "", false
	}
	if first.Response.Kind() != jsontext.KindBeginObject {
		return "", true
	}
	err := json.Unmarshal(first.Response, &whole)
	return plainID(whole.ID), err == nil
}

// plainKeys tells that no key is written with escapes, which no engine does.
func plainKeys(b []byte) bool { return !bytes.Contains(b, []byte(`\u`)) }

var madeByEngines = regexp.MustCompile(`^"[A-Za-z0-9._:-]{1,512}"$`)

func plainID(v jsontext.Value) string {
	if !madeByEngines.Match(v) {
		return ""
	}
	return string(v[1 : len(v)-1])
}

// firstData is the data of the first event of a stream that has any.
func firstData(p []byte) (data []byte, complete bool) {
	found := false
	for line := range strings.Lines(string(p)) {
		body, ended := strings.CutSuffix(line, "\n")
		body = strings.TrimSuffix(body, "\r")
		switch value, isData := strings.CutPrefix(body, "data:"); {
		case !ended || strings.HasPrefix(body, "\r"):
			return nil, false
		case isData:
			found = true
			data = append(append(data, value...), '\n')
		case body == "" && found:
			return data, true
		}
	}
	return nil, false
}
