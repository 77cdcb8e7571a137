package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/llmproxy/llmproxy/loadtest"
	"github.com/llmproxy/llmproxy/loadtest/process"
)

// billing is the receiver of docs/usage.md as a process, and its ledger, a file.
type billing struct {
	dir    string // of all that it and the gateway keep
	ledger string
	shown  int // events that were shown
}

// billed is what is shown of an event.
type billed struct {
	Data struct {
		Outcome    string
		Estimated  bool
		Attempts   int
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
	}
}

const hookSecret = "whsec_bm90IGEgc2VjcmV0LCBidXQgbG9uZyBlbm91Z2g="

// startBilling builds and starts the receiver.
func startBilling(ctx context.Context, started *process.Group, dir string) (*billing, error) {
	b := &billing{dir: dir, ledger: filepath.Join(dir, "usage.jsonl")}
	secret, program := filepath.Join(dir, "hook.secret"), filepath.Join(dir, "receiver")
	if err := os.WriteFile(secret, []byte(hookSecret), 0o600); err != nil {
		return nil, err
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./docs/receiver")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot build the receiver: %w\n%s", err, out)
	}
	p, err := started.Start("receiver", program, "-listen", billingAddr, "-secret", secret, "-ledger", b.ledger)
	if err != nil {
		return nil, err
	}
	fmt.Printf("  billing    pid %-7d http://%s, the receiver of docs/usage.md\n", p.PID(), billingAddr)
	return b, nil
}

// env is what has the gateway report to it.
func (b *billing) env() []string {
	return []string{
		"LLMPROXY__DATA_DIR=" + filepath.Join(b.dir, "data"),
		"LLMPROXY__USAGE_HOOK__ENABLED=true",
		"LLMPROXY__USAGE_HOOK__URL=http://" + billingAddr,
		"LLMPROXY__USAGE_HOOK__SECRET=" + hookSecret,
		"LLMPROXY__USAGE_HOOK__MAX_AGE=100ms",
	}
}

// fresh waits until n events have come that were not shown, and returns all of
// them.
func (b *billing) fresh(ctx context.Context, n int) ([]billed, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		all, err := b.read()
		if err != nil {
			return nil, err
		}
		if len(all) >= b.shown+n {
			defer func() { b.shown = len(all) }()
			return all[b.shown:], nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d events came to the billing system", len(all)-b.shown, n)
		case <-tick.C:
		}
	}
}

func (b *billing) read() ([]billed, error) {
	f, err := os.Open(b.ledger)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it is about to start
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []billed
	for lines := bufio.NewReader(f); ; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return all, nil // what follows the last line is being written
		}
		var e billed
		if err = errors.Join(err, json.Unmarshal(line, &e)); err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", b.ledger, err)
		}
		all = append(all, e)
	}
}

// bill shows what so many requests cost, of which the engine that was killed cut
// some, and fails unless each is there once.
func (b *billing) bill(ctx context.Context, requests, cut int) error {
	events, err := b.fresh(ctx, requests)
	if err != nil {
		return err
	}
	outcomes := map[string]int{}
	again, tokens := 0, 0
	for _, e := range events {
		outcomes[e.Data.Outcome]++
		tokens += e.Data.Completion
		if e.Data.Attempts > 1 {
			again++
		}
	}
	fmt.Printf("\nWhat the billing system got of these %d requests\n", requests)
	for _, outcome := range []string{"complete", "upstream_failed"} {
		fmt.Printf("  %3d events  %s\n", outcomes[outcome], outcome)
	}
	fmt.Printf("  %d tokens were generated; %d requests needed a second attempt, and only the last one is billed\n", tokens, again)
	if outcomes["complete"] != requests-cut || outcomes["upstream_failed"] != cut {
		return fmt.Errorf("of %d requests %d were cut, and the events say %v", requests, cut, outcomes)
	}
	return nil
}

// crash kills the gateway in the middle of a stream and shows what is billed
// when it is back.
func (b *billing) crash(ctx context.Context, gateway *process.Process, again func() (*process.Process, error)) error {
	const lasts = 2500 * time.Millisecond // a stream's progress is kept every 2 s
	fmt.Printf("\nA long answer, and kill -9 of the gateway after %v\n", lasts)
	resp, err := loadtest.Chat(ctx, http.DefaultClient, gatewayURL, model, "Tell me all about rivers.", 500, true)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	killed := make(chan error, 1)
	time.AfterFunc(lasts, func() { killed <- gateway.Kill() })
	tokens := 0
	err = loadtest.Tokens(resp.Body, func(string) { tokens++ })
	if err := errors.Join(<-killed, ctx.Err()); err != nil {
		return err
	}
	if err == nil {
		return errors.New("the answer came to its end although the gateway was killed")
	}
	fmt.Printf("  kill -9 %d, when the client had %d tokens\n", gateway.PID(), tokens)
	begin := time.Now()
	next, err := again()
	if err != nil {
		return err
	}
	fmt.Printf("  the next gateway, pid %d, is ready after %d ms\n", next.PID(), time.Since(begin).Milliseconds())
	events, err := b.fresh(ctx, 1)
	if err != nil {
		return err
	}
	d := events[0].Data
	fmt.Printf("  and has reported the request: %s, estimated %v, %d + %d tokens\n", d.Outcome, d.Estimated, d.Prompt, d.Completion)
	if d.Outcome != "interrupted" || d.Completion == 0 || d.Completion > tokens || len(events) > 1 {
		return fmt.Errorf("the billing system got %+v", events)
	}
	return nil
}
