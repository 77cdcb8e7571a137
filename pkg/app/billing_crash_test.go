package app_test

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestNothingIsLost: whatever ends the gateway, and whatever becomes of the
// billing system, what the engines did is what is billed.
func TestNothingIsLost(t *testing.T) {
	leavesNothing(t)
	cases := map[string]func(*testing.T){
		"killed under load":                 killedUnderLoad,
		"killed at the last byte":           killedAtTheEnd,
		"the billing system is down":        billingDown,
		"restarted while delivery is slow":  restartedUnderLoad,
		"reloaded while delivery goes on":   reloadedUnderLoad,
		"a second process wants the data":   secondProcess,
		"the price of a billing system off": hookDownCost,
	}
	t.Run("all", func(t *testing.T) {
		for name, f := range cases {
			t.Run(name, func(t *testing.T) { together(t); f(t) })
		}
	})
}

// killedUnderLoad: every request whose last byte a client got is billed as it
// was, and every other is reported.
func killedUnderLoad(t *testing.T) {
	kills, soon := 4, 5*time.Second // other tests run meanwhile
	if long {
		kills, soon = 20, time.Second
	}
	s := startBilledSite(t, siteOptions{hook: ", max_age: 20ms", rate: 200})
	for range kills {
		s.more(t, 60)
		s.crash(t)
	}
	s.more(t, 60)
	if n := s.settle(t); n["interrupted"] == 0 {
		t.Error("no kill found a request under way")
	}
	if s.slowest > soon {
		t.Errorf("ready again after %v, want %v", s.slowest, soon)
	}
}

// killedAtTheEnd: no later request writes the record of a stream that had its end
// in the moment before, and no time passes that would.
func killedAtTheEnd(t *testing.T) {
	kills := 10
	if long {
		kills = 50
	}
	s := startBilledSite(t, siteOptions{hook: ", max_age: 20ms"})
	s.last = func() { s.kill() }
	for n := range kills {
		s.request(2*n + 2) // a stream; every eighth is left
		s.crash(t)
	}
	s.last = func() {}
	s.settle(t)
}

// restartedUnderLoad: what a billing system is too slow to take before the
// process ends, the next process delivers; a request that shutdown_timeout cuts
// is reported as interrupted.
func restartedUnderLoad(t *testing.T) {
	s := startBilledSite(t, siteOptions{rate: 150, hook: ", max_age: 10ms, max_events: 20", more: "server: {shutdown_timeout: 60ms}\n"})
	s.be(takesSlowly(200 * time.Millisecond))
	for range 3 {
		s.more(t, 50)
		s.terminate(t)
		s.run(t)
	}
	s.more(t, 50)
	s.be(takes)
	if n := s.settle(t); n["interrupted"] == 0 {
		t.Error("no restart found a request under way")
	}
}

// reloadedUnderLoad: the sender that a reload replaces and the one after it keep
// the order between them, and neither passes over an event.
func reloadedUnderLoad(t *testing.T) {
	s := startBilledSite(t, siteOptions{rate: 150, hook: ", max_age: 10ms, max_events: 10, retry: 0"})
	for n, m := range []mood{takesSlowly(50 * time.Millisecond), fails(http.StatusServiceUnavailable, ""), resets(""), takes} {
		s.be(m)
		asked := s.asked()
		s.more(t, 20)
		s.revise(t, n+1)
		growsTo(t, "attempts", asked+2, s.asked)
	}
	s.settle(t)
}

// secondProcess: two processes on one data directory would bill everything twice.
func secondProcess(t *testing.T) {
	s := startBilledSite(t, siteOptions{rate: 50, hook: ", max_age: 10ms"})
	second := newGateway(t)
	writeFile(t, second.file, strings.Replace(s.yaml, s.gatewayProcess.addr, second.addr, 1))
	second.process = startProcess(t, binary(t, "llmproxy"), "serve", "-config", second.file)
	if code := second.exit(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	for _, text := range []string{s.dir, fmt.Sprint("process ", s.cmd.Process.Pid), "use another directory"} {
		if !strings.Contains(second.output.String(), text) {
			t.Errorf("it does not say %q", text)
		}
	}
	s.settle(t)
	private(t, s.dir)
}

// private wants nobody else to be able to read who used what.
func private(t *testing.T, dir string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		want := os.FileMode(0o600)
		if e.IsDir() {
			want = 0o700
		} else {
			files++
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s is %v, want %v", path, info.Mode().Perm(), want)
		}
		return nil
	})
	if err != nil || files < 3 { // a segment, how far delivery has come, the name of the node
		t.Errorf("%d files in %s: %v", files, dir, err)
	}
}
