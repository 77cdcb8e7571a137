// Package loadtest asks a gateway many things at once and says what became of
// each. It is bounded in number and in time.
package loadtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options say what to ask.
type Options struct {
	URL      string        // of the gateway, without a path
	Model    string        // asked for in each request
	Requests int           // in all; every second one is a stream
	Over     time.Duration // the requests begin evenly over this time, whether or not earlier ones have ended
	Tokens   int           // length of an answer
	Timeout  time.Duration // of one request; a request that takes longer has failed
}

// Report is what became of the requests. Answered, Cut and Failed add up to
// their number.
type Report struct {
	Answered int // whole answers, of which Streams were streamed
	Streams  int
	// Cut are streams that had begun and then ended as a broken one should: by
	// an error event and without [DONE]. Their client knows that it has half an
	// answer.
	Cut int
	// Failed is everything else: another status than 200, a lost connection, a
	// stream that ended without a word.
	Failed   int
	Failures []string // the first few, for a person to read
	// FirstToken is the time to the first token of each stream that got one,
	// sorted.
	FirstToken []time.Duration
}

// maxFailures bounds Report.Failures.
const maxFailures = 5

// Run asks until all requests have ended, or ctx does.
func Run(ctx context.Context, o Options) Report {
	transport := &http.Transport{MaxIdleConnsPerHost: o.Requests}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: o.Timeout}

	answers := make([]answer, o.Requests)
	var all sync.WaitGroup
	begin := time.Now()
	for i := range answers {
		wait(ctx, time.Until(begin.Add(o.Over*time.Duration(i)/time.Duration(o.Requests))))
		all.Go(func() { answers[i] = o.ask(ctx, client, i%2 == 1) })
	}
	all.Wait()
	return report(answers)
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// answer is one request's outcome. A nil err is a whole answer.
type answer struct {
	stream     bool
	firstToken time.Duration // 0: none came
	err        error
}

var errCut = errors.New("the stream ended in an error event")

func report(answers []answer) Report {
	var r Report
	for _, a := range answers {
		if a.firstToken > 0 {
			r.FirstToken = append(r.FirstToken, a.firstToken)
		}
		switch {
		case a.err == nil:
			r.Answered++
			if a.stream {
				r.Streams++
			}
		case errors.Is(a.err, errCut) && a.firstToken > 0:
			r.Cut++
		default:
			r.Failed++
			if len(r.Failures) < maxFailures {
				r.Failures = append(r.Failures, a.err.Error())
			}
		}
	}
	slices.Sort(r.FirstToken)
	return r
}

func (o Options) ask(ctx context.Context, client *http.Client, stream bool) (a answer) {
	a.stream = stream
	begin := time.Now()
	resp, err := Chat(ctx, client, o.URL, o.Model, "How do you do?", o.Tokens, stream)
	if err != nil {
		a.err = err
		return a
	}
	defer resp.Body.Close()
	if !stream {
		_, a.err = io.Copy(io.Discard, resp.Body)
		return a
	}
	a.err = Tokens(resp.Body, func(string) {
		if a.firstToken == 0 {
			a.firstToken = time.Since(begin)
		}
	})
	return a
}

// Chat sends one chat completion. Another status than 200 is an error that
// quotes the answer; without one the caller closes the body.
func Chat(ctx context.Context, client *http.Client, url, model, prompt string, tokens int, stream bool) (*http.Response, error) {
	body, err := json.Marshal(map[string]any{
		"model": model, "stream": stream, "max_tokens": tokens,
		"messages": []map[string]string{{"role": "user", "content": prompt}},
	})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // what there is of it will do
		return nil, fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(text))
	}
	return resp, nil
}

// Tokens calls token with each piece of a streamed chat. It returns nil only
// after [DONE].
func Tokens(body io.Reader, token func(string)) error {
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data:")
		if !ok {
			continue
		}
		data = strings.TrimPrefix(data, " ") // TGI leaves it out
		if data == "[DONE]" {
			return nil
		}
		var event struct {
			Choices []struct{ Delta struct{ Content string } }
			Error   *struct{ Message string }
		}
		if err := json.Unmarshal([]byte(data), &event); err != nil {
			return fmt.Errorf("cannot read the event %q: %w", data, err)
		}
		if event.Error != nil {
			return fmt.Errorf("%w: %s", errCut, event.Error.Message)
		}
		if len(event.Choices) > 0 && event.Choices[0].Delta.Content != "" {
			token(event.Choices[0].Delta.Content)
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return errors.New("the stream ended without [DONE]")
}
