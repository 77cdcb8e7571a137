package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/llmproxy/llmproxy/bench/results"
)

// figure is one number that a run has for each peer, and how it is told.
type figure struct {
	name            string // in a sentence: "CPU per request"
	measure, metric string // as package results names them
	unit            string // in which it is told
	scale           float64
	added           bool // less what the direct way took in the same round
	higher          bool // more is better; otherwise less is
	paced           bool // as fast as it goes: a generator can be its limit
	worst           bool // told by its worst round: the median of what must not be would hide it
}

// What can be compared, in the order of the page. Raw times are microseconds,
// raw memory is KiB.
var (
	requestRate  = figure{name: "requests a second, 64 connections", measure: results.Closed, metric: "requests_per_second", unit: "/s", scale: 1, higher: true, paced: true}
	requestCPU   = figure{name: "CPU per request, 64 connections", measure: results.Closed, metric: "cpu", unit: "µs", scale: 1}
	requestP50   = figure{name: "request p50, 64 connections", measure: results.Closed, metric: "p50", unit: "ms", scale: 1e3}
	requestP99   = figure{name: "request p99, 64 connections", measure: results.Closed, metric: "p99", unit: "ms", scale: 1e3}
	openCPU      = figure{name: "CPU per request at 1,000/s", measure: results.Open, metric: "cpu", unit: "µs", scale: 1}
	openP50      = figure{name: "added to a request at 1,000/s, p50", measure: results.Open, metric: "p50", unit: "µs", scale: 1, added: true}
	openP99      = figure{name: "added to a request at 1,000/s, p99", measure: results.Open, metric: "p99", unit: "µs", scale: 1, added: true}
	openP999     = figure{name: "added to a request at 1,000/s, p99.9", measure: results.Open, metric: "p999", unit: "µs", scale: 1, added: true}
	slowCPU      = figure{name: "CPU per request at 200/s", measure: results.OpenSlow, metric: "cpu", unit: "µs", scale: 1}
	slowP50      = figure{name: "added to a request at 200/s, p50", measure: results.OpenSlow, metric: "p50", unit: "µs", scale: 1, added: true}
	slowP99      = figure{name: "added to a request at 200/s, p99", measure: results.OpenSlow, metric: "p99", unit: "µs", scale: 1, added: true}
	streams      = streamFigures(results.Stream, "200 streams")
	burst        = streamFigures(results.Burst, "200 streams in step")
	floodRate    = figure{name: "events a second at full speed", measure: results.Flood, metric: "events_per_second", unit: "/s", scale: 1, higher: true, paced: true}
	floodCPU     = figure{name: "CPU per event at full speed", measure: results.Flood, metric: "cpu_event", unit: "µs", scale: 1}
	idle         = figure{name: "memory when idle", measure: results.Idle, metric: "rss_kib", unit: "MiB", scale: 1024}
	memory       = figure{name: "memory per open stream at 1,000", measure: results.Memory, metric: "kib", unit: "KiB", scale: 1}
	memoryMany   = figure{name: "memory per open stream at 5,000", measure: results.MemoryMany, metric: "kib", unit: "KiB", scale: 1}
	memoryLimit  = figure{name: "memory per open stream at the descriptor limit", measure: results.MemoryLimit, metric: "kib", unit: "KiB", scale: 1}
	streamsLimit = figure{name: "streams at the descriptor limit", measure: results.MemoryLimit, metric: "streams", scale: 1, higher: true}
	recovers     = figure{name: "passes requests after the descriptor limit", measure: results.MemoryLimit, metric: "recovers", scale: 1, higher: true}
	bodyRate     = figure{name: "10 MiB bodies a second", measure: results.Body, metric: "requests_per_second", unit: "/s", scale: 1, higher: true, paced: true}
	bodyCPU      = figure{name: "CPU per 10 MiB body", measure: results.Body, metric: "cpu", unit: "ms", scale: 1e3}
	bodyP50      = figure{name: "10 MiB body p50", measure: results.Body, metric: "p50", unit: "ms", scale: 1e3}
	bodyP99      = figure{name: "10 MiB body p99", measure: results.Body, metric: "p99", unit: "ms", scale: 1e3}
	bodyMemory   = figure{name: "memory per 10 MiB body, ten at once", measure: results.BodyMemory, metric: "kib", unit: "MiB", scale: 1024}
	abortTicking = figure{name: "abort seen mid-stream, an event each 20 ms", measure: results.AbortTicking, metric: "ms", unit: "ms", scale: 1}
	abortSilent  = figure{name: "abort seen mid-stream, the engine silent", measure: results.AbortSilent, metric: "ms", unit: "ms", scale: 1}
	abortFirst   = figure{name: "abort seen before the first byte", measure: results.AbortFirst, metric: "ms", unit: "ms", scale: 1}
	abortWhole   = figure{name: "abort seen, a whole answer awaited", measure: results.AbortWhole, metric: "ms", unit: "ms", scale: 1}
	manyCPU      = figure{name: "CPU per request, 1,000 backends", measure: results.ManyBackends, metric: "cpu", unit: "µs", scale: 1}
	besideCPU    = figure{name: "CPU per request beside 5,000 open streams", measure: results.BesideStreams, metric: "cpu", unit: "µs", scale: 1}

	figures = slices.Concat(
		[]figure{requestRate, requestCPU, requestP50, requestP99, openCPU, openP50, openP99, openP999},
		streams, burst,
		[]figure{
			floodRate, floodCPU, idle, memory, memoryMany, memoryLimit, streamsLimit, recovers,
			bodyRate, bodyCPU, bodyP50, bodyP99, bodyMemory, abortTicking, abortSilent, abortFirst, abortWhole,
		})
)

// The places of streamFigures.
const (
	eventCPU = iota
	eventP50
	eventP99
	eventP999
	ttftP50
	ttftP99
)

func streamFigures(measure, what string) []figure {
	all := []figure{
		{name: "CPU per event", metric: "cpu_event"},
		{name: "added to an event, p50", metric: "event_p50", added: true},
		{name: "added to an event, p99", metric: "event_p99", added: true},
		{name: "added to an event, p99.9", metric: "event_p999", added: true},
		{name: "added TTFT, p50", metric: "ttft_p50", added: true},
		{name: "added TTFT, p99", metric: "ttft_p99", added: true},
	}
	for i := range all {
		all[i].name += ", " + what
		all[i].measure, all[i].unit, all[i].scale = measure, "µs", 1
	}
	return all
}

// redisFigures are what a load asks of a Redis.
func redisFigures(measure, what string) []figure {
	all := []figure{
		{name: "Redis: CPU per request", metric: results.RedisCPU, unit: "µs", scale: 1},
		{name: "Redis: scripts per request", metric: results.RedisScripts, scale: 1},
		{name: "Redis: commands beside, per request", metric: results.RedisCommands, scale: 1},
		{name: "decisions without Redis, at worst of 1,000 requests", metric: results.DecidedAlone, scale: 1e-3, worst: true},
	}
	for i := range all {
		all[i].name += ", " + what
		all[i].measure = measure
	}
	return all
}

// rounds returns the figure of a peer by round.
func (f figure) rounds(r *results.Run, peer string) map[int]float64 {
	values := r.Values(peer, f.measure, f.metric)
	direct := r.Values(results.Direct, f.measure, f.metric)
	for round, v := range values {
		base, ok := direct[round]
		switch {
		case f.added && !ok:
			delete(values, round)
			continue
		case f.added:
			v -= base
		case f.metric == "ms" && v < 0: // an abort that was never seen
			v = math.Inf(1)
		}
		values[round] = v / f.scale
	}
	return values
}

// median returns the middle of a peer's rounds, or the worst where that is told, and
// false without any.
func (f figure) median(r *results.Run, peer string) (float64, bool) {
	var all []float64
	for _, v := range f.rounds(r, peer) {
		all = append(all, v)
	}
	if f.worst && len(all) > 0 {
		return slices.Max(all), true
	}
	return results.Median(all)
}

// better tells whether a beats b.
func (f figure) better(a, b float64) bool {
	if f.higher {
		return a > b
	}
	return a < b
}

// ratio is one figure over another, round by round.
type ratio struct {
	median, min, max float64
	rounds           int // that have both; 0: there is no ratio
}

// over compares a peer's f with another's g in the same rounds. A round in
// which the other's figure is not above zero, as an added latency within the
// noise can be, has no ratio.
func (f figure) over(r *results.Run, peer string, g figure, other string) ratio {
	var all []float64
	base := g.rounds(r, other)
	for round, v := range f.rounds(r, peer) {
		if b := base[round]; b > 0 && !math.IsInf(b, 1) {
			all = append(all, v/b)
		}
	}
	m, ok := results.Median(all)
	if !ok {
		return ratio{}
	}
	return ratio{m, slices.Min(all), slices.Max(all), len(all)}
}

func (x ratio) String() string {
	switch {
	case x.rounds == 0:
		return "–"
	case number(x.min) == number(x.max):
		return number(x.median)
	}
	return number(x.median) + " (" + number(x.min) + " to " + number(x.max) + ")"
}

// number tells v with three digits, whole where it is whole or has more.
func number(v float64) string {
	digits := 2
	switch size := math.Abs(v); {
	case math.IsInf(v, 0):
		return "no"
	case size >= 999.5:
		return humanize.Comma(int64(math.Round(v)))
	case size >= 99.95 || v == math.Trunc(v):
		digits = 0
	case size >= 9.995:
		digits = 1
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

// tell prints the figure of a peer, and how many tries for an abort were in vain
// where the median does not say it. It is "" where the peer has none.
func (f figure) tell(r *results.Run, peer string) string {
	median, ok := f.median(r, peer)
	if !ok {
		return ""
	}
	never, all := 0, f.rounds(r, peer)
	for _, v := range all {
		if math.IsInf(v, 1) {
			never++
		}
	}
	if never > 0 && never < len(all) {
		return fmt.Sprintf("%s (%d of %d no)", number(median), never, len(all))
	}
	return number(median)
}

// joined tells several figures of a peer in one cell. Of the direct way, which
// adds nothing, it tells what it took.
func joined(r *results.Run, peer string, all []figure) string {
	var texts []string
	known, whole := false, false
	for _, f := range all {
		if peer == results.Direct && f.added {
			f.added, whole = false, true
		}
		text := f.tell(r, peer)
		known = known || text != ""
		texts = append(texts, cmp.Or(text, "–"))
	}
	text := strings.Join(texts, " / ")
	switch {
	case !known:
		return "–"
	case whole:
		return "(absolute " + text + ")"
	}
	return text
}

// bound tells whether the generator, and not the peer, may have set the pace:
// the peer reached more than 70 % of the direct rate.
func (f figure) bound(r *results.Run, peer string) bool {
	return f.paced && peer != results.Direct && f.over(r, peer, f, results.Direct).median > 0.7
}
