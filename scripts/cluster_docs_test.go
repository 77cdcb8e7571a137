package scripts_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestRedisUserOfTheDocs: the ACL in docs/cluster.md lets a gateway do what it
// does, and no more.
func TestRedisUserOfTheDocs(t *testing.T) {
	line := regexp.MustCompile(`(?m)^user llmproxy .*$`).FindString(readPage(t, "docs/cluster.md").text)
	granted := map[string]bool{}
	for _, m := range regexp.MustCompile(`\+([a-z]\S*)`).FindAllStringSubmatch(line, -1) {
		granted[m[1]] = true
	}
	used := commandsOfRedis(t)
	if len(used) < 10 {
		t.Fatalf("only these commands were found: %q", used)
	}
	// What packages and the client library send themselves, besides @connection.
	used = append(used, "eval", "evalsha", "script|load", "role", "cluster|slots", "cluster|shards", "info", "config|get", "xread", "hscan")
	for _, name := range used {
		if !granted[name] {
			t.Errorf("docs/cluster.md: the user may not do %s", name)
		}
	}
	for name := range granted {
		if !slices.Contains(used, name) {
			t.Errorf("docs/cluster.md: the user need not do %s", name)
		}
	}
}

// commandsOfRedis are those that scripts call.
func commandsOfRedis(t *testing.T) []string {
	t.Helper()
	var all []string
	call := regexp.MustCompile(`redis\.p?call\(['"](\w+)['"]`)
	err := filepath.WalkDir("../pkg", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".lua" {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range call.FindAllStringSubmatch(string(b), -1) {
			if name := strings.ToLower(m[1]); !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
