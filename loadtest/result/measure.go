package result

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Question says what to measure, and over which requests. The zero value of a
// bound is no bound.
type Question struct {
	Measure string        `yaml:"measure"`
	Who     string        `yaml:"who"`   // only this load
	Not     string        `yaml:"not"`   // all but this load
	From    time.Duration `yaml:"from"`  // requests due from here on
	Until   time.Duration `yaml:"until"` // and before this
	Under   time.Duration `yaml:"under"` // limit of the measure "under"
}

// measures are the words a Question may use. Each tells what it is of.
var measures = map[string]struct {
	of func(*Side, Question, []int) string
	is string
}{
	"ttft":         {ttft, "time from when the request was due to its first token"},
	"under":        {under, "share of all requests whose first token came in time"},
	"availability": {availability, "answered whole, of all that no limit refused"},
	"requests":     {requests, "requests answered whole, and their tokens, a second"},
	"refused":      {refused, "requests that failed, or whose client gave up, before their first token"},
	"cut":          {cut, "answers that had begun and then broke off"},
	"gpu":          {gpu, "simulation: time of the fake engine's busy steps x share of its batch, dead time counts as idle"},
	"queue":        {queue, "wait in the engine's queue, mean over all that left it; worst second"},
	"share":        {share, "share of all tokens that arrived"},
}

// How is what a measure is, in words.
func (q Question) How() string { return measures[q.Measure].is }

// Known tells whether the question's measure exists.
func (q Question) Known() bool {
	_, ok := measures[q.Measure]
	return ok
}

// Measure answers the question for one side, in words for a table.
func (r *Result) Measure(s *Side, q Question) string {
	if s.Missing != "" {
		return s.Missing
	}
	if len(s.At) == 0 {
		return "nothing was asked"
	}
	var chosen []int
	for i, at := range s.At {
		if q.spans(at) && r.asks(q, s.Load[i]) {
			chosen = append(chosen, i)
		}
	}
	if len(chosen) == 0 {
		return "nothing was asked"
	}
	return measures[q.Measure].of(s, q, chosen)
}

// spans tells whether a moment is within the question's bounds.
func (q Question) spans(ms int) bool {
	at := time.Duration(ms) * time.Millisecond
	return at >= q.From && (q.Until == 0 || at < q.Until)
}

func (r *Result) asks(q Question, load int) bool {
	name := r.Loads[load]
	return (q.Who == "" || q.Who == name) && (q.Not == "" || q.Not != name)
}

// Quantile is the q-th quantile of values, by nearest rank; 0 of none.
func Quantile(values []int, q float64) int {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func ttft(s *Side, _ Question, chosen []int) string {
	var got []int
	sum := 0
	for _, i := range chosen {
		if s.TTFT[i] >= 0 {
			got = append(got, s.TTFT[i])
			sum += s.TTFT[i]
		}
	}
	if len(got) == 0 {
		return "no token came"
	}
	return fmt.Sprintf("mean %s, p50 %s, p99 %s", ms(sum/len(got)), ms(Quantile(got, 0.5)), ms(Quantile(got, 0.99)))
}

// ms writes milliseconds as people read them.
func ms(n int) string {
	if n < 10_000 {
		return fmt.Sprintf("%d ms", n)
	}
	return fmt.Sprintf("%.1f s", float64(n)/1000)
}

func percent(part, whole float64) string { return fmt.Sprintf("%.1f %%", 100*part/whole) }

func under(s *Side, q Question, chosen []int) string {
	in, all := 0, 0
	for _, i := range chosen {
		if s.TTFT[i] < 0 && s.Outcome[i] == Answered {
			continue // not a stream
		}
		all++
		if s.TTFT[i] >= 0 && s.TTFT[i] < int(q.Under.Milliseconds()) {
			in++
		}
	}
	return fmt.Sprintf("%s under %s", percent(float64(in), float64(max(all, 1))), ms(int(q.Under.Milliseconds())))
}

// count is how many of the chosen requests ended in one of the outcomes.
func (s *Side) count(chosen []int, outcomes string) int {
	n := 0
	for _, i := range chosen {
		if strings.ContainsRune(outcomes, rune(s.Outcome[i])) {
			n++
		}
	}
	return n
}

func availability(s *Side, _ Question, chosen []int) string {
	n, limited := s.count(chosen, string(Answered)), s.count(chosen, string(Limited))
	asked, beside := len(chosen)-limited, ""
	if limited > 0 {
		beside = fmt.Sprintf("; %d over a limit", limited)
	}
	return fmt.Sprintf("%.2f %% (%d of %d lost%s)", 100*float64(n)/float64(max(asked, 1)), asked-n, asked, beside)
}

func requests(s *Side, q Question, chosen []int) string {
	n, tokens := 0, 0
	for _, i := range chosen {
		tokens += s.Tokens[i]
		if s.Outcome[i] == Answered {
			n++
		}
	}
	until := s.At[len(s.At)-1]
	if q.Until > 0 {
		until = min(until, int(q.Until.Milliseconds()))
	}
	seconds := max(0.001, float64(until)/1000-q.From.Seconds())
	return fmt.Sprintf("%.1f/s, %.0f tokens/s", float64(n)/seconds, float64(tokens)/seconds)
}

func refused(s *Side, _ Question, chosen []int) string {
	failed, left, limited := s.count(chosen, string(Refused)), s.count(chosen, string(GaveUp)), s.count(chosen, string(Limited))
	text := fmt.Sprintf("%d of %d", failed+left, len(chosen))
	if left > 0 {
		text += fmt.Sprintf(" (%d gave up)", left)
	}
	if limited > 0 {
		text += fmt.Sprintf("; %d over a limit", limited)
	}
	return text
}

func cut(s *Side, _ Question, chosen []int) string {
	return fmt.Sprintf("%d of %d", s.count(chosen, string(Cut)), len(chosen))
}

func share(s *Side, _ Question, chosen []int) string {
	mine, all := 0, 0
	for _, i := range chosen {
		mine += s.Tokens[i]
	}
	for _, n := range s.Tokens {
		all += n
	}
	return percent(float64(mine), float64(max(all, 1)))
}

func gpu(s *Side, q Question, _ []int) string {
	var batch, busy, seconds, least, most float64
	for n, name := range slices.Sorted(maps.Keys(s.Batch)) {
		mine, span := q.sum(s.Batch[name])
		use := mine / max(span, 1)
		if n == 0 || use < least {
			least = use
		}
		most = max(most, use)
		b, _ := q.sum(s.Busy[name])
		batch, busy, seconds = batch+mine, busy+b, seconds+span
	}
	if seconds == 0 {
		return "no sample"
	}
	return fmt.Sprintf("%.0f %% (engines %.0f to %.0f %%); a step under way %.0f %% of the time",
		100*batch/seconds, 100*least, 100*most, 100*busy/seconds)
}

// sum adds up the seconds of a series within the question's bounds, and tells
// how long they are in milliseconds.
func (q Question) sum(series Series) (total, span float64) {
	for second, n := range series {
		if q.spans(second * 1000) {
			total += float64(n)
			span += 1000
		}
	}
	return total, span
}

func queue(s *Side, q Question, _ []int) string {
	waited, _ := q.sum(s.Queued)
	admitted, _ := q.sum(s.Admitted)
	if admitted == 0 {
		return "nothing was admitted"
	}
	worst := 0
	for second, n := range s.Admitted {
		if n > 0 && q.spans(second*1000) {
			worst = max(worst, s.Queued[second]/n)
		}
	}
	return fmt.Sprintf("mean %s, worst second %s", ms(int(waited/admitted)), ms(worst))
}
