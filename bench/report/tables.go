package main

import (
	"cmp"
	"slices"

	"github.com/llmproxy/llmproxy/bench/results"
)

// table is what the page prints as one.
type table struct {
	Title, About string
	Head         []string
	Rows         [][]string
}

// column is one of a table of peers: its cell tells the figures, or the first
// of them over that of the peer named against, in the same rounds.
type column struct {
	title   string
	figures []figure
	against string
}

// cell is empty where the peer has nothing.
func (c column) cell(r *results.Run, peer string) string {
	switch {
	case c.against == "":
		return joined(r, peer, c.figures)
	case peer == results.Direct:
		return "–"
	case peer == c.against:
		return "1"
	}
	return c.figures[0].over(r, peer, c.figures[0], c.against).String()
}

// sheet is a table of peers before it meets a run: a row for each that was
// measured, with the requests that failed in the last column.
type sheet struct {
	title, about string
	columns      []column
}

var sheets = []sheet{
	{"Requests", "800-byte prompts, 600-byte answers. Rate, CPU and latency with 64 connections, one request after the other on each; then a constant 1,000 requests a second, the latency taken from when each was due.", []column{
		{"requests/s, one core", []figure{requestRate}, ""},
		{"CPU µs", []figure{requestCPU}, ""},
		{"× nginx", []figure{requestCPU}, results.Nginx},
		{"× ours", []figure{requestCPU}, results.Ours},
		{"p50 / p99, ms", []figure{requestP50, requestP99}, ""},
		{"added at 1,000/s p50 / p99 / p99.9, µs", []figure{openP50, openP99, openP999}, ""},
		{"CPU µs at 1,000/s", []figure{openCPU}, ""},
	}},
	{"Streams", "200 streams with an event each 20 ms, phases spread.", streamColumns(streams)},
	{"Streams in step", "The same, all streams at the same instant, as the step of an engine makes them.", streamColumns(burst)},
	{"Full speed", "64 streams as fast as they go: what is read at once may be written at once, so an event costs less than above.", []column{
		{"events/s", []figure{floodRate}, ""},
		{"CPU µs/event", []figure{floodCPU}, ""},
		{"× nginx", []figure{floodCPU}, results.Nginx},
		{"× ours", []figure{floodCPU}, results.Ours},
	}},
	{"Memory", "Resident memory of fresh processes: idle after one request, and above that for each open stream. The last column: whether requests pass again after descriptors ran out (1: yes).", []column{
		{"idle, MiB", []figure{idle}, ""},
		{"KiB a stream at 1,000", []figure{memory}, ""},
		{"at 5,000", []figure{memoryMany}, ""},
		{"× nginx", []figure{memoryMany}, results.Nginx},
		{"at the descriptor limit", []figure{memoryLimit}, ""},
		{"streams there", []figure{streamsLimit}, ""},
		{"recovers", []figure{recovers}, ""},
	}},
	{"Bodies of 10 MiB", "Requests with an image in them, on 4 connections; memory is the peak above idle for each of ten at once.", []column{
		{"bodies/s", []figure{bodyRate}, ""},
		{"CPU ms", []figure{bodyCPU}, ""},
		{"× nginx", []figure{bodyCPU}, results.Nginx},
		{"× ours", []figure{bodyCPU}, results.Ours},
		{"p50 / p99, ms", []figure{bodyP50, bodyP99}, ""},
		{"memory per body, MiB", []figure{bodyMemory}, ""},
	}},
	{"A client that leaves", "Milliseconds from the client's close to the engine's seeing it. \"no\": not within 1.5 s; the engine works for nobody.", []column{
		{"mid-stream, an event each 20 ms", []figure{abortTicking}, ""},
		{"mid-stream, engine silent", []figure{abortSilent}, ""},
		{"before the first byte", []figure{abortFirst}, ""},
		{"whole answer awaited", []figure{abortWhole}, ""},
	}},
	{"Ours, grown", "CPU µs per request with 64 connections, as in the first table.", []column{
		{"1,000 backends in pools of 10", []figure{manyCPU}, ""},
		{"beside 5,000 open streams", []figure{besideCPU}, ""},
	}},
}

func streamColumns(f []figure) []column {
	return []column{
		{"CPU µs/event", f[eventCPU : eventCPU+1], ""},
		{"× nginx", f[eventCPU : eventCPU+1], results.Nginx},
		{"× ours", f[eventCPU : eventCPU+1], results.Ours},
		{"added to an event p50 / p99 / p99.9, µs", f[eventP50 : eventP999+1], ""},
		{"added TTFT p50 / p99, µs", f[ttftP50:], ""},
	}
}

// table fills the sheet from a run.
func (s sheet) table(r *results.Run) table {
	t := table{Title: s.title, About: s.about, Head: []string{"gateway"}}
	for _, c := range s.columns {
		t.Head = append(t.Head, c.title)
	}
	t.Head = append(t.Head, "failed")
	for _, p := range r.Peers {
		if p.Missing != "" || !s.measured(r, p.Name) {
			continue
		}
		row := []string{s.label(r, p.Name)}
		for _, c := range s.columns {
			row = append(row, c.cell(r, p.Name))
		}
		t.Rows = append(t.Rows, append(row, s.failed(r, p.Name)))
	}
	return t
}

// measures returns the measures of a sheet's columns.
func (s sheet) measures() []string {
	var all []string
	for _, c := range s.columns {
		for _, f := range c.figures {
			all = append(all, f.measure)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (s sheet) measured(r *results.Run, peer string) bool {
	measures := s.measures()
	return slices.ContainsFunc(r.Samples, func(x results.Sample) bool {
		return x.Peer == peer && slices.Contains(measures, x.Measure)
	})
}

// label names a peer, and tells when the generator may have been its limit.
func (s sheet) label(r *results.Run, peer string) string {
	for _, c := range s.columns {
		if c.against == "" && c.figures[0].bound(r, peer) {
			return label(peer) + " (generator-bound)"
		}
	}
	if peer == results.Direct {
		return "direct (no gateway)"
	}
	return label(peer)
}

// label is what the page calls a peer.
func label(peer string) string {
	if peer == results.OursAll {
		return "llmproxy (all on)"
	}
	return peer
}

func (s sheet) failed(r *results.Run, peer string) string {
	n := 0
	for _, m := range s.measures() {
		n += failures(r, peer, m)
	}
	return number(float64(n))
}

// failures counts the requests of a peer that failed in a measure.
func failures(r *results.Run, peer, measure string) int {
	n := 0
	for _, s := range r.Samples {
		if s.Peer == peer && s.Measure == measure {
			n += s.Errors
		}
	}
	return n
}

// faults lists what went wrong, one line for each peer and measure: what of
// ours did, and what of all.
func faults(r *results.Run) (ours, all []string) {
	type place struct{ peer, measure string }
	counts, first := map[place]int{}, map[place]string{}
	var order []place
	for _, s := range r.Samples {
		if s.Error == "" && s.Errors == 0 {
			continue
		}
		p := place{s.Peer, s.Measure}
		if _, ok := counts[p]; !ok {
			order = append(order, p)
		}
		counts[p] += s.Errors
		first[p] = cmp.Or(first[p], s.Error)
	}
	for _, p := range order {
		text := label(p.peer) + ", " + p.measure + ": "
		if n := counts[p]; n > 0 {
			text += number(float64(n)) + " failed: "
		}
		text += cmp.Or(first[p], "no reason given")
		all = append(all, text)
		if results.IsOurs(p.peer) {
			ours = append(ours, text)
		}
	}
	return ours, all
}
