package app_test

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// asRoot runs a command as root, perhaps by sudo.
func asRoot(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	if os.Getuid() != 0 {
		if exec.Command("sudo", "-n", "true").Run() != nil {
			skipUnlessRequired(t, "this needs to be root")
		}
		args = append([]string{"sudo", "-n"}, args...)
	}
	return exec.Command(args[0], args[1:]...)
}

var packageOnce = sync.OnceValue(func() error {
	dir := filepath.Join(binaries, "packages")
	out, err := exec.Command("../../packaging/build.sh", filepath.Join(binaries, "llmproxy"), runtime.GOARCH, "v1.2.3-rc1", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot build the packages: %w\n%s", err, out)
	}
	return nil
})

// packages is a directory of the caller's with the deb and the rpm, and further
// files.
func packages(t *testing.T, more ...string) string {
	t.Helper()
	for _, program := range []string{"dpkg", "rpm"} {
		if _, err := exec.LookPath(program); err != nil {
			skipUnlessRequired(t, "no "+program+": apt-get install "+program)
		}
	}
	binary(t, "llmproxy")
	if err := packageOnce(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	args := append([]string{"-r", "-t", dir, filepath.Join(binaries, "packages") + "/."}, more...)
	if out, err := exec.Command("cp", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// inCopy runs a script of testdata/package, as the first process of namespaces
// where it can make a copy of this machine.
func inCopy(t *testing.T, script, dir string) {
	t.Helper()
	cmd := asRoot(t, "timeout", "60", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--cgroup",
		"sh", "testdata/package/"+script, dir)
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 77 {
		skipUnlessRequired(t, "cannot mount: "+string(out))
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestPackages installs, upgrades and removes the deb and the rpm: nothing is
// started that was not asked for, an operator's file stays, and what is removed is
// gone.
func TestPackages(t *testing.T) {
	dir := packages(t)
	if _, err := os.Stat(filepath.Join(dir, "llmproxy_1.2.3~rc1_"+runtime.GOARCH+".deb")); err != nil {
		t.Error(err)
	}
	inCopy(t, "install.sh", dir)
}

// TestSystemd runs the package's units in a real systemd: the gateway has what it
// needs where it is locked in, faults in its file are refused, and clients of the
// socket lose nothing when it is restarted.
func TestSystemd(t *testing.T) {
	if _, err := os.Stat("/lib/systemd/systemd"); err != nil {
		skipUnlessRequired(t, "no systemd: apt-get install systemd")
	}
	dir := packages(t, "testdata/package/drive.sh", binary(t, "mockvllm"))
	writeFile(t, filepath.Join(dir, "llmproxy.yaml"), "backends: [{url: http://127.0.0.1:9001}]\n")
	inCopy(t, "systemd.sh", dir)
	said, err := os.ReadFile(filepath.Join(dir, "said"))
	if err != nil || !strings.HasSuffix(string(said), "\ndone\n") {
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		t.Errorf("%v\n%s\nthe gateway's log:\n%s", err, said, log)
	}
	t.Logf("%s", said)
}

// TestUnits: systemd takes both units as they are shipped, and finds the service
// well locked in.
func TestUnits(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		skipUnlessRequired(t, "no systemd-analyze: apt-get install systemd")
	}
	dir := t.TempDir()
	service, socket := filepath.Join(dir, "llmproxy.service"), filepath.Join(dir, "llmproxy.socket")
	text, err := os.ReadFile("../../configs/systemd/llmproxy.service")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, service, strings.ReplaceAll(string(text), "=/usr/bin/llmproxy ", "="+binary(t, "llmproxy")+" "))
	writeFile(t, socket, shipped(t, "systemd/llmproxy.socket", nil))
	for _, args := range [][]string{
		{"verify", "--man=no", service, socket},
		{"security", "--offline=yes", "--threshold=15", service}, // tenths: 1.5 of 10, 10 is open to all
	} {
		out, err := exec.Command("systemd-analyze", args...).CombinedOutput()
		// Units of this machine may be at fault; ours must not be named.
		if err != nil || args[0] == "verify" && strings.Contains(string(out), "llmproxy") {
			t.Errorf("systemd-analyze %s: %v\n%s", args[0], err, out)
		}
	}
}

// TestUnitOutlastsShutdown: systemd must not kill a gateway that still drains with
// the default configuration.
func TestUnitOutlastsShutdown(t *testing.T) {
	unit := shipped(t, "systemd/llmproxy.service", nil)
	stop := regexp.MustCompile(`(?m)^TimeoutStopSec=(\d+)$`).FindStringSubmatch(unit)
	server := apptest.Config(t, "backends: [{url: http://127.0.0.1:1}]\n").Server
	var seconds float64
	if _, err := fmt.Sscan(stop[1], &seconds); err != nil {
		t.Fatal(err)
	}
	if least := time.Duration(server.ShutdownDelay+server.ShutdownTimeout).Seconds() + 5; seconds < least {
		t.Errorf("TimeoutStopSec=%v, want at least %v", seconds, least)
	}
}

// TestImage does what the Dockerfile does, without Docker: its last stage holds
// what /image has then, and the gateway serves with nothing else, as nobody.
func TestImage(t *testing.T) {
	recipe := readImageRecipe(t)
	root := t.TempDir()
	for _, step := range recipe.run {
		step = strings.ReplaceAll(step, "/image", root)
		if strings.Contains(step, "go build") {
			// The test has a binary; what the recipe says of it is compared.
			if !strings.Contains(step, "CGO_ENABLED=0 ") || !strings.Contains(step, "-o "+root+"/usr/bin/llmproxy ./cmd/llmproxy") {
				t.Errorf("the recipe builds %s", step)
			}
			step = "install -D " + binary(t, "llmproxy") + " " + root + "/usr/bin/llmproxy"
		}
		cmd := exec.Command("sh", "-ec", step)
		cmd.Dir = "../.."
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", step, err, out)
		}
	}
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	// Each container gets a /dev.
	null := filepath.Join(root, "dev", "null")
	if err := os.Mkdir(filepath.Dir(null), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := asRoot(t, "mknod", "--mode=666", null, "c", "1", "3").CombinedOutput(); err != nil {
		skipUnlessRequired(t, "cannot make devices: "+string(out))
	}
	addr := fixedAddr(t)
	// chroot sets the user as Docker does: no groups, no capabilities.
	args := append([]string{"chroot", "--userspec=" + recipe.user, "--groups=", root}, recipe.command...)
	cmd := asRoot(t, append([]string{"env", "-i", "PATH=" + os.Getenv("PATH") + ":/usr/sbin", "LLMPROXY__LISTEN=" + addr}, args...)...)
	p := startCommand(t, cmd)
	stop := func() { _ = asRoot(t, "kill", fmt.Sprint(p.cmd.Process.Pid)).Run() } // sudo tells it
	t.Cleanup(stop)
	p.says("msg=serving")
	resp, err := http.Get("http://" + addr + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	if status, body := readAnswer(resp); status != 200 {
		t.Errorf("%d %s", status, body)
	}
	http.DefaultClient.CloseIdleConnections()
	stop()
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// imageRecipe is what the Dockerfile's stages do.
type imageRecipe struct {
	run     []string // commands of the first stage after the sources are there
	user    string
	command []string
}

var quoted = regexp.MustCompile(`"([^"]*)"`)

func readImageRecipe(t *testing.T) imageRecipe {
	t.Helper()
	file, err := os.Open("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var r imageRecipe
	stage, copied := "", false
	for lines := bufio.NewScanner(file); lines.Scan(); {
		line := lines.Text()
		for strings.HasSuffix(line, "\\") && lines.Scan() {
			line = strings.TrimSuffix(line, "\\") + strings.TrimSpace(lines.Text())
		}
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "FROM":
			stage = rest
		case "COPY":
			copied = copied || rest == ". ."
			if stage == "scratch" && rest != "--from=build /image /" {
				t.Errorf("the image has more than /image: %s", line)
			}
		case "RUN":
			if copied {
				r.run = append(r.run, rest)
			}
		case "USER":
			r.user = rest
		case "ENTRYPOINT", "CMD":
			for _, w := range quoted.FindAllStringSubmatch(rest, -1) {
				r.command = append(r.command, w[1])
			}
		}
	}
	if stage != "scratch" || len(r.run) != 2 || r.user == "" || len(r.command) == 0 {
		t.Fatalf("the last stage is %s, and there is %+v", stage, r)
	}
	return r
}
