package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "gpu.key"), "sk-gpu\r\n", 0o600)
	write(t, filepath.Join(dir, "open.key"), "sk-open, of 16 bytes", 0o604)
	write(t, filepath.Join(dir, "empty.key"), "\n", 0o600)
	path := filepath.Join(dir, "f.yaml")

	write(t, path, "backends: [{url: http://a, api_key_file: gpu.key}]\nusage_hook: {secret_file: open.key}\n", 0o644)
	c, err := Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Backends[0].APIKey != "sk-gpu" || c.UsageHook.Secret != "sk-open, of 16 bytes" {
		t.Errorf("files are not read beside the configuration, or not trimmed: %q", string(c.Backends[0].APIKey))
	}
	wantWarnings(t, c, filepath.Join(dir, "open.key")+" holds secrets and every user of this machine can read it; chmod 600 it")

	write(t, path, "backends: [{url: http://a, api_key_file: empty.key}]\n", 0o644)
	if _, err := Load(path, nil); err == nil || err.Error() != path+":1: backends[0].api_key_file: "+filepath.Join(dir, "empty.key")+" is empty" {
		t.Errorf("an empty file is no secret: %v", err)
	}
}

func TestReadableConfigurationIsWarnedOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.yaml")
	load := func(text string, mode os.FileMode, environ ...string) *Config {
		t.Helper()
		write(t, path, text, mode)
		c, err := Load(path, environ)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	secret := good + "    api_key: hunter2\n"
	wantWarnings(t, load(secret, 0o644), path+" holds secrets and every user of this machine can read it; chmod 600 it")
	wantWarnings(t, load(secret, 0o640))
	wantWarnings(t, load(good, 0o644))
	wantWarnings(t, load(good, 0o644, "LLMPROXY__USAGE_HOOK__SECRET=hunter2hunter2hunter2"))
}

// An empty key signs what anybody can sign.
func TestSecretsOfTheHook(t *testing.T) {
	const head = "usage_hook:\n  enabled: true\n  url: http://a\n"
	key := filepath.Join(t.TempDir(), "hook.key")
	write(t, key, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", 0o600)
	const empty = "is empty; to send reports without a signature remove it"
	const short = "bytes, fewer than 16: anybody could guess it; `openssl rand -base64 32` makes one, to put after whsec_"
	for _, c := range []struct{ name, text, want string }{
		{"no signature is refused", head, ""},
		{"empty", head + `  secret: ""`, "f.yaml:6: usage_hook.secret: " + empty},
		{"empty name of the file", head + `  secret_file: ""`, "f.yaml:6: usage_hook.secret_file: " + empty},
		{"the reference file's empty secret beside the file", head + "  secret: \"\"\n  secret_file: " + key, ""},
		{"the reference file, hook off", "usage_hook: {enabled: false, secret: \"\", secret_file: \"\"}", ""},
		{"too short", head + "  secret: fifteen bytes..", "f.yaml:6: usage_hook.secret: has 15 " + short},
		{"long enough is refused", head + "  secret: 16 bytes of text", ""},
		{"too short, hook off", "usage_hook: {secret: hunter2}", "f.yaml:3: usage_hook.secret: has 7 " + short},
		{"the prefix counts", head + "  secret: whsec_aHVudGVyMg==", "f.yaml:6: usage_hook.secret: has 7 " + short},
		{"Standard Webhooks' own is refused", head + "  secret: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", ""},
		{"half a line was copied", head + "  secret: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", "f.yaml:6: usage_hook.secret: is not base64 after whsec_"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.want == "" {
				parse(t, good+c.text+"\n")
				return
			}
			faults(t, good+c.text+"\n", nil, c.want)
		})
	}
}

// Whatever is printed, a secret must not be.
func TestSecretIsNeverFormatted(t *testing.T) {
	s := Secret("hunter2")
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		for _, v := range []any{s, &s, APIKey{Key: s}, []APIKey{{Key: s}}} {
			if got := fmt.Sprintf(format, v); strings.Contains(got, "hunter2") || strings.Contains(got, "68756e74657232") {
				t.Errorf("%s of %T shows the secret: %s", format, v, got)
			}
		}
	}
	if text, err := s.MarshalText(); err != nil || string(text) != hidden {
		t.Errorf("MarshalText: %s, %v", text, err)
	}
}
