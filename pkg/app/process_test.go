package app_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// binaries is where TestMain lets the programs be built.
var binaries string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "llmproxy-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaries = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

var buildOnce = sync.OnceValue(func() error {
	cmd := exec.Command("go", "build", "-o", binaries+"/", "./cmd/llmproxy", "./cmd/mockvllm")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build the programs: %w\n%s", err, out)
	}
	return nil
})

// binary is the path of a program of this repository.
func binary(t testing.TB, name string) string {
	t.Helper()
	if err := buildOnce(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(binaries, name)
}

// process is a process that this test has started.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	output apptest.Log // both streams
	ended  chan struct{}
}

// startProcess runs a program until the test ends.
func startProcess(t testing.TB, path string, args ...string) *process {
	t.Helper()
	return startCommand(t, exec.Command(path, args...))
}

// startCommand runs a command until the test ends.
func startCommand(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // however it ended
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(cmd.Path), p.output.String())
		}
	})
	return p
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("cannot signal %s: %v", p.cmd.Path, err)
	}
}

// kill ends the process as a crash does, unless it has ended.
func (p *process) kill() {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("cannot kill %s: %v", p.cmd.Path, err)
	}
	<-p.ended
}

// exit waits for the process to end by itself and returns its exit code, -1
// after a signal.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("%s does not end", p.cmd.Path)
	}
	return p.cmd.ProcessState.ExitCode()
}

// says waits until the process has written the text.
func (p *process) says(text string) {
	p.t.Helper()
	apptest.Eventually(p.t, "it says "+text, func() bool {
		select {
		case <-p.ended:
			if !strings.Contains(p.output.String(), text) {
				p.t.Fatalf("ended without saying %q", text)
			}
		default:
		}
		return strings.Contains(p.output.String(), text)
	})
}

// fixedAddr is a loopback address to listen on, also again after a restart: it
// lies below the ports that the system gives to outgoing connections, one of
// which would else take it in the meantime.
func fixedAddr(t testing.TB) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 15000+rand.IntN(17000))
		if ln, err := net.Listen("tcp", addr); err == nil {
			ln.Close()
			return addr
		}
	}
	t.Fatal("no free port found")
	return ""
}

// fakeEngine is a mockvllm process at an address of its own.
type fakeEngine struct {
	*process
	addr string
	args []string
}

func startFakeEngine(t testing.TB, args ...string) *fakeEngine {
	t.Helper()
	e := &fakeEngine{addr: fixedAddr(t), args: args}
	e.start(t)
	return e
}

// start runs the engine, anew after it has ended.
func (e *fakeEngine) start(t testing.TB) {
	t.Helper()
	e.process = startProcess(t, binary(t, "mockvllm"), append([]string{"-listen", e.addr, "-admin", ""}, e.args...)...)
	e.says("ready")
}

// gatewayProcess is an llmproxy process with its configuration file.
type gatewayProcess struct {
	*process
	file, addr, url string
	client          *http.Client
}

// newGateway is one that is not started yet and has no file.
func newGateway(t testing.TB) *gatewayProcess {
	t.Helper()
	g := &gatewayProcess{
		file: filepath.Join(t.TempDir(), "llmproxy.yaml"), addr: fixedAddr(t),
		client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience},
	}
	g.url = "http://" + g.addr
	return g
}

// startGateway runs llmproxy on a file that holds the listen address, and yaml.
func startGateway(t testing.TB, yaml string) *gatewayProcess {
	t.Helper()
	g := newGateway(t)
	writeFile(t, g.file, "listen: "+g.addr+"\n"+yaml)
	g.start(t)
	return g
}

func (g *gatewayProcess) start(t testing.TB) {
	t.Helper()
	g.process = startProcess(t, binary(t, "llmproxy"), "serve", "-config", g.file)
	g.says("msg=serving")
}

// get returns status and body of a GET on a connection of its own.
func (g *gatewayProcess) get(path string) (int, string) {
	resp, err := g.client.Get(g.url + path)
	if err != nil {
		return 0, err.Error()
	}
	return readAnswer(resp)
}

// post sends a request to /v1/chat/completions on a connection of its own.
func (g *gatewayProcess) post(body string) (int, string) {
	resp, err := g.client.Post(g.url+"/v1/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	return readAnswer(resp)
}

func readAnswer(resp *http.Response) (int, string) {
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// metric is the value of a series on the gateway's page, -1 when it is not
// there.
func (g *gatewayProcess) metric(series string) float64 {
	_, page := g.get("/metrics")
	for line := range strings.Lines(page) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			var v float64
			if _, err := fmt.Sscan(rest, &v); err == nil {
				return v
			}
		}
	}
	return -1
}

// until waits for a series to have a value that will do.
func (g *gatewayProcess) until(series string, ok func(float64) bool) {
	g.t.Helper()
	last := 0.0
	defer func() {
		if g.t.Failed() {
			g.t.Logf("%s was %v at last", series, last)
		}
	}()
	apptest.Eventually(g.t, series, func() bool {
		last = g.metric(series)
		return ok(last)
	})
}

// together lets a test run beside its siblings, which mostly wait; the figures
// of the long run are taken one at a time.
func together(t *testing.T) {
	if !long {
		t.Parallel()
	}
}

func is(want float64) func(float64) bool      { return func(v float64) bool { return v == want } }
func atLeast(want float64) func(float64) bool { return func(v float64) bool { return v >= want } }
func atMost(want float64) func(float64) bool {
	return func(v float64) bool { return v >= 0 && v <= want }
}

// footprint is what an idle gateway holds.
type footprint struct{ goroutines, descriptors float64 }

func (g *gatewayProcess) footprint() footprint {
	return footprint{g.metric("go_goroutines"), g.metric("process_open_fds")}
}

// nothingLeft waits until the gateway has no request and no client but the one
// that asks, and holds no more than it did at base.
func (g *gatewayProcess) nothingLeft(base footprint, backends ...string) {
	g.t.Helper()
	for _, b := range backends {
		g.until(fmt.Sprintf("llmproxy_requests_in_flight{backend=%q}", b), is(0))
	}
	g.until("llmproxy_connections_open", is(1))
	// One more of each backend may be the connection of its health check.
	g.until("process_open_fds", atMost(base.descriptors+float64(len(backends))))
	// The server keeps the goroutine of a connection for up to 20 s.
	for n := 0; long && g.metric("go_goroutines") > base.goroutines+10; n++ {
		if n == 40 {
			g.t.Errorf("%v goroutines, %v at first", g.metric("go_goroutines"), base.goroutines)
			break
		}
		<-time.After(time.Second)
	}
	if n := g.metric("llmproxy_panics_total"); n != 0 {
		g.t.Errorf("%v panics", n)
	}
	if g.t.Failed() {
		g.t.Log(g.get("/metrics"))
	}
}

// backendsYAML lists the engines, each under the name e and its number.
func backendsYAML(engines []*fakeEngine) string {
	var b strings.Builder
	b.WriteString("backends:\n")
	for i, e := range engines {
		fmt.Fprintf(&b, "  - {url: %q, name: e%d, keep_alive: 500ms}\n", "http://"+e.addr, i)
	}
	return b.String()
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
