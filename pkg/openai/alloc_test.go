//go:build !race

package openai

import (
	"io"
	"testing"
)

// The race detector allocates on its own; these run without it.
func TestAllocations(t *testing.T) {
	body := []byte(benchBodies()[0].body)
	escaped := []byte(`{"m\u006fdel":"a\/b","parameters":{"max_new_tokens":7}}`)
	stream := []byte(roleChunk + tokenChunk + finishChunk + usageChunk + doneEvent)
	responses := []byte(`{"model":"m","previous_response_id":"resp_1","input":"x"}`)
	named := []byte(createdEvent + "event: response.completed\ndata: {}\n\n")
	form, err := NewForm("multipart/form-data; boundary=XX")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(form, part(`name="file"; filename="x"`, ""))
	var r Request
	var e Events
	var parts [][]byte
	for name, f := range map[string]func(){
		"Parse": func() {
			if r.Parse(body) != nil {
				t.Fail()
			}
		},
		"Parse with escapes": func() {
			if r.Parse(escaped) != nil || r.Model != "a/b" {
				t.Fail()
			}
		},
		"Parse with a previous response": func() {
			if r.Parse(responses) != nil || r.PreviousResponseID != "resp_1" {
				t.Fail()
			}
		},
		"Splice": func() {
			if r.Parse(body) != nil {
				t.Fail()
			}
			parts = r.Splice(parts[:0], body, "meta-llama/Llama-3.1-8B-Instruct")
		},
		"Scan": func() {
			e.Reset()
			e.Scan(stream[:700])
			e.Scan(stream[700:])
			if e.Count != 4 || !e.HasContent() || !e.AtBoundary() {
				t.Fail()
			}
		},
		"Scan of named events": func() {
			e.Reset()
			e.Scan(named)
			if !e.Done {
				t.Fail()
			}
		},
		"Form over a file": func() {
			if _, err := form.Write(worstFile); err != nil {
				t.Fail()
			}
		},
		"FirstEvent": func() {
			if kind, _ := FirstEvent(stream); kind != FirstData {
				t.Fail()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			if n := testing.AllocsPerRun(100, f); n != 0 {
				t.Errorf("%v allocations, want none", n)
			}
		})
	}
}
