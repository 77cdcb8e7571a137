package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/llmproxy/llmproxy/bench/results"
)

//go:embed page.md.tmpl
var pageText string

// The journey benchmarks are in this package.
const journey = "bench"

// deployments is how many scenarios there are.
const deployments = 5

// page is everything that the template prints. A part whose input is missing is
// empty or nil, and Missing says so.
type page struct {
	Run      *results.Run // nil: the peers were not measured
	File     string
	Noise    string
	Worse    table
	Failed   []string // requests of ours
	Bars     table
	Missed   []reasoned
	Peers    table
	Absent   []results.Peer
	Sheets   []table
	Faults   []string
	Pictures []picture
	Metering *cost // nil: not measured
	Limits   *cost // nil: not measured
	Cluster  *cost // nil: not measured

	Journey   *micro // nil: not measured
	Stages    []*micro
	Platform  string // for which the budgets hold
	Budgets   table
	Scenarios []*scenario
	Notes     string
	Missing   []string // inputs
}

// gather reads every input under root.
func gather(root string) (*page, error) {
	var p page
	var err error
	if p.Run, p.File, err = newestRun(root, "peers"); err != nil {
		return nil, err
	}
	why, err := reasons(root)
	if err != nil {
		return nil, err
	}
	if p.Run == nil {
		p.Missing = append(p.Missing, "The gateways side by side, and with them the bars: there is no result of `make bench-peers`.")
	} else if err := p.compare(why); err != nil {
		return nil, err
	}
	if p.Metering, err = readCost(root, "usage", meterFile, withMetering); err != nil {
		return nil, err
	}
	if p.Metering == nil {
		p.Missing = append(p.Missing, "What metering costs: there is no result of `make bench-usage`.")
	}
	if p.Limits, err = readCost(root, "limits", limitsFile, withLimits); err != nil {
		return nil, err
	}
	if p.Limits == nil {
		p.Missing = append(p.Missing, "What keys and limits cost: there is no result of `make bench-limits`.")
	}
	if p.Cluster, err = readCost(root, "cluster", sharedFile, withRedis); err != nil {
		return nil, err
	}
	if p.Cluster == nil {
		p.Missing = append(p.Missing, "What several gateways cost: there is no result of `make bench-cluster`.")
	}
	if err := p.readMicro(root); err != nil {
		return nil, err
	}
	if p.Platform, p.Budgets, err = budgets(root); err != nil {
		return nil, err
	}
	if len(p.Budgets.Rows) == 0 {
		p.Missing = append(p.Missing, "Instructions: there is no `"+budgetFile+"`.")
	}
	for n := range deployments {
		s, err := loadScenario(root, n+1)
		if err != nil {
			return nil, err
		}
		if s == nil {
			p.Missing = append(p.Missing, fmt.Sprintf("Deployment %d: there is no result of `make loadtest SCENARIO=%d`.", n+1, n+1))
			continue
		}
		p.Scenarios = append(p.Scenarios, s)
	}
	notes, err := readIfThere(filepath.Join(root, notesFile))
	p.Notes = strings.TrimSpace(string(notes))
	return &p, err
}

// compare fills in what comes from the run of the peers.
func (p *page) compare(why map[string]string) error {
	r := p.Run
	p.Noise = noise(r)
	p.Worse = worse(r)
	p.Bars.Head = []string{"bar", "limit", "aim", "measured", "verdict"}
	for _, b := range bars {
		p.Bars.Rows = append(p.Bars.Rows, b.row(r))
	}
	p.Peers.Head = []string{"gateway", "version", "what a reader has to know"}
	for _, peer := range r.Peers {
		if peer.Missing != "" {
			p.Absent = append(p.Absent, peer)
			continue
		}
		p.Peers.Rows = append(p.Peers.Rows, []string{label(peer.Name), peer.Version, peer.Note})
	}
	for _, s := range sheets {
		if t := s.table(r); len(t.Rows) > 0 {
			p.Sheets = append(p.Sheets, t)
		}
	}
	p.Failed, p.Faults = faults(r)
	var err error
	p.Missed, err = missedBars(r, why)
	if err != nil {
		return err
	}
	p.Pictures, err = pictures(r)
	return err
}

func (p *page) readMicro(root string) error {
	all, err := microbenchmarks(root)
	if err != nil {
		return err
	}
	p.Journey = all[journey]
	if p.Journey == nil {
		p.Missing = append(p.Missing, "One journey: there is no result of `make bench`.")
	}
	delete(all, journey)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		p.Stages = append(p.Stages, all[name])
	}
	if len(p.Stages) == 0 {
		p.Missing = append(p.Missing, "Single steps: no result of `make bench` has them.")
	}
	return nil
}

// noise tells how far apart the rounds are where nothing of ours has a part.
func noise(r *results.Run) string {
	var parts []string
	for _, x := range []struct {
		text, peer string
		f          figure
	}{
		{"the direct way's requests a second", results.Direct, requestRate},
		{"nginx's CPU per request", results.Nginx, requestCPU},
		{"nginx's CPU per event", results.Nginx, streams[eventCPU]},
	} {
		values := slices.Collect(maps.Values(x.f.rounds(r, x.peer)))
		if m, ok := results.Median(values); ok && len(values) > 1 && m > 0 {
			parts = append(parts, fmt.Sprintf("%s differed by %.0f %%", x.text, 100*(slices.Max(values)-slices.Min(values))/m))
		}
	}
	if len(parts) == 0 {
		return "One round tells nothing of the noise"
	}
	return "Between the rounds, " + strings.Join(parts, ", ")
}

// write renders the page and its pictures below root.
func (p *page) write(root string) error {
	t, err := template.New("page").Funcs(template.FuncMap{
		"line":  line,
		"day":   func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") },
		"about": func(d time.Duration) string { return fmt.Sprintf("%.0f minutes", d.Minutes()) },
	}).Parse(pageText)
	if err != nil {
		return fmt.Errorf("BUG: cannot parse the template: %w", err)
	}
	var text bytes.Buffer
	if err := t.Execute(&text, p); err != nil {
		return fmt.Errorf("cannot render the page: %w", err)
	}
	for _, x := range p.Pictures {
		if err := os.WriteFile(filepath.Join(root, x.Path), x.svg, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(root, "BENCHMARKS.md"), text.Bytes(), 0o644)
}

// line makes text fit into one line of a table or a list.
func line(text string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(text), " "), "|", `\|`)
}
