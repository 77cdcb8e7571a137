package openai

import (
	"bytes"
	stdjson "encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// FuzzEvents: any cut of the same bytes gives the same result, which is also what
// a plain reader that has all of them at once finds.
func FuzzEvents(f *testing.F) {
	for _, s := range []string{
		roleChunk + tokenChunk + finishChunk + usageChunk + doneEvent,
		tgiToken + tgiError, "event: error\r\ndata: {}\r\n\r\n", ": c\n\n" + vllmError,
		"data: {\"content\": [\"a\"], \"tool_calls\": []}\n\ndata:{\"text\":\"\"}\n\n",
		"event: message_stop\ndata: {}\n\n", "event:response.failed\r\ndata: {}\r\n\r\n", "data: {}\nevent: response.completed\n\n",
		"data: {\"error\":\n", "\r\n\n\r", "data: " + strings.Repeat(" ", 60) + "{\"error\":1}\n\n",
	} {
		f.Add([]byte(s), uint64(1))
	}
	f.Fuzz(func(t *testing.T, p []byte, seed uint64) {
		var whole, cut, bytewise Events
		whole.Scan(p)
		rnd := rand.New(rand.NewPCG(seed, 0))
		for rest := p; len(rest) > 0; {
			n := 1 + rnd.IntN(min(len(rest), 100))
			cut.Scan(rest[:n])
			rest = rest[n:]
		}
		for i := range p {
			bytewise.Scan(p[i : i+1])
		}
		// What follows tells whether the inner state is the same too.
		for _, next := range []string{"", "\n", "data: {\"text\":\"x\"}\n\n"} {
			for _, e := range []*Events{&whole, &cut, &bytewise} {
				e.Scan([]byte(next))
			}
			if whole.seen() != cut.seen() || whole.seen() != bytewise.seen() {
				t.Fatalf("%q + %q, seed %d: whole %+v, cut %+v, bytewise %+v", p, next, seed, whole.seen(), cut.seen(), bytewise.seen())
			}
		}
		whole.Reset()
		whole.Scan(p)
		comparePlain(t, p, whole.seen())
		checkFirst(t, p)
	})
}

var ending = []string{"message_stop", "response.completed", "response.incomplete", "response.cancelled", "response.failed"}

func comparePlain(t *testing.T, p []byte, got seen) {
	count, done, ends, hasData, open := 0, false, false, false, false
	content, readable := false, true
	lines := strings.Split(string(p), "\n")
	for _, line := range lines[:len(lines)-1] {
		line = strings.TrimSuffix(line, "\r")
		value, isData := strings.CutPrefix(line, "data:")
		isDone := isData && strings.HasPrefix(strings.TrimPrefix(value, " "), "[DONE]")
		switch {
		case line == "":
			if hasData {
				count++
			}
			done = done || ends
			hasData, open, ends = false, false, false
			continue
		case isDone:
			done = true
		case isData:
			hasData = true
			found, ok := contentOf(value)
			content, readable = content || found, readable && ok
		case line[0] == 'd':
			readable = false
		}
		if name, ok := strings.CutPrefix(line, "event:"); ok {
			ends = ends || slices.Contains(ending, strings.TrimPrefix(name, " "))
		}
		open = true
	}
	boundary := !open && lines[len(lines)-1] == ""
	if got.Count != count || got.Done != done || got.Boundary != boundary {
		t.Fatalf("%q: got %+v, want count %d, done %v, boundary %v", p, got, count, done, boundary)
	}
	if readable && lines[len(lines)-1] == "" && got.Content != content {
		t.Fatalf("%q: content is %v", p, got.Content)
	}
}

// contentOf looks for generated text by decoding. ok is false where the scanner,
// which does not decode, may see things otherwise.
func contentOf(data string) (found, ok bool) {
	var v any
	if strings.Contains(data, `\`) || stdjson.Unmarshal([]byte(data), &v) != nil {
		return false, false
	}
	texts := []string{"content", "text", "reasoning", "reasoning_content", "thinking", "refusal", "delta", "partial_json"}
	lists := []string{"tool_calls", "token_ids", "output_ids"}
	ok = true
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, v := range v {
				walk(v)
			}
		case map[string]any:
			// A map holds one of two equal keys, the scanner sees both.
			for name, v := range v {
				ok = ok && strings.Count(data, `"`+name+`"`) == 1
				text, _ := v.(string)
				list, _ := v.([]any)
				found = found || text != "" && slices.Contains(texts, name) || len(list) > 0 && slices.Contains(lists, name)
				walk(v)
			}
		}
	}
	walk(v)
	return found, ok
}

// checkFirst: what has been told about a beginning stays true as more arrives.
func checkFirst(t *testing.T, p []byte) {
	last := FirstNone
	for n := range min(len(p), 300) + 1 {
		kind, data := FirstEvent(p[:n])
		if kind < last || last >= FirstData && kind != last {
			t.Fatalf("%q: kind %d turned to %d at %d", p, last, kind, n)
		}
		if data != nil && kind < FirstData {
			t.Fatalf("%q: data without an event", p[:n])
		}
		last = kind
	}
	if kind, data := FirstEvent(p); kind == FirstError {
		var e Events
		e.Scan(p)
		if !e.Failed {
			t.Fatalf("%q: an error at first, none while passing", p)
		}
		if err, _ := EventError(data); err.Status < 400 || !stdjson.Valid(err.Append(nil)) || !bytes.HasSuffix(err.AppendEvent(nil), []byte("}\n\n")) {
			t.Fatalf("%q: %+v", p, err)
		}
	}
}
