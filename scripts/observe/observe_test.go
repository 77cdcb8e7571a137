// Package observe_test holds what ships for Prometheus, VictoriaMetrics and
// Grafana to a gateway in trouble, with the real programs.
package observe_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

func TestWhatAGatewayInTroubleShows(t *testing.T) {
	s := startSite(t)
	t.Run("docs/metrics.md lists every metric and no other", s.documented)
	for _, scraper := range scrapers {
		t.Run(scraper.program, func(t *testing.T) {
			t.Parallel()
			url := scraper.start(t, s.metrics)
			t.Run("every query has data", func(t *testing.T) { answered(t, url) })
			if scraper.program == "prometheus" { // VictoriaMetrics leaves alerts to vmalert
				t.Run("alerts", func(t *testing.T) { alerted(t, url) })
			}
		})
	}
}

// answered waits until each panel, variable and alert has data.
func answered(t *testing.T, url string) {
	missing, problems := queries(t), map[string]string{}
	defer func() {
		for name, expr := range missing {
			t.Errorf("%s: %s\n%s", name, problems[name], expr)
		}
	}()
	apptest.Eventually(t, "all queries have data", func() bool {
		for name, expr := range missing {
			if problems[name] = query(url, expr); problems[name] == "" {
				delete(missing, name)
			}
		}
		return len(missing) == 0
	})
}

// queries is everything that asks for metrics, with what Grafana would put in
// the place of its variables, and alerts without their thresholds.
func queries(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	grafana := strings.NewReplacer("$__rate_interval", "3s", "$job", "llmproxy", "$instance", ".*")
	d := readDashboard(t)
	for _, v := range d.Templating.List {
		if expr, ok := strings.CutPrefix(v.Definition, "label_values("); ok {
			expr, _, _ = strings.Cut(expr, ", ")
			all["variable "+v.Name] = grafana.Replace(expr)
		}
	}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			all[fmt.Sprintf("panel %s, %s", p.Title, target.RefID)] = grafana.Replace(target.Expr)
		}
	}
	for _, a := range readAlerts(t) {
		all["alert "+a.Alert] = thresholds.ReplaceAllString(a.Expr, "")
	}
	return all
}

var thresholds = regexp.MustCompile(` (==|<|>) [0-9.]+`)

// troubles are the alerts that the site's trouble sets off; nothing can make
// the others happen without ending the test.
var troubles = []string{
	"LLMProxyBackendDown", "LLMProxyConfigsDiffer", "LLMProxyConnectionsRefused", "LLMProxyErrorRateHigh", "LLMProxyKeysLost", "LLMProxyRedisAway",
	"LLMProxyReloadFailed", "LLMProxyRetriesDenied", "LLMProxyStreamsBroken", "LLMProxyUsageDead",
}

// alerted waits until Prometheus has raised the alerts that it should, and
// looks at the words that people would get.
func alerted(t *testing.T, url string) {
	var raised []string
	defer func() { t.Logf("raised: %v", raised) }()
	apptest.Eventually(t, "the alerts are raised", func() bool {
		var data struct {
			Alerts []struct{ Labels, Annotations map[string]string }
		}
		if problem := get(url+"/api/v1/alerts", &data); problem != "" {
			t.Fatal(problem)
		}
		raised = nil
		for _, a := range data.Alerts {
			raised = append(raised, a.Labels["alertname"])
			for k, v := range a.Annotations {
				if strings.Contains(v, "<") || strings.Contains(v, "  ") {
					t.Fatalf("%s: %s is %q", a.Labels["alertname"], k, v)
				}
			}
		}
		return !slices.ContainsFunc(troubles, func(name string) bool { return !slices.Contains(raised, name) })
	})
	for _, name := range []string{
		"LLMProxyAbsent", "LLMProxyClockSkew", "LLMProxyGloballyLimited", "LLMProxyKeysFileFailing", "LLMProxyKeysForeign", "LLMProxyKeysIncomplete",
		"LLMProxyKeysStale", "LLMProxyNoHealthyBackend", "LLMProxyPanics", "LLMProxyQuotaCheckpointFailing", "LLMProxyUsageJournalFailing", "LLMProxyUsageStopped",
	} {
		if slices.Contains(raised, name) {
			t.Errorf("%s was raised for nothing", name)
		}
	}
}
