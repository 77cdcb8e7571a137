//go:build linux

package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// options are the flags of a load run.
type options struct {
	mode     string
	targets  []netip.AddrPort // connections, and open arrivals, are spread over them
	duration time.Duration
	warmup   time.Duration
	conns    int
	rate     float64 // open: arrivals per second
	ramp     float64 // hold: new streams per second
	wait     time.Duration
	size     int // body: bytes of the image
	together bool
	path     string
	model    string
	headers  []string
}

// The modes.
const (
	closedLoop = "closed"
	openLoop   = "open"
	streaming  = "stream"
	bodies     = "body"
	holding    = "hold"
)

func (o *options) streams() bool { return o.mode == streaming || o.mode == holding }

func parseOptions(args []string) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("bare load", flag.ContinueOnError)
	flags.StringVar(&o.mode, "mode", closedLoop, "closed, open, stream, body or hold")
	targets := flags.String("target", "127.0.0.1:9000", "address of the gateway; of several, with commas between them")
	flags.DurationVar(&o.duration, "duration", 2*time.Second, "how long to measure; hold ends with stdin instead")
	flags.DurationVar(&o.warmup, "warmup", 300*time.Millisecond, "load before it that is not counted; not in hold")
	flags.IntVar(&o.conns, "conns", 0, "connections; open: at most (default 64, open 1024, stream 200, body 4, hold 1000)")
	flags.Float64Var(&o.rate, "rate", 1000, "open: arrivals per second")
	flags.Float64Var(&o.ramp, "ramp", 2000, "hold: new streams per second")
	flags.DurationVar(&o.wait, "wait", 30*time.Second, "hold: a stream with no event this long after the last start has failed")
	flags.IntVar(&o.size, "size", 10<<20, "body: bytes of the image")
	flags.BoolVar(&o.together, "together", false, "stream: all start at once, not over one second")
	flags.StringVar(&o.path, "path", "/v1/chat/completions", "path of the request")
	flags.StringVar(&o.model, "model", model, "model of the request")
	flags.Func("header", "further `header` of the request, 'Name: value', may be repeated", func(s string) error {
		if name, _, ok := strings.Cut(s, ":"); !ok || name == "" || strings.ContainsAny(s, "\r\n") {
			return fmt.Errorf("not of the form 'Name: value'")
		}
		o.headers = append(o.headers, s)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	for target := range strings.SplitSeq(*targets, ",") {
		at, err := netip.ParseAddrPort(target)
		if err != nil || !at.Addr().Is4() {
			return nil, fmt.Errorf("cannot read -target %q: %w", target, errNotIPv4)
		}
		o.targets = append(o.targets, at)
	}
	if o.mode == holding {
		o.warmup = 0
	}
	if o.conns == 0 {
		o.conns = usualConns(o.mode)
	}
	return o, o.check()
}

// usualConns is how many connections a mode has unless told; 0 is no mode.
func usualConns(mode string) int {
	switch mode {
	case closedLoop:
		return 64
	case openLoop:
		return 1024
	case streaming:
		return 200
	case bodies:
		return 4
	case holding:
		return 1000
	}
	return 0
}

func (o *options) check() error {
	switch {
	case usualConns(o.mode) == 0:
		return fmt.Errorf("unknown -mode %q", o.mode)
	case o.conns < len(o.targets) || o.size < 1 || o.duration <= 0 || o.warmup < 0 || o.wait < 0:
		return fmt.Errorf("-conns, -size and -duration are above 0, -warmup and -wait not below, and each -target has a connection")
	case o.rate <= 0 || o.ramp <= 0:
		return fmt.Errorf("-rate and -ramp are above 0")
	}
	return nil
}

const promptBytes = 800

// request is the whole request, head and body: 1.1 KB where no image is sent.
func (o *options) request() ([]byte, error) {
	var content any = strings.Repeat("Tell me more. ", promptBytes/14+1)[:promptBytes]
	if o.mode == bodies {
		content = []any{
			map[string]any{"type": "text", "text": "What is in this image?"},
			map[string]any{"type": "image_url", "image_url": map[string]any{
				"url": "data:image/png;base64," + strings.Repeat("iVBORw0KGgoAAAAN", o.size/16+1)[:o.size],
			}},
		}
	}
	body := map[string]any{
		"model":      o.model,
		"messages":   []any{map[string]any{"role": "user", "content": content}},
		"max_tokens": 64,
	}
	if o.streams() {
		body["stream"] = true
		body["stream_options"] = map[string]any{"include_usage": true}
	}
	b, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("cannot make the request: %w", err)
	}
	return append(o.head(len(b)), b...), nil
}

// head is the request's, with the caller's headers in place of ours by the same
// name.
func (o *options) head(length int) []byte {
	lines := []string{
		"Host: " + o.targets[0].String(),
		"User-Agent: bare/1.0",
		"Accept: */*",
		"Authorization: Bearer sk-bench",
		"Content-Type: application/json",
	}
	given := make(map[string]bool)
	for _, line := range o.headers {
		name, _, _ := strings.Cut(line, ":")
		given[strings.ToLower(name)] = true
	}
	out := fmt.Appendf(nil, "POST %s HTTP/1.1\r\n", o.path)
	for _, line := range lines {
		if name, _, _ := strings.Cut(line, ":"); !given[strings.ToLower(name)] {
			out = fmt.Appendf(out, "%s\r\n", line)
		}
	}
	for _, line := range o.headers {
		out = fmt.Appendf(out, "%s\r\n", line)
	}
	return fmt.Appendf(out, "Content-Length: %d\r\n\r\n", length)
}
