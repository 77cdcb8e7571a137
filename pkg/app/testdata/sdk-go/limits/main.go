// Command limits uses OpenAI's official Go library with keys that have limits,
// and prints what its user gets as one JSON object. The arguments are what a big
// answer has at most in tokens, and the cases. Nothing here says how often a
// request is tried: that is left to the library.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := run(ctx, os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run does all cases at once; each has a key and a model of its own.
func run(ctx context.Context, most string, cases []string) error {
	big, err := strconv.ParseInt(most, 10, 64)
	if err != nil {
		return err
	}
	record := map[string]any{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, name := range cases {
		u := user{ctx: ctx, name: name, tokens: 5, stream: name == "streams-at-once"}
		if strings.HasPrefix(name, "tokens") {
			u.tokens = big
		}
		all.Go(func() {
			got := u.requests()
			mu.Lock()
			defer mu.Unlock()
			record[name] = got
		})
	}
	all.Wait()
	return json.NewEncoder(os.Stdout).Encode(record)
}

// user is the holder of the key of one case.
type user struct {
	ctx    context.Context
	name   string
	tokens int64
	stream bool
}

func (u user) requests() []any {
	switch u.name {
	case "quota", "debt", "unknown", "address", "model":
		return []any{u.one(0)}
	case "second", "minute", "tokens":
		return []any{u.one(0), u.one(1), u.one(2)}
	}
	got := make([]any, 3)
	var all sync.WaitGroup
	for n := range got {
		all.Go(func() { got[n] = u.one(n) })
	}
	all.Wait()
	return got
}

// one sends a request and tells how the answer ended. The header tells the
// requests of a key apart.
func (u user) one(n int) any {
	client := openai.NewClient(option.WithBaseURL(os.Getenv("BASE")+"/v1"), option.WithAPIKey("sk-limits-"+u.name),
		option.WithHeader("X-Number", strconv.Itoa(n)))
	reason, err := u.ask(&client.Chat.Completions)
	var api *openai.Error
	switch {
	case errors.As(err, &api):
		return map[string]any{"error": map[string]any{"class": "APIError", "status": api.StatusCode, "type": api.Type, "code": api.Code}}
	case err != nil:
		return map[string]any{"error": err.Error()}
	}
	return reason
}

func (u user) ask(chats *openai.ChatCompletionService) (reason string, err error) {
	p := openai.ChatCompletionNewParams{
		Model: u.name, MaxTokens: param.NewOpt(u.tokens),
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi there")},
	}
	if !u.stream {
		answer, err := chats.New(u.ctx, p)
		if err != nil {
			return "", err
		}
		return answer.Choices[0].FinishReason, nil
	}
	stream := chats.NewStreaming(u.ctx, p)
	for stream.Next() {
		for _, c := range stream.Current().Choices {
			reason = c.FinishReason
		}
	}
	return reason, stream.Err()
}
