package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // a zone that was checked on one machine is known on all
	"unicode/utf8"
)

func (c *Config) checkAuth() {
	r, a := c.origin.report, &c.Auth
	if _, err := time.LoadLocation(a.Timezone); err != nil {
		r.fault("auth.timezone", "%s is not a time zone; write for example Asia/Shanghai or UTC", quote(a.Timezone))
	}
	if least := Duration(10 * time.Second); a.SnapshotMaxAge < least {
		r.fault("auth.snapshot_max_age", "must be at least %v: the copy is written ten times as often", least)
	}
	r.patterns("auth.defaults.allowed_models", a.Defaults.AllowedModels)
	keys := map[[sha256.Size]byte]string{}
	if c.Admin.Token != "" {
		keys[sha256.Sum256([]byte(c.Admin.Token))] = "admin.token"
	}
	for i := range c.APIKeys {
		k, key := &c.APIKeys[i], index("api_keys", i)
		if at := r.checkToken(k, key); at != "" {
			if first, twice := keys[k.Hash()]; twice {
				r.fault(at, "the same key as %s", first)
			} else {
				keys[k.Hash()] = key
			}
		}
		r.checkKey(k, key)
	}
}

// checkToken wants just one of the three ways to give a key, and returns the
// path of the one that is there, "" after a fault. No message shows a value: who
// writes a key where its hash belongs has written a key.
func (r *report) checkToken(k *APIKey, key string) string {
	at := key + ".key"
	if !r.has(at) && r.has(key+".key_file") {
		at = key + ".key_file"
	}
	switch {
	case k.KeyHash != "" && (k.Key != "" || k.KeyFile != ""):
		r.fault(key+".key_hash", "is set together with %s; one of them must go", at)
	case k.KeyHash != "":
		at = key + ".key_hash"
		if _, err := parseHash(string(k.KeyHash)); err != nil {
			r.fault(at, "%v", err)
			return ""
		}
		return at
	case k.Key == "" && k.KeyFile == "":
		r.fault(key+".key", "must be set, or key_file, or key_hash")
	case strings.ContainsRune(string(k.Key), ' '):
		r.fault(at, "must not hold a space: no client could send it")
	case k.Key != "":
		return at
	}
	return ""
}

// parseHash reads sha256: and 64 hex digits. No error shows s.
func parseHash(s string) (sum [sha256.Size]byte, err error) {
	digits, ok := strings.CutPrefix(s, "sha256:")
	n, err := hex.Decode(sum[:], []byte(digits[:min(len(digits), 2*len(sum))]))
	switch {
	case !ok || err != nil || n != len(sum) || len(digits) != 2*len(sum):
		return sum, errors.New("is not sha256: and 64 hex digits; `llmproxy keys hash` makes it")
	case sum == sha256.Sum256(nil):
		return sum, errors.New("is the hash of an empty key")
	}
	return sum, nil
}

// checkKey wants what is said of a key to fit into a list of keys.
func (r *report) checkKey(k *APIKey, key string) {
	const (
		mostText = 200 // characters
		mostList = 100
		mostJSON = 4 << 10 // bytes
	)
	for _, text := range []struct{ tag, is string }{{".name", k.Name}, {".user_id", k.UserID}} {
		if utf8.RuneCountInString(text.is) > mostText {
			r.fault(key+text.tag, "has more than %d characters", mostText)
		}
	}
	for _, list := range []struct {
		tag string
		n   int
	}{{".allowed_ips", len(k.AllowedIPs)}, {".allowed_models", len(k.AllowedModels)}} {
		if list.n > mostList {
			r.fault(key+list.tag, "has more than %d entries", mostList)
		}
	}
	r.patterns(key+".allowed_models", k.AllowedModels)
	// Go's zero time, which other programs write for "never", is long past.
	if r.has(key+".expires_at") && k.ExpiresAt.Unix() <= 0 {
		r.fault(key+".expires_at", "must be after 1970; for a key that never ends remove it")
	}
	if text, err := json.Marshal(k.Metadata); err != nil || len(text) > mostJSON {
		r.fault(key+".metadata", "is larger than %v as JSON", Size(mostJSON))
	}
}

// checkAdmin wants a token that nobody can guess.
func (c *Config) checkAdmin() {
	const least = 8 // bytes
	r, a, key := c.origin.report, c.Admin, c.tokenKey()
	switch token := string(a.Token); {
	case token == "" && a.TokenFile != "": // the file is at fault
	case token == "" && r.has("admin.token"):
		r.fault(key, "is empty; to have no admin API remove it")
	case token == "" && a.Listen != "":
		r.fault("admin.listen", "is of use with admin.token only: without one there is no admin API")
	case strings.ContainsFunc(token, func(b rune) bool { return b <= ' ' || b > '~' }):
		r.fault(key, "must be printable ASCII without spaces: no client could send it")
	case token != "" && len(token) < least:
		r.fault(key, "has %s", weak(len(token), least))
	}
}

// tokenKey is where the operator wrote the token.
func (c *Config) tokenKey() string {
	if key := "admin.token_file"; !c.origin.has("admin.token") && c.origin.has(key) {
		return key
	}
	return "admin.token"
}

func weak(n, least int) string {
	return fmt.Sprintf("%d bytes, fewer than %d: anybody could guess it; `openssl rand -base64 32` makes one", n, least)
}
