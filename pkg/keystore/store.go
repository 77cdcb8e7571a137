// Package keystore keeps the keys that are made at run time: in a file, or in a
// Redis that several gateways share.
//
// A File is keys.json, which a person can read and edit. A change is written so that
// a crash at any point leaves the old file or the new one; a lock keeps the changes
// of several processes apart. A file that is wrong is refused as a whole, with the
// line and what to do, and the keys of the last good one stay.
//
// A Redis keeps each key as a document with a revision, and every store that follows
// it has all of them in memory. The revision is Redis's time of the change: of two
// documents of a key the later one counts, wherever it comes from. So what one store
// has seen cannot be forgotten: it puts back what Redis has lost, and a deleted key
// stays as a document that says so. An epoch marks the store: without it the store
// was emptied, with another it is somebody else's, and neither takes a key away.
package keystore

import (
	"errors"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/redis"
)

// ErrNotFound says that the store has no key with the id.
var ErrNotFound = errors.New("the key store has no such key")

// ErrAway is wrapped by the error of a change that could not ask the store: the change
// may be made all the same, or later.
var ErrAway = redis.ErrAway

// errExists is for a key that was made twice, which is next to impossible.
var errExists = errors.New("the key store has this key already")

// Store is where the keys are that are made at run time. Its methods may be called
// at the same time. What a change has returned without an error is in Keys, and kept.
type Store interface {
	// Add keeps k. It sets k's Source, and Created if that is zero; k must not be in
	// a Keyring yet. The error is a *SpecError for a key that no Spec could make, or
	// tells that there is the key already, or why it cannot be kept.
	Add(k *auth.Key) error
	// Replace puts what edit makes of the key in its place, and returns it. An error
	// of edit is returned as it is, others are ErrNotFound or as those of Add. edit
	// gets the key as it is in the store, which may differ from that in Keys, and is
	// called again when somebody else has changed it meanwhile; the hash it cannot
	// change.
	Replace(id auth.ID, edit func(auth.Key) (*auth.Key, error)) (*auth.Key, error)
	// Remove takes the key out, and returns it as it was.
	Remove(id auth.ID) (*auth.Key, error)
	// Keys are those that are in force, as they were last read. Nobody may change
	// them or the list.
	Keys() []*auth.Key
	// Place names the store for operators: the file's path, or redis://host:port/db.
	Place() string
}
