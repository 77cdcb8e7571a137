package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/llmproxy/llmproxy/bench/results"
	"github.com/llmproxy/llmproxy/loadtest/result"
)

// Where the inputs are, from the root of the repository.
const (
	resultsDir = "bench/results"
	budgetFile = "bench/budget.txt"
	reasonFile = "bench/report/reasons.yaml"
	notesFile  = "bench/report/notes.md"
	meterFile  = "bench/report/metering.md"
	limitsFile = "bench/report/limits.md"
	sharedFile = "bench/report/cluster.md"
	scenarios  = "loadtest/results"
)

// newestRun returns the run of a kind, such as "peers" or "usage", that started last and
// the path of its file; of two that started at once the one whose name comes last.
// Short runs, which prove only that the program works, do not count. Without any,
// the run is nil.
func newestRun(root, kind string) (*results.Run, string, error) {
	paths, err := filepath.Glob(filepath.Join(root, resultsDir, kind+"-*.json"))
	if err != nil {
		return nil, "", err
	}
	var newest *results.Run
	var from string
	for _, path := range paths { // in the order of their names
		r, err := results.Load(path)
		if err != nil {
			return nil, "", err
		}
		if !r.Short && (newest == nil || !r.Started.Before(newest.Started)) {
			newest, from = r, filepath.ToSlash(filepath.Join(resultsDir, filepath.Base(path)))
		}
	}
	return newest, from, nil
}

// scenario is what a load test wrote.
type scenario struct{ result.Result }

// Path returns where the picture is, from the root.
func (s *scenario) Path() string { return scenarios + "/" + s.Picture }

// Table returns the scenario's rows as the page prints them.
func (s *scenario) Table() table {
	t := table{Head: []string{"the document claims", "through LLMProxy", "through nginx, round robin", "how"}}
	for _, row := range s.Rows {
		t.Rows = append(t.Rows, []string{row.Claim, row.LLMProxy, row.Nginx, row.How})
	}
	return t
}

// loadScenario returns nil when there is no result but that of a short run,
// which proves only that the program works.
func loadScenario(root string, n int) (*scenario, error) {
	path := filepath.Join(root, scenarios, fmt.Sprintf("scenario-%d.json", n))
	text, err := readIfThere(path)
	if err != nil || text == nil {
		return nil, err
	}
	var s scenario
	if err := json.Unmarshal(text, &s.Result); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	if s.Short {
		return nil, nil
	}
	return &s, nil
}

// budgets is the file of instruction budgets: the Go and platform for which it
// holds, and a row for each count. Where a count is of a gateway that does more, a
// column tells by how much it is above its twin.
func budgets(root string) (platform string, t table, err error) {
	text, err := readIfThere(filepath.Join(root, budgetFile))
	if err != nil {
		return "", t, err
	}
	t.Head = []string{"what", "instructions", "of them for metering or limits"}
	counts := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || words[0][0] == '#':
		case platform == "":
			platform = strings.TrimSpace(line)
		case len(words) == 2:
			n, err := strconv.Atoi(words[1])
			if err != nil {
				return "", t, fmt.Errorf("cannot read %s: %w", budgetFile, err)
			}
			counts[words[0]] = float64(n)
			t.Rows = append(t.Rows, []string{words[0], number(float64(n)), more(words[0], counts)})
		}
	}
	return platform, t, nil
}

// more tells how much of a count is for what a gateway does beside the plain one,
// "–" without a twin. The twins come before it in the file.
func more(name string, counts map[string]float64) string {
	_, what, _ := strings.Cut(name, "-") // metered-event: event
	plain, ok := counts[what]
	if !ok {
		return "–"
	}
	n := counts[name] - plain
	return fmt.Sprintf("%s (%.0f %%)", number(n), 100*n/plain)
}

// reasons returns why bars are missed, by the key of the bar.
func reasons(root string) (map[string]string, error) {
	path := filepath.Join(root, reasonFile)
	text, err := readIfThere(path)
	if err != nil {
		return nil, err
	}
	var all map[string]string
	if err := yaml.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return all, nil
}

// readIfThere returns nothing for a file that does not exist.
func readIfThere(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}
