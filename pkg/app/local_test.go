package app_test

import (
	"context"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// A gateway that has run out of descriptors must not eject engines for it.
func TestOwnShortageIsNotTheBackendsFault(t *testing.T) {
	short := func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", syscall.EMFILE)}
	}
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.StartWith(t, app.Options{Dial: short}, "health_check: {enabled: false}\n", e)
	status, answer := g.Post(t, "/v1/chat/completions", `{"model":"m"}`)
	if status != 503 {
		t.Errorf("%d %s", status, answer)
	}
	for series, want := range map[string]float64{
		`llmproxy_attempts_total{backend="e0",outcome="dial_failed"}`: 1,
		`llmproxy_backend_ejections_total{backend="e0"}`:              0,
		`llmproxy_backend_ejected{backend="e0"}`:                      0,
		`llmproxy_requests_in_flight{backend="e0"}`:                   0,
	} {
		if got := g.Metric(series); got != want {
			t.Errorf("%s = %v, want %v", series, got, want)
		}
	}
}
