package app_test

import (
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// countsNothing are the paths of surfaces that use no tokens.
var countsNothing = regexp.MustCompile(`tokenize$|tokens$`)

// streams tells whether a request is for a stream: TGI goes by the path.
func (r *apiRow) streams(asked bool) bool {
	return r.path == "/generate_stream" || asked && r.api != "apiTGI"
}

// countedOf is what the ledger says that a complete request is to be billed.
func (s *countSite) countedOf(row *apiRow, e mockvllm.Entry, stream bool) bill {
	b := bill{Endpoint: row.path, Backend: e.Engine, Stream: stream, Status: e.Status, Outcome: "complete", Attempts: 1}
	if row.hasModel() {
		b.Model, b.Served = "mock-model", "mock-model"
	}
	switch {
	case e.Status != 200 || countsNothing.MatchString(row.path):
	case row.path == "/v1/audio/translations" && !stream:
		b.Estimated = true // no engine tells anything
	case row.form && !stream:
		b.Seconds = math.Ceil(float64(e.FileBytes) / 32000)
	case row.form:
		b.Completion, b.Estimated = e.Tokens, true // as nobody asks with the form
	default:
		b.Prompt, b.Cached, b.Completion = e.PromptTokens, e.CachedTokens, e.Tokens
	}
	if s.dialect == mockvllm.DialectTGI {
		b.Cached = 0 // it does not tell
	}
	return b
}

// apiTry lets the helpers of the surfaces work on the site.
func (s *countSite) apiTry(t *testing.T, row *apiRow) *apiTry {
	return &apiTry{apiSite: s.apiSite, t: t, row: row, seen: &apiSeen{}}
}

// answered are the requests that came to the engines since the last one was sent,
// once they are over, with the names that the configuration gives the engines.
func (y *apiTry) answered() (rows []mockvllm.Entry) {
	y.t.Helper()
	apptest.Eventually(y.t, "the engines are done", func() bool {
		rows = nil
		for i, name := range []string{"e0", "e1"} {
			for _, r := range y.rows(i) {
				r.Engine = name
				rows = append(rows, r)
			}
		}
		return !slices.ContainsFunc(rows, func(r mockvllm.Entry) bool { return !r.Ended() })
	})
	return rows
}

// Whatever an engine has generated for a complete answer is billed, once.
func TestCountComplete(t *testing.T) {
	leavesNothing(t)
	rows := apiRows(t)
	t.Run("all", func(t *testing.T) {
		countSites(t, "", func(t *testing.T, s *countSite) {
			for _, row := range rows {
				if row.stored {
					continue
				}
				for _, stream := range []bool{false, true} {
					t.Run(row.name()+map[bool]string{false: "/whole", true: "/stream"}[stream], func(t *testing.T) {
						s.complete(t, row, stream)
					})
				}
			}
		})
	})
}

// complete tries the ends of a surface that leave a complete answer.
func (s *countSite) complete(t *testing.T, row *apiRow, stream bool) {
	y := s.apiTry(t, row)
	if row.sharesItsPath && !y.has() {
		return // it would be the other one
	}
	answer := y.ask(s.gateway.Addr, apiAsk{stream: stream})
	id, e := lastOf(y.answered())
	if id == "" {
		return // the engine does not have it
	}
	s.expect(t, id, s.countedOf(row, e, row.streams(stream)))
	if answer.status != 200 || stream && !answer.isStream() {
		return
	}
	s.mapped(t, y, row, stream)
	s.failedOver(t, y, row, stream)
	s.refused(t, y, row, stream)
}

// mapped: the event has both names of the model.
func (s *countSite) mapped(t *testing.T, y *apiTry, row *apiRow, stream bool) {
	if !row.hasModel() {
		return
	}
	answer := y.ask(s.gateway.Addr, apiAsk{stream: stream, model: "alias"})
	id, e := lastOf(y.answered())
	want := s.countedOf(row, e, answer.isStream())
	want.Model = "alias"
	s.expect(t, id, want)
}

// failedOver: what a failed attempt has cost is not the client's.
func (s *countSite) failedOver(t *testing.T, y *apiTry, row *apiRow, stream bool) {
	faults := []string{"503"}
	if stream {
		faults = append(faults, "error-event-first")
	}
	for _, fault := range faults {
		end := y.fault(fault)
		answer := y.ask(s.gateway.Addr, apiAsk{stream: stream})
		end()
		id, e := lastOf(y.answered())
		if answer.status != 200 || e.Engine != "e1" {
			t.Errorf("%s: %d, answered by %+v", fault, answer.status, e)
		}
		want := s.countedOf(row, e, answer.isStream())
		want.Attempts = 2
		s.expect(t, id, want)
	}
}

// refused: an error of the client's own uses nothing.
func (s *countSite) refused(t *testing.T, y *apiTry, row *apiRow, stream bool) {
	answer := y.ask(s.gateway.Addr, apiAsk{stream: stream, wrong: true})
	id, e := lastOf(y.answered())
	if answer.status == 200 {
		s.expect(t, id, s.countedOf(row, e, row.streams(stream)))
		return // nothing is a mistake to llama.cpp's tokenizer
	}
	want := bill{
		Endpoint: row.path, Backend: "e0", Attempts: 1, Status: answer.status, Outcome: "complete",
		Stream: row.streams(stream),
	}
	if row.hasModel() {
		want.Model, want.Served = "mock-model", "mock-model"
	}
	s.expect(t, id, want)
}

// A response that is kept is billed when it is made, and not each time it is read.
func TestCountStoredResponseOnce(t *testing.T) {
	leavesNothing(t)
	for _, dialect := range []string{mockvllm.DialectVLLM, mockvllm.DialectSGLang} {
		t.Run(dialect, func(t *testing.T) {
			s := startCountSite(t, dialect, false, "")
			y := s.apiTry(t, &apiRow{method: "POST", path: responsesURL})
			made := y.ask(s.gateway.Addr, apiAsk{})
			id, e := lastOf(y.answered())
			s.expect(t, id, s.countedOf(y.row, e, false))
			path := responsesURL + "/" + between(made.body, `"id":"`, `"`)
			for range 2 {
				if status, answer := get(t, s.gateway, path); status != 200 || !strings.Contains(answer, `"usage":{`) {
					t.Errorf("%d %s", status, answer)
				}
			}
			s.settle()
		})
	}
}
