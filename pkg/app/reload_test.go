package app_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// revision is the n-th configuration of a gateway that is reloaded again and
// again: weights, a backend's transport, who is there at all, and the name that
// only this revision knows change each time.
func revision(n int, addr string, engines []*fakeEngine) string {
	var b strings.Builder
	fmt.Fprintf(&b, "listen: %s\nbackends:\n", addr)
	for i, e := range engines {
		if i == 2 && n%2 == 1 {
			continue
		}
		fmt.Fprintf(&b, "  - {url: %q, name: e%d, weight: %d, keep_alive: %dms}\n", "http://"+e.addr, i, 1+(n+i)%5, 500+100*(n/3%2))
	}
	fmt.Fprintf(&b, "routing: {model_mapping: {stable: mock-model, %s: mock-model}}\n", alias(n))
	b.WriteString("health_check: {interval: 1s, timeout: 1s}\n")
	return b.String()
}

func alias(n int) string { return fmt.Sprint("revision-", n) }

// swap is a way in which a file comes to hold something else.
type swap struct {
	name    string
	reloads float64 // that it leads to
	do      func(t *testing.T, g *gatewayProcess, content string)
}

var swaps = []swap{
	{"written in place", 1, func(t *testing.T, g *gatewayProcess, content string) { writeFile(t, g.file, content) }},
	{"renamed over", 1, func(t *testing.T, g *gatewayProcess, content string) {
		writeFile(t, g.file+".new", content)
		rename(t, g.file+".new", g.file)
	}},
	{"removed and written", 1, func(t *testing.T, g *gatewayProcess, content string) {
		if err := os.Remove(g.file); err != nil {
			t.Fatal(err)
		}
		writeFile(t, g.file, content)
	}},
	// The signal reloads at once, the change of the file once it has settled.
	{"SIGHUP", 2, func(t *testing.T, g *gatewayProcess, content string) {
		writeFile(t, g.file, content)
		g.signal(syscall.SIGHUP)
	}},
}

// configMap is how Kubernetes changes the files of a volume: each is a link
// into ..data, which is a link to a directory that is replaced.
var configMap = swap{"ConfigMap", 1, func(t *testing.T, g *gatewayProcess, content string) {
	dir := filepath.Dir(g.file)
	next, err := os.MkdirTemp(dir, "..2026_") //nolint:usetesting // it has to be beside the file
	if err != nil {
		t.Fatal(err)
	}
	old, _ := os.Readlink(filepath.Join(dir, "..data")) // none at first
	writeFile(t, filepath.Join(next, filepath.Base(g.file)), content)
	link := filepath.Join(dir, "..data_tmp")
	if err := os.Symlink(filepath.Base(next), link); err != nil {
		t.Fatal(err)
	}
	rename(t, link, filepath.Join(dir, "..data"))
	if old != "" {
		if err := os.RemoveAll(filepath.Join(dir, old)); err != nil {
			t.Fatal(err)
		}
	}
}}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// TestReloads: a gateway under load is reloaded over and over, now and then
// with a file that is wrong, and no request notices.
func TestReloads(t *testing.T) {
	leavesNothing(t)
	times := 15
	if long {
		times = 100
	}
	t.Run("all", func(t *testing.T) {
		t.Run("file", func(t *testing.T) {
			together(t)
			reloads(t, times, swaps)
		})
		t.Run("ConfigMap", func(t *testing.T) {
			together(t)
			reloads(t, times, []swap{configMap})
		})
	})
}

func reloads(t *testing.T, times int, ways []swap) {
	var engines []*fakeEngine
	for i := range 3 {
		engines = append(engines, startFakeEngine(t, "-name", fmt.Sprint("e", i), "-itl", "10ms"))
	}
	g := newGateway(t)
	if ways[0].name == configMap.name {
		if err := os.Symlink(filepath.Join("..data", filepath.Base(g.file)), g.file); err != nil {
			t.Fatal(err)
		}
	}
	ways[0].do(t, g, revision(0, g.addr, engines))
	g.start(t)
	g.reloaded(t, 0)
	base := g.footprint()
	rate := 50
	if long {
		rate = 200
	}
	l := startLoad(t, g.url, "stable", rate, 20)
	l.more(t, 50)
	const ok = `llmproxy_config_reloads_total{result="ok"}`
	for n := 1; n <= times; n++ {
		if n%5 == 0 {
			g.refuses(t, ways[n%len(ways)], n)
		}
		way := ways[n%len(ways)]
		before := g.metric(ok)
		way.do(t, g, revision(n, g.addr, engines))
		g.until(ok, is(before+way.reloads))
		g.reloaded(t, n)
	}
	counts, _ := l.finish(t)
	if counts[served] != len(l.results) {
		t.Errorf("%d of %d requests were served", counts[served], len(l.results))
	}
	t.Logf("%d reloads: at first %+v, at last %+v", times, base, g.footprint())
	g.nothingLeft(base, "e0", "e1")
}

// reloaded checks that the n-th revision is in force, and no other.
func (g *gatewayProcess) reloaded(t *testing.T, n int) {
	t.Helper()
	for i, want := range map[int]int{n - 1: 404, n: 200, n + 1: 404} {
		status, body := g.post(fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"hi"}],"max_tokens":1}`, alias(i)))
		if status != want {
			t.Errorf("revision %d: model %s: %d, want %d: %s", n, alias(i), status, want, body)
		}
	}
	if v, want := g.metric(`llmproxy_backend_healthy{backend="e2"}`), float64(1-2*(n%2)); v != want { // 1, or none
		t.Errorf("revision %d: e2 is healthy: %v, want %v", n, v, want)
	}
	if v := g.metric("llmproxy_config_last_reload_successful"); v != 1 {
		t.Errorf("revision %d: last_reload_successful %v", n, v)
	}
}

// refuses checks that the revision before n stays when the file has faults.
func (g *gatewayProcess) refuses(t *testing.T, way swap, n int) {
	t.Helper()
	const errors = `llmproxy_config_reloads_total{result="error"}`
	before := g.metric(errors)
	way.do(t, g, fmt.Sprintf("listen: %s\nbackends: []\nlimits-%d: 3\n", g.addr, n))
	g.until(errors, is(before+way.reloads))
	if v := g.metric("llmproxy_config_last_reload_successful"); v != 0 {
		t.Errorf("last_reload_successful %v after a file with faults", v)
	}
	for _, fault := range []string{g.file + ":2: backends: ", fmt.Sprintf("%s:3: limits-%d: ", g.file, n)} {
		if !strings.Contains(g.output.String(), fault) {
			t.Errorf("the log does not tell %q", fault)
		}
	}
	if status, body := g.post(fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"hi"}],"max_tokens":1}`, alias(n-1))); status != 200 {
		t.Errorf("the revision before the faulty file is gone: %d %s", status, body)
	}
}
