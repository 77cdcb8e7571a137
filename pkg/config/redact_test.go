package config

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func redacted(t *testing.T, c *Config) string {
	t.Helper()
	text, err := c.Redacted()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Whatever the operator reads, no secret must be in it.
func TestRedactedShowsNoSecret(t *testing.T) {
	c, err := Load("testdata/describe.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	c.UsageHook.URL = "http://me:hunter2@billing/usage%2Fa?token=hunter2#hunter2"
	c.Backends[1].URL = "http://hunter2:hun\x00ter2@gpu" // no URL at all
	text := redacted(t, c)
	for _, secret := range []string{"hunter2", "ter2", hashOfFoo[7:]} {
		if strings.Contains(text, secret) {
			t.Errorf("it shows %s:\n%s", secret, text)
		}
	}
	for _, want := range []string{
		`"key": "***"`, `"key_hash": "***"`, `"token": "***"`, `"password": "***"`, `"secret": "***"`, `"api_key": "***"`,
		`"url": "http://***@billing/usage%2Fa?***"`, `"at": "https://crm/?***"`, `"name": "Customers"`, `"contract": 7`, `"max_body_size": "64MiB"`,
		`"listen_mode": "0660"`, `"timeout": "2s"`, `"10.1.0.0/16"`, `"expires_at": "2026-01-01T00:00:00Z"`, `"timezone": "Asia/Shanghai"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not show %s:\n%s", want, text)
		}
	}
	if again := redacted(t, c); again != text || !json.Valid([]byte(text)) {
		t.Error("it differs from time to time, or is no JSON")
	}
}

// What is shown must be what is in force: read again it is the same.
func TestRedactedIsTheConfigurationInForce(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < 6 {
		t.Fatalf("%v %v", files, err)
	}
	for _, file := range append(files, filepath.Join(configs, "llmproxy.yaml")) {
		c, err := Load(file, nil)
		if err != nil {
			t.Fatal(err)
		}
		bare := shown{secret: func(s Secret) string { return string(s) }, text: func(s string) string { return s }}
		text, err := encode(bare.value(reflect.ValueOf(c).Elem()))
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("again.yaml", text, nil)
		if err != nil {
			t.Errorf("%s: %v\n%s", file, err, text)
			continue
		}
		if got, want := normal(again), normal(c); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
		}
		if got := redacted(t, c); strings.Count(got, "\n") != bytes.Count(text, []byte("\n")) {
			t.Errorf("%s: without secrets it has other lines:\n%s\n%s", file, got, text)
		}
	}
}

// Two gateways that differ in a secret alone do not do the same.
func TestDigestKnowsSecrets(t *testing.T) {
	const text = good + "usage_hook: {enabled: true, url: \"http://b/?t=1\", secret: hunter2hunter2hunter2}\n"
	one := parse(t, text).Digest()
	if len(one) != 64 || one != parse(t, text+"# a comment\n").Digest() {
		t.Errorf("it differs from time to time: %s", one)
	}
	for _, other := range []string{"hunter2hunter2hunter3", "t=2", "http://gpu-2:8000"} {
		from := map[string]string{"hunter2hunter2hunter3": "hunter2hunter2hunter2", "t=2": "t=1", "http://gpu-2:8000": "http://gpu-1:8000"}[other]
		if parse(t, strings.Replace(text, from, other, 1)).Digest() == one {
			t.Errorf("%s makes no difference", other)
		}
	}
}
