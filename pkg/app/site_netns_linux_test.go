package app_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// network is the one that a scenario plays in. The gateway has a machine of its
// own there, for it listens on the same port as the engines; everything else is
// on another one. Nothing leads out of it.
type network struct {
	hosts   []string // names, each of which gets an address
	clients []string // networks that clients are in
}

const (
	gatewayAddr = "10.77.0.1"
	// gatewayHosts are names of the gateway's machine; the second is the one in
	// the scenarios' own command, the third the one in configs/nginx.
	gatewayHosts = "gateway.internal admin.internal llm.example.com"
	// gatewayNamespace is the network namespace of its machine.
	gatewayNamespace = "gateway"
	othersAddr       = "10.77.0.2"
)

// What tells a test that it is inside, and which program it is to run.
const (
	insideVariable  = "LLMPROXY_TEST_INSIDE"
	programVariable = "LLMPROXY_TEST_PROGRAM"
)

// inNetwork runs a test once more, in namespaces of its own where the network is
// built, and shows the results as this test's. There, it plays.
func inNetwork(t *testing.T, n network, play func(t *testing.T)) {
	t.Helper()
	if os.Getenv(insideVariable) == t.Name() {
		n.build(t)
		play(t)
		return
	}
	for _, program := range []string{"ip", "unshare"} {
		if _, err := exec.LookPath(program); err != nil {
			skipUnlessRequired(t, "no "+program+": apt-get install iproute2 util-linux")
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"env", insideVariable + "=" + t.Name(), programVariable + "=" + binary(t, "llmproxy")}
	for _, name := range []string{"LLMPROXY_REQUIRE", "LLMPROXY_LONG", "CI"} { // which sudo would drop
		args = append(args, name+"="+os.Getenv(name))
	}
	args = append(args, "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child",
		self, "-test.run="+pattern(t), "-test.v", "-test.timeout=2m")
	out, err := asRoot(t, args...).CombinedOutput()
	mirror(t, string(out), err)
}

// pattern chooses this test, and of its parts those that the whole run has.
func pattern(t *testing.T) string {
	for _, arg := range os.Args {
		if value, ok := strings.CutPrefix(arg, "-test.run="); ok && !strings.Contains(value, "|") {
			if _, parts, ok := strings.Cut(value, "/"); ok {
				return "^" + t.Name() + "$/" + parts
			}
		}
	}
	return "^" + t.Name() + "$"
}

var resultLine = regexp.MustCompile(`(?m)^ *--- (PASS|FAIL|SKIP): (\S+) \(`)

// mirror shows the results of the parts that ran inside as parts of this test.
func mirror(t *testing.T, out string, err error) {
	t.Helper()
	if !strings.Contains(out, "=== RUN") {
		skipUnlessRequired(t, fmt.Sprintf("no namespaces here: %v\n%s", err, out))
	}
	failed := false
	for _, m := range resultLine.FindAllStringSubmatch(out, -1) {
		result, name := m[1], m[2]
		part, ok := strings.CutPrefix(name, t.Name()+"/")
		switch {
		case !ok && result == "SKIP":
			skipUnlessRequired(t, out)
		case !ok:
			continue
		}
		failed = failed || result == "FAIL"
		t.Run(part, func(t *testing.T) {
			switch result {
			case "FAIL":
				t.Error("failed inside: see below")
			case "SKIP":
				t.Skip("skipped inside: see below")
			}
		})
	}
	if err != nil || failed {
		t.Errorf("inside: %v", err)
	}
	if err != nil || failed || testing.Verbose() {
		t.Log("inside:\n" + out)
	}
}

// build makes the network in the namespaces that this process has to itself.
func (n *network) build(t *testing.T) {
	t.Helper()
	var hosts, here, there strings.Builder
	fmt.Fprintf(&hosts, "127.0.0.1 localhost\n%s %s\n", gatewayAddr, gatewayHosts)
	fmt.Fprintf(&here, "link set lo up\nlink add others type veth peer name eth0 netns %s\n"+
		"addr add %s/24 dev others\nlink set others up\n", gatewayNamespace, othersAddr)
	// The gateway's machine knows the way to each of the others, and no further.
	fmt.Fprintf(&there, "link set lo up\naddr add %s/32 dev eth0\nlink set eth0 up\nroute add %s/32 dev eth0\n", gatewayAddr, othersAddr)
	for i, name := range n.hosts {
		addr := fmt.Sprintf("10.77.0.%d", 10+i)
		fmt.Fprintf(&hosts, "%s %s\n", addr, name)
		fmt.Fprintf(&here, "addr add %s/32 dev others\n", addr)
		fmt.Fprintf(&there, "route add %s/32 dev eth0\n", addr)
	}
	for _, clients := range n.clients {
		fmt.Fprintf(&here, "route add local %s dev lo\n", clients)
		fmt.Fprintf(&there, "route add %s dev eth0\n", clients)
	}
	path := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(path, []byte(hosts.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	err := errors.Join(
		syscall.Mount("tmpfs", "/run", "tmpfs", 0, ""), // where ip keeps its namespaces
		syscall.Mount(path, "/etc/hosts", "", syscall.MS_BIND, ""))
	if err != nil {
		t.Skip("cannot mount: ", err)
	}
	ip(t, "", "netns", "add", gatewayNamespace)
	ip(t, here.String(), "-batch", "-")
	ip(t, there.String(), "-netns", gatewayNamespace, "-batch", "-")
}

func ip(t *testing.T, stdin string, args ...string) {
	t.Helper()
	cmd := exec.Command("ip", args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v\n%s%s", args, err, out, stdin)
	}
}

// atGateway is a command on the gateway's machine.
func atGateway(args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", gatewayNamespace}, args...)...)
}
