package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/llmproxy/llmproxy/loadtest/process"
	"github.com/llmproxy/llmproxy/loadtest/scenario"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// engineBinary is what plays the engines.
const engineBinary = "bin/mockvllm"

// engine is one fake engine, which may be replaced by a new process of the same
// address.
type engine struct {
	host        string
	addr, admin string
	args        []string

	mu      sync.Mutex // guards process
	process *process.Process
}

// stage is all that runs for one side: the engines and, later, a gateway.
type stage struct {
	scenario *scenario.Scenario
	engines  []*engine // in the order of the configuration's backends

	mu      sync.Mutex // guards started
	started process.Group
}

// newStage starts the engines. aliases are names under which models are served
// besides their own, for gateways that cannot map names.
func newStage(ctx context.Context, s *scenario.Scenario, ports *ports, aliases map[string][]string) (*stage, error) {
	st := &stage{scenario: s}
	backends, err := s.Backends()
	if err != nil {
		return nil, err
	}
	for _, b := range backends {
		model, _ := s.Engine(b.Host)
		e := &engine{host: b.Host}
		if e.addr, err = ports.next(); err == nil {
			e.admin, err = ports.next()
		}
		if err != nil {
			return st, err
		}
		e.args = flags(e, model, aliases[b.Host])
		st.engines = append(st.engines, e)
		if err := st.launch(e); err != nil {
			return st, err
		}
	}
	for _, e := range st.engines {
		if err := until(ctx, e.process, func() error { _, err := e.state(ctx); return err }); err != nil {
			return st, fmt.Errorf("%s: %w", e.host, err)
		}
	}
	return st, nil
}

// flags turns a latency model into those of the fake engine. The distance is
// part of the time to the first token: one round trip on an open connection.
func flags(e *engine, m scenario.Engine, aliases []string) []string {
	models := strings.Join(slices.Concat(m.Models, aliases), ",")
	return []string{
		"-name", e.host, "-listen", e.addr, "-admin", e.admin, "-dialect", m.Dialect,
		"-models", models,
		"-ttft", (m.Overhead + m.Distance[e.host]).String(),
		"-itl", m.Step.String(),
		"-decode-per-seq", m.PerSequence.String(),
		"-prefill-per-token", m.PerPromptToken.String(),
		"-max-num-seqs", strconv.Itoa(m.MaxBatch),
		"-max-concurrent", strconv.Itoa(max(1, m.MaxConcurrent)),
		"-kv-blocks", strconv.Itoa(m.KVBlocks),
		"-max-model-len", strconv.Itoa(m.MaxLength),
		"-ledger", "16",
	}
}

// start runs a program that ends with the stage.
func (st *stage) start(name, path string, args ...string) (*process.Process, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.started.Start(name, path, args...)
}

func (st *stage) launch(e *engine) error {
	p, err := st.start(e.host, engineBinary, e.args...)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.process = p
	return nil
}

func (st *stage) stop() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.started.Stop()
}

func (st *stage) explain(w io.Writer) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.started.Explain(w)
}

// do carries out an event. It returns when the event is complete, which for a
// restart takes a while.
func (st *stage) do(ctx context.Context, ev scenario.Event) error {
	for _, host := range ev.On {
		for _, e := range st.engines {
			if e.host != host {
				continue
			}
			if err := st.act(ctx, e, ev); err != nil {
				return fmt.Errorf("cannot %s %s: %w", ev.Do, host, err)
			}
		}
	}
	return nil
}

func (st *stage) act(ctx context.Context, e *engine, ev scenario.Event) error {
	e.mu.Lock()
	p := e.process
	e.mu.Unlock()
	switch ev.Do {
	case scenario.Kill:
		return p.Kill()
	case scenario.Start:
		return st.launch(e)
	case scenario.Restart:
		p.Stop(restartGrace)
		pause(ctx, ev.Down)
		return st.launch(e)
	case scenario.Freeze:
		return p.Signal(syscall.SIGSTOP)
	case scenario.Thaw:
		return p.Signal(syscall.SIGCONT)
	case scenario.Slow:
		return e.post(ctx, "/slow", map[string]float64{"factor": ev.Slow})
	case scenario.Mark:
	}
	return nil
}

// restartGrace is how long an engine may take to end its answers: Kubernetes'
// terminationGracePeriodSeconds.
const restartGrace = 30 * time.Second

// pause waits for d, or for the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// adminTimeout is short: a dead or frozen engine must not hold up the others.
const adminTimeout = 400 * time.Millisecond

func (e *engine) state(ctx context.Context) (mockvllm.State, error) {
	var s mockvllm.State
	body, err := get(ctx, "http://"+e.admin+"/state", adminTimeout)
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	return s, err
}

func (e *engine) post(ctx context.Context, path string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+e.admin+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s: %s", path, resp.Status)
	}
	return nil
}

func get(ctx context.Context, url string, timeout time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// until calls try until it succeeds, the process ends, or ten seconds are over.
func until(ctx context.Context, p *process.Process, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-p.Ended():
			return fmt.Errorf("ended at once")
		case <-ctx.Done():
			return fmt.Errorf("is not ready: %w", err)
		case <-tick.C:
		}
	}
}

// ports hands out free ports of loopback, below the range from which the kernel
// takes those of connections: an engine that comes back needs its own again.
type ports struct{ last int }

const firstPort, lastPort = 21000, 30000

func (p *ports) next() (string, error) {
	for p.last = max(p.last, firstPort); p.last < lastPort; {
		p.last++
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(p.last))
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		return addr, ln.Close()
	}
	return "", fmt.Errorf("there is no free port from %d to %d", firstPort, lastPort)
}
