package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/llmproxy/llmproxy/bench/results"
)

// bench is one run.
type bench struct {
	root  string // of the repository
	dir   string // what the peers installed, their configurations and logs
	bare  string // the program that is generator and engine
	short bool
	kind  kind

	engineCore, gatewayCore string // "": any
	descriptors             int    // that each process may have
	lastPort                int
	patience                time.Duration // with a gateway that starts

	engine   *engine
	gateways []*gateway
	many     *gateway // ours, with many backends
	started  []*process
	samples  []results.Sample
	progress func(format string, args ...any)
}

// twins reports whether our gateway is compared with itself.
func (b *bench) twins() bool { return len(twins[b.kind]) > 0 }

// pick chooses between a value of a whole run and one of a run that only proves
// that it works.
func (b *bench) pick(whole, short time.Duration) time.Duration {
	if b.short {
		return short
	}
	return whole
}

// present returns the gateways that can be measured.
func (b *bench) present() []*gateway {
	return slices.DeleteFunc(slices.Clone(b.gateways), func(g *gateway) bool { return g.missing != "" })
}

// begin starts a process that ends with the run.
func (b *bench) begin(cmd *exec.Cmd, core, log string) (*process, error) {
	p, err := begin(cmd, core, log)
	if err == nil {
		b.started = append(b.started, p)
	}
	return p, err
}

// stop ends all that runs, the last started first.
func (b *bench) stop() {
	for _, p := range slices.Backward(b.started) {
		p.stop()
	}
}

// freeAddr returns an address that nobody listens at. It is below the range
// from which outgoing connections get their ports, so that none of tens of
// thousands takes it before its owner does.
func (b *bench) freeAddr() (string, error) {
	for b.lastPort < 30000 {
		b.lastPort++
		addr := fmt.Sprintf("127.0.0.1:%d", b.lastPort)
		if ln, err := net.Listen("tcp", addr); err == nil {
			ln.Close()
			return addr, nil
		}
	}
	return "", errors.New("there is no free port below 30000")
}

// startEngine starts the engine and waits until it answers.
func (b *bench) startEngine(ctx context.Context) error {
	addr, err := b.freeAddr()
	if err != nil {
		return err
	}
	b.engine = &engine{addr: addr}
	p, err := b.begin(exec.Command(b.bare, "engine", "-listen", addr), b.engineCore, filepath.Join(b.dir, "engine.log"))
	if err != nil {
		return err
	}
	for end := time.Now().Add(10 * time.Second); ; {
		if _, err = b.engine.state(ctx); err == nil {
			return nil
		}
		if !p.alive() {
			return fmt.Errorf("cannot start the engine: %w", p.death())
		}
		if time.Now().After(end) {
			return err
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// step is one measurement.
type step struct {
	gateway *gateway
	measure string
	round   int
	// run returns samples; what they leave out of gateway, measure and round is
	// the step's. An error is why there are none.
	run func(context.Context, *gateway) ([]results.Sample, error)
}

func (s *step) String() string {
	if s.round == 0 {
		return s.gateway.name + " " + s.measure
	}
	return fmt.Sprintf("round %d %s %s", s.round, s.gateway.name, s.measure)
}

// measure runs steps, one after the other. What fails is in the samples; the
// error is for what ends the run.
func (b *bench) measure(ctx context.Context, plan []step) error {
	for i, s := range plan {
		samples, err := b.do(ctx, s)
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		if err != nil {
			samples = []results.Sample{{Error: shorten(err.Error())}}
		}
		next := "the end"
		if i+1 < len(plan) {
			next = plan[i+1].String()
		}
		for j := range samples {
			samples[j].Peer = s.gateway.name
			if samples[j].Measure == "" {
				samples[j].Measure = s.measure
			}
			if samples[j].Round == 0 {
				samples[j].Round = max(s.round, 1)
			}
		}
		b.samples = append(b.samples, samples...)
		b.progress("%d/%d %v: %s; next: %s", i+1, len(plan), &s, describe(samples), next)
	}
	return nil
}

// do runs one step on a gateway that runs. What a gateway gave that ended by
// itself meanwhile is not worth keeping.
func (b *bench) do(ctx context.Context, s step) ([]results.Sample, error) {
	if err := b.live(ctx, s.gateway); err != nil {
		return nil, fmt.Errorf("cannot start it again: %w", err)
	}
	samples, err := s.run(ctx, s.gateway)
	if p := s.gateway.process; p != nil && !p.alive() && !p.stopped {
		return nil, p.death()
	}
	return samples, err
}

// rest waits until what went before is over: the gateway is idle, and no more
// streams are open than the number that is meant to be. Gateways that do not notice that a client left read to the end; after
// some seconds the next measure begins anyhow.
func (b *bench) rest(ctx context.Context, g *gateway, open int) error {
	const interval = 50 * time.Millisecond
	before, err := g.cpu()
	for end := time.Now().Add(5 * time.Second); err == nil && time.Now().Before(end); {
		if err := pause(ctx, interval); err != nil {
			return err
		}
		s, err := b.engine.state(ctx)
		if err != nil {
			return err
		}
		now, err := g.cpu()
		if err != nil {
			return err
		}
		if now.since(before) < int64(interval/10) && s.StreamsOpen <= open {
			return nil
		}
		before = now
	}
	return err
}
