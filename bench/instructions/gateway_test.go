package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// launched is a shell in the gateway's place.
func launched(t *testing.T, script string) *gateway {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("no /proc")
	}
	g := &gateway{}
	if err := g.launch(exec.Command("sh", "-c", script)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.stop)
	return g
}

func TestRestEndsWhenTheProcessSleeps(t *testing.T) {
	if err := launched(t, "exec sleep 60").rest(); err != nil {
		t.Error(err)
	}
}

func TestAProcessThatComputesIsNotTakenForAsleep(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	g := launched(t, ": >"+ready+"; while :; do :; done")
	if err := g.await(0, func() bool { _, err := os.Stat(ready); return err == nil }); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if g.asleep() {
			t.Fatal("it sleeps")
		}
	}
}

func TestAGatewayThatDiesIsNotWaitedFor(t *testing.T) {
	g := launched(t, "echo cannot listen; exit 1")
	err := g.await(0, func() bool { return false })
	if err == nil || !strings.Contains(err.Error(), "cannot listen") {
		t.Errorf("got %v, want what the process said", err)
	}
}
