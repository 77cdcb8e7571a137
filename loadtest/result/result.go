// Package result is what a scenario under load has given: what happened to each
// request, what each engine did in each second, and the table made of it.
package result

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Result is one run of a scenario, written as loadtest/results/scenario-N.json.
type Result struct {
	Scenario int      `json:"scenario"`
	Title    string   `json:"title"`
	Commit   string   `json:"commit"` // ends in -dirty where the tree differed from it
	Date     string   `json:"date"`   // RFC 3339
	Machine  string   `json:"machine"`
	Command  string   `json:"command"`
	Short    bool     `json:"short"`   // a run that only proves that it works
	Changed  []string `json:"off"`     // what the run changed in the scenario's configuration: once, what was not built
	Rows     []Row    `json:"rows"`    // the table
	Notes    []string `json:"notes"`   // what a reader of the table must know
	Picture  string   `json:"picture"` // file name of the timeline, beside this file

	Lasts  int      `json:"lasts_ms"`
	Loads  []string `json:"loads"` // names of who asks; Side.Load points here
	Events []Event  `json:"events"`
	Sides  []*Side  `json:"sides"`
}

// Row is one line of the table.
type Row struct {
	Claim    string `json:"claim"`
	LLMProxy string `json:"llmproxy"`
	Nginx    string `json:"nginx"`
	How      string `json:"how"`
}

// Event is something that was done to the engines or by the clients.
type Event struct {
	At   int    `json:"at_ms"`
	Name string `json:"name"`
}

// Side is the load through one gateway. Its series by request are in the order
// in which the requests were due; those by second begin with second 0.
type Side struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Missing string `json:"missing,omitempty"` // why there was no run

	At       Series         `json:"at_ms"`    // when the request was due
	TTFT     Series         `json:"ttft_ms"`  // from then to the first token; -1: none came, or no stream
	Took     Series         `json:"took_ms"`  // from then to the end
	Tokens   Series         `json:"tokens"`   // that arrived; of whole answers those asked for
	Load     Series         `json:"load"`     // who asked, an index of Result.Loads
	Outcome  string         `json:"outcome"`  // one letter a request, see the constants
	Failures map[string]int `json:"failures"` // how many requests failed in which words

	InFlight map[string]Series `json:"in_flight"` // by backend, at the end of each second, as the gateway sees it
	Busy     map[string]Series `json:"busy_ms"`   // by engine: time spent in steps in each second
	Batch    map[string]Series `json:"batch_ms"`  // by engine: the same, each step times the share of the batch it advanced
	Queued   Series            `json:"queued_ms"` // time that the sequences admitted in each second had waited in the engines
	Admitted Series            `json:"admitted"`  // their number
}

// Outcomes of a request.
const (
	Answered = 'o' // whole
	Limited  = 'l' // refused by a limit or quota of the gateway's configuration, which is no failure
	Refused  = 'f' // failed otherwise before its first token
	GaveUp   = 'g' // had no token when the client's patience ended
	Cut      = 'c' // failed after its first token
)

// Series is a list of numbers, in JSON one string: a line instead of a page.
type Series []int

// MarshalText writes the numbers with blanks between them.
func (s Series) MarshalText() ([]byte, error) {
	var b []byte
	for i, n := range s {
		if i > 0 {
			b = append(b, ' ')
		}
		b = strconv.AppendInt(b, int64(n), 10)
	}
	return b, nil
}

// UnmarshalText reads what MarshalText wrote.
func (s *Series) UnmarshalText(text []byte) error {
	*s = nil
	for field := range strings.FieldsSeq(string(text)) {
		n, err := strconv.Atoi(field)
		if err != nil {
			return fmt.Errorf("cannot read a series: %w", err)
		}
		*s = append(*s, n)
	}
	return nil
}

// Save writes the result as indented JSON.
func (r *Result) Save(path string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode the result: %w", err)
	}
	if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("cannot write the result: %w", err)
	}
	return nil
}
