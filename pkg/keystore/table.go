package keystore

import (
	"bytes"
	"cmp"
	"errors"
	"slices"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

// table is what a store knows of all ids. It forgets none: what was deleted stays
// as an entry that says so.
type table struct {
	entries map[auth.ID]entry
	faulty  int         // entries that are unread
	sorted  []*auth.Key // the keys when list was called last; never changed
	changes []keyChange // since then
}

// keyChange is a key in the place of another; nil is none.
type keyChange struct{ before, after *auth.Key }

func newTable() *table { return &table{entries: map[auth.ID]entry{}} }

// take takes an entry over unless there is one as late or later.
func (t *table) take(id auth.ID, e entry) bool {
	if !t.lacks(id, e) {
		return false
	}
	was := t.entries[id]
	t.entries[id] = e
	t.faulty += bit(e.unread()) - bit(was.unread())
	if was.key != nil || e.key != nil {
		t.changes = append(t.changes, keyChange{was.key, e.key})
	}
	return true
}

// lacks reports whether take would take it.
func (t *table) lacks(id auth.ID, e entry) bool {
	was, known := t.entries[id]
	return !known || e.supersedes(was)
}

// unread reports whether there is a document that cannot be read.
func (e entry) unread() bool { return e.fault != nil && !errors.Is(e.fault, errGone) }

// errGone is the fault of a document that cannot be read and that somebody has taken
// out of the store. It stays an entry: an earlier document must not take its place.
var errGone = errors.New("was taken out of the store")

// supersedes tells also whether e is what another program could read, or say more of.
func (e entry) supersedes(was entry) bool {
	if e.revision != was.revision || was.fault == nil {
		return e.revision > was.revision
	}
	return e.fault == nil || e.fault.Error() != was.fault.Error()
}

// without are the entries that are unread and not found any more.
func (t *table) without(found map[auth.ID]entry) map[auth.ID]entry {
	gone := map[auth.ID]entry{}
	if t.faulty == 0 {
		return gone
	}
	for id, e := range t.entries {
		if _, there := found[id]; e.unread() && !there {
			gone[id] = entry{revision: e.revision, fault: errGone}
		}
	}
	return gone
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// list is the keys in the order in which they were made.
func (t *table) list() []*auth.Key {
	const few = 100 // a copy and some searches take less time than to sort again
	switch {
	case len(t.changes) == 0:
	case len(t.changes) <= few:
		t.sorted = patched(t.sorted, t.changes)
	default:
		t.sorted = make([]*auth.Key, 0, len(t.entries))
		for _, e := range t.entries {
			if e.key != nil {
				t.sorted = append(t.sorted, e.key)
			}
		}
		slices.SortFunc(t.sorted, inOrder)
	}
	t.changes = nil
	return t.sorted
}

func patched(keys []*auth.Key, changes []keyChange) []*auth.Key {
	keys = append(make([]*auth.Key, 0, len(keys)+len(changes)), keys...)
	for _, c := range changes {
		if c.before != nil {
			if i, found := slices.BinarySearchFunc(keys, c.before, inOrder); found {
				keys = slices.Delete(keys, i, i+1)
			}
		}
		if c.after != nil {
			i, _ := slices.BinarySearchFunc(keys, c.after, inOrder)
			keys = slices.Insert(keys, i, c.after)
		}
	}
	return keys
}

func inOrder(a, b *auth.Key) int {
	return cmp.Or(cmp.Compare(a.Created, b.Created), bytes.Compare(a.Hash[:], b.Hash[:]))
}
