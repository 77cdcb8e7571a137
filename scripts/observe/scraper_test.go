package observe_test

import (
	"encoding/json"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/loadtest/process"
	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// A scraper is a program that scrapes by a file of ours and answers PromQL.
type scraper struct {
	program, config string
	args            func(config, data, addr string) []string
}

var scrapers = []scraper{
	{"prometheus", "../../configs/prometheus/prometheus.yml", func(config, data, addr string) []string {
		return []string{"--config.file=" + config, "--storage.tsdb.path=" + data, "--web.listen-address=" + addr}
	}},
	{"victoria-metrics", "../../configs/victoriametrics/scrape.yml", func(config, data, addr string) []string {
		return []string{"-promscrape.config=" + config, "-storageDataPath=" + data, "-httpListenAddr=" + addr, "-search.latencyOffset=0s"}
	}},
}

// start runs the scraper until the test ends, by its file with the gateways'
// addresses and a short interval in it, and with the alerts beside it. It returns
// the scraper's URL.
func (s *scraper) start(t *testing.T, gateways []string) (url string) {
	t.Helper()
	need(t, s.program)
	dir, addr := t.TempDir(), freeAddr(t)
	config := filepath.Join(dir, "scrape.yml")
	text := readFile(t, s.config)
	for _, r := range [][2]string{{"llmproxy:8000", strings.Join(gateways, `", "`)}, {": 15s", ": 200ms"}} {
		if !strings.Contains(text, r[0]) {
			t.Fatalf("%s has no %q", s.config, r[0])
		}
		text = strings.ReplaceAll(text, r[0], r[1])
	}
	writeFile(t, config, text)
	writeFile(t, filepath.Join(dir, "alerts.yml"), readFile(t, alertsFile))
	var started process.Group
	p, err := started.Start(s.program, s.program, s.args(config, filepath.Join(dir, "data"), addr)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Stop(5 * time.Second)
		if t.Failed() {
			started.Explain(os.Stderr)
		}
	})
	url = "http://" + addr
	// Not by a query: VictoriaMetrics remembers for a while that it found nothing.
	var names []string
	list := func() (problem string) { return get(url+"/api/v1/label/__name__/values", &names) }
	apptest.Eventually(t, s.program+" answers", func() bool { return list() == "" })
	apptest.Eventually(t, s.program+" has scraped", func() bool {
		return list() == "" && slices.Contains(names, "llmproxy_build_info") && slices.Contains(names, "llmproxy_keys_complete")
	})
	return url
}

// need skips the test when the program is not installed, but not where it must
// be.
func need(t *testing.T, program string) {
	t.Helper()
	_, err := exec.LookPath(program)
	switch {
	case err == nil:
	case os.Getenv("CI") != "" || os.Getenv("LLMPROXY_REQUIRE") != "":
		t.Fatalf("%s is not installed: run make deps", program)
	default:
		t.Skipf("%s is not installed: run make deps", program)
	}
}

// get asks a scraper's API and puts the "data" of its answer into v. It
// returns why it cannot.
func get(url string, v any) (problem string) {
	resp, err := http.Get(url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	answer := struct {
		Error string
		Data  any
	}{Data: v}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return resp.Status + ": " + err.Error()
	}
	return answer.Error
}

// query returns "" when the expression has a number as its value now, else
// what it has.
func query(base, expr string) (problem string) {
	var data struct {
		Result []struct{ Value [2]any }
	}
	if problem := get(base+"/api/v1/query?query="+url.QueryEscape(expr), &data); problem != "" {
		return problem
	}
	for _, r := range data.Result {
		text, _ := r.Value[1].(string)
		if v, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(v) && !math.IsInf(v, 0) {
			return ""
		}
		problem = "only " + text
	}
	if problem == "" {
		return "no data"
	}
	return problem
}
