package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/keystore"
)

func runKeys(t *testing.T, wantCode int, stdin string, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	if code := manageKeys(args, strings.NewReader(stdin), &out, &errs); code != wantCode {
		t.Fatalf("keys %q: exit code %d, want %d\n%s%s", args, code, wantCode, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

// newKey makes a key and returns it with its id.
func newKey(t *testing.T, dir string, args ...string) (secret, id string) {
	t.Helper()
	out, errs := runKeys(t, 0, "", append([]string{"new", "-data", dir}, args...)...)
	m := regexp.MustCompile(`^key  (sk-llmproxy-[0-9A-Za-z]{36})\nid   ([0-9a-f]{16})\n$`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("keys new says %q", out)
	}
	if strings.Contains(errs, m[1]) || !strings.Contains(errs, "shown only now") || !strings.Contains(errs, dir) {
		t.Errorf("keys new notes %q", errs)
	}
	return m[1], m[2]
}

func keysIn(t *testing.T, dir string) []*auth.Key {
	t.Helper()
	s, err := keystore.OpenFile(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return s.Keys()
}

func TestEveryFlagOfANewKeyIsStored(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	secret, id := newKey(t, dir, "-name", "客户A", "-user-id", "customer_a", "-quota", "500000", "-period", "monthly", "-models", "llama-3-70b,qwen*",
		"-ips", "10.0.1.0/24,::1", "-expires", "2026-12-31T23:59:59Z", "-rps", "1", "-burst", "2", "-rpm", "3", "-tpm", "4", "-concurrent", "5",
		"-metadata", `{"tier": "gold"}`)
	k := keysIn(t, dir)[0]
	if k.ID().String() != id || k.Hash != auth.Hash(secret) || k.Last4 != secret[len(secret)-4:] {
		t.Errorf("the file has another key than was shown")
	}
	b, err := json.Marshal(keystore.View(k).Spec)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"name":"客户A","user_id":"customer_a","status":"active","total_quota":500000,"quota_reset_period":"monthly",` +
		`"allowed_models":["llama-3-70b","qwen*"],"allowed_ips":["10.0.1.0/24","::1"],"expires_at":"2026-12-31T23:59:59Z","metadata":{"tier":"gold"},` +
		`"requests_per_second":1,"burst_size":2,"requests_per_minute":3,"tokens_per_minute":4,"max_concurrent":5}`
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
	for _, o := range keyOptions() {
		if !strings.Contains(want, `"`+o.field+`"`) {
			t.Errorf("-%s is not tested", o.flag)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "keys.json"))
	if err != nil || strings.Contains(string(raw), secret[len("sk-llmproxy-"):len(secret)-4]) {
		t.Errorf("the key itself is in the file: %v", err)
	}
}

func TestDaysUntilAKeyExpires(t *testing.T) {
	dir := t.TempDir()
	before := time.Now().Add(-time.Second)
	newKey(t, dir, "-expires", "30d")
	end := keysIn(t, dir)[0].Expires.Time()
	if end.Before(before.AddDate(0, 0, 30)) || end.After(time.Now().AddDate(0, 0, 30)) {
		t.Errorf("30d from %s is %s", before, end)
	}
}

func TestNewKeyAsJSON(t *testing.T) {
	out, _ := runKeys(t, 0, "", "new", "-data", t.TempDir(), "-name", "a&b", "-format", "json")
	var made struct{ Key, ID, Name, Source, Status string }
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		t.Fatal(err)
	}
	k := auth.Key{Hash: auth.Hash(made.Key)}
	if made.ID != k.ID().String() || made.Name != "a&b" || made.Source != "file" || made.Status != "active" || !strings.Contains(out, "a&b") {
		t.Errorf("got %s", out)
	}
}

// A key that nobody has seen must not stay.
func TestKeyThatCannotBeShownIsNotMade(t *testing.T) {
	dir := t.TempDir()
	for _, format := range []string{"table", "json"} {
		var errs strings.Builder
		code := manageKeys([]string{"new", "-data", dir, "-format", format}, strings.NewReader(""), full{}, &errs)
		if code != exitFailed || !strings.Contains(errs.String(), "no space left") || len(keysIn(t, dir)) != 0 {
			t.Errorf("exit code %d, %d keys, %s", code, len(keysIn(t, dir)), errs.String())
		}
	}
}

func TestListOfKeys(t *testing.T) {
	dir := t.TempDir()
	if out, _ := runKeys(t, 0, "", "list", "-data", dir); !strings.HasPrefix(out, "id  last4  name") || strings.Count(out, "\n") != 1 {
		t.Errorf("no keys are listed as\n%s", out)
	}
	one, _ := newKey(t, dir, "-name", "team a", "-quota", "5", "-models", "a,b", "-expires", "2001-01-01T00:00:00Z")
	two, id := newKey(t, dir)
	runKeys(t, 0, "", "revoke", id, "-data", dir)
	out, _ := runKeys(t, 0, "", "list", "-data", dir)
	lines := strings.Split(out, "\n")
	cells := func(line string) string { return strings.Join(strings.Fields(line), " ") }
	created := keysIn(t, dir)[0].Created.Time().Format(time.RFC3339)
	want := fmt.Sprintf("%s %s team a - expired 5 - a,b - 2001-01-01T00:00:00Z %s", keysIn(t, dir)[0].ID(), one[len(one)-4:], created)
	if cells(lines[1]) != want || !strings.HasPrefix(cells(lines[2]), id+" "+two[len(two)-4:]+" - - disabled - - - - - ") {
		t.Errorf("got\n%s\nwant a line %s", out, want)
	}
	out, _ = runKeys(t, 0, "", "list", "-data", dir, "-format", "json")
	var listed []struct{ ID, Status string }
	if err := json.Unmarshal([]byte(out), &listed); err != nil || len(listed) != 2 || listed[1].ID != id || listed[1].Status != "disabled" {
		t.Errorf("%v\n%s", err, out)
	}
	if strings.Contains(out, "hash") {
		t.Errorf("the hash is shown: %s", out)
	}
}

func TestRevocation(t *testing.T) {
	dir := t.TempDir()
	_, one := newKey(t, dir)
	_, two := newKey(t, dir)
	for range 2 { // the second time changes nothing
		if out, _ := runKeys(t, 0, "", "revoke", "-data", dir, one); out != one+" is disabled\n" || !keysIn(t, dir)[0].Disabled || keysIn(t, dir)[1].Disabled {
			t.Errorf("got %q", out)
		}
	}
	if out, _ := runKeys(t, 0, "", "revoke", one, "-delete", "-data", dir); out != one+" is deleted\n" || len(keysIn(t, dir)) != 1 || keysIn(t, dir)[0].ID().String() != two {
		t.Errorf("got %q", out)
	}
	for _, args := range [][]string{{"revoke", one}, {"revoke", "-delete", one}} {
		_, errs := runKeys(t, exitFailed, "", append(args, "-data", dir)...)
		if want := filepath.Join(dir, "keys.json") + " has no key " + one + "; one of the configuration is revoked there, with status: disabled\n"; errs != want {
			t.Errorf("got %q, want %q", errs, want)
		}
	}
}

func TestKeysOfAConfiguration(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(t.TempDir(), "llmproxy.yaml")
	write := func(auth string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("backends: [{url: http://a}]\ndata_dir: "+dir+"\nauth: {enabled: "+auth+"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("true")
	if _, errs := runKeys(t, 0, "", "new", "-config", file); strings.Contains(errs, "note: ") || len(keysIn(t, dir)) != 1 {
		t.Errorf("%d keys, %s", len(keysIn(t, dir)), errs)
	}
	write("false")
	if _, errs := runKeys(t, 0, "", "new", "-config", file); !strings.HasPrefix(errs, "note: "+file+" does not ask for keys: set auth.enabled\n") {
		t.Errorf("a key of no use: %s", errs)
	}
	write("maybe")
	if _, errs := runKeys(t, exitUsage, "", "list", "-config", file); !strings.HasPrefix(errs, file+":3: auth.enabled") || strings.Contains(errs, "Usage") {
		t.Errorf("a wrong configuration: %s", errs)
	}
}

func TestABrokenFileIsTold(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys.json")
	if err := os.WriteFile(path, []byte("{\"version\": 1,\n\"keys\": [{}]}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"new"}, {"list"}, {"revoke", "0123456789abcdef"}} {
		if _, errs := runKeys(t, exitFailed, "", append(args, "-data", dir)...); !strings.HasPrefix(errs, path+":2: keys[0]: key_hash is missing") {
			t.Errorf("%s: %s", args[0], errs)
		}
	}
}

func TestHashOfAKey(t *testing.T) {
	want := fmt.Sprintf("key_hash: sha256:%x\n", auth.Hash("sk-llmproxy-dev-team-001"))
	for _, stdin := range []string{"sk-llmproxy-dev-team-001", "sk-llmproxy-dev-team-001\n", "sk-llmproxy-dev-team-001\r\n"} {
		if out, _ := runKeys(t, 0, stdin, "hash"); out != want {
			t.Errorf("%q: got %q, want %q", stdin, out, want)
		}
	}
	made, err := auth.Mint()
	if err != nil {
		t.Fatal(err)
	}
	mistyped := []byte(made)
	if mistyped[20]++; mistyped[20] == 'z'+1 || mistyped[20] == 'Z'+1 || mistyped[20] == '9'+1 {
		mistyped[20] -= 2
	}
	for _, c := range []struct{ name, stdin, want string }{
		{"nothing", "\n", "there is no key on standard input"},
		{"two keys", "sk-secret-1\nsk-secret-2\n", "the key has a blank, a line break"},
		{"a blank in front", " sk-secret", "the key has a blank, a line break"},
		{"another file", strings.Repeat("secret", 1000), "the key has more than 4096 bytes"},
		{"a slip of the finger", string(mistyped), "the key is mistyped"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, errs := runKeys(t, exitFailed, c.stdin, "hash")
			if out != "" || !strings.HasPrefix(errs, c.want) || strings.Contains(errs, "secret") || strings.Contains(errs, string(mistyped)) {
				t.Errorf("got %q and %q, want %q", out, errs, c.want)
			}
		})
	}
}

func TestKeysThatAreMisused(t *testing.T) {
	for _, c := range []struct{ name, args, want string }{
		{"nothing", "", "keys needs one of new, list, revoke and hash\n"},
		{"an unknown word", "nwe", "keys needs one of new, list, revoke and hash\n"},
		{"a key of nowhere", "new", "keys needs -config file or -data dir\n"},
		{"a key of two places", "new -config a -data b", "keys needs -config file or -data dir\n"},
		{"a name without its flag", "new -data a sk-secret", "unexpected argument number 1\n"},
		{"a key in the history", "hash sk-secret", "hash reads the key from standard input: others could see an argument\n"},
		{"nothing to revoke", "revoke -data a", "revoke needs the id of a key, as llmproxy keys list shows it\n"},
		{"a key for its id", "revoke -data a sk-secret", "a key's id has 16 hexadecimal digits\n"},
		{"two to revoke", "revoke -data a 0123456789abcdef 0123456789abcdee", "unexpected argument number 2\n"},
		{"no quota", "new -data a -quota 0", "-quota: must be at least 1: "},
		{"a word for a number", "new -data a -rps many", `invalid value "many" for flag -rps: write a whole number`},
		{"an unknown period", "new -data a -period hourly", "-period: must be daily, weekly, monthly or never\n"},
		{"a day", "new -data a -expires 2026-12-31", "-expires: is not a time in RFC 3339"},
		{"days that have gone", "new -data a -expires -1d", `invalid value "-1d" for flag -expires: write from 1d to 36600d`},
		{"an address by name", "new -data a -ips localhost", "-ips: [0] is neither an address nor a CIDR range"},
		{"metadata of no object", "new -data a -metadata 5", "-metadata: must be a JSON object\n"},
		{"an unknown format", "list -data a -format csv", `invalid value "csv" for flag -format: write table or json`},
		{"a flag of another word", "list -data a -delete", "flag provided but not defined: -delete"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			out, errs := runKeys(t, exitUsage, "", strings.Fields(c.args)...)
			if out != "" || !strings.HasPrefix(errs, c.want) || !strings.HasSuffix(errs, keysUsage()) {
				t.Errorf("output %q, error\n%s", out, errs)
			}
			if entries, err := os.ReadDir("."); err != nil || len(entries) > 0 {
				t.Errorf("it left %v, %v", entries, err)
			}
		})
	}
}
