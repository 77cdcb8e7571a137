package app_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// shape is that of the errors that the surface's clients read.
func (y *apiTry) shape() string {
	switch y.row.api {
	case "apiAnthropic":
		return "Anthropic"
	case "apiTGI":
		return "TGI"
	}
	return "OpenAI"
}

// errorShape tells whose clients understand an error body.
func errorShape(body string) string {
	var v struct {
		Type      string          `json:"type"`
		Error     json.RawMessage `json:"error"`
		ErrorType string          `json:"error_type"`
	}
	var inner struct {
		Message string `json:"message"`
		Type    string `json:"type"`
	}
	if json.Unmarshal([]byte(body), &v) != nil || len(v.Error) == 0 {
		return fmt.Sprintf("none: %q", body)
	}
	switch {
	case v.Error[0] == '"' && v.ErrorType != "":
		return "TGI"
	case json.Unmarshal(v.Error, &inner) != nil || inner.Message == "":
		return fmt.Sprintf("none: %q", body)
	case v.Type == "error" && inner.Type != "":
		return "Anthropic"
	}
	return "OpenAI"
}

// sseEvent is an event as a client's parser has it.
type sseEvent struct{ name, data string }

func readSSE(body string) (events []sseEvent) {
	for block := range strings.SplitSeq(body, "\n\n") {
		var e sseEvent
		for line := range strings.SplitSeq(block, "\n") {
			if name, ok := strings.CutPrefix(line, "event:"); ok {
				e.name = strings.TrimSpace(name)
			}
			if data, ok := strings.CutPrefix(line, "data:"); ok {
				e.data += strings.TrimSpace(data)
			}
		}
		if e != (sseEvent{}) {
			events = append(events, e)
		}
	}
	return events
}

// isTerminal tells whether a client takes the stream for complete after it.
func (e *sseEvent) isTerminal() bool {
	switch e.name {
	case "message_stop", "response.completed", "response.incomplete", "response.failed":
		return true
	}
	return e.data == "[DONE]" || strings.Contains(e.data, `"generated_text":"`)
}

// errorEvent is the kind of error event it is, in the words of the table.
func (e *sseEvent) errorEvent() string {
	shape := errorShape(e.data)
	switch {
	case e.name != "" && e.name != "error" || strings.HasPrefix(shape, "none"):
		return fmt.Sprintf("%q", *e)
	case e.name == "":
		return shape + " error"
	case strings.Contains(e.data, `"sequence_number":`):
		return "`error` event of Responses"
	}
	return "`error` event of Anthropic"
}

// wantEvent is the error event that clients of the surface raise an error for.
func (y *apiTry) wantEvent() string {
	switch y.row.api {
	case "apiResponses":
		return "`error` event of Responses"
	case "apiAnthropic":
		return "`error` event of Anthropic"
	}
	return y.shape() + " error"
}

// unavailable checks that nobody sees the failure of one engine of two before
// the first byte; a response that only this one has is another matter.
func (y *apiTry) unavailable(stream bool) {
	faults := []string{"503", "truncated-json"}
	if stream {
		faults = []string{"503", "error-event-first"}
	}
	for _, name := range faults {
		func() {
			a := apiAsk{stream: stream}
			if y.row.stored {
				a.id = y.create(a)
			}
			defer y.fault(name)()
			got := y.ask(y.gateway.Addr, a)
			switch {
			case !y.row.stored && got.status == 200 && got.isStream() == stream && y.counts() == [2]int{1, 1}:
				saw(&y.seen.before, "failed over")
			case y.row.stored && got.status >= 500 && errorShape(got.body) == y.shape() && y.counts() == [2]int{1, 0}:
				saw(&y.seen.before, "passed on")
			default:
				y.t.Errorf("%s: %d %s after requests %v", name, got.status, got.body, y.counts())
			}
		}()
	}
}

// breaks checks the end of a stream that an engine did not end as it should.
func (y *apiTry) breaks(stream bool) {
	if !stream {
		return
	}
	a := apiAsk{stream: true}
	if y.row.stored {
		a.id = y.create(a)
	}
	lost := y.fault("reset=2")
	got := y.ask(y.gateway.Addr, a)
	lost()
	events := readSSE(got.body)
	for _, e := range events {
		if e.isTerminal() {
			y.t.Errorf("a broken stream has %q", e)
		}
	}
	if len(events) != 3 || got.status != 200 || events[2].errorEvent() != y.wantEvent() {
		y.t.Errorf("%d, a stream that broke after two events: %q", got.status, got.body)
		return
	}
	saw(&y.seen.after, events[2].errorEvent())
	defer y.fault("error-event=2")()
	y.equals(y.ask(y.engines[0].Addr, a), y.ask(y.gateway.Addr, a))
}

// leaves checks that the engine hears of a client that left, and the gateway
// keeps nothing for it.
func (y *apiTry) leaves(stream bool) {
	a := apiAsk{stream: stream}
	if strings.Contains(apiBodies[y.row.path], ":N") {
		a.prefill = true
		y.leave(a, 0, func(r *mockvllm.Entry) bool { return r.State == mockvllm.StatePrefill })
		a.prefill = false
	} else {
		if y.row.stored {
			a.id = y.create(a)
		}
		end := y.fault("hang")
		y.leave(a, 0, func(r *mockvllm.Entry) bool { return r.Fault != "" })
		end()
	}
	if stream {
		a.tokens, a.id = 4000, ""
		y.leave(a, 2, func(r *mockvllm.Entry) bool {
			return r.Events > 5 && (r.State == mockvllm.StateDecode || y.row.stored)
		})
	}
}

// leave lets a client go once it has read so many events and the engine is as
// wanted.
func (y *apiTry) leave(a apiAsk, events int, there func(*mockvllm.Entry) bool) {
	y.t.Helper()
	c, _ := y.open(y.gateway.Addr, a)
	y.awaitRow("there", there)
	if events > 0 {
		c.readEvents(events)
	}
	left := time.Now()
	c.Close()
	row := y.awaitRow("ended", (*mockvllm.Entry).Ended)
	if row.State != mockvllm.StateAborted || row.Aborted.Sub(left) > time.Second {
		y.t.Errorf("the client left at %v, the engine saw %+v", left, row)
		return
	}
	quiet(y.t, y.gateway)
	phase := row.AbortPhase
	switch {
	case phase == "queue" && events > 0:
		phase = "decode" // of the generation in the background
	case phase == "queue":
		phase = "waiting" // there is no generation
	}
	saw(&y.seen.leaves, phase)
}
