package loadtest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

const token = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"

// The report decides whether a demo or a load run passes, so each way to end
// must be counted where it belongs.
func TestCountsEachEndWhereItBelongs(t *testing.T) {
	const event = "data: {\"error\":{\"message\":\"engine lost\"}}\n\n"
	for name, c := range map[string]struct {
		status                int
		stream                string
		answered, cut, failed int
	}{
		"whole":                             {200, token + "data: [DONE]\n\n", 2, 0, 0},
		"cut, and the client is told":       {200, token + event, 1, 1, 0},
		"an error event before any token":   {200, event, 1, 0, 1},
		"ends without a word":               {200, token, 1, 0, 1},
		"garbage instead of an event":       {200, token + "data: {\n\n", 1, 0, 1},
		"no blank after data:":              {200, strings.ReplaceAll(token+"data: [DONE]\n\n", ": ", ":"), 2, 0, 0},
		"refused, whole and streamed alike": {503, "data: [DONE]\n\n", 0, 0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(c.status)
				fmt.Fprint(w, c.stream)
			}))
			defer s.Close()
			r := Run(t.Context(), Options{URL: s.URL, Requests: 2, Timeout: 10 * time.Second})
			if r.Answered != c.answered || r.Cut != c.cut || r.Failed != c.failed {
				t.Errorf("got %+v, want %d answered, %d cut, %d failed", r, c.answered, c.cut, c.failed)
			}
			if len(r.Failures) != c.failed {
				t.Errorf("%d failures are described, want %d: %q", len(r.Failures), c.failed, r.Failures)
			}
		})
	}
}

func TestAnswerCutByTheConnectionFails(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, strings.Repeat(token, 2))
	}))
	defer s.Close()
	r := Run(t.Context(), Options{URL: s.URL, Requests: 2, Timeout: 10 * time.Second})
	if r.Failed != 2 {
		t.Errorf("got %+v, want both failed", r)
	}
	if len(r.FirstToken) != 1 {
		t.Errorf("%d first tokens, want the stream's", len(r.FirstToken))
	}
}
