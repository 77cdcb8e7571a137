package keystore

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

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

// A document that is taken must be one that the scripts find the revision of, and
// come back the same; one that is not must say so of an entry that allows nothing.
func FuzzParseDocument(f *testing.F) {
	k := &auth.Key{Hash: auth.Hash("a"), Source: auth.Stored, Name: "n"}
	for _, e := range []entry{{revision: 1, key: k}, {revision: mostRevision}, {revision: 7, fault: errUnreadable}} {
		text, err := e.document(k.ID())
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(text))
		f.Add([]byte(strings.Replace(text, "rev", "re\\u0076", 1)))
	}
	for _, seed := range []string{``, `{}`, `{"rev":1}`, `{"rev":0,"id":"0123456789abcdef","deleted":true}`, `{"rev":1,"id":"0123456789abcdef"}`, `{"id":"0123456789abcdef","rev":1,"deleted":true}`} {
		f.Add([]byte(seed))
	}
	prefix := regexp.MustCompile(`^{"rev":([1-9][0-9]*),`) // as in common.lua
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newReader(b)
		id, _, err := r.document()
		if err != nil {
			id = k.ID()
		}
		e := parseDocument(b, id)
		if e.fault != nil && !errors.Is(e.fault, errUnreadable) {
			if e.key != nil || strings.Contains(e.fault.Error(), "\n") {
				t.Fatalf("%q: %+v", b, e)
			}
			return
		}
		if !json.Valid(b) || e.revision < 1 || e.revision > mostRevision {
			t.Fatalf("%q is taken: %+v", b, e)
		}
		if m := prefix.FindSubmatch(b); m == nil || string(m[1]) != fmt.Sprint(e.revision) {
			t.Fatalf("%q: the scripts see another revision than %d", b, e.revision)
		}
		text, err := e.document(id)
		if err != nil {
			t.Fatal(err)
		}
		if again := parseDocument([]byte(text), id); !reflect.DeepEqual(again, e) {
			t.Fatalf("%q: %+v is read back as %+v", b, e, again)
		}
		if other := parseDocument(b, auth.ID{1}); other.fault == nil && id != (auth.ID{1}) {
			t.Fatalf("%q is taken for another key's", b)
		}
	})
}

// What is taken, with any checksum, must come back the same.
func FuzzParseSnapshot(f *testing.F) {
	k := &auth.Key{Hash: auth.Hash("a"), Source: auth.Stored, Name: "n"}
	s := &snapshot{epoch: "e", position: 5, synced: time.Unix(1, 2).UTC(), entries: map[auth.ID]entry{
		k.ID(): {revision: 3, key: k}, {1}: {revision: 4}, {2}: {revision: 5, fault: errUnreadable},
	}}
	text, err := s.text()
	if err != nil {
		f.Fatal(err)
	}
	_, body, _ := bytes.Cut(text, []byte("\n"))
	f.Add(body)
	f.Add([]byte(`"epoch":"","position":1,"synced_at":"x","documents":[]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := parseSnapshot(body); err == nil {
			t.Fatalf("%q is taken without its checksum", body)
		}
		s, err := parseSnapshot(append(fmt.Appendf(nil, snapshotHead, sha256.Sum256(body)), body...))
		if err != nil {
			if _, ok := errors.AsType[*fault](err); !ok || s != nil {
				t.Fatalf("%T %v", err, err)
			}
			return
		}
		text, err := s.text()
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseSnapshot(text)
		if err != nil || !again.synced.Equal(s.synced) {
			t.Fatalf("%q: %v, synced at %v", text, err, s.synced)
		}
		again.synced = s.synced
		if !reflect.DeepEqual(again, s) {
			t.Fatalf("%q: %+v is read back as %+v", body, s, again)
		}
	})
}
