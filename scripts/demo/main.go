// Command demo shows the gateway at work: three fake engines, a chat that is
// streamed through the gateway, a load during which one engine is killed, the
// bill for all of it, and the gateway killed in the middle of an answer. It needs
// bin/llmproxy and bin/mockvllm, and the ports of the built-in configuration. It
// stops what it started, and fails when a request did that should not have.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/llmproxy/llmproxy/loadtest"
	"github.com/llmproxy/llmproxy/loadtest/process"
)

const (
	gatewayAddr = "127.0.0.1:8000"
	gatewayURL  = "http://" + gatewayAddr
	billingAddr = "127.0.0.1:9100"
	model       = "mock-model"
)

// engineAddrs are the backends of the built-in configuration.
var engineAddrs = [...]string{"127.0.0.1:9001", "127.0.0.1:9002", "127.0.0.1:9003"}

// victim is the engine that is killed.
const victim = 1

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := run(ctx)
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		cancel()
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	if err := portsFree(); err != nil {
		return err
	}
	var started process.Group
	defer started.Stop()
	defer func() {
		if err != nil && !errors.Is(err, context.Canceled) {
			started.Explain(os.Stderr)
		}
	}()

	fmt.Println("\nThree fake engines, a billing system and a gateway")
	if err := startEngines(&started); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "llmproxy-demo-")
	if err != nil {
		return err
	}
	defer func() {
		started.Stop() // they keep files there
		_ = os.RemoveAll(dir)
	}()
	b, err := startBilling(ctx, &started, dir)
	if err != nil {
		return err
	}
	serve := func() (*process.Process, error) {
		p, err := started.Start("gateway", "env", append(b.env(), "bin/llmproxy", "serve")...)
		if err != nil {
			return nil, err
		}
		return p, ready(ctx, p)
	}
	begin := time.Now()
	gateway, err := serve()
	if err != nil {
		return err
	}
	fmt.Printf("  gateway    pid %-7d %s, ready after %d ms\n", gateway.PID(), gatewayURL, time.Since(begin).Milliseconds())

	if err := chat(ctx); err != nil {
		return err
	}
	cut, err := load(ctx, started[victim])
	if err != nil {
		return err
	}
	if err := b.bill(ctx, 1+loadRequests, cut); err != nil {
		return err
	}
	if err := b.crash(ctx, gateway, serve); err != nil {
		return err
	}
	whatNext()
	return nil
}

func startEngines(started *process.Group) error {
	for i, addr := range engineAddrs {
		p, err := started.Start(fmt.Sprintf("engine %d", i+1), "bin/mockvllm",
			"-listen", addr, "-admin", "", "-ttft", "150ms", "-itl", "40ms")
		if err != nil {
			return err
		}
		fmt.Printf("  engine %d   pid %-7d http://%s\n", i+1, p.PID(), addr)
	}
	return nil
}

func portsFree() error {
	for _, addr := range append(engineAddrs[:], billingAddr, gatewayAddr) {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return fmt.Errorf("%w\nThe demo needs the ports 8000, 9001 to 9003 and 9100; `ss -ltnp` shows who has them", err)
		}
		ln.Close()
	}
	return nil
}

// ready waits until the gateway knows an engine to send requests to.
func ready(ctx context.Context, gateway *process.Process) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := get(ctx, "/readyz"); err == nil {
			return nil
		}
		select {
		case <-gateway.Ended():
			return errors.New("the gateway ended at once")
		case <-ctx.Done():
			return fmt.Errorf("the gateway is not ready: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

func get(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, gatewayURL+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return string(body), err
}

// chat streams one answer onto the terminal as it comes.
func chat(ctx context.Context) error {
	const prompt = "Tell me about rivers."
	fmt.Printf("\nA chat through the gateway, token by token\n  > %s\n  ", prompt)
	begin := time.Now()
	resp, err := loadtest.Chat(ctx, http.DefaultClient, gatewayURL, model, prompt, 24, true)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var first, last time.Duration
	n := 0
	err = loadtest.Tokens(resp.Body, func(text string) {
		if n++; n == 1 {
			first = time.Since(begin)
		}
		last = time.Since(begin)
		fmt.Print(strings.ReplaceAll(text, "\n", " "))
	})
	fmt.Println()
	if err != nil {
		return err
	}
	if n < 2 {
		return fmt.Errorf("the chat brought %d tokens", n)
	}
	fmt.Printf("  %d tokens; the first after %d ms, then one every %d ms\n",
		n, first.Milliseconds(), ((last - first) / time.Duration(n-1)).Milliseconds())
	return nil
}

// loadRequests is how many.
const loadRequests = 60

// load asks many things at once and kills an engine meanwhile. It returns how
// many answers that cut.
func load(ctx context.Context, p *process.Process) (cut int, err error) {
	o := loadtest.Options{
		URL: gatewayURL, Model: model, Requests: loadRequests, Over: 4 * time.Second, Tokens: 24, Timeout: 10 * time.Second,
	}
	before, err := backendCounts(ctx)
	if err != nil {
		return 0, err
	}
	fmt.Printf("\n%d chats in %v, every second one a stream; engine %d is killed after 2 s\n", o.Requests, o.Over, victim+1)
	done := make(chan loadtest.Report, 1)
	go func() { done <- loadtest.Run(ctx, o) }()
	select {
	case <-ctx.Done():
		<-done
		return 0, ctx.Err()
	case <-time.After(2 * time.Second):
	}
	during, err := backendCounts(ctx)
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		return 0, err
	}
	fmt.Printf("  kill -9 %d (engine %d), with %.0f requests in flight on it\n", p.PID(), victim+1, during[victim].inFlight)
	r := <-done
	after, err := backendCounts(ctx)
	if err != nil {
		return 0, err
	}
	show(r, before, during, after)
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case r.Failed > 0:
		return 0, fmt.Errorf("%d of %d requests failed:\n  %s", r.Failed, o.Requests, strings.Join(r.Failures, "\n  "))
	case after[victim].healthy:
		return 0, fmt.Errorf("engine %d is dead, and the gateway has not noticed", victim+1)
	}
	return r.Cut, nil
}

func show(r loadtest.Report, before, during, after counts) {
	fmt.Printf(`
  %3d answered whole, %d of them streams
  %3d failed
  %3d streams were in mid-answer on the dead engine; each ended in an error event
`, r.Answered, r.Streams, r.Failed, r.Cut)
	if n := len(r.FirstToken); n > 0 {
		fmt.Printf("  first token: median %d ms, slowest %d ms\n",
			r.FirstToken[n/2].Milliseconds(), r.FirstToken[n-1].Milliseconds())
	}
	fmt.Printf("\n  Answers by engine (from %s/metrics)\n             before the kill   after it   lost   refused\n", gatewayURL)
	for i := range engineAddrs {
		b, d, a := before[i], during[i], after[i]
		state := ""
		if !a.healthy {
			state = "   dead"
		}
		fmt.Printf("    engine %d %13.0f %12.0f %6.0f %9.0f%s\n",
			i+1, d.ok-b.ok, a.ok-d.ok, a.lost-b.lost, a.refused-b.refused, state)
	}
}

// count is what /metrics says of one engine: attempts by outcome, so that each
// retry shows, and its state now.
type count struct {
	ok, lost, refused, inFlight float64
	healthy                     bool
}

type counts [len(engineAddrs)]count

func backendCounts(ctx context.Context) (counts, error) {
	page, err := get(ctx, "/metrics")
	if err != nil {
		return counts{}, err
	}
	values := map[string]float64{}
	for line := range strings.Lines(page) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			values[name] = v
		}
	}
	var c counts
	for i, addr := range engineAddrs {
		attempts := func(outcome string) float64 {
			return values[fmt.Sprintf("llmproxy_attempts_total{backend=%q,outcome=%q}", addr, outcome)]
		}
		c[i] = count{
			ok:       attempts("ok"),
			lost:     attempts("lost") + attempts("broken"),
			refused:  attempts("dial_failed"),
			inFlight: values[fmt.Sprintf("llmproxy_requests_in_flight{backend=%q}", addr)],
			healthy:  values[fmt.Sprintf("llmproxy_backend_healthy{backend=%q}", addr)] == 1,
		}
	}
	return c, nil
}

func whatNext() {
	fmt.Printf(`
Nothing failed that had not begun to answer, and all of it is billed once. To try it
yourself:

  bin/mockvllm -ttft 150ms -itl 40ms &
  bin/llmproxy serve &
  curl -N %[1]s/v1/chat/completions -H 'Content-Type: application/json' \
    -d '{"model":"%[2]s","stream":true,"messages":[{"role":"user","content":"Hello"}]}'
  curl %[1]s/v1/models
  curl %[1]s/metrics
  kill %%1 %%2

With engines of your own: copy configs/llmproxy.yaml, which explains every key, then
  bin/llmproxy check -config my.yaml && bin/llmproxy serve -config my.yaml
`, gatewayURL, model)
}
