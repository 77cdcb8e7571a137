package process

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

func started(t *testing.T, g *Group, args ...string) *Process {
	t.Helper()
	p, err := g.Start("sleeper", "sh", append([]string{"-c"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() }) // an error: it has ended
	return p
}

// A frozen process does not see SIGTERM: stopping it would cost the whole grace.
func TestStopEndsAFrozenProcessAtOnce(t *testing.T) {
	var g Group
	p := started(t, &g, "exec sleep 60")
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	p.Stop(time.Minute)
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	select {
	case <-p.Ended():
	default:
		t.Error("it still runs")
	}
}

func TestStopKillsWhatIgnoresIt(t *testing.T) {
	var g Group
	p := started(t, &g, "trap '' TERM; echo ready; while :; do sleep 1; done")
	p.Stop(time.Millisecond)
	select {
	case <-p.Ended():
	default:
		t.Error("it still runs")
	}
}

func TestExplainSaysWhatTheProcessSaid(t *testing.T) {
	var g Group
	<-started(t, &g, "echo out of memory >&2").Ended()
	var out strings.Builder
	g.Explain(&out)
	if !strings.Contains(out.String(), "Output of the sleeper:\nout of memory") {
		t.Errorf("it says %q", out.String())
	}
}

func TestMissingProgramIsNamed(t *testing.T) {
	var g Group
	if _, err := g.Start("engine", "/nowhere/engine"); err == nil || !strings.Contains(err.Error(), "/nowhere/engine") {
		t.Errorf("got %v", err)
	}
}
