// Command sdk-go uses OpenAI's official Go library in every way that the table
// of the test names, and prints what its user gets as one JSON object.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/ssestream"
)

// cases return what the user gets.
type cases map[string]func() any

type suite struct {
	ctx                 context.Context
	base                string
	client, tgi, status openai.Client
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	base := os.Getenv("BASE")
	s := &suite{ctx: ctx, base: base, client: connect(base), tgi: connect(os.Getenv("TGI")), status: connect(os.Getenv("STATUS"))}
	all := cases{}
	for _, part := range []cases{s.chats(), s.others(), s.responses(), s.audio(), s.errors(), s.aborts()} {
		maps.Copy(all, part)
	}
	if err := json.NewEncoder(os.Stdout).Encode(run(all, s.retries())); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run does the cases one after the other, the slow ones beside them.
func run(all, slow cases) map[string]any {
	record := map[string]any{}
	var mu sync.Mutex
	one := func(name string, ask func() any) {
		got := outcome(ask)
		mu.Lock()
		defer mu.Unlock()
		record[name] = got
	}
	var beside sync.WaitGroup
	for name, ask := range slow {
		beside.Go(func() { one(name, ask) })
	}
	for name, ask := range all {
		one(name, ask)
	}
	beside.Wait()
	return record
}

// outcome turns a panic into one that fails the test.
func outcome(ask func() any) (got any) {
	defer func() {
		if v := recover(); v != nil {
			got = map[string]any{"thrown": fmt.Sprint(v)}
		}
	}()
	return ask()
}

// must ends a case that cannot go on.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func connect(base string, opts ...option.RequestOption) openai.Client {
	return openai.NewClient(append([]option.RequestOption{
		option.WithBaseURL(base + "/v1"), option.WithAPIKey("sk-client"), option.WithMaxRetries(0),
	}, opts...)...)
}

// set puts a field into the body as it is.
func set(key string, value any) option.RequestOption { return option.WithJSONSet(key, value) }

// raw is what the library keeps of an answer as it came.
type raw interface{ RawJSON() string }

func result(v raw, err error) any {
	if err != nil {
		return map[string]any{"error": failure(err)}
	}
	return json.RawMessage(v.RawJSON())
}

// chunks reads a stream to its end, and tells each the number of every chunk.
func chunks[T raw](stream *ssestream.Stream[T], each func(n int)) any {
	all := []json.RawMessage{}
	for stream.Next() {
		all = append(all, json.RawMessage(stream.Current().RawJSON()))
		if each != nil {
			each(len(all))
		}
	}
	return map[string]any{"chunks": all, "error": failure(stream.Err())}
}

func failure(err error) any {
	var api *openai.Error
	var event *ssestream.StreamError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &api):
		return map[string]any{
			"class": "APIError", "status": api.StatusCode, "type": api.Type, "code": api.Code, "param": api.Param, "message": api.Message,
			"retry_after": api.Response.Header.Get("Retry-After"), "retry_after_ms": api.Response.Header.Get("Retry-After-Ms"),
		}
	case errors.As(err, &event):
		return map[string]any{"class": "StreamError", "status": 0, "message": event.Message}
	case errors.Is(err, context.Canceled):
		return map[string]any{"class": "aborted"}
	}
	return map[string]any{"class": "other", "message": err.Error()}
}

// row is what an engine knows of a request.
type row struct {
	State string `json:"state"`
	Phase string `json:"abort_phase"`
}

// seen waits until an engine has the tagged request in that state.
func (s *suite) seen(tag, state string) row {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, os.Getenv("ADMIN")+"/ledger?tag="+tag+"&state="+state, nil)
		must(err)
		resp, err := http.DefaultClient.Do(req)
		must(err)
		var rows []row
		err = json.NewDecoder(resp.Body).Decode(&rows)
		resp.Body.Close()
		must(err)
		if len(rows) > 0 {
			return rows[0]
		}
	}
	panic(tag + " never came to be " + state)
}

// abort cancels a request once an engine has it in that state and the client
// that many chunks, and tells what the engine knows of it then. ask does the
// request and tells each the number of every chunk.
func (s *suite) abort(tag, state string, after int, ask func(ctx context.Context, each func(int)) any) any {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	read, ended := make(chan struct{}), make(chan any, 1)
	go func() {
		ended <- ask(ctx, func(n int) {
			if n == after {
				close(read)
			}
		})
	}()
	if after > 0 {
		select {
		case <-read:
		case early := <-ended:
			ended <- early
		}
	}
	s.seen(tag, state)
	cancel()
	got, _ := (<-ended).(map[string]any)
	r := s.seen(tag, "aborted")
	return map[string]any{"error": got["error"], "state": r.State, "phase": r.Phase}
}

func seats() int {
	n, err := strconv.Atoi(os.Getenv("SEATS"))
	must(err)
	return n
}
