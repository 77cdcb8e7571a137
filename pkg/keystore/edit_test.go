package keystore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/keystore"
)

// Whoever orders the file by hand must find it so after the next key is made.
func TestTextOfAPersonStays(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	line := func(secret, rest string) string {
		return fmt.Sprintf(`{ "name": %q, %s "key_hash": "sha256:%X" }`, secret, rest, auth.Hash(secret))
	}
	first, last := line("one", `"status":null,`), line("two", `"user_id" : "\u0061",`)
	write(t, s.Path(), "{\"keys\":[\n"+first+"\n, "+last+"],\n\"version\":1}", noon)
	reload(t, s, true)
	add(t, s, key("sk-three", "three"))
	text := read(t, s.Path())
	if !strings.HasPrefix(text, "{\"keys\":[\n"+first+"\n, "+last+",\n    {\n      \"key_hash\"") || !strings.HasSuffix(text, "\n    }],\n\"version\":1}") {
		t.Errorf("with one more:\n%s", text)
	}
	if _, err := s.Remove(s.Keys()[0].ID()); err != nil {
		t.Fatal(err)
	}
	if got := read(t, s.Path()); !strings.HasPrefix(got, "{\"keys\":[\n"+last+",\n") || names(open(t, dir)) != "two three" {
		t.Errorf("with one less:\n%s", got)
	}
	if user := s.Keys()[0].UserID; user != "a" {
		t.Errorf("user_id %q", user)
	}
}

func TestFilesThatAPersonBreaks(t *testing.T) {
	hash := fmt.Sprintf("sha256:%x", auth.Hash("sk-good"))
	id := key("sk-good", "").ID().String()
	whole := `{"version": 1, "keys": [` + "\n" + `{"key_hash": "` + hash + `"}` + "\n]}"
	entry := func(rest string) string { return strings.Replace(whole, `"}`, `",`+"\n"+rest+`}`, 1) }
	for _, c := range []struct{ name, text, want string }{
		{"nothing is everything", "", "1: must be a JSON object"},
		{"half a file", whole[:len(whole)-4], "2: key " + id + ": not JSON: there must be a comma or } here"},
		{"a comma too many", strings.Replace(whole, "\n]", ",\n]", 1), "3: keys[1]: must be a JSON object"},
		{"a comma too few", strings.Replace(whole, "\n]", "\n{}]", 1), "3: keys: not JSON: there must be a comma or ] here"},
		{"two files in one", whole + "\n" + whole, "4: not JSON: something stands behind its end"},
		{"a file of another program", "[]", "1: must be a JSON object"},
		{"no version", `{"keys":[]}`, `1: "version": 1 is missing`},
		{"no keys", `{"version":1}`, `1: "keys" is missing`},
		{"a later version", "{\"keys\":[],\n\"version\":2}", "2: version: must be 1: a newer LLMProxy"},
		{"a later field", `{"version":1,"keys":[],"kyes":[]}`, `1: unknown field "kyes"; did you mean "keys"?`},
		{"a key by its name", `{"version":1,"keys":{"sk-secret":{}}}`, "1: keys: must be a JSON array"},
		{"Latin-1", entry("\"name\": \"M\xfcller\""), "3: not UTF-8"},
		{"a byte order mark", "\xef\xbb\xbf" + whole, "1: not JSON: it begins with a byte order mark"},
		{"an unknown field is ignored", entry(`"allowed_ip": []`), "3: key " + id + `: unknown field "allowed_ip"; did you mean "allowed_ips"?`},
		{"the second of two is ignored", entry(`"name": "a", ` + "\n" + `"name": "b"`), "4: key " + id + ": name: is given twice"},
		{"0 is no limit", entry(`"tokens_per_minute": 0`), "3: key " + id + ": tokens_per_minute: must be at least 1: remove it for the default"},
		{"a quota of -1 is none", entry(`"total_quota": -1`), "3: key " + id + ": total_quota: must be at least 1"},
		{"no models are all", entry(`"allowed_models": []`), "3: key " + id + ": allowed_models: must not be empty"},
		{"a text is a number", entry(`"max_concurrent": "5"`), "3: key " + id + ": max_concurrent: must be a whole number"},
		{"a second key", entry("\"name\": \"a\"},\n{\"key_hash\": \"" + hash + `"`), "4: key " + id + ": key_hash: is that of the key in line 2"},
		{"no hash", `{"version":1,"keys":[{"name":"a"}]}`, "1: keys[0]: key_hash is missing: llmproxy keys hash prints it"},
		{"the key for its hash", `{"version":1,"keys":[{"key_hash":"sk-secret"}]}`, "1: keys[0]: key_hash: must be sha256: and 64 hexadecimal digits"},
		{"half a hash", `{"version":1,"keys":[{"key_hash":"` + hash[:70] + `"}]}`, "1: keys[0]: key_hash: must be sha256: and 64"},
		{"a hash of zeros", `{"version":1,"keys":[` + "\n" + `{"key_hash":"sha256:` + strings.Repeat("0", 64) + `"}]}`, "2: keys[0]: key_hash: is that of no key"},
		{"the hash of nothing", `{"version":1,"keys":[` + "\n" + `{"key_hash":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]}`, "2: keys[0]: key_hash: is that of no key"},
		{"the key in plain", entry(`"key": "sk-secret"`), "3: key " + id + `: unknown field "key"`},
		{"the key for a name", entry(`"sk-secret": {}`), "3: key " + id + ": unknown field; there are key_hash, "},
		{"the key for its end", entry(`"last4": "sk-secret"`), "3: key " + id + ": last4: must be the last four characters"},
		{"a time of no day", entry(`"created_at": "yesterday sk-secret"`), "3: key " + id + ": created_at: is not a time in RFC 3339"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, t.TempDir())
			add(t, s, key("sk-before", "before"))
			write(t, s.Path(), c.text, noon)
			got := refused(t, s)
			if again := refused(t, s); again != got {
				t.Errorf("the second time: %s", again)
			}
			if !strings.HasPrefix(got, s.Path()+":"+c.want) || !strings.HasSuffix(got, ": correct it; nothing of the file was taken over") {
				t.Errorf("got  %s\nwant %s:%s", got, s.Path(), c.want)
			}
			if strings.Contains(got, "secret") {
				t.Errorf("a secret is shown: %s", got)
			}
			if err := s.Add(key("sk-other", "other")); err == nil || read(t, s.Path()) != c.text || names(s) != "before" {
				t.Errorf("a change has overwritten what a person was writing: %v", err)
			}
			if _, err := keystore.OpenFile(filepath.Dir(s.Path()), clock); err == nil {
				t.Error("Open took the file")
			}
			write(t, s.Path(), whole, noon)
			reload(t, s, true)
		})
	}
}

func TestReloadOfWhatDidNotChange(t *testing.T) {
	s := open(t, t.TempDir())
	reload(t, s, false)
	add(t, s, key("sk-a-key", "a"))
	reload(t, s, false)
	before := s.Keys()
	old := noon.Add(-time.Hour)
	write(t, s.Path(), read(t, s.Path()), old) // touch(1), or an editor without a change
	reload(t, s, false)
	reload(t, s, false)
	if &s.Keys()[0] != &before[0] {
		t.Error("the keys were read again")
	}
	write(t, s.Path(), strings.Replace(read(t, s.Path()), `"a"`, `"b"`, 1), old.Add(time.Second))
	reload(t, s, true)
	if names(s) != "b" {
		t.Errorf("keys: %s", names(s))
	}
}

// Two changes in one tick of the file system's clock have one time, and can have
// one size.
func TestChangeInTheSameTickIsSeen(t *testing.T) {
	s := open(t, t.TempDir())
	add(t, s, key("sk-a-key", "a"))
	text := read(t, s.Path())
	write(t, s.Path(), text, noon.Add(-time.Second))
	reload(t, s, false)
	write(t, s.Path(), strings.Replace(text, `"a"`, `"b"`, 1), noon.Add(-time.Second))
	reload(t, s, true)
}

func TestAFileThatGoesKeepsTheKeys(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	add(t, s, key("sk-a-key", "a"))
	text := read(t, s.Path())
	if err := os.Remove(s.Path()); err != nil {
		t.Fatal(err)
	}
	if got := refused(t, s); !strings.Contains(got, "has gone and its keys stay in force: put it back, or write ") {
		t.Error(got)
	}
	if err := s.Add(key("sk-b-key", "b")); err == nil || !strings.Contains(err.Error(), "put it back") {
		t.Errorf("a new file would take the other keys away: %v", err)
	}
	write(t, s.Path(), text, noon)
	reload(t, s, false)
	write(t, s.Path(), `{"version": 1, "keys": []}`, noon)
	reload(t, s, true)
	if names(s) != "" {
		t.Errorf("keys: %s", names(s))
	}
}
