package main

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/llmproxy/llmproxy/bench/results"
)

// measure is one that each round repeats.
type measure struct {
	name   string
	engine string // how it behaves
	mode   string // of the load generator
	flags  []string
	length time.Duration
	warmUp time.Duration // the same beforehand, which does not count
	latent bool          // latencies are kept: in a flood they are those of full buffers
	tail   bool          // enough requests for a p999
	in     []kind        // of run
}

// bodySize is that of a request with an image, in bytes.
const bodySize = "10485760"

// all are the kinds of run.
var all = []kind{sideBySide, usages, limits, clusters}

// measures are those of this kind of run.
func (b *bench) measures() []measure {
	some := []measure{
		{name: results.Closed, mode: "closed", flags: []string{"-conns", "64"}, length: 2 * time.Second, latent: true, in: all},
		{name: results.OpenSlow, mode: "open", flags: []string{"-rate", "200"}, length: 6 * time.Second, latent: true, in: []kind{clusters}},
		{name: results.Open, mode: "open", flags: []string{"-rate", "1000"}, length: 3 * time.Second, latent: true, tail: true, in: all},
		{name: results.Stream, engine: "interval=20ms&events=64", mode: "stream", flags: []string{"-conns", "200"}, length: 4 * time.Second, latent: true, tail: true, in: all},
		{name: results.Burst, engine: "interval=20ms&events=64&sync=true", mode: "stream", flags: []string{"-conns", "200", "-together"}, length: 4 * time.Second, latent: true, tail: true, in: []kind{sideBySide}},
		{name: results.Flood, engine: "interval=0s&events=64", mode: "stream", flags: []string{"-conns", "64", "-together"}, length: 2 * time.Second, in: []kind{sideBySide, usages, limits}},
		{name: results.Body, mode: "body", flags: []string{"-conns", "4", "-size", bodySize}, length: 2 * time.Second, latent: true, in: []kind{sideBySide}},
	}
	some = slices.DeleteFunc(some, func(m measure) bool { return !slices.Contains(m.in, b.kind) })
	for i := range some {
		some[i].warmUp = b.pick(500*time.Millisecond, 100*time.Millisecond)
		some[i].length = b.pick(some[i].length, 250*time.Millisecond)
	}
	return some
}

// repeated returns the steps of all rounds. Within a round a measure is taken
// of all gateways before the next one is, so that what is compared is close
// together in time. Where ours is compared with itself every second round has the
// gateways in the reverse order.
func (b *bench) repeated(rounds int) []step {
	var plan []step
	for round := 1; round <= rounds; round++ {
		gateways := b.present()
		if b.twins() && round%2 == 0 {
			slices.Reverse(gateways)
		}
		for _, m := range b.measures() {
			for _, g := range gateways {
				plan = append(plan, step{g, m.name, round, func(ctx context.Context, g *gateway) ([]results.Sample, error) {
					return b.take(ctx, g, m)
				}})
			}
		}
		if !b.twins() {
			plan = append(plan, b.flat(round)...)
		}
	}
	return plan
}

// take takes a measure once.
func (b *bench) take(ctx context.Context, g *gateway, m measure) ([]results.Sample, error) {
	if err := b.engine.behave(ctx, m.engine); err != nil {
		return nil, err
	}
	return b.loaded(ctx, g, m, 0)
}

// loaded puts the load of a measure on a gateway, first to warm up, and reads
// the gateway's CPU before and after. It leaves the gateway at rest, with as many
// streams open as there were: what it still did would be done in the time of the
// next one.
func (b *bench) loaded(ctx context.Context, g *gateway, m measure, open int) ([]results.Sample, error) {
	if _, err := b.load(ctx, g, m.mode, m.warmUp, m.flags...); err != nil {
		return nil, err
	}
	if err := b.rest(ctx, g, open); err != nil {
		return nil, err
	}
	var o *outcome
	w, err := g.during(ctx, func() (err error) {
		if o, err = b.load(ctx, g, m.mode, m.length, m.flags...); err == nil && b.twins() {
			err = b.rest(ctx, g, open) // reports that are sent after the load are of its requests
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	s := results.Sample{Values: m.values(o, w), Errors: o.Errors, Error: o.Error}
	return []results.Sample{s}, b.rest(ctx, g, open)
}

// values are the metrics of an outcome, for which that work was done.
func (m *measure) values(o *outcome, w work) map[string]float64 {
	rate, perCPU, count, per := "requests_per_second", "cpu", o.Requests, o.RPS
	if m.mode == "stream" {
		rate, perCPU, count, per = "events_per_second", "cpu_event", o.Events, o.EventsPerSecond
	}
	v := map[string]float64{rate: per}
	if count == 0 {
		return v // nothing to divide by
	}
	if w.cpu > 0 {
		v[perCPU] = float64(w.cpu) / 1e3 / float64(count)
	}
	if w.redis != nil && m.mode != "stream" { // streams that were cut at the end had their part in it
		maps.Copy(v, w.redis.values(o.Requests))
	}
	switch {
	case !m.latent:
	case m.mode == "stream":
		v["ttft_p50"], v["ttft_p99"] = o.TTFTP50, o.TTFTP99
		v["event_p50"], v["event_p99"], v["event_p999"] = o.EventP50, o.EventP99, o.EventP999
	default:
		v["p50"], v["p99"] = o.P50, o.P99
		if m.tail {
			v["p999"] = o.P999
		}
	}
	return v
}
