package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// outcome is what the load generator reports. Times are in microseconds.
type outcome struct {
	Requests        int     `json:"requests"`
	Errors          int     `json:"errors"`
	Error           string  `json:"error"`
	RPS             float64 `json:"rps"`
	Events          int     `json:"events"`
	EventsPerSecond float64 `json:"events_per_second"`
	P50             float64 `json:"p50_us"`
	P99             float64 `json:"p99_us"`
	P999            float64 `json:"p999_us"`
	TTFTP50         float64 `json:"ttft_p50_us"`
	TTFTP99         float64 `json:"ttft_p99_us"`
	EventP50        float64 `json:"event_p50_us"`
	EventP99        float64 `json:"event_p99_us"`
	EventP999       float64 `json:"event_p999_us"`
}

// generator returns the load generator's command against a gateway.
func (b *bench) generator(ctx context.Context, g *gateway, mode string, flags ...string) *exec.Cmd {
	args := []string{"load", "-mode", mode, "-target", strings.Join(g.addrs(), ","), "-model", model}
	if g.path != "" {
		args = append(args, "-path", g.path)
	}
	for _, line := range g.header {
		args = append(args, "-header", line)
	}
	return exec.CommandContext(ctx, b.bare, append(args, flags...)...)
}

// load runs the generator for a time, all of which counts.
func (b *bench) load(ctx context.Context, g *gateway, mode string, length time.Duration, flags ...string) (*outcome, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, length+20*time.Second, errors.New("the load generator hangs"))
	defer cancel()
	flags = append([]string{"-warmup", "0s", "-duration", length.String()}, flags...)
	cmd := b.generator(ctx, g, mode, flags...)
	pin(cmd, b.engineCore)
	text, err := cmd.Output()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		return nil, fmt.Errorf("the load generator failed: %w: %s", err, shorten(string(failed.Stderr)))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot run the load generator: %w", err)
	}
	var o outcome
	if err := json.Unmarshal(text, &o); err != nil {
		return nil, fmt.Errorf("cannot read what the load generator says: %w: %s", err, shorten(string(text)))
	}
	return &o, nil
}

// held are streams that are kept open.
type held struct {
	open      int // how many there are
	generator *process
	stdin     io.Closer
}

// hold opens n streams, and returns when they have all reached the engine or no
// more follow.
func (b *bench) hold(ctx context.Context, g *gateway, n int) (*held, error) {
	cmd := b.generator(context.WithoutCancel(ctx), g, "hold", "-conns", strconv.Itoa(n))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p, err := b.begin(cmd, b.engineCore, filepath.Join(b.dir, "hold.log"))
	if err != nil {
		return nil, err
	}
	h := &held{generator: p, stdin: stdin}
	changed := time.Now()
	_, _, err = b.engine.await(ctx, time.Minute, func(s engineState) bool {
		if s.StreamsOpen != h.open {
			h.open, changed = s.StreamsOpen, time.Now()
		}
		return h.open >= n || time.Since(changed) > 3*time.Second || !p.alive()
	})
	if err == nil && !p.alive() {
		err = p.death()
	}
	if err != nil {
		h.release()
		return nil, err
	}
	return h, nil
}

// release closes the streams.
func (h *held) release() {
	h.stdin.Close()
	select {
	case <-h.generator.ended:
	case <-time.After(grace):
		h.generator.stop()
	}
}
