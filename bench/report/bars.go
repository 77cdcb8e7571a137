package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/llmproxy/llmproxy/bench/results"
)

// bar is a speed that was set before it was measured.
type bar struct {
	key  string // of its reason, when it is missed
	text string
	// f of ours is compared with g of the peer named against; without one, it
	// stands by itself.
	f, g    figure
	against string
	limit   float64
	aim     float64 // 0: there is none beyond the limit
	unit    string  // of limit, aim and figure
	least   bool    // the figure has to reach the limit, not to stay below it
}

// The bars, in the order and with the numbers in which they were set. "Held
// once" is read as at most one and a half bodies of memory for each body.
var bars = []bar{
	{key: "request-cpu", text: "1. CPU per request", f: requestCPU, g: requestCPU, against: results.Nginx, limit: 1.3, aim: 1},
	{key: "event-cpu", text: "2. CPU per streamed event", f: streams[eventCPU], g: streams[eventCPU], against: results.Nginx, limit: 1.6, aim: 1},
	{key: "event-p99", text: "2. p99 added per event, all streams in step", f: burst[eventP99], g: burst[eventP99], against: results.Nginx, limit: 2.5, aim: 1},
	{key: "stream-memory", text: "3. Memory per open stream, 5,000 of them", f: memoryMany, limit: 24, aim: 10, unit: "KiB"},
	{key: "descriptor-limit", text: "3. Recovers when descriptors ran out (1: yes)", f: recovers, limit: 1, least: true},
	{key: "ttft", text: "4. Added TTFT p99, 200 streams", f: streams[ttftP99], g: streams[ttftP99], against: results.Nginx, limit: 2, aim: 1},
	{key: "reverseproxy", text: "5. Requests a second", f: requestRate, g: requestRate, against: results.ReverseProxy, limit: 5, least: true},
	{key: "litellm", text: "5. Requests a second", f: requestRate, g: requestRate, against: results.LiteLLM, limit: 50, least: true},
	{key: "body-cpu", text: "6. CPU per 10 MiB body", f: bodyCPU, g: bodyCPU, against: results.Nginx, limit: 1.3, aim: 1},
	{key: "body-memory", text: "6. Memory per 10 MiB body: held once", f: bodyMemory, limit: 15, unit: "MiB"},
	{key: "many-backends", text: "7. CPU per request with 1,000 backends, of that with one", f: manyCPU, g: requestCPU, against: results.Ours, limit: 1.2},
	{key: "beside-streams", text: "7. CPU per request beside 5,000 open streams, of that without", f: besideCPU, g: requestCPU, against: results.Ours, limit: 1.2},
	{key: "idle", text: "7. Memory when idle", f: idle, limit: 40, aim: 20, unit: "MiB"},
}

// Verdicts.
const (
	aimReached  = "met, and the aim"
	met         = "met"
	missed      = "**missed**"
	notMeasured = "not measured"
)

// measure returns what to print of a bar, and the verdict.
func (b bar) measure(r *results.Run) (measured, verdict string) {
	var v float64
	if b.against == "" {
		median, ok := b.f.median(r, results.Ours)
		if !ok {
			return why(r, b.f.measure, results.Ours), notMeasured
		}
		v, measured = median, b.with(number(median))
	} else {
		x := b.f.over(r, results.Ours, b.g, b.against)
		if x.rounds == 0 {
			return why(r, b.f.measure, results.Ours, b.against), notMeasured
		}
		v, measured = x.median, b.with(x.String())
		if x.rounds < r.Rounds {
			measured += fmt.Sprintf(", %d of %d rounds", x.rounds, r.Rounds)
		}
	}
	if b.f.bound(r, results.Ours) {
		measured += ", generator-bound"
	}
	measured += failed(r, results.Ours, b.f.measure)
	switch {
	case !b.passes(v, b.limit):
		return measured, missed
	case b.aim != 0 && b.passes(v, b.aim):
		return measured, aimReached
	}
	return measured, met
}

// passes tells whether v is on the right side of a limit, or at it.
func (b bar) passes(v, limit float64) bool {
	return v == limit || v > limit == b.least
}

// with adds the unit of the bar to a number.
func (b bar) with(number string) string {
	switch {
	case b.against != "":
		return number + " ×"
	case b.unit != "":
		return number + " " + b.unit
	}
	return number
}

func (b bar) row(r *results.Run) []string {
	text, sign, aim := b.text, "≤ ", "–"
	if b.against != "" && b.against != results.Ours {
		text += ", × " + b.against
	}
	if b.least {
		sign = "≥ "
	}
	if b.aim != 0 {
		aim = sign + b.with(humanize.Ftoa(b.aim))
	}
	measured, verdict := b.measure(r)
	return []string{text, sign + b.with(humanize.Ftoa(b.limit)), aim, measured, verdict}
}

// why tells why a measure has no figure of one of the peers.
func why(r *results.Run, measure string, peers ...string) string {
	for _, name := range peers {
		i := slices.IndexFunc(r.Peers, func(p results.Peer) bool { return p.Name == name })
		switch {
		case i < 0:
			return name + " was not among the peers"
		case r.Peers[i].Missing != "":
			return name + ": " + r.Peers[i].Missing
		}
		for _, s := range r.Samples {
			if s.Peer == name && s.Measure == measure && s.Error != "" && len(s.Values) == 0 {
				return name + ": " + s.Error
			}
		}
	}
	return "no round in which both figures stand out of the noise"
}

// reasoned is a missed bar with its reason.
type reasoned struct{ Bar, Reason string }

// missedBars returns the bars that are missed with the reasons given for them,
// and an error when a reason is for a bar that does not exist.
func missedBars(r *results.Run, reasons map[string]string) ([]reasoned, error) {
	known := map[string]bool{}
	var all []reasoned
	for _, b := range bars {
		known[b.key] = true
		if _, verdict := b.measure(r); verdict != missed {
			continue
		}
		row := b.row(r)
		reason := strings.TrimSpace(reasons[b.key])
		if reason == "" {
			reason = "No reason is given yet."
		}
		all = append(all, reasoned{Bar: fmt.Sprintf("%s: %s; the bar is %s", row[0], row[3], row[1]), Reason: reason})
	}
	for key := range reasons {
		if !known[key] {
			return nil, fmt.Errorf("cannot give a reason for %q: there is no such bar", key)
		}
	}
	return all, nil
}
