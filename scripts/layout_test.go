// Package scripts_test checks what holds the repository together.
package scripts_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/llmproxy/llmproxy/"

// layout is the picture: what each package imports of ours, tests apart. A new
// package, or a new arrow, is drawn here first.
var layout = map[string][]string{
	// Leaves.
	"pkg/config":    {},
	"pkg/journal":   {},
	"pkg/limit":     {},
	"pkg/mockvllm":  {},
	"pkg/openai":    {},
	"pkg/quota":     {},
	"pkg/redis":     {},
	"pkg/redistest": {},
	"pkg/route":     {},
	"pkg/socket":    {},
	"pkg/stats":     {},
	"pkg/webhook":   {},
	// The hot path.
	"pkg/admit":    {"pkg/limit", "pkg/quota"},
	"pkg/auth":     {"pkg/limit", "pkg/quota"},
	"pkg/events":   {"pkg/journal", "pkg/webhook"},
	"pkg/forward":  {"pkg/openai", "pkg/route", "pkg/socket", "pkg/stats", "pkg/usage"},
	"pkg/listener": {"pkg/socket"},
	"pkg/gateway": {
		"pkg/admit", "pkg/auth", "pkg/events", "pkg/forward", "pkg/limit", "pkg/listener", "pkg/openai", "pkg/quota", "pkg/route",
		"pkg/stats", "pkg/usage",
	},
	"pkg/usage": {"pkg/openai"},
	// The control plane.
	"pkg/admin":    {"pkg/admit", "pkg/auth", "pkg/cluster", "pkg/keystore", "pkg/openai", "pkg/route"},
	"pkg/health":   {"pkg/route"},
	"pkg/cluster":  {"pkg/admit", "pkg/limit", "pkg/quota", "pkg/redis"},
	"pkg/keystore": {"pkg/auth", "pkg/quota", "pkg/redis"},
	"pkg/app": {
		"pkg/admin", "pkg/admit", "pkg/auth", "pkg/cluster", "pkg/config", "pkg/events", "pkg/forward", "pkg/gateway", "pkg/health",
		"pkg/journal", "pkg/keystore", "pkg/limit", "pkg/listener", "pkg/openai", "pkg/quota", "pkg/redis", "pkg/route", "pkg/stats",
		"pkg/webhook",
	},
	// Programs and tests.
	"pkg/apptest":   {"pkg/app", "pkg/config", "pkg/mockvllm"},
	"cmd/llmproxy":  {"pkg/app", "pkg/auth", "pkg/config", "pkg/events", "pkg/keystore"},
	"cmd/mockvllm":  {"pkg/mockvllm"},
	"docs/receiver": {},
	// Measuring.
	"bench/bare":         {},
	"bench/instructions": {"bench/tenants"},
	"bench/peers":        {"bench/results", "bench/tenants"},
	"bench/report":       {"bench/results", "loadtest/result"},
	"bench/results":      {},
	"bench/reverseproxy": {},
	"bench/tenants":      {},
	"loadtest":           {},
	"loadtest/picture":   {"loadtest/result"},
	"loadtest/process":   {},
	"loadtest/result":    {},
	"loadtest/run":       {"loadtest", "loadtest/picture", "loadtest/process", "loadtest/result", "loadtest/scenario", "pkg/mockvllm"},
	"loadtest/scenario":  {"loadtest/result"},
	"scripts/demo":       {"loadtest", "loadtest/process"},
}

// The hot path never meets what reads files, watches them or keeps a
// connection to somewhere else; not through another package either.
var (
	hotPath = []string{
		"pkg/admit", "pkg/auth", "pkg/events", "pkg/forward", "pkg/gateway", "pkg/limit", "pkg/listener", "pkg/openai", "pkg/quota",
		"pkg/route", "pkg/socket", "pkg/stats", "pkg/usage",
	}
	forbidden = []string{"github.com/knadh/koanf", "github.com/fsnotify/", "go.yaml.in/", "github.com/redis/", module + "pkg/config"}
)

// goPackage is what `go list -json` says of a package.
type goPackage struct {
	ImportPath    string
	GoFiles       []string
	Imports, Deps []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,GoFiles,Imports,Deps", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cannot list the packages: %v", err)
	}
	var all []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestPackagesImportWhatThePictureSays(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if len(p.GoFiles) == 0 {
			continue // tests only
		}
		allowed, ok := layout[name]
		if !ok {
			t.Errorf("%s is not in the picture", name)
			continue
		}
		seen[name] = true
		for _, i := range p.Imports {
			if ours, ok := strings.CutPrefix(i, module); ok && !slices.Contains(allowed, ours) {
				t.Errorf("%s must not import %s", name, ours)
			}
		}
		if slices.Contains(hotPath, name) {
			checkHotPath(t, name, p.Deps)
		}
	}
	for name := range layout {
		if !seen[name] {
			t.Errorf("%s is in the picture, and nowhere else", name)
		}
	}
}

func checkHotPath(t *testing.T, name string, deps []string) {
	t.Helper()
	for _, d := range deps {
		for _, f := range forbidden {
			if strings.HasPrefix(d, f) {
				t.Errorf("%s is on the hot path and depends on %s", name, d)
			}
		}
	}
}
