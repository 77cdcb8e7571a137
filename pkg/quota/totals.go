package quota

import (
	"math"
	"time"
)

// Totals is what the events of the journal add up to: for each key, the term it
// was last in and what it used there. It belongs to one goroutine.
type Totals struct {
	Event uint64 // number of the last event that is in

	keys map[[8]byte]total
}

type total struct {
	start int64 // names the term
	used  int64 // tokens
	gone  int64 // see absence
}

// Add counts what a key used by one event, in the term that began at start. An
// event that is in already changes nothing; one of an older term than the newest
// known, or of none, whose start is 0, only moves Event on.
func (t *Totals) Add(event uint64, id [8]byte, start, tokens int64) {
	if event <= t.Event {
		return
	}
	t.Event = event
	k := t.keys[id]
	if start <= 0 || start < k.start {
		return
	}
	if start > k.start {
		k.start, k.used = start, 0
	}
	k.used += min(max(tokens, 0), math.MaxInt64-k.used)
	t.put(id, k)
}

// Reset begins the term that an Account.Reset has given. If that or a later one is
// known it changes nothing.
func (t *Totals) Reset(id [8]byte, start int64) {
	if k := t.keys[id]; start > k.start {
		k.start, k.used = start, 0
		t.put(id, k)
	}
}

func (t *Totals) put(id [8]byte, k total) {
	if t.keys == nil {
		t.keys = map[[8]byte]total{}
	}
	t.keys[id] = k
}

// Get returns the start of the last term that is known of a key, and the tokens
// used in it.
func (t *Totals) Get(id [8]byte) (start, used int64, ok bool) {
	k, ok := t.keys[id]
	return k.start, k.used, ok
}

// Forget drops the keys that keep has not wanted for 32 days. Since when, it
// remembers through Save.
func (t *Totals) Forget(keep func(id [8]byte) bool, now time.Time) {
	for id, k := range t.keys {
		var over bool
		if k.gone, over = absence(k.gone, now, keep(id)); over {
			delete(t.keys, id)
		} else {
			t.keys[id] = k
		}
	}
}

// Len is how many keys there are.
func (t *Totals) Len() int { return len(t.keys) }
