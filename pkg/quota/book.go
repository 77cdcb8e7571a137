package quota

import (
	"time"

	"github.com/puzpuzpuz/xsync/v4"
)

// Book has the accounts of all keys, by the key's id. Its methods are safe for
// concurrent use, and those that find an account take no lock.
type Book struct {
	accounts *xsync.Map[[8]byte, *Account]
}

// NewBook makes a book in which the accounts that t knows begin with what they had
// used. nil is no totals. It keeps nothing of t.
func NewBook(t *Totals) *Book {
	if t == nil {
		return &Book{xsync.NewMap[[8]byte, *Account]()}
	}
	b := &Book{xsync.NewMap[[8]byte, *Account](xsync.WithPresize(len(t.keys)))}
	for id, k := range t.keys {
		a := new(Account)
		a.term.Store(begun(k.start, k.used))
		b.accounts.Store(id, a)
	}
	return b
}

// Account is the account of a key, which is made when there is none.
func (b *Book) Account(id [8]byte) *Account {
	if a, ok := b.accounts.Load(id); ok {
		return a
	}
	a, _ := b.accounts.LoadOrStore(id, new(Account))
	return a
}

// Look finds an account if there is one.
func (b *Book) Look(id [8]byte) (*Account, bool) { return b.accounts.Load(id) }

// Each calls f with every account that has a term, until f is false.
func (b *Book) Each(f func(id [8]byte, t *Term) bool) {
	for id, a := range b.accounts.AllRelaxed() {
		if t := a.term.Load(); t != nil && !f(id, t) {
			return
		}
	}
}

// Forget drops the accounts that keep has not wanted for 32 days, and in which
// nothing is reserved. A key that comes back sooner finds what it has used.
func (b *Book) Forget(keep func(id [8]byte) bool, now time.Time) {
	for id, a := range b.accounts.AllRelaxed() {
		since, over := absence(a.gone.Load(), now, keep(id))
		a.gone.Store(since)
		if t := a.term.Load(); over && (t == nil || t.Reserved() == 0) {
			b.accounts.Delete(id)
		}
	}
}

// memory is longer than any period that ends.
const memory = 32 * day * time.Second

// absence is since when a key is not there, in Unix nanoseconds, 0 if it is, and
// whether that has been long enough. It is not measured by the term's start: a
// quota for ever began long ago, and a key that an operator deletes by mistake
// comes back.
func absence(since int64, now time.Time, there bool) (int64, bool) {
	n := now.UnixNano()
	switch {
	case there:
		return 0, false
	case since == 0 || since > n: // or the clock was set back
		return n, false
	}
	return since, n-since > int64(memory)
}
