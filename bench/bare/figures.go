//go:build linux

package main

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// figures are what a load run counts while it counts.
type figures struct {
	requests, errors, events int64
	firstError               string
	whole, ttft, event       latencies
}

func newFigures() *figures {
	return &figures{whole: newLatencies(), ttft: newLatencies(), event: newLatencies()}
}

// latencies is a histogram that is within 0.1 % and does not grow.
type latencies struct{ *hdrhistogram.Histogram }

func newLatencies() latencies {
	return latencies{hdrhistogram.New(100, int64(time.Hour), 3)}
}

// add counts d. Clocks of two processes may differ by a step of the clock: less
// than nothing counts as nothing.
func (l latencies) add(d time.Duration) {
	d = min(max(d, 0), time.Hour)
	if err := l.RecordValue(int64(d)); err != nil { // not within the bounds above
		panic(err)
	}
}

// micros is the q-th percentile; 0 where nothing was measured.
func (l latencies) micros(q float64) float64 {
	return float64(l.ValueAtQuantile(q)) / 1e3
}

// report is what a run prints. Latencies are in microseconds, 0 where the mode
// does not measure them.
type report struct {
	Requests        int64   `json:"requests"`
	Errors          int64   `json:"errors"`
	Error           string  `json:"error"` // the first one
	Seconds         float64 `json:"seconds"`
	RPS             float64 `json:"rps"`
	Events          int64   `json:"events"`
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

func (f *figures) report(took time.Duration) report {
	r := report{
		Requests: f.requests, Errors: f.errors, Error: f.firstError, Seconds: took.Seconds(), Events: f.events,
		P50: f.whole.micros(50), P99: f.whole.micros(99), P999: f.whole.micros(99.9),
		TTFTP50: f.ttft.micros(50), TTFTP99: f.ttft.micros(99),
		EventP50: f.event.micros(50), EventP99: f.event.micros(99), EventP999: f.event.micros(99.9),
	}
	if r.Seconds > 0 {
		r.RPS = float64(f.requests) / r.Seconds
		r.EventsPerSecond = float64(f.events) / r.Seconds
	}
	return r
}
