package app_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// spoiltFiles are ways to write a configuration with keys wrongly.
func spoiltFiles(yaml string) (all []string) {
	key := "{key: " + canaryPlain + ", "
	for _, w := range [][2]string{
		{key, "{kye: " + canaryPlain + ", "},
		{key, "{key:" + canaryPlain + ", "},
		{key, "{key: [" + canaryPlain + "], "},
		{key, "{key: {" + canaryPlain + ": 1}, "},
		{key, "{key: \"" + canaryPlain + ", "},
		{key, "{key: 'a " + canaryPlain + "', "},
		{key, "{key: !!binary " + canaryPlain + ", "},
		{key, "{key: *" + canaryPlain + ", "},
		{key, "{key: " + canaryPlain + " " + canaryPlain + ", "},
		{key, "{key: " + canaryPlain + ", key: " + canaryPlain + ", "},
		{key, "{key_hash: " + canaryPlain + ", "},
		{key, "{key_hash: \"sha256:" + canaryPlain + "\", "},
		{key, "{key: " + canaryPlain + ", key_hash: " + canaryPlain + ", "},
		{key, "{key_file: /nowhere/at/all, "},
		{key, "{key: " + canaryMeagre + ", "},
		{key, "{key: " + canaryToken + ", "},
		{key, "{key: " + canaryPlain + "} {"},
		{"- " + key, "- " + canaryPlain + "\n  - " + key},
		{"- " + key, "- key " + canaryPlain + "\n  - " + key},
		{"- " + key, "\t- " + key},
		{"api_keys:\n", "api_keys: " + canaryPlain + "\n"},
		{"api_keys:\n", "api_keys:\n  " + canaryPlain + ":\n"},
		{"api_keys:\n", "api_key: " + canaryPlain + "\napi_keys:\n"},
		{"admin: {token: " + canaryToken, "admin: {tokens: " + canaryToken},
		{"admin: {token: " + canaryToken, "admin: {token: [" + canaryToken + "]"},
		{"admin: {token: " + canaryToken, "admin: {token: \"" + canaryToken + " " + canaryToken + "\""},
		{"admin: {token: " + canaryToken, "admin: {token: " + canaryToken + ", token_file: /nowhere"},
		{"admin: {token", "admin: " + canaryToken + "\nadmin: {token"},
		{"secret: " + canarySecret, "secret: [" + canarySecret + "]"},
		{"secret: " + canarySecret, "secret: whsec_" + canarySecret + "!"},
		{"api_key: " + canaryBackend, "api_key: {a: " + canaryBackend + "}"},
	} {
		if !strings.Contains(yaml, w[0]) {
			panic("BUG: there is no " + w[0])
		}
		all = append(all, strings.Replace(yaml, w[0], w[1], 1))
	}
	return all
}

// TestCanaryPrograms: the commands and a gateway that runs tell what is wrong with a
// file that has secrets in it without them, and mistakes on a command line too.
func TestCanaryPrograms(t *testing.T) {
	leavesNothing(t)
	a := &aviary{cage: &cage{t: t}, dir: filepath.Join(t.TempDir(), "data"), hook: "http://127.0.0.1:1", addr: fixedAddr(t), operator: fixedAddr(t)}
	a.engine = &apptest.Engine{URL: "http://127.0.0.1:1"}
	for name, secret := range map[string]string{
		"the key": canaryPlain, "another key": canaryMeagre, "the admin token": canaryToken, "the hook's secret": canarySecret, "the engine's key": canaryBackend,
	} {
		a.birds = append(a.birds, newCanary(name, secret))
	}
	file := filepath.Join(t.TempDir(), "llmproxy.yaml")
	writeFile(t, file, a.yaml())
	code, output := run(t, "check", "-config", file)
	a.silent("what check says of a right file", output)
	if code != 0 {
		t.Fatalf("%d %s", code, output)
	}
	g := startProcess(t, binary(t, "llmproxy"), "serve", "-config", file)
	g.says("msg=serving")
	for i, spoilt := range spoiltFiles(a.yaml()) {
		writeFile(t, file, spoilt)
		code, output := run(t, "check", "-config", file)
		if code == 0 {
			t.Errorf("a spoilt file is right: %s", spoilt)
		}
		a.silent("what check says of a spoilt file", output)
		if i%4 == 0 {
			g.signal(syscall.SIGHUP)
			apptest.Eventually(t, "the file is refused", func() bool { return strings.Count(g.output.String(), file+":") > i/4 })
		}
	}
	writeFile(t, file, a.yaml())
	a.mistakes(file)
	g.signal(syscall.SIGTERM)
	if code := g.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	a.silent("what the gateway says", g.output.String())
	a.silentFiles(a.dir)
}

// mistakes are what people do to commands with keys.
func (a *aviary) mistakes(file string) {
	a.t.Helper()
	for _, args := range [][]string{
		{"keys", "revoke", "-data", a.dir, canaryPlain},
		{"keys", "revoke", canaryPlain},
		{"keys", "new", "-data", a.dir, canaryPlain},
		{"keys", "new", "-data", a.dir, "-key", canaryPlain},
		{"keys", "new", "-data", a.dir, "-expires", canaryPlain},
		{"keys", "new", "-data", a.dir, "-ips", canaryPlain},
		{"keys", "list", "-config", file, canaryPlain},
		{"keys", "hash", canaryPlain},
		{"keys", canaryPlain},
	} {
		code, output := run(a.t, args...)
		if code == 0 {
			a.t.Errorf("%v: %s", args[:2], output)
		}
		a.silent(fmt.Sprintf("what %q says", args[:2]), output)
	}
	for input, good := range map[string]bool{canaryPlain + "\n": true, canaryPlain + " " + canaryPlain: false, canaryPlain + "\x00": false, strings.Repeat(canaryPlain, 200): false} {
		cmd := exec.CommandContext(a.t.Context(), binary(a.t, "llmproxy"), "keys", "hash")
		cmd.Stdin = strings.NewReader(input)
		output, err := cmd.CombinedOutput()
		if good != (err == nil) {
			a.t.Errorf("keys hash: %v %s", err, output)
		}
		a.silent("what keys hash says", string(output))
	}
	for _, w := range []struct{ name, value string }{
		{"LLMPROXY__ADMIN__TOKEN", canaryToken + " " + canaryToken},
		{"LLMPROXY__ADMIN__TOKNE", canaryToken},
		{"LLMPROXY__API_KEYS", canaryPlain},
		{"LLMPROXY__USAGE_HOOK__SECRET", canarySecret[:12]},
	} {
		cmd := exec.CommandContext(a.t.Context(), binary(a.t, "llmproxy"), "check", "-config", file)
		cmd.Env = append(os.Environ(), w.name+"="+w.value)
		cmd.WaitDelay = time.Second
		output, err := cmd.CombinedOutput()
		if err == nil {
			a.t.Errorf("%s is right: %s", w.name, output)
		}
		a.silent("what check says with "+w.name, string(output))
	}
}
