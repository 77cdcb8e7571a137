package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
)

// measure is one thing whose instructions are counted.
type measure struct {
	name, what string
	mode       mode              // the gateway's
	begin      func(*ends) error // before the first step, not counted; nil: nothing
	step       func(*ends) error
	end        func(*ends) error // after the last step, not counted; nil: nothing
}

// burst is how many events an engine sends at once when its scheduler ran ahead.
const burst = 8

var measures = []measure{
	{
		name: "request", what: "a request of 1.1 KB and its answer of 600 bytes",
		step: func(e *ends) error { return e.whole(chat("chat", false)) },
	},
	{
		name: "mapped", what: "the same, for a model that the engine knows by another name",
		step: func(e *ends) error { return e.whole(chat("qwen", false)) },
	},
	{
		name: "refused", what: "the same, for a model that nobody serves: 404",
		step: func(e *ends) error { return e.refused(chat("gone", false), http.StatusNotFound) },
	},
	{
		name: "stream", what: "a stream of one event, from its request to its end",
		step: oneEvent,
	},
	{
		name: "event", what: "one event of an open stream",
		begin: func(e *ends) error { return e.open(chat("chat", true)) },
		step:  func(e *ends) error { return e.relay(event, 1) },
		end:   (*ends).finish,
	},
	{
		name: "burst", what: fmt.Sprintf("%d events that come at once", burst),
		begin: func(e *ends) error { return e.open(chat("chat", true)) },
		step:  func(e *ends) error { return e.relay(event, burst) },
		end:   (*ends).finish,
	},
	{
		name: "metered-request", what: "the request, with a record of its usage in the journal", mode: metered,
		step: func(e *ends) error { return e.whole(chat("chat", false)) },
	},
	{
		name: "metered-stream", what: "the stream, the same, its usage asked for and taken out", mode: metered,
		step: oneEvent,
	},
	{
		name: "metered-event", what: "the event, of a stream whose usage comes at its end", mode: metered,
		begin: func(e *ends) error { return e.open(chat("chat", true)) },
		step:  func(e *ends) error { return e.relay(event, 1) },
		end:   (*ends).finish,
	},
	{
		name: "counted-event", what: "the event, with usage in it that is taken out (continuous_usage)", mode: metered,
		begin: func(e *ends) error { return e.open(chat("chat", true)) },
		step:  func(e *ends) error { return e.relay(usageEvent, 1) },
		end:   (*ends).finish,
	},
	{
		name: "limited-request", what: "the request, by one of 10,000 keys with every limit", mode: limited,
		step: func(e *ends) error { return e.whole(chat("chat", false)) },
	},
	{
		name: "limited-stream", what: "the stream, the same", mode: limited,
		step: oneEvent,
	},
	{
		name: "limited-event", what: "the event, the same", mode: limited,
		begin: func(e *ends) error { return e.open(chat("chat", true)) },
		step:  func(e *ends) error { return e.relay(event, 1) },
		end:   (*ends).finish,
	},
	{
		name: "wrong-key", what: "the request, by a key that nobody has: 401", mode: limited,
		step: (*ends).wrongKey,
	},
	{
		name: "limited-over", what: "the request, by a key whose minute is used up: 429", mode: limited,
		step: (*ends).over,
	},
}

// oneEvent is a whole stream.
func oneEvent(e *ends) error {
	if err := e.open(chat("chat", true)); err != nil {
		return err
	}
	return e.finish()
}

// Caches fill while a process is young: that of a type assertion is filled on
// one use in 1,024, by chance. A batch is short beside a second, in which the
// gateway renews its Date header, so that one of a few has nothing of it.
const (
	warmUp  = 3000 // steps
	batch   = 100  // steps
	batches = 12
)

// count is what a measure gave.
type count struct {
	measure
	profile *profile // of a whole batch
}

// instructions of one step.
func (c count) instructions() int { return int((c.profile.total + batch/2) / batch) }

// measureAll measures everything, with a gateway in each of the modes.
func measureAll(ctx context.Context) ([]count, error) {
	var counts []count
	for _, m := range modes {
		some, err := measureOne(ctx, m)
		if err != nil {
			return nil, err
		}
		counts = append(counts, some...)
	}
	return counts, nil
}

// measureOne starts a gateway and measures with it what is to be.
func measureOne(ctx context.Context, in mode) ([]count, error) {
	dir, err := os.MkdirTemp("", "instructions-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // at worst /tmp keeps it
	e := &ends{mode: in}
	defer e.close()
	if err := e.listen(); err != nil {
		return nil, err
	}
	if err := build(ctx, dir); err != nil {
		return nil, err
	}
	g, err := start(ctx, dir, in, e.listener.Addr().String(), e.billingAddr())
	if err != nil {
		return nil, err
	}
	defer g.stop()
	e.gateway = g
	if err := e.connect(); err != nil {
		return nil, err
	}
	if in == metered {
		if err := e.fillRing(); err != nil {
			return nil, fmt.Errorf("%w; the gateway's log:\n%s", err, g.output.String())
		}
	}
	var counts []count
	for _, m := range measures {
		if m.mode != in {
			continue
		}
		p, err := m.least(e)
		if err != nil {
			g.stop()
			return nil, fmt.Errorf("cannot measure %s: %w; the gateway's log:\n%s", m.name, err, g.output.String())
		}
		counts = append(counts, count{m, p})
	}
	return counts, nil
}

// least is the profile of the batch with the fewest instructions.
func (m *measure) least(e *ends) (*profile, error) {
	if m.begin != nil {
		if err := m.begin(e); err != nil {
			return nil, err
		}
	}
	e.hurry = true
	if err := m.steps(e, warmUp); err != nil {
		return nil, err
	}
	e.hurry = false
	if _, err := e.gateway.count(); err != nil { // forget what was before
		return nil, err
	}
	var least *profile
	for range batches {
		if err := m.steps(e, batch); err != nil {
			return nil, err
		}
		p, err := e.gateway.count()
		if err != nil {
			return nil, err
		}
		if least == nil || p.total < least.total {
			least = p
		}
	}
	if m.end != nil {
		return least, m.end(e)
	}
	return least, nil
}

func (m *measure) steps(e *ends, n int) error {
	for range n {
		if err := m.step(e); err != nil {
			return err
		}
	}
	return nil
}
