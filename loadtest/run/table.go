package main

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/llmproxy/llmproxy/loadtest/result"
	"github.com/llmproxy/llmproxy/loadtest/scenario"
)

// describe is a result without its figures.
func describe(s *scenario.Scenario, short bool, args []string) *result.Result {
	r := &result.Result{
		Scenario: s.Number, Title: s.Title, Commit: commit(), Machine: machine(), Short: short,
		Date:    time.Now().Format(time.RFC3339),
		Command: strings.TrimSpace("go run ./loadtest/run " + strings.Join(args, " ")),
		Changed: append([]string{}, s.Changed()...), // a list in JSON, empty or not
		Lasts:   int(s.Lasts.Milliseconds()), Notes: slices.Clone(s.Notes),
	}
	for _, l := range s.Load {
		r.Loads = append(r.Loads, l.Who)
	}
	slices.SortStableFunc(s.Events, func(a, b scenario.Event) int { return cmp.Compare(a.At, b.At) })
	for _, e := range s.Events {
		if e.Name != "" {
			r.Events = append(r.Events, result.Event{At: int(e.At.Milliseconds()), Name: e.Name})
		}
	}
	return r
}

// models are those that are asked for.
func models(s *scenario.Scenario) []string {
	var out []string
	for _, l := range s.Load {
		if !slices.Contains(out, l.Model) {
			out = append(out, l.Model)
		}
	}
	return out
}

// commit names the tree, if it is one of git.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// machine is the processor and the number of its cores.
func machine() string {
	model := "unknown processor"
	info, _ := os.ReadFile("/proc/cpuinfo") // not everywhere
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease") // not everywhere
	return fmt.Sprintf("%s, %d cores, %s/%s %s", model, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, strings.TrimSpace(string(kernel)))
}

// facts are measured in every scenario, claimed or not.
var facts = []struct{ claim, measure string }{
	{"(load)", "requests"},
	{"(no claim) first token", "ttft"},
	{"(no claim) failed before the first token", "refused"},
	{"(no claim) cut in mid-answer", "cut"},
	{"(no claim) wait in the engines' queues", "queue"},
	{"(no claim) GPU use", "gpu"},
}

// fillTable answers each claim of the document, and then the plain facts that no
// claim has asked for.
func fillTable(r *result.Result, s *scenario.Scenario) {
	asked := map[result.Question]bool{}
	row := func(says string, q result.Question, how string) {
		asked[q] = true
		r.Rows = append(r.Rows, result.Row{
			Claim: says, LLMProxy: r.Measure(r.Sides[0], q), Nginx: r.Measure(r.Sides[1], q), How: how,
		})
	}
	for _, c := range s.Claims {
		switch {
		case c.Cannot != "":
			const no = "not measurable here"
			r.Rows = append(r.Rows, result.Row{Claim: c.Says, LLMProxy: no, Nginx: no, How: c.Cannot})
		default:
			row(c.Says, c.Question, strings.TrimSuffix(c.Question.How()+"; "+c.How, "; "))
		}
	}
	for _, f := range facts {
		if q := (result.Question{Measure: f.measure}); !asked[q] {
			row(f.claim, q, q.How())
		}
	}
}

// table is the result for a terminal.
func table(r *result.Result) string {
	var out strings.Builder
	fmt.Fprintf(&out, "\nScenario %d: %s\n", r.Scenario, r.Title)
	fmt.Fprintf(&out, "commit %s, %s\n%s\n\n", r.Commit, r.Date, r.Machine)
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "what the document claims\tthrough LLMProxy\tthrough nginx, round robin\thow")
	for _, row := range r.Rows {
		cells := [][]string{wrap(row.Claim, 38), wrap(row.LLMProxy, 34), wrap(row.Nginx, 34), wrap(row.How, 60)}
		lines := 0
		for _, c := range cells {
			lines = max(lines, len(c))
		}
		for i := range lines {
			for n, c := range cells {
				if n > 0 {
					fmt.Fprint(w, "\t")
				}
				if i < len(c) {
					fmt.Fprint(w, c[i])
				}
			}
			fmt.Fprintln(w)
		}
	}
	_ = w.Flush() // into a buffer
	fmt.Fprintln(&out)
	for _, changed := range r.Changed {
		fmt.Fprintf(&out, "not as the configuration has it: %s\n", changed)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(&out, "note: %s\n", note)
	}
	if r.Short {
		fmt.Fprintln(&out, "note: a short run, which proves that it runs; its figures mean nothing")
	}
	return out.String()
}

// wrap breaks a text into lines of at most so many characters.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len([]rune(line))+1+len([]rune(word)) > width {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	return append(lines, line)
}
