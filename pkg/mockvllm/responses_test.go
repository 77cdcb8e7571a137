package mockvllm

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// told is what a test reads of a response.
type told struct {
	ID     string
	Status string
	Output []struct {
		Content []struct{ Text string }
	}
	Usage *struct {
		Input  int `json:"input_tokens"`
		Output int `json:"output_tokens"`
	}
}

// ask sends a request about a response and reads the answer.
func ask(t *testing.T, addr, raw string) told {
	t.Helper()
	got := exchange(t, addr, raw)
	head, body, _ := strings.Cut(got, "\r\n\r\n")
	var r told
	if err := json.Unmarshal([]byte(body), &r); err != nil || !strings.HasPrefix(head, "HTTP/1.1 200 ") {
		t.Fatalf("%v in %q", err, got)
	}
	return r
}

// TestResponseIsContinued: previous_response_id brings the conversation back,
// on the engine that made it and on no other.
func TestResponseIsContinued(t *testing.T) {
	_, addr := tcpEngine(t, Options{})
	_, other := tcpEngine(t, Options{})
	post := func(more string) string { return request(responsesPath, responsesBody(more), closing) }
	first := ask(t, addr, post(`"mock_tokens":9`))
	next := post(`"mock_tokens":9,"previous_response_id":"` + first.ID + `"`)
	second := ask(t, addr, next)
	said := len(first.Output[0].Content[0].Text)
	if grown := second.Usage.Input - first.Usage.Input; grown < said/tokenBytes || grown > said/tokenBytes+20 {
		t.Errorf("%d tokens more, for an answer of %d bytes", grown, said)
	}
	if again := ask(t, addr, strings.Replace(get(responsesPath+"/"+first.ID), "Host", closing+"\r\nHost", 1)); again.Output[0].Content[0].Text != first.Output[0].Content[0].Text {
		t.Error("another text when read again")
	}
	if got := exchange(t, other, next); !strings.HasPrefix(got, "HTTP/1.1 404 ") {
		t.Errorf("the other engine: %q", got)
	}
	gone := ask(t, addr, post(`"store":false`))
	if got := exchange(t, addr, post(`"previous_response_id":"`+gone.ID+`"`)); !strings.HasPrefix(got, "HTTP/1.1 404 ") {
		t.Errorf("not stored: %q", got)
	}
	if got := exchange(t, addr, request(responsesPath+"/"+first.ID+"/cancel", "", closing)); !strings.Contains(got, "Cannot cancel a synchronous response.") {
		t.Errorf("cancel: %q", got)
	}
	if got := exchange(t, addr, get(responsesPath+"/"+first.ID+"?stream=true")); !strings.Contains(got, "Unknown response_id") {
		t.Errorf("replay: %q", got)
	}
}

// TestBackground: the answer comes at once, the response later, whether the
// client stays or not; cancelling frees the slot.
func TestBackground(t *testing.T) {
	post := func(more string) string {
		return request(responsesPath, responsesBody(`"background":true,`+more), closing)
	}
	t.Run("completes without its client", func(t *testing.T) {
		e, addr := tcpEngine(t, Options{StepBase: time.Millisecond})
		r := ask(t, addr, post(`"mock_tokens":20,"mock_tag":"bg"`))
		if r.Status != "queued" || len(r.Output) != 0 || r.Usage != nil {
			t.Errorf("at once: %+v", r)
		}
		row := await(t, e, "of the task", func(r Entry) bool { return r.Method == MethodTask && r.Ended() })
		if row.State != StateDone || row.Tokens != 20 || row.Tag != "bg" || row.ID != r.ID {
			t.Errorf("row %+v", row)
		}
		if r = ask(t, addr, get(responsesPath+"/"+r.ID)); r.Status != "completed" || r.Usage.Output != 20 {
			t.Errorf("later: %+v", r)
		}
	})
	t.Run("is cancelled", func(t *testing.T) {
		e, addr := tcpEngine(t, Options{StepBase: time.Millisecond})
		id := ask(t, addr, post(`"max_output_tokens":100000`)).ID
		await(t, e, "decoding", func(r Entry) bool { return r.Method == MethodTask && r.State == StateDecode })
		if r := ask(t, addr, request(responsesPath+"/"+id+"/cancel", "", closing)); r.Status != "cancelled" {
			t.Errorf("cancel: %+v", r)
		}
		row := await(t, e, "of the task", func(r Entry) bool { return r.Method == MethodTask && r.Ended() })
		if row.State != StateAborted || row.Tokens == 0 {
			t.Errorf("row %+v", row)
		}
		if r := ask(t, addr, get(responsesPath+"/"+id)); r.Status != "cancelled" {
			t.Errorf("later: %+v", r)
		}
	})
	t.Run("is streamed, and streamed again from the middle", func(t *testing.T) {
		_, addr := tcpEngine(t, Options{StepBase: time.Millisecond})
		whole := exchange(t, addr, post(`"stream":true,"mock_tokens":5`))
		_, id, _ := strings.Cut(whole, `"id":"`)
		id, _, _ = strings.Cut(id, `"`)
		again := exchange(t, addr, get(responsesPath+"/"+id+"?stream=true"))
		if events(whole) != events(again) {
			t.Errorf("got %q, then %q", whole, again)
		}
		rest := exchange(t, addr, get(responsesPath+"/"+id+"?stream=true&starting_after=3"))
		if n := strings.Count(whole, "event: ") - strings.Count(rest, "event: "); n != 4 || !strings.Contains(rest, "response.completed") {
			t.Errorf("%d events fewer in %q", n, rest)
		}
	})
	t.Run("ends with the engine", func(t *testing.T) {
		e, addr := tcpEngine(t, Options{StepBase: time.Millisecond})
		ask(t, addr, post(`"max_output_tokens":100000`))
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		for _, r := range e.Ledger() {
			if !r.Ended() {
				t.Errorf("row %+v", r)
			}
		}
	})
	t.Run("finds the queue full", func(t *testing.T) {
		e, addr := tcpEngine(t, Options{StepBase: time.Millisecond, MaxNumSeqs: 1, MaxQueued: 1})
		for i := range 2 {
			ask(t, addr, post(`"max_output_tokens":100000`))
			eventually(t, "in its place", func() bool { r, w, _ := e.Load(); return r == 1 && w == i })
		}
		if got := exchange(t, addr, post(`"stream":true`)); !strings.HasPrefix(got, "HTTP/1.1 503 ") {
			t.Errorf("got %q", got)
		}
	})
}

// TestResponseStoreIsBounded: the oldest responses go.
func TestResponseStoreIsBounded(t *testing.T) {
	var s responseStore
	put := func(id string) { s.put(&response{generation: &generation{id: id}}) }
	put("first")
	put("second")
	put("first")
	for i := range maxResponses - 1 {
		put(strings.Repeat("x", i+1))
	}
	if s.get("first") != nil || s.get("second") == nil || len(s.byID) != maxResponses || len(s.order) != maxResponses {
		t.Errorf("%d responses, %d in order", len(s.byID), len(s.order))
	}
}

// events is an answer without its head.
func events(answer string) string {
	_, body, _ := strings.Cut(answer, "\r\n\r\n")
	return body
}
