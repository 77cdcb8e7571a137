package keystore

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

// mostRevision is below where a number of Lua, and of JavaScript, skips integers.
// As microseconds since 1970 it is in the year 2255.
const mostRevision = 1<<53 - 1

// entry is what a store knows of an id. With neither key nor fault it is deleted.
type entry struct {
	revision int64
	key      *auth.Key
	fault    error // why the document cannot be read: nobody knows what it allows
}

// A document is the JSON that Redis has of an id. Its revision stands first, where
// the scripts find it:
//
//	{"rev":1790000000000000,"key_hash":"sha256:…", … as in keys.json … }
//	{"rev":1790000000000001,"id":"0123456789abcdef","deleted":true}
//
// A snapshot has them too, and says of a key which it could not read that it could
// not.
var documentFields = slices.Concat([]string{"rev", "id", "deleted", "unreadable"}, entryFields)

// documentTail is the document of k without its revision, with which a script
// completes it.
func documentTail(k *auth.Key) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(storedOf(k)); err != nil {
		return "", err
	}
	return "," + string(bytes.TrimSpace(b.Bytes())[1:]), nil
}

// deletedTail is documentTail of a key that is deleted.
func deletedTail(id auth.ID) string {
	return fmt.Sprintf(`,"id":"%s","deleted":true}`, id)
}

// withRevision is what the scripts make of a tail.
func withRevision(revision int64, tail string) string {
	return `{"rev":` + strconv.FormatInt(revision, 10) + tail
}

// document is the entry's.
func (e entry) document(id auth.ID) (string, error) {
	tail := deletedTail(id)
	if e.fault != nil {
		tail = fmt.Sprintf(`,"id":"%s","unreadable":true}`, id)
	} else if e.key != nil {
		var err error
		if tail, err = documentTail(e.key); err != nil {
			return "", err
		}
	}
	return withRevision(e.revision, tail), nil
}

// parseDocument reads the document of id. One that is wrong is an entry all the
// same: with a fault, and with its revision if that can be read.
func parseDocument(b []byte, id auth.ID) entry { return newReader(nil).only(b, id) }

// only reads a text that is the document of id, and nothing else.
func (r *reader) only(b []byte, id auth.ID) (e entry) {
	r.text = text{b: b}
	err := r.checkEncoding()
	if err == nil {
		var got auth.ID
		if got, e, err = r.document(); err == nil && got != id {
			err = r.wrong("is the document of another key")
		}
	}
	if err == nil {
		err = r.end()
	}
	if err != nil {
		e.key, e.fault = nil, err
	}
	return e
}

// document reads a document, and whose it is. With an error the entry has its
// revision, if that is known.
func (r *reader) document() (id auth.ID, e entry, err error) {
	d := newDraft(r.at, documentFields)
	deleted := false
	err = r.members(documentFields, d.places, func(field string) (err error) {
		switch field {
		case "rev":
			e.revision, err = r.revision(d.from)
		case "id":
			id, err = r.id()
		case "deleted":
			deleted, err = true, r.isTrue()
		case "unreadable":
			e.fault, err = errUnreadable, r.isTrue()
		default:
			err = d.read(&r.text, field)
		}
		return err
	})
	given := len(d.places) - count(d.places, 0)
	named := d.places[slices.Index(documentFields, "id")] != 0
	gone := deleted || e.fault != nil
	switch {
	case err != nil:
		return id, e, err
	case e.revision == 0:
		return id, e, &fault{at: d.from, message: "rev is missing"}
	case named != gone, gone && given != 3: // rev, id, and which of both it is
		return id, e, &fault{at: d.from, message: "is neither a key nor one that is deleted"}
	case gone:
		return id, e, nil
	}
	e.key, err = d.refused(nil)
	if err == nil {
		e.key, err = r.finish(d)
	}
	if err == nil {
		e.key.Source = auth.InRedis
	}
	if err != nil {
		return id, entry{revision: e.revision}, err
	}
	return e.key.ID(), e, nil
}

func count(numbers []int, n int) (times int) {
	for _, m := range numbers {
		if m == n {
			times++
		}
	}
	return times
}

var errUnreadable = errors.New("could not be read when the snapshot was written")

// revision must stand where the scripts look for it.
func (r *reader) revision(from int) (int64, error) {
	at := r.at
	n, err := r.integer()
	if err != nil {
		return 0, err
	}
	first := append(strconv.AppendInt([]byte(`{"rev":`), n, 10), ',')
	if n < 1 || n > mostRevision || !bytes.HasPrefix(r.b[from:], first) {
		return 0, &fault{at: at, message: "must be a whole number and stand first, without white space"}
	}
	return n, nil
}

func (r *reader) id() (auth.ID, error) {
	at := r.at
	s, err := r.string()
	if err != nil {
		return auth.ID{}, err
	}
	id, err := auth.ParseID(s)
	if err != nil || id.String() != s {
		return auth.ID{}, &fault{at: at, message: "must be a key's id, 16 hexadecimal digits"}
	}
	return id, nil
}

func (r *reader) isTrue() error {
	if r.space(); !bytes.HasPrefix(r.b[r.at:], []byte("true")) {
		return r.wrong("must be true")
	}
	r.at += len("true")
	return nil
}

// unreadable is a key that only its id is known of.
func unreadable(id auth.ID) *auth.Key {
	k := &auth.Key{Source: auth.InRedis}
	copy(k.Hash[:], id[:])
	return k
}

// storedOf is k as it is written.
func storedOf(k *auth.Key) stored {
	return stored{hashPrefix + hex.EncodeToString(k.Hash[:]), k.Last4, specOf(k), timestamp(k.Created)}
}
