//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Both loops keep their thread to themselves, so a test runs them as the
// command they are: this binary, told by the environment.
const asCommand = "BARE_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func bare(ctx context.Context, args ...string) *exec.Cmd {
	return command(ctx, append([]string{os.Args[0]}, args...)...)
}

func command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	// The race detector sleeps a second before each exit unless told.
	cmd.Env = append(os.Environ(), asCommand+"=1", "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	return cmd
}

// fakeEngine is a running engine.
type fakeEngine struct {
	address string
	cmd     *exec.Cmd
}

func startEngine(t *testing.T) *fakeEngine {
	t.Helper()
	return startEngineBy(t)
}

// startEngineBy starts it by way of a command that is given ours as arguments.
func startEngineBy(t *testing.T, by ...string) *fakeEngine {
	t.Helper()
	e := &fakeEngine{address: freeAddress(t)}
	e.cmd = command(t.Context(), append(by, os.Args[0], "engine", "-listen", e.address)...)
	out, err := e.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.stop() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "listening\n" {
		t.Fatalf("the engine said %q, %v", line, err)
	}
	return e
}

// stop ends the engine as an operator does.
func (e *fakeEngine) stop() {
	_ = e.cmd.Process.Signal(syscall.SIGTERM)
	_ = e.cmd.Wait()
}

func (e *fakeEngine) url(path string) string { return "http://" + e.address + path }

// control sets the engine's behaviour.
func (e *fakeEngine) control(t *testing.T, query string) {
	t.Helper()
	resp, err := http.Post(e.url("/control?"+query), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		t.Fatalf("control %q: %s", query, resp.Status)
	}
}

func (e *fakeEngine) counts(t *testing.T) counts {
	t.Helper()
	resp, err := http.Get(e.url("/control"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var c counts
	if err := json.NewDecoder(resp.Body).Decode(&c); err != nil {
		t.Fatal(err)
	}
	return c
}

// await asks for the counts until they are as wanted.
func (e *fakeEngine) await(t *testing.T, what string, is func(counts) bool) counts {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if c := e.counts(t); is(c) {
			return c
		}
	}
	t.Fatalf("waited in vain for %s: %+v", what, e.counts(t))
	return counts{}
}

// post sends a chat and returns the open answer.
func (e *fakeEngine) post(t *testing.T, body io.Reader) *http.Response {
	t.Helper()
	resp, err := http.Post(e.url("/v1/chat/completions"), "application/json", body)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("answered %s", resp.Status)
	}
	return resp
}

// runReport runs the load to its end.
func runReport(t *testing.T, args ...string) report {
	t.Helper()
	out, err := bare(t.Context(), append([]string{"load"}, args...)...).Output()
	if err != nil {
		t.Fatalf("bare load %s: %v", strings.Join(args, " "), err)
	}
	return decodeReport(t, out)
}

func decodeReport(t *testing.T, out []byte) report {
	t.Helper()
	var r report
	dec := json.NewDecoder(bytes.NewReader(out))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		t.Fatalf("the load printed %q: %v", out, err)
	}
	return r
}

func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
