package keystore

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

// What is taken must be JSON that encoding/json reads in the same way, and what is
// applied must come back from the file the same.
func FuzzParseSpec(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, ` { "name" : "a\u00e9\n" , "status":null}`, `{"total_quota":5,"allowed_models":["a","b*"],"allowed_ips":["10.0.0.0/8","::1"]}`,
		`{"metadata":{"a":[{"b":"}\\\""}]},"expires_at":"2026-12-31T23:59:59Z"}`, `{"quota_reset_period":"monthly","burst_size":-1}`,
		`{"requests_per_second":1,"requests_per_minute":2,"tokens_per_minute":3,"max_concurrent":4,"user_id":"u"}`, `{"name":1}{`, "{\"name\":\"\xff\"}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSpec(b)
		if err != nil {
			if _, ok := errors.AsType[*SpecError](err); !ok || s != nil {
				t.Fatalf("%T %v, %v", err, err, s)
			}
			return
		}
		var want Spec
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatalf("%q is taken, and is none: %v", b, err)
		}
		got := *s
		got.null, got.Metadata, want.Metadata = nil, nil, nil
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: got %+v, want %+v", b, got, want)
		}
		k, err := s.Apply(auth.Key{Hash: auth.Hash(b), Source: auth.Stored})
		if err != nil {
			if _, ok := errors.AsType[*SpecError](err); !ok {
				t.Fatalf("%T %v", err, err)
			}
			return
		}
		if _, same, err := readBack(k); err != nil || !reflect.DeepEqual(same, k) {
			t.Fatalf("%q: %+v is read back as %+v; %v", b, k, same, err)
		}
	})
}

// Any file that is taken can be changed in all ways, and is then as it says.
func FuzzParseFile(f *testing.F) {
	hash := func(s string) string { return fmt.Sprintf(`"key_hash":"sha256:%x"`, auth.Hash(s)) }
	for _, keys := range []string{
		``, ` `, `{` + hash("a") + `}`, "\n{" + hash("a") + `,"status":"disabled"} , {"last4":"abcd",` + hash("b") + `}` + "\n",
		`{"created_at":"2026-12-31T23:59:59Z",` + hash("a") + `,"metadata":{"a":{}}},{},`, `{` + hash("a") + `},{` + hash("a") + `}`,
	} {
		f.Add([]byte(`{"version":1,"keys":[` + keys + `]}`))
		f.Add([]byte(`{"keys":[` + keys + `],"version":1}` + "\n"))
	}
	f.Add([]byte(`{"versi\n":1`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parse(b)
		if err != nil {
			if at, ok := errors.AsType[*fault](err); !ok || at.at < 0 || at.at > len(b) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%T %v", err, err)
			}
			return
		}
		if !json.Valid(b) {
			t.Fatalf("%q is taken, and is not JSON", b)
		}
		check := func(next *document, want []*auth.Key, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			again, err := parse(next.text)
			equal := func(a, b *auth.Key) bool { return reflect.DeepEqual(a, b) }
			if err != nil || !slices.EqualFunc(again.keys, next.keys, equal) || !slices.EqualFunc(again.keys, want, equal) {
				t.Fatalf("%q: the store has %+v, want %+v; %v", next.text, next.keys, want, err)
			}
		}
		if k := (&auth.Key{Hash: auth.Hash(b), Source: auth.Stored}); d.index(k.ID()) < 0 {
			next, err := d.with(k)
			check(next, append(slices.Clone(d.keys), k), err)
		}
		for i := range d.keys {
			check(d.without(i), slices.Delete(slices.Clone(d.keys), i, i+1), nil)
			k := *d.keys[i]
			k.Disabled = !k.Disabled
			want := slices.Clone(d.keys)
			want[i] = &k
			next, err := d.changed(i, &k)
			check(next, want, err)
		}
	})
}

// The names that are read and those that are written are two lists.
func TestFieldsThatAreReadAreThoseThatAreWritten(t *testing.T) {
	var tags []string
	for f := range reflect.TypeFor[Spec]().Fields() {
		if tag, _, ok := strings.Cut(f.Tag.Get("json"), ","); ok {
			tags = append(tags, tag)
		}
	}
	if !slices.Equal(tags, specFields) {
		t.Errorf("%q are written, %q are read", tags, specFields)
	}
	var s Spec
	for _, field := range specFields {
		if s.text(field) == nil && s.number(field) == nil && field != "allowed_models" && field != "allowed_ips" && field != "metadata" {
			t.Errorf("%s has no place", field)
		}
	}
}
