package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// engine is the fake engine that all gateways have as their upstream.
type engine struct {
	addr string // host:port
}

// engineState is what the engine says of itself.
type engineState struct {
	Requests    int64 `json:"requests"` // answers to POST that were begun or waited for
	StreamsOpen int   `json:"streams_open"`
	Aborted     int64 `json:"aborted"`       // answers whose peer left
	LastAbort   int64 `json:"last_abort_ns"` // when the last of them was noticed
	BodyBytes   int64 `json:"body_bytes"`
}

// behave sets how the engine answers from now on: "interval=20ms&events=64".
// What is left out is at its default.
func (e *engine) behave(ctx context.Context, how string) error {
	_, err := call(ctx, http.MethodPost, "http://"+e.addr+"/control?"+how, "", nil)
	return err
}

func (e *engine) state(ctx context.Context) (engineState, error) {
	var s engineState
	text, err := call(ctx, http.MethodGet, "http://"+e.addr+"/control", "", nil)
	if err == nil {
		err = json.Unmarshal([]byte(text), &s)
	}
	if err != nil {
		return s, fmt.Errorf("cannot ask the engine: %w", err)
	}
	return s, nil
}

// await asks for the engine's state until ok says yes. After a time limit it
// returns the last state and false.
func (e *engine) await(ctx context.Context, limit time.Duration, ok func(engineState) bool) (engineState, bool, error) {
	for end := time.Now().Add(limit); ; {
		s, err := e.state(ctx)
		if err != nil || ok(s) {
			return s, err == nil, err
		}
		if time.Now().After(end) {
			return s, false, nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return s, false, err
		}
	}
}

// smoke asks each process of a gateway for a whole answer and a streamed one.
func (e *engine) smoke(ctx context.Context, g *gateway) error {
	if err := e.behave(ctx, "interval=1ms&events=3"); err != nil {
		return err
	}
	for _, addr := range g.addrs() {
		if err := smokeAt(ctx, g, addr); err != nil {
			return err
		}
	}
	return nil
}

func smokeAt(ctx context.Context, g *gateway, addr string) error {
	for _, want := range []struct {
		stream bool
		sign   string
	}{{false, `"choices"`}, {true, "[DONE]"}} {
		text, err := call(ctx, http.MethodPost, g.urlAt(addr), chat(want.stream), g.header)
		if err != nil {
			return err
		}
		if !strings.Contains(text, want.sign) {
			return fmt.Errorf("the answer has no %s: %s", want.sign, shorten(text))
		}
	}
	return nil
}

// model is the one that all requests name.
const model = "mock-model"

func chat(stream bool) string {
	return fmt.Sprintf(`{"model":%q,"stream":%t,"messages":[{"role":"user","content":"Hello"}]}`, model, stream)
}

// client opens a connection a request: it measures nothing, and an idle one
// would be memory of the gateway.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// call makes a request and returns the answer's body, or an error for any status
// but 200 and 204. It takes ten seconds at most.
func call(ctx context.Context, method, url, body string, header []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer sk-bench")
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ":")
		req.Header.Set(name, strings.TrimSpace(value))
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return "", fmt.Errorf("the answer broke: %w", err)
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent:
		return "", fmt.Errorf("%s: %s", resp.Status, shorten(string(text)))
	}
	return string(text), nil
}

// pause waits, less long when the run is interrupted.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return errors.New("interrupted")
	case <-time.After(d):
		return nil
	}
}
