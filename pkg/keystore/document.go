package keystore

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

// blank is a file without keys.
const blank = "{\n  \"version\": 1,\n  \"keys\": []\n}\n"

// document is the text of a keys file and the keys in it. A change touches no
// other key's text, so that a person finds the file as it was.
type document struct {
	text  []byte
	keys  []*auth.Key
	spans []span // of the keys' objects
	list  span   // of what is between the brackets
}

// span is a part of a text.
type span struct{ from, to int }

// parse reads a keys file. Its error is a *fault.
func parse(b []byte) (*document, error) {
	d := &document{text: b}
	r := newReader(b)
	if err := r.checkEncoding(); err != nil {
		return nil, err
	}
	version := int64(0)
	fields := []string{"version", "keys"}
	err := r.members(fields, make([]int, len(fields)), func(field string) (err error) {
		at := r.at
		if field == "keys" {
			return r.keys(d)
		}
		if version, err = r.integer(); err == nil && version != 1 {
			return &fault{at: at, message: "must be 1: a newer LLMProxy may have written the file, then use that"}
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case version == 0:
		return nil, &fault{message: `"version": 1 is missing`}
	case d.list == span{}:
		return nil, &fault{message: `"keys" is missing`}
	}
	d.keys = slices.Clone(d.keys) // without the room to grow: they stay for long
	return d, r.end()
}

// reader reads a keys file, and keeps one of what many keys say alike.
type reader struct {
	text
	known     map[auth.ID]int      // and where each begins
	models    map[string]*auth.Key // a key that has the list
	addresses map[string]*auth.Key
	limits    map[auth.Own]*auth.Own
}

func newReader(b []byte) *reader {
	return &reader{
		text: text{b: b}, known: map[auth.ID]int{},
		models: map[string]*auth.Key{}, addresses: map[string]*auth.Key{}, limits: map[auth.Own]*auth.Own{},
	}
}

func (r *reader) keys(d *document) error {
	d.list.from = r.at + 1
	err := r.list(func() error {
		from := r.at
		k, err := r.key()
		if f, ok := errors.AsType[*fault](err); ok {
			which := fmt.Sprintf("keys[%d]", len(d.keys))
			if k != nil {
				which = "key " + k.ID().String()
			}
			return &fault{at: f.at, field: which, message: f.Error()}
		}
		d.keys, d.spans = append(d.keys, k), append(d.spans, span{from, r.at})
		return nil
	})
	d.list.to = r.at - 1
	return err
}

var entryFields = slices.Concat([]string{"key_hash", "last4", "created_at"}, specFields)

// key reads an entry. With an error the key is nil unless its hash is known.
func (r *reader) key() (*auth.Key, error) {
	d := newDraft(r.at, entryFields)
	err := r.members(entryFields, d.places, func(field string) error { return d.read(&r.text, field) })
	if err != nil || !d.hashed {
		return d.refused(err)
	}
	if at, ok := r.known[d.key.ID()]; ok {
		return d.key, &fault{at: d.from, field: "key_hash", message: fmt.Sprintf("is that of the key in line %d", line(r.b, at))}
	}
	r.known[d.key.ID()] = d.from
	return r.finish(d)
}

// draft is a key while its fields are read.
type draft struct {
	key    *auth.Key
	hashed bool // the key's hash is known
	spec   Spec
	from   int // where the key begins
	fields []string
	places []int // of the fields' values
}

func newDraft(from int, fields []string) *draft {
	return &draft{key: &auth.Key{Source: auth.Stored}, from: from, fields: fields, places: make([]int, len(fields))}
}

// read moves t over the value of one of entryFields.
func (d *draft) read(t *text, field string) (err error) {
	switch field {
	case "key_hash":
		d.key.Hash, err = t.hash()
		d.hashed = err == nil
	case "last4":
		d.key.Last4, err = t.last4()
	case "created_at":
		d.key.Created, err = t.instant()
	default:
		err = d.spec.read(t, field)
	}
	return err
}

// refused is the key, if it is known whose it is, and why it cannot be read.
func (d *draft) refused(err error) (*auth.Key, error) {
	if err == nil && !d.hashed {
		err = &fault{at: d.from, message: "key_hash is missing: llmproxy keys hash prints it"}
	}
	if !d.hashed {
		return nil, err
	}
	return d.key, err
}

// finish is the key of a draft that has been read.
func (r *reader) finish(d *draft) (*auth.Key, error) {
	made, err := d.spec.Apply(*d.key)
	if e, ok := errors.AsType[*SpecError](err); ok {
		return d.key, &fault{d.places[slices.Index(d.fields, e.Field)], e.Field, e.Message}
	}
	r.share(made, &d.spec)
	return made, nil
}

// share makes k small, which there may be many of: it gets the lists and limits of
// an earlier key that says the same.
func (r *reader) share(k *auth.Key, s *Spec) {
	if k.Models != nil {
		k.Models = first(r.models, k, s.AllowedModels).Models
	}
	if k.Addresses != nil {
		k.Addresses = first(r.addresses, k, s.AllowedIPs).Addresses
	}
	if k.Limits != nil {
		if r.limits[*k.Limits] == nil {
			r.limits[*k.Limits] = k.Limits
		}
		k.Limits = r.limits[*k.Limits]
	}
	// One allocation for all texts: a tenth of what a key takes.
	texts := k.Last4 + k.Name + k.UserID + k.Metadata
	for _, s := range []*string{&k.Last4, &k.Name, &k.UserID, &k.Metadata} {
		*s, texts = texts[:len(*s)], texts[len(*s):]
	}
}

// first is the key that had this list first. No element holds a line break.
func first(known map[string]*auth.Key, k *auth.Key, list []string) *auth.Key {
	name := strings.Join(list, "\n")
	if known[name] == nil {
		known[name] = k
	}
	return known[name]
}

func (t *text) hash() (hash [32]byte, err error) {
	at := t.at
	s, err := t.string()
	if err != nil {
		return hash, err
	}
	digits, ok := strings.CutPrefix(s, hashPrefix)
	n, err := hex.DecodeString(digits)
	if !ok || err != nil || len(n) != len(hash) {
		return hash, &fault{at: at, message: "must be sha256: and 64 hexadecimal digits, as llmproxy keys hash prints it; never the key itself"}
	}
	hash = [32]byte(n)
	if hash == [32]byte{} || hash == auth.Hash("") {
		return hash, &fault{at: at, message: "is that of no key: llmproxy keys hash prints one"}
	}
	return hash, nil
}

func (t *text) last4() (string, error) {
	at := t.at
	s, err := t.string()
	if err == nil && (len([]rune(s)) > 4 || checkText(s) != "") {
		return "", &fault{at: at, message: "must be the last four characters of the key, or be removed"}
	}
	return s, err
}

func (t *text) instant() (auth.Instant, error) {
	at := t.at
	s, err := t.string()
	if err != nil {
		return 0, err
	}
	moment, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return 0, &fault{at: at, message: "is not a time in RFC 3339; write for example 2026-12-31T23:59:59Z"}
	}
	return auth.At(moment), nil
}

// index is where the key stands, -1 when it does not.
func (d *document) index(id auth.ID) int {
	return slices.IndexFunc(d.keys, func(k *auth.Key) bool { return k.ID() == id })
}

// with is the document with one more key, behind the others.
func (d *document) with(k *auth.Key) (*document, error) {
	if d.index(k.ID()) >= 0 {
		return nil, errExists
	}
	text, k, err := readBack(k)
	if err != nil {
		return nil, err
	}
	next := &document{keys: append(slices.Clip(d.keys), k)}
	if n := len(d.spans); n > 0 {
		at := d.spans[n-1].to
		next.text = d.splice(span{at, at}, ",\n    "+text)
	} else {
		next.text = d.splice(d.list, "\n    "+text+"\n  ")
	}
	return next, nil
}

// changed is the document with another key in the place of number i.
func (d *document) changed(i int, k *auth.Key) (*document, error) {
	text, k, err := readBack(k)
	if err != nil {
		return nil, err
	}
	next := &document{keys: slices.Clone(d.keys), text: d.splice(d.spans[i], text)}
	next.keys[i] = k
	return next, nil
}

// without is the document without key number i.
func (d *document) without(i int) *document {
	part := d.list // of the only key
	if i+1 < len(d.spans) {
		part = span{d.spans[i].from, d.spans[i+1].from}
	} else if i > 0 {
		part = span{d.spans[i-1].to, d.spans[i].to}
	}
	return &document{keys: slices.Delete(slices.Clone(d.keys), i, i+1), text: d.splice(part, "")}
}

// splice is d's text with other text in a part of it.
func (d *document) splice(part span, text string) []byte {
	return slices.Concat(d.text[:part.from], []byte(text), d.text[part.to:])
}

// readBack is k's text in the file, and the key as it will be read from there:
// what could not be read is a *SpecError.
func readBack(k *auth.Key) (text string, same *auth.Key, err error) {
	b, err := entryText(k)
	if err != nil {
		return "", nil, err
	}
	r := newReader(b)
	same, err = r.key()
	if f, ok := errors.AsType[*fault](err); ok {
		return "", nil, &SpecError{f.field, f.message}
	}
	return string(b), same, nil
}
