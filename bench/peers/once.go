package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/llmproxy/llmproxy/bench/results"
)

// once returns the steps that are taken one time, after all rounds: most of
// them want a fresh process.
func (b *bench) once() []step {
	var plan []step
	for _, g := range b.present() {
		if b.twins() {
			switch {
			case g.direct():
			case b.kind == clusters:
				plan = append(plan, b.streams(g, results.Memory, 1000))
			case g.name == results.OursManyKeys: // what reading them took is given back while streams open
				plan = append(plan, step{g, results.Idle, 0, b.idle})
			default:
				plan = append(plan, b.streams(g, results.Memory, 1000), b.streams(g, results.MemoryMany, 5000))
			}
			continue
		}
		for _, c := range aborts {
			plan = append(plan, step{g, c.name, 0, func(ctx context.Context, g *gateway) ([]results.Sample, error) {
				return b.abort(ctx, g, c)
			}})
		}
		if g.direct() {
			continue // there is no gateway that could use memory
		}
		plan = append(plan, b.streams(g, results.Memory, 1000))
		if !g.slow {
			plan = append(plan, b.streams(g, results.MemoryMany, 5000), b.streams(g, results.MemoryLimit, b.descriptors/2+200))
		}
		plan = append(plan, step{g, results.BodyMemory, 0, b.bodyMemory})
	}
	return plan
}

// idle is the memory of a gateway that has nothing to do.
func (b *bench) idle(ctx context.Context, g *gateway) ([]results.Sample, error) {
	kib, err := b.fresh(ctx, g)
	if err != nil {
		return nil, err
	}
	return []results.Sample{{Values: map[string]float64{"rss_kib": float64(kib)}}}, nil
}

// streams returns the step that opens n streams. Those of MemoryLimit are more
// than the descriptors allow: a stream takes a gateway two.
func (b *bench) streams(g *gateway, measure string, n int) step {
	if b.short {
		n = 200
	}
	return step{g, measure, 0, func(ctx context.Context, g *gateway) ([]results.Sample, error) {
		idle, err := b.fresh(ctx, g)
		if err != nil {
			return nil, err
		}
		s, err := b.streamMemory(ctx, g, n, idle)
		if err != nil {
			return nil, err
		}
		samples := []results.Sample{s}
		switch {
		case measure == results.MemoryLimit:
			s.Values["recovers"] = b.recovers(ctx, g)
		case s.Values["streams"] < float64(n):
			samples[0].Errors = n - int(s.Values["streams"])
			samples[0].Error = fmt.Sprintf("only %v of %d streams opened", s.Values["streams"], n)
		}
		if measure == results.Memory {
			samples = append(samples, results.Sample{Measure: results.Idle, Values: map[string]float64{"rss_kib": float64(idle)}})
		}
		return samples, nil
	}}
}

// streamMemory opens n streams and returns what each takes of a gateway that
// used idle KiB before.
func (b *bench) streamMemory(ctx context.Context, g *gateway, n int, idle int64) (results.Sample, error) {
	// Nearly silent, so that no generator is too slow to read them.
	if err := b.engine.behave(ctx, "interval=5s&events=1000"); err != nil {
		return results.Sample{}, err
	}
	h, err := b.hold(ctx, g, n)
	if err != nil {
		return results.Sample{}, err
	}
	defer h.release()
	if err := pause(ctx, b.pick(time.Second, 100*time.Millisecond)); err != nil {
		return results.Sample{}, err
	}
	used, err := memory(g.process.pid(), rss)
	s := results.Sample{Values: map[string]float64{"streams": float64(h.open)}}
	if h.open > 0 {
		s.Values["kib"] = float64(used-idle) / float64(h.open)
	}
	return s, err
}

// recovers returns 1 when the gateway answers again within 15 s of the end of
// too many streams, else 0. Gateways that do not notice that a client left need
// two events, 5 s apart, to find out.
func (b *bench) recovers(ctx context.Context, g *gateway) float64 {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if b.engine.smoke(ctx, g) == nil {
			return 1
		}
		_ = pause(ctx, 50*time.Millisecond) // the loop looks at ctx
	}
	return 0
}

// bodyMemory sends ten bodies at once, which the engine does not answer as long
// as they are looked at. It is the gateway's last step.
func (b *bench) bodyMemory(ctx context.Context, g *gateway) ([]results.Sample, error) {
	const bodies = 10
	idle, err := b.fresh(ctx, g)
	if err != nil {
		return nil, err
	}
	defer g.process.stop() // what it still has to send would be aborts in the time of others
	if err := b.engine.behave(ctx, "delay=1m"); err != nil {
		return nil, err
	}
	before, err := b.engine.state(ctx)
	if err != nil {
		return nil, err
	}
	if err := resetPeak(g.process.pid()); err != nil {
		return nil, err
	}
	if _, err := b.load(ctx, g, "body", b.pick(3*time.Second, time.Second), "-conns", strconv.Itoa(bodies), "-size", bodySize); err != nil {
		return nil, err
	}
	peak, err := memory(g.process.pid(), peakRSS)
	if err != nil {
		return nil, err
	}
	after, err := b.engine.state(ctx)
	if err != nil {
		return nil, err
	}
	s := results.Sample{Values: map[string]float64{"kib": float64(peak-idle) / bodies}}
	size, err := strconv.ParseInt(bodySize, 10, 64)
	if err != nil {
		return nil, err
	}
	if whole := int((after.BodyBytes - before.BodyBytes) / size); whole < bodies {
		s.Errors, s.Error = bodies-whole, fmt.Sprintf("only %d of %d bodies reached the engine", whole, bodies)
	}
	return []results.Sample{s}, nil
}
