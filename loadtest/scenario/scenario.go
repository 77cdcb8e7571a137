// Package scenario reads loadtest/scenarios: which engines stand behind the
// gateway, who asks what of it, what goes wrong meanwhile, and what the
// document claims of it.
package scenario

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/llmproxy/llmproxy/loadtest/result"
)

// Scenario is one file of loadtest/scenarios.
type Scenario struct {
	Number   int            `yaml:"-"`
	Title    string         `yaml:"title"`
	Config   string         `yaml:"config"`   // the gateway's file, from the repository's root
	Setting  map[string]any `yaml:"setting"`  // laid over it: what a run on one machine needs
	Lasts    time.Duration  `yaml:"lasts"`    // requests are due within this time
	Patience time.Duration  `yaml:"patience"` // a client without a token gives up after this
	Sound    bool           `yaml:"sound"`    // no request may fail before its first token through LLMProxy

	Engines []Engine `yaml:"engines"`
	Load    []Load   `yaml:"load"`
	Events  []Event  `yaml:"events"`
	Claims  []Claim  `yaml:"claims"`
	Notes   []string `yaml:"notes"` // for the reader of the table, such as how the load was scaled

	root  string
	quick map[string]any // laid over the configuration too, for a short run
}

// Engine is the latency model of one or more equal engines: a step takes Step,
// PerSequence for each answer it continues and PerPromptToken for each token of
// a prompt it computes.
type Engine struct {
	Hosts          []string                 `yaml:"hosts"` // first labels of the backends' host names
	Models         []string                 `yaml:"models"`
	Dialect        string                   `yaml:"dialect"`
	Overhead       time.Duration            `yaml:"overhead"` // from admission to the start of the prompt's computation
	Step           time.Duration            `yaml:"step"`
	PerSequence    time.Duration            `yaml:"per_sequence"`
	PerPromptToken time.Duration            `yaml:"per_prompt_token"`
	MaxBatch       int                      `yaml:"max_batch"`      // sequences
	MaxConcurrent  int                      `yaml:"max_concurrent"` // TGI's permits
	KVBlocks       int                      `yaml:"kv_blocks"`      // of 16 tokens
	MaxLength      int                      `yaml:"max_length"`     // tokens of prompt and answer
	Distance       map[string]time.Duration `yaml:"distance"`       // round trip from the gateway, by host
}

// Event is something that happens to engines at a moment.
type Event struct {
	At   time.Duration `yaml:"at"`
	Name string        `yaml:"name"` // in the picture; empty: not shown
	Do   Action        `yaml:"do"`
	On   []string      `yaml:"on"`   // hosts
	Down time.Duration `yaml:"down"` // of Restart: from the end of the old process to the start of the new one
	Slow float64       `yaml:"slow"` // of Slow: steps take so many times as long
}

// Action is what an event does.
type Action string

// Mark does nothing: it names what the load does at that moment, such as a
// flood.
const (
	Kill    Action = "kill"    // kill -9
	Start   Action = "start"   // what was killed
	Restart Action = "restart" // SIGTERM; a new process follows
	Freeze  Action = "freeze"  // SIGSTOP: connections are made, and nothing answers
	Thaw    Action = "thaw"    // SIGCONT
	Slow    Action = "slow"
	Mark    Action = "mark"
)

// Claim is a sentence of the document, and how it is measured. Cannot is instead of
// a measure.
type Claim struct {
	Says            string `yaml:"says"`
	result.Question `yaml:",inline"`
	How             string `yaml:"how"`    // added to what the measure is
	Cannot          string `yaml:"cannot"` // why it is not measurable here
}

// Read reads scenario n of the repository at root.
func Read(root string, n int) (*Scenario, error) {
	path := filepath.Join(root, "loadtest", "scenarios", fmt.Sprintf("%d.yaml", n))
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the scenario: %w", err)
	}
	s := &Scenario{Number: n, root: root}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(s); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// check finds names that mean nothing: they would measure nothing in silence.
func (s *Scenario) check() error {
	var loads []string
	for _, l := range s.Load {
		loads = append(loads, l.Who)
	}
	for _, c := range s.Claims {
		for _, who := range []string{c.Who, c.Not} {
			if who != "" && !slices.Contains(loads, who) {
				return fmt.Errorf("claim %q: there is no load %q", c.Says, who)
			}
		}
		if c.Cannot == "" && !c.Known() {
			return fmt.Errorf("claim %q: there is no measure %q", c.Says, c.Measure)
		}
	}
	actions := []Action{Kill, Start, Restart, Freeze, Thaw, Slow, Mark}
	for _, e := range s.Events {
		if !slices.Contains(actions, e.Do) {
			return fmt.Errorf("event %q: there is no action %q", e.Name, e.Do)
		}
		for _, host := range e.On {
			if _, ok := s.Engine(host); !ok {
				return fmt.Errorf("event %q: there is no engine %q", e.Name, host)
			}
		}
	}
	return nil
}

// Engine is the model of the engine at a host.
func (s *Scenario) Engine(host string) (Engine, bool) {
	for _, e := range s.Engines {
		if slices.Contains(e.Hosts, host) {
			return e, true
		}
	}
	return Engine{}, false
}

// Shorten squeezes the script into so much time, to prove that it runs: answers
// and pauses become shorter, and health checks as much quicker. Its figures mean
// nothing.
func (s *Scenario) Shorten(to time.Duration) {
	factor := float64(to) / float64(s.Lasts)
	squeeze := func(ds ...*time.Duration) {
		for _, d := range ds {
			*d = time.Duration(float64(*d) * factor)
		}
	}
	squeeze(&s.Lasts)
	for i := range s.Events {
		squeeze(&s.Events[i].At, &s.Events[i].Down)
	}
	for i := range s.Claims {
		squeeze(&s.Claims[i].From, &s.Claims[i].Until)
	}
	for i := range s.Load {
		l := &s.Load[i]
		squeeze(&l.From, &l.Until, &l.Pause)
		l.Answer.Median /= shorterAnswers
	}
	s.quick = map[string]any{"health_check": map[string]any{"interval": "300ms", "timeout": "300ms"}}
}

// shorterAnswers is how many times shorter the answers of a short run are.
const shorterAnswers = 4
