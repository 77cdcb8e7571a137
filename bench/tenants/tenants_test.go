package tenants_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/bench/tenants"
	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/keystore"
)

// A keys file that the gateway does not read as meant would have something else
// measured.
func TestFileIsReadAsMeant(t *testing.T) {
	dir := t.TempDir()
	const secret, others = "sk-0123456789abcdef", 100
	if err := tenants.Write(dir, tenants.Used{Secret: secret, Models: []string{"m"}, Quota: 7}, others); err != nil {
		t.Fatal(err)
	}
	store, err := keystore.OpenFile(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := auth.NewKeyring(store.Keys(), auth.Defaults{})
	if err != nil {
		t.Fatal(err)
	}
	if ring.Len() != others+1 {
		t.Errorf("%d keys, want %d", ring.Len(), others+1)
	}
	used, verdict := ring.Find([]byte(secret), time.Now())
	if verdict != auth.Known {
		t.Fatalf("the key in use is %v", verdict)
	}
	l := ring.Limits(used)
	if n, _ := ring.Quota(used); n != 7 || !ring.HasModels(used) || !ring.HasAddresses(used) || l.Concurrent == 0 ||
		!l.PerSecond.Limited() || !l.PerMinute.Limited() || !l.Tokens.Limited() {
		t.Errorf("the key in use lacks a limit: %+v, %+v", used, l)
	}
	for _, i := range []int{0, others - 1} {
		k, verdict := ring.Find([]byte(tenants.Secret(i)), time.Now())
		if verdict != auth.Known || ring.Limits(k).PerMinute.Burst != 1 {
			t.Errorf("key %d is %v: %+v", i, verdict, k)
		}
	}
	if len(tenants.Secret(0)) != len(secret) || len(tenants.Secret(99_999)) != len(secret) {
		t.Error("keys differ in length, and so do the requests of which they are a part")
	}
}

// A key that is made by a command must have what one of a file has, or their figures
// are not of the same.
func TestCommandSaysWhatTheFileSays(t *testing.T) {
	dir := t.TempDir()
	u := tenants.Used{Secret: "sk-0123456789abcdef", Models: []string{"m", "n"}, Quota: 7}
	if err := tenants.Write(dir, u, 0); err != nil {
		t.Fatal(err)
	}
	store, err := keystore.OpenFile(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	said := u.Flags()
	v := keystore.View(store.Keys()[0])
	for flag, value := range map[string]any{
		"-name": v.Name, "-user-id": v.UserID, "-models": v.AllowedModels, "-ips": v.AllowedIPs, "-quota": v.TotalQuota,
		"-rps": v.RequestsPerSecond, "-rpm": v.RequestsPerMinute, "-tpm": v.TokensPerMinute, "-concurrent": v.MaxConcurrent,
	} {
		want, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.Index(said, flag)
		if i < 0 || strings.Trim(strings.ReplaceAll(string(want), `","`, ","), `[]"`) != said[i+1] {
			t.Errorf("%s is %s in the file; the command says %q", flag, want, said)
		}
	}
}
