package observe_test

import (
	"bufio"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const (
	dashboardFile = "../../configs/grafana/llmproxy.json"
	alertsFile    = "../../configs/prometheus/alerts.yml"
	metricsDoc    = "../../docs/metrics.md"
)

// dashboard is what the tests look at of a dashboard of Grafana's.
type dashboard struct {
	Templating struct {
		List []struct{ Name, Definition string }
	}
	Panels []panel
}

type panel struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ X, Y, W, H int }
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []struct{ RefID, Expr string }
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal([]byte(readFile(t, dashboardFile)), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// alert is one of the rules.
type alert struct {
	Alert, Expr         string
	Labels, Annotations map[string]string
}

func readAlerts(t *testing.T) []alert {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []alert }
	}
	if err := yaml.Unmarshal([]byte(readFile(t, alertsFile)), &file); err != nil {
		t.Fatal(err)
	}
	var all []alert
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

func TestEachPanelIsDescribedAndInItsPlace(t *testing.T) {
	ids, cells := map[int]bool{}, map[[2]int]string{}
	for _, p := range readDashboard(t).Panels {
		if ids[p.ID] {
			t.Errorf("%s: another panel has the id %d", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				cell := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other, taken := cells[cell]; taken || cell[0] >= 24 {
					t.Fatalf("%s lies on %s or beyond the edge", p.Title, other)
				}
				cells[cell] = p.Title
			}
		}
		if p.Type != "row" && (p.Description == "" || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0) {
			t.Errorf("%s lacks a description, a unit or a query", p.Title)
		}
	}
}

func TestEachAlertSaysWhatToDo(t *testing.T) {
	sections := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^### (LLMProxy\w+)$`).FindAllStringSubmatch(readFile(t, metricsDoc), -1) {
		sections[m[1]] = true
	}
	tests := readFile(t, strings.TrimSuffix(alertsFile, ".yml")+"_test.yml")
	for _, a := range readAlerts(t) {
		if a.Labels["severity"] == "" || a.Annotations["summary"] == "" || a.Annotations["description"] == "" {
			t.Errorf("%s lacks a severity, a summary or a description", a.Alert)
		}
		if !strings.HasSuffix(a.Annotations["runbook_url"], "/docs/metrics.md#"+strings.ToLower(a.Alert)) || !sections[a.Alert] {
			t.Errorf("%s: its runbook_url does not lead to a section of %s", a.Alert, metricsDoc)
		}
		delete(sections, a.Alert)
		if !strings.Contains(tests, `alertname="`+a.Alert+`"`) {
			t.Errorf("%s never fires in alerts_test.yml", a.Alert)
		}
	}
	if len(sections) > 0 {
		t.Errorf("%s has sections for alerts that do not exist: %v", metricsDoc, slices.Sorted(maps.Keys(sections)))
	}
}

// metric is what there is to know of a metric's series.
type metric struct{ kind, labels string }

// documented compares the tables of docs/metrics.md with the gateways' pages.
// Those of Go and the process, which depend on the system, may be left out.
func (s *site) documented(t *testing.T) {
	shown, listed := onPage(s.peer.Metrics()), inTables(readFile(t, metricsDoc))
	maps.Copy(shown, onPage(s.gateway.Metrics())) // that one has more series
	for name, m := range shown {
		if got, ok := listed[name]; strings.HasPrefix(name, "llmproxy_") && (!ok || got != m) {
			t.Errorf("%s lists %s as %v, want %v", metricsDoc, name, got, m)
		}
	}
	for name, m := range listed {
		if _, ok := shown[name]; !ok {
			t.Errorf("%s lists %s %v, which no gateway has", metricsDoc, name, m)
		}
	}
}

// onPage reads a page of metrics.
func onPage(page string) map[string]metric {
	all, labels := map[string]metric{}, map[string]map[string]bool{}
	var name string
	for lines := bufio.NewScanner(strings.NewReader(page)); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "# TYPE "); ok {
			kind := ""
			name, kind, _ = strings.Cut(rest, " ")
			all[name] = metric{kind: kind}
			labels[name] = map[string]bool{}
			continue
		}
		for _, m := range label.FindAllStringSubmatch(lines.Text(), -1) {
			if m[1] != "le" && m[1] != "quantile" {
				labels[name][m[1]] = true
			}
		}
	}
	for name, m := range all {
		m.labels = strings.Join(slices.Sorted(maps.Keys(labels[name])), ", ")
		all[name] = m
	}
	return all
}

var label = regexp.MustCompile(`[{,]\s*(\w+)="`)

// inTables reads the rows "| `name` | type | labels | ..." of a page of ours.
func inTables(doc string) map[string]metric {
	all := map[string]metric{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (\\w+) \\|([\\w, `]*)\\|").FindAllStringSubmatch(doc, -1) {
		labels := strings.FieldsFunc(m[3], func(r rune) bool { return strings.ContainsRune(" ,`", r) })
		slices.Sort(labels)
		all[m[1]] = metric{m[2], strings.Join(labels, ", ")}
	}
	return all
}
