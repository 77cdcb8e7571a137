package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/loadtest/result"
	"github.com/llmproxy/llmproxy/loadtest/scenario"
)

// Every way to end decides a figure of the table.
func TestOutcomes(t *testing.T) {
	const token = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"
	for name, c := range map[string]struct {
		serve  func(http.ResponseWriter, *http.Request)
		stream bool
		end    byte
		why    string
	}{
		"a whole stream": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, token+"data: [DONE]\n\n") }, true, result.Answered, ""},
		"a whole answer": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }, false, result.Answered, ""},
		"a status":       {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "none left", 502) }, true, result.Refused, "502 Bad Gateway: none left"},
		"a limit": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprint(w, `{"error":{"message":"Rate limit reached","param":"max_concurrent","code":"rate_limit_exceeded"}}`)
		}, true, result.Limited, "Rate limit reached"},
		"an engine that is overloaded": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprint(w, `{"error":"Model is overloaded","error_type":"overloaded"}`)
		}, true, result.Refused, "overloaded"},
		"an error event instead of a token": {
			func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprint(w, "data: {\"error\":{\"message\":\"full\"}}\n\n")
			}, true, result.Refused, "full",
		},
		"cut after a token": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, token) }, true, result.Cut, "without [DONE]"},
		"silence, until the client gives up": {
			func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // only then does the server look whether the client is there
				<-r.Context().Done()
			}, true, result.GaveUp, "patience",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(c.serve))
			defer s.Close()
			tr := newTraffic(&gateway{url: s.URL}, &scenario.Scenario{Patience: 200 * time.Millisecond},
				[]scenario.Request{{Stream: c.stream, Tokens: 7, Body: []byte("{}")}})
			tr.run(t.Context(), time.Now())
			o := tr.out[0]
			if o.end != c.end || !strings.Contains(o.why, c.why) {
				t.Errorf("ended as %c, %q; want %c, %q", o.end, o.why, c.end, c.why)
			}
			if c.end == result.Answered && o.tokens != 7 {
				t.Errorf("%d tokens, want those asked for", o.tokens)
			}
		})
	}
}

// A key that is bound to a network must be asked for from there.
func TestClientsTellTheirAddress(t *testing.T) {
	got := make(chan []string, 2)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got <- append(r.Header["X-Forwarded-For"], r.Header.Get("Authorization"))
	}))
	defer s.Close()
	tr := newTraffic(&gateway{url: s.URL}, &scenario.Scenario{Patience: time.Minute}, nil)
	for _, c := range []struct {
		from string
		want []string
	}{{"10.0.1.20", []string{"10.0.1.20", "Bearer k"}}, {"", []string{"Bearer k"}}} {
		if err := tr.exchange(t.Context(), &scenario.Request{Key: "k", From: c.from}, func() {}); err != nil {
			t.Fatal(err)
		}
		if headers := <-got; !slices.Equal(headers, c.want) {
			t.Errorf("from %q: %q", c.from, headers)
		}
	}
}

// A gateway that is slow must not be asked less: what comes late counts from
// when it was due.
func TestLoadDoesNotWaitForAnswers(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan struct{}, 10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-release
		fmt.Fprint(w, "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n")
	}))
	defer s.Close()
	plan := make([]scenario.Request, 10)
	for i := range plan {
		plan[i] = scenario.Request{At: time.Duration(i) * time.Millisecond, Stream: true, Body: []byte("{}")}
	}
	const late = 5 * time.Second
	tr := newTraffic(&gateway{url: s.URL}, &scenario.Scenario{Patience: time.Minute}, plan)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tr.run(t.Context(), time.Now().Add(-late)) // all are overdue
	}()
	for range plan {
		<-arrived
	}
	close(release)
	<-done
	var side result.Side
	tr.fill(&side)
	if side.Outcome != strings.Repeat("o", len(plan)) || slices.Min(side.TTFT) < int(late.Milliseconds())-10 {
		t.Errorf("outcomes %s, first tokens after %v ms, want %v and more", side.Outcome, side.TTFT, late)
	}
}

func TestReasonsAreCounted(t *testing.T) {
	s := httptest.NewServer(nil)
	url := s.URL
	s.Close()
	plan := []scenario.Request{{Body: []byte("{}")}, {Body: []byte("{}")}}
	tr := newTraffic(&gateway{url: url}, &scenario.Scenario{Patience: time.Minute}, plan)
	tr.run(t.Context(), time.Now())
	var side result.Side
	tr.fill(&side)
	if len(side.Failures) != 1 {
		t.Errorf("two equal failures are counted as %v", side.Failures)
	}
}

func TestGaugesAreReadByBackend(t *testing.T) {
	page := "# TYPE x gauge\nx{backend=\"gpu-1\"} 3\nx{backend=\"gpu-2\"} 0\nxy{backend=\"gpu-3\"} 7\n"
	got := gauges(page, "x")
	if len(got) != 2 || got["gpu-1"] != 3 {
		t.Errorf("got %v", got)
	}
}

func TestDistanceIsPartOfTheFirstToken(t *testing.T) {
	m := scenario.Engine{
		Models: []string{"m"}, Overhead: 30 * time.Millisecond,
		Distance: map[string]time.Duration{"far": 20 * time.Millisecond},
	}
	for host, want := range map[string]string{"far": "50ms", "near": "30ms"} {
		args := flags(&engine{host: host}, m, []string{"alias"})
		if i := slices.Index(args, "-ttft"); args[i+1] != want {
			t.Errorf("%s: -ttft %s, want %s", host, args[i+1], want)
		}
		if i := slices.Index(args, "-models"); args[i+1] != "m,alias" {
			t.Errorf("-models %s", args[i+1])
		}
	}
}

// The table must say what could not be measured, and why.
func TestTableNamesWhatIsMissing(t *testing.T) {
	s := &scenario.Scenario{
		Title: "a title", Setting: map[string]any{"auth": map[string]any{"enabled": false}},
		Claims: []scenario.Claim{
			{Says: "fewer people", Cannot: "staff"},
			{Says: "all answered", Question: result.Question{Measure: "availability"}, How: "whole run"},
		},
	}
	r := describe(s, false, nil)
	r.Sides = []*result.Side{
		{Name: "llmproxy", At: result.Series{0}, TTFT: result.Series{5}, Took: result.Series{9}, Tokens: result.Series{1}, Load: result.Series{0}, Outcome: "o"},
		{Name: "nginx", Missing: errNoNginx.Error()},
	}
	r.Loads = []string{"w"}
	fillTable(r, s)
	text := table(r)
	for _, want := range []string{
		"not measurable here", "staff", "100.00 % (0 of 1 lost)", "whole run",
		"nginx is not installed", "auth.enabled: false", "(no claim) first token",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the table does not say %q:\n%s", want, text)
		}
	}
	if n := strings.Count(text, "answered whole, of all"); n != 1 {
		t.Errorf("availability stands in %d rows", n)
	}
}
