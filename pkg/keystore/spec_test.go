package keystore_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/keystore"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

// full is a key that says everything.
func full() auth.Key {
	return auth.Key{
		Hash: auth.Hash("sk-full"), Last4: "full", Name: "n", UserID: "u", Disabled: true, Source: auth.Stored,
		Quota: 5, Period: quota.Weekly, HasPeriod: true, Models: []string{"m*"}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Expires: 1e9, Created: 2e9, Metadata: `{"a":1}`,
		Limits: &auth.Own{RequestsPerSecond: 1, BurstSize: 2, RequestsPerMinute: 3, TokensPerMinute: 4, MaxConcurrent: 5},
	}
}

const fullSpec = `{"name":"n","user_id":"u","status":"disabled","total_quota":5,"quota_reset_period":"weekly","allowed_models":["m*"],
	"allowed_ips":["10.0.0.0/8"],"expires_at":"2001-09-09T01:46:40Z","metadata":{"a" : 1},
	"requests_per_second":1,"burst_size":2,"requests_per_minute":3,"tokens_per_minute":4,"max_concurrent":5}`

// apply fails the test if body cannot be applied to k.
func apply(t testing.TB, body string, k auth.Key) auth.Key {
	t.Helper()
	s, err := keystore.ParseSpec([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Apply(k)
	if err != nil {
		t.Fatal(err)
	}
	return *got
}

func TestWhatASpecSaysIsApplied(t *testing.T) {
	bare := full()
	bare = auth.Key{Hash: bare.Hash, Last4: bare.Last4, Source: bare.Source, Created: bare.Created}
	if got := apply(t, fullSpec, bare); !reflect.DeepEqual(got, full()) {
		t.Errorf("got  %+v\nwant %+v", got, full())
	}
	if got := apply(t, `{}`, full()); !reflect.DeepEqual(got, full()) {
		t.Errorf("nothing said: %+v", got)
	}
	var fields map[string]any
	if err := json.Unmarshal([]byte(fullSpec), &fields); err != nil {
		t.Fatal(err)
	}
	for name := range fields {
		fields[name] = nil
	}
	cleared, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	before := full()
	if got := apply(t, string(cleared), before); !reflect.DeepEqual(got, bare) {
		t.Errorf("all null: got %+v\nwant %+v", got, bare)
	}
	if !reflect.DeepEqual(before, full()) {
		t.Errorf("the key itself has changed: %+v", before)
	}
}

// Keys share their limits: what changes those of one must not change another's.
func TestOneFieldOfManyIsChanged(t *testing.T) {
	k := full()
	got := apply(t, `{"burst_size":null,"max_concurrent":50,"status":"active"}`, k)
	want := auth.Own{RequestsPerSecond: 1, RequestsPerMinute: 3, TokensPerMinute: 4, MaxConcurrent: 50}
	if *got.Limits != want || *k.Limits != *full().Limits || got.Disabled || got.Quota != 5 {
		t.Errorf("got %+v %+v, and before %+v", got, *got.Limits, *k.Limits)
	}
}

func TestSpecsThatAreRefused(t *testing.T) {
	long := strings.Repeat("语", 201)
	for _, c := range []struct{ name, body, field, want string }{
		{"nothing", "", "", "line 1: must be a JSON object"},
		{"null is all", "null", "", "line 1: must be a JSON object"},
		{"an array", "[]", "", "line 1: must be a JSON object"},
		{"a tail", "{}\n{}", "", "line 2: not JSON: something stands behind its end"},
		{"a name without quotes", `{name: "a"}`, "", "line 1: not JSON: there must be a name in double quotes here"},
		{"no colon", `{"name" "a"}`, "", "line 1: not JSON: there must be a colon here"},
		{"a string without end", `{"name": "a`, "name", "not JSON: a string has no end"},
		{"a string that ends in \\", `{"name": "a\`, "name", "not JSON: a string has no end"},
		{"a line break in a string", "{\"name\": \"a\nb\"}", "name", "not JSON: a string must not hold a line break"},
		{"an escape of another language", `{"name": "\x41"}`, "name", `not JSON: a \ in the string begins nothing that JSON knows`},
		{"not UTF-8", "{\"name\": \"\xff\"}", "", "line 1: not UTF-8"},
		{"a name twice, once in disguise", `{"name": "a", "n\u0061me": "b"}`, "name", "is given twice"},
		{"another case", `{"Name": "a"}`, "", `line 1: unknown field "Name"; did you mean "name"?`},
		{"a line of a log in a name", `{"user_\nid": "a"}`, "", `line 1: unknown field "user_\nid"; did you mean "user_id"?`},
		{"a word left out", `{"quota": 5}`, "", `line 1: unknown field "quota"; there are name, user_id, `},
		{"letters in the wrong order", `{"toatl_quota": 5}`, "", `line 1: unknown field "toatl_quota"; did you mean "total_quota"?`},
		{"the hash is not for a person to set", `{"key_hash": "x"}`, "", `line 1: unknown field "key_hash"; there are`},
		{"a secret for a name", `{"sk-llmproxy-dev-team-001": 1}`, "", "line 1: unknown field; there are"},
		{"a long name", `{"` + strings.Repeat("a", 1e6) + `": 1}`, "", "line 1: unknown field; there are"},
		{"a name of a wrong type", `{"name": 5}`, "name", "must be a string"},
		{"a long name of a key", `{"name": "` + long + `"}`, "name", "must have at most 200 characters"},
		{"an escape sequence", `{"name": "\u001b[2J"}`, "name", "must not hold control characters"},
		{"a line of a log", `{"user_id": "a\nlevel=INFO"}`, "user_id", "must not hold control characters"},
		{"a text that turns", `{"user_id": "\u202egpj"}`, "user_id", "must not hold control characters"},
		{"an unknown status", `{"status": "revoked"}`, "status", "must be active or disabled"},
		{"no quota at all", `{"total_quota": 0}`, "total_quota", "must be at least 1: remove it for the default; to refuse a key, write status disabled"},
		{"a quota with a point", `{"total_quota": 1e6}`, "total_quota", "must be a whole number, in plain digits"},
		{"a quota beyond 64 bits", `{"total_quota": 9223372036854775808}`, "total_quota", "must be a whole number"},
		{"a quota whose sums overflow", `{"total_quota": 9223372036854775807}`, "total_quota", "must be at most 1000000000000000"},
		{"a number with a zero in front", `{"total_quota": 010}`, "total_quota", "must be a whole number"},
		{"the zero time is a mistake, not for ever", `{"expires_at":"0001-01-01T00:00:00Z"}`, "expires_at", "must be after 1970"},
		{"the start of 1970 too", `{"expires_at":"1970-01-01T00:00:00Z"}`, "expires_at", "must be after 1970"},
		{"a limit whose times overflow", `{"burst_size": 1000000001}`, "burst_size", "must be at most 1000000000"},
		{"an hour", `{"quota_reset_period": "hourly"}`, "quota_reset_period", "must be daily, weekly, monthly or never"},
		{"a model for a list", `{"allowed_models": "m"}`, "allowed_models", "must be a JSON array"},
		{"no models", `{"allowed_models": []}`, "allowed_models", "must not be empty: remove it for any model"},
		{"an empty model", `{"allowed_models": ["a", ""]}`, "allowed_models", "[1] must not be empty"},
		{"too many models", `{"allowed_models": ["a"` + strings.Repeat(`,"a"`, 100) + `]}`, "allowed_models", "must have at most 100 elements"},
		{"no addresses", `{"allowed_ips": []}`, "allowed_ips", "must not be empty: remove it for any address"},
		{"a name for an address", `{"allowed_ips": ["localhost"]}`, "allowed_ips", "[0] is neither an address nor a CIDR range"},
		{"an interface", `{"allowed_ips": ["fe80::1%eth0"]}`, "allowed_ips", "[0] is neither an address nor a CIDR range"},
		{"an address with a mask", `{"allowed_ips": ["::1", "10.0.1.7/24"]}`, "allowed_ips", "[1] has bits beyond its /24; did you mean 10.0.1.0/24?"},
		{"a day", `{"expires_at": "2026-12-31"}`, "expires_at", "is not a time in RFC 3339"},
		{"metadata of no object", `{"metadata": "a"}`, "metadata", "must be a JSON object"},
		{"metadata without end", `{"metadata": {"a": [1}`, "metadata", "must be a JSON object"},
		{"metadata of another language", `{"metadata": {a: 1}}`, "metadata", "must be a JSON object"},
		{"much metadata", `{"metadata": {"a": "` + strings.Repeat("a", 4089) + `"}}`, "metadata", "must have at most 4096 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := keystore.ParseSpec([]byte(c.body))
			if err == nil {
				_, err = s.Apply(auth.Key{})
			}
			var fault *keystore.SpecError
			if !errors.As(err, &fault) || fault.Field != c.field || !strings.HasPrefix(fault.Message, c.want) {
				t.Fatalf("got %v, want %s: %s", err, c.field, c.want)
			}
			if len(fault.Error()) > 400 || strings.Contains(fault.Error(), "team") {
				t.Errorf("more than a person reads, or should: %s", fault)
			}
		})
	}
}

func TestWhatMayBeWritten(t *testing.T) {
	for _, c := range []struct {
		name, body string
		want       func(k auth.Key) bool
	}{
		{"a key that has expired", `{"expires_at":"1999-01-01T00:00:00Z"}`, func(k auth.Key) bool { return k.Expires < 1e9 && k.Expires > 0 }},
		{"an empty name is none", `{"name":""}`, func(k auth.Key) bool { return k.Name == "" }},
		{"escapes", `{"name":"\ud83d\ude00\"\\\/"}`, func(k auth.Key) bool { return k.Name == `😀"\/` }},
		{"200 characters", `{"name":"` + strings.Repeat("语", 200) + `"}`, func(k auth.Key) bool { return len(k.Name) == 600 }},
		{"a backslash at the end", `{"name":"\\"}`, func(k auth.Key) bool { return k.Name == `\` }},
		{"metadata as long as may be", `{"metadata":{"a" : "` + strings.Repeat("a", 4088) + `"}}`, func(k auth.Key) bool { return len(k.Metadata) == 4096 }},
		{"brackets in metadata's strings", `{"metadata":{"a}]\"":"[{\\"}}`, func(k auth.Key) bool { return k.Metadata == `{"a}]\"":"[{\\"}` }},
		{"metadata without anything", `{"metadata":{}}`, func(k auth.Key) bool { return k.Metadata == "{}" }},
		{"the most of all", `{"total_quota":1000000000000000,"burst_size":1000000000}`, func(k auth.Key) bool { return k.Quota == 1e15 && k.Limits.BurstSize == 1e9 }},
		{"single addresses", `{"allowed_ips":["10.0.0.7","::1"]}`, func(k auth.Key) bool {
			return k.Addresses[0].String() == "10.0.0.7/32" && k.Addresses[1].String() == "::1/128"
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if k := apply(t, c.body, auth.Key{}); !c.want(k) {
				t.Errorf("got %+v", k)
			}
		})
	}
}

// What is shown must be what PATCH takes, and never lead back to the secret.
func TestViewIsASpecWithoutTheSecret(t *testing.T) {
	k := full()
	b, err := json.Marshal(keystore.View(&k))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "hash") || strings.Contains(string(b), fmt.Sprintf("%x", k.Hash)) {
		t.Errorf("the hash is shown: %s", b)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"id": `"` + k.ID().String() + `"`, "last4": `"full"`, "source": `"file"`, "read_only": "false", "created_at": `"2033-05-18T03:33:20Z"`,
	} {
		if string(fields[name]) != want {
			t.Errorf("%s is %s, want %s", name, fields[name], want)
		}
		delete(fields, name)
	}
	rest, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	if got := apply(t, string(rest), auth.Key{Hash: k.Hash, Last4: k.Last4, Source: k.Source, Created: k.Created}); !reflect.DeepEqual(got, k) {
		t.Errorf("got  %+v\nwant %+v", got, k)
	}
	k = auth.Key{Hash: k.Hash}
	if b, err = json.Marshal(keystore.View(&k)); err != nil || string(b) != `{"id":"`+k.ID().String()+`","source":"config","read_only":true,"status":"active"}` {
		t.Errorf("a key that says nothing: %s, %v", b, err)
	}
}
