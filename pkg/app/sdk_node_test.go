package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestOpenAINode is TestOpenAIGo with the official SDK for Node.
func TestOpenAINode(t *testing.T) {
	dir := filepath.Join("testdata", "sdk-node")
	if _, err := exec.LookPath("node"); err != nil {
		skipUnlessRequired(t, "node is not installed")
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "openai")); err != nil {
		skipUnlessRequired(t, "the SDK is not installed: run npm ci in pkg/app/testdata/sdk-node")
	}
	runSDK(t, func(t *testing.T, site sdkSite) map[string]any {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "node", "suite.mjs")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "BASE="+site.base, "TGI="+site.tgi, "ADMIN="+site.admin,
			fmt.Sprintf("ATTEMPTS=%d", site.attempts), fmt.Sprintf("SEATS=%d", sdkSeats))
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("the suite failed: %v\n%s", err, said.Bytes())
		}
		var record map[string]any
		if err := json.Unmarshal(out, &record); err != nil {
			t.Fatalf("the suite said no JSON: %v\n%s", err, out)
		}
		return record
	})
}

// skipUnlessRequired skips a test whose tools are missing, but not where they
// must be there.
func skipUnlessRequired(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" || os.Getenv("LLMPROXY_REQUIRE") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}
