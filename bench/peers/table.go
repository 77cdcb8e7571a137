package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/llmproxy/llmproxy/bench/results"
)

// describe is what a progress line says of a measurement.
func describe(samples []results.Sample) string {
	var words []string
	for _, s := range samples {
		for _, metric := range slices.Sorted(maps.Keys(s.Values)) {
			v := s.Values[metric]
			digits := 0
			if math.Abs(v) < 100 {
				digits = 2
			}
			words = append(words, fmt.Sprintf("%s %.*f", metric, digits, v))
		}
		if s.Errors > 0 {
			words = append(words, fmt.Sprintf("%d errors", s.Errors))
		}
		if s.Error != "" {
			words = append(words, "("+s.Error+")")
		}
	}
	return strings.Join(words, ", ")
}

// table is the short form of a run: medians, and ratios to nginx.
func table(r *results.Run) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "peer\treq/s\tCPU us/req\tx nginx\tCPU us/event\tx nginx\tKiB/stream\tidle MiB\t")
	for _, p := range r.Peers {
		if p.Missing != "" {
			fmt.Fprintf(w, "%s\tmissing\t\t\t\t\t\t\t\n", p.Name)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", p.Name,
			median(r, p.Name, results.Closed, "requests_per_second", "%.0f", 1),
			median(r, p.Name, results.Closed, "cpu", "%.1f", 1), ratio(r, p.Name, results.Closed, "cpu"),
			median(r, p.Name, results.Stream, "cpu_event", "%.1f", 1), ratio(r, p.Name, results.Stream, "cpu_event"),
			median(r, p.Name, results.Memory, "kib", "%.1f", 1),
			median(r, p.Name, results.Idle, "rss_kib", "%.1f", 1024))
	}
	_ = w.Flush() // into memory
	for _, p := range r.Peers {
		if p.Missing != "" {
			fmt.Fprintf(&text, "%s is missing: %s\n", p.Name, p.Missing)
		}
	}
	return text.String()
}

// median formats a metric's median over the rounds, divided by a unit; "-" when
// there is none.
func median(r *results.Run, peer, measure, metric, format string, unit float64) string {
	v, ok := r.Median(peer, measure, metric)
	if !ok {
		return "-"
	}
	return fmt.Sprintf(format, v/unit)
}

// ratio formats the median of a metric's ratios to nginx in the same round,
// which drift less than the figures do; "-" when there is none.
func ratio(r *results.Run, peer, measure, metric string) string {
	nginx := r.Values(results.Nginx, measure, metric)
	var all []float64
	for round, v := range r.Values(peer, measure, metric) {
		if base := nginx[round]; base > 0 {
			all = append(all, v/base)
		}
	}
	v, ok := results.Median(all)
	if !ok {
		return "-"
	}
	return fmt.Sprintf("%.2f", v)
}
