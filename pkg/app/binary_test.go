package app_test

import (
	"debug/elf"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// run runs llmproxy to its end and returns its exit code and what it said.
func run(t *testing.T, args ...string) (code int, output string) {
	t.Helper()
	p := startProcess(t, binary(t, "llmproxy"), args...)
	return p.exit(), p.output.String()
}

func TestBinaryIsStatic(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the program is static on Linux")
	}
	for _, name := range []string{"llmproxy", "mockvllm"} {
		checkStatic(t, binary(t, name))
	}
}

func checkStatic(t *testing.T, path string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s needs a dynamic linker: %v", filepath.Base(path), p.Type)
		}
	}
}

// TestBinaryBuildsEverywhere compiles the standard library for each platform,
// so it belongs to the long run.
func TestBinaryBuildsEverywhere(t *testing.T) {
	if !long {
		t.Skip("LLMPROXY_LONG=1 builds for every platform")
	}
	for _, platform := range []string{"linux/amd64", "linux/arm64", "darwin/arm64"} {
		t.Run(platform, func(t *testing.T) {
			system, arch, _ := strings.Cut(platform, "/")
			out := filepath.Join(t.TempDir(), "llmproxy")
			for _, args := range [][]string{{"build", "-trimpath", "-o", out, "./cmd/llmproxy"}, {"vet", "./..."}} {
				cmd := exec.Command("go", args...)
				cmd.Dir = "../.."
				cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+arch)
				if said, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("go %s: %v\n%s", args[0], err, said)
				}
			}
			if system == "linux" {
				checkStatic(t, out)
			}
		})
	}
}

func TestBinaryStartsFast(t *testing.T) {
	const limit = 100 * time.Millisecond
	addr := fixedAddr(t)
	t.Setenv("LLMPROXY__LISTEN", addr)
	fastest := time.Hour
	for range 5 {
		start := time.Now()
		p := startProcess(t, binary(t, "llmproxy"), "serve")
		apptest.Eventually(t, "it listens", func() bool {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
		fastest = min(fastest, time.Since(start))
		p.signal(syscall.SIGTERM)
		if code := p.exit(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
	t.Logf("takes connections %v after its start", fastest)
	if long && fastest > limit {
		t.Errorf("it takes %v to start, want at most %v", fastest, limit)
	}
}

func TestBinaryCommands(t *testing.T) {
	dir := t.TempDir()
	faulty, taken := filepath.Join(dir, "faulty.yaml"), filepath.Join(dir, "taken.yaml")
	writeFile(t, faulty, "listen: \":8000\"\nbackend:\n  - url: http://gpu:8000\ntimeouts: {connect: 3}\n")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	writeFile(t, taken, fmt.Sprintf("listen: %s\nbackends: [{url: http://127.0.0.1:1}]\n", ln.Addr()))
	for _, w := range []struct {
		args []string
		code int
		says []string
	}{
		{nil, 2, []string{"Usage:"}},
		{[]string{"help"}, 0, []string{"Usage:"}},
		{[]string{"serve", "-help"}, 0, []string{"Usage:"}},
		{[]string{"version"}, 0, []string{"llmproxy ", runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}},
		{[]string{"--version"}, 0, []string{"llmproxy "}},
		{[]string{"sevre"}, 2, []string{`unknown command "sevre"`, "Usage:"}},
		{[]string{"serve", "-confg", faulty}, 2, []string{"-confg"}},
		{[]string{"serve", faulty}, 2, []string{"unexpected argument"}},
		{[]string{"check"}, 2, []string{"-config"}},
		{[]string{"check", "-config", faulty}, 2, []string{faulty + ":2: backend: ", "backends", faulty + ":4: timeouts.connect: "}},
		{[]string{"serve", "-config", faulty}, 2, []string{faulty + ":2: backend: ", faulty + ":4: timeouts.connect: "}},
		{[]string{"check", "-config", filepath.Join(dir, "none.yaml")}, 2, []string{"none.yaml", "no such file"}},
		{[]string{"serve", "-config", taken}, 1, []string{"cannot listen", ln.Addr().String(), "address already in use"}},
	} {
		code, output := run(t, w.args...)
		if code != w.code {
			t.Errorf("%v: exit code %d, want %d", w.args, code, w.code)
		}
		for _, text := range w.says {
			if !strings.Contains(output, text) {
				t.Errorf("%v: says\n%s\nwithout %q", w.args, output, text)
			}
		}
	}
}

// TestBinaryScenarios: the scenarios' own files and the ready ones pass the check.
func TestBinaryScenarios(t *testing.T) {
	t.Setenv("LLMPROXY__LISTEN", "127.0.0.1:0")
	var files []string
	for _, pattern := range []string{"../config/testdata/scenario*.yaml", "../../configs/*.yaml"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) < 5 {
			t.Fatalf("%s: %v %v", pattern, found, err)
		}
		files = append(files, found...)
	}
	for _, file := range files {
		code, output := run(t, "check", "-config", file)
		if code != 0 || !strings.HasSuffix(output, file+": ok\n") {
			t.Errorf("check %s: exit code %d\n%s", file, code, output)
		}
	}
}

// TestBinaryWithoutEngines: names that do not resolve are no reason not to
// start.
func TestBinaryWithoutEngines(t *testing.T) {
	g := newGateway(t)
	t.Setenv("LLMPROXY__LISTEN", g.addr)
	t.Setenv("LLMPROXY__HEALTH_CHECK__UNHEALTHY_THRESHOLD", "1")
	t.Setenv("LLMPROXY__HEALTH_CHECK__INTERVAL", "500ms")
	g.file = "../config/testdata/scenario5.yaml"
	g.start(t)
	if status, body := g.get("/healthz"); status != 200 {
		t.Errorf("/healthz: %d %s", status, body)
	}
	apptest.Eventually(t, "no backend is healthy", func() bool { status, _ := g.get("/readyz"); return status == 503 })
	status, body := g.post(wholeChat)
	if (status != 502 && status != 503) || !strings.HasPrefix(body, `{"error":{"message":"`) {
		t.Errorf("a request without engines: %d %s", status, body)
	}
	g.signal(syscall.SIGTERM)
	if code := g.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestBinaryOutOfDescriptors: more clients than descriptors are refused, not
// fatal, and once they have gone everything works again.
func TestBinaryOutOfDescriptors(t *testing.T) {
	const limit = 64
	engines := []*fakeEngine{startFakeEngine(t)}
	g := newGateway(t)
	writeFile(t, g.file, "listen: "+g.addr+"\n"+backendsYAML(engines)+"health_check: {interval: 200ms, healthy_threshold: 1}\n")
	shell := fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, limit)
	g.process = startProcess(t, "/bin/sh", "-c", shell, binary(t, "llmproxy"), "serve", "-config", g.file)
	g.says("msg=serving")
	if status, body := g.post(wholeChat); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	if n := g.metric("process_max_fds"); n != limit {
		t.Fatalf("it has %v descriptors, want %d", n, limit)
	}
	const refused = `llmproxy_connections_refused_total{reason="descriptors"}`
	for range 3 {
		refusedBefore := g.metric(refused)
		var clients []net.Conn
		for range 2 * limit {
			if c, err := net.Dial("tcp", g.addr); err == nil { // else it was refused already
				clients = append(clients, c)
			}
		}
		// The last of them is refused, so those before it have been dealt with.
		last := clients[len(clients)-1]
		if err := last.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := last.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Errorf("one client too many was not refused: %v", err)
		}
		for _, c := range clients {
			c.Close()
		}
		apptest.Eventually(t, "it serves again", func() bool { status, _ := g.post(wholeChat); return status == 200 })
		if n := g.metric(refused); n <= refusedBefore {
			t.Errorf("%v connections were refused, %v before", n, refusedBefore)
		}
	}
	g.until("llmproxy_connections_open", is(1))
	g.signal(syscall.SIGTERM)
	if code := g.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
