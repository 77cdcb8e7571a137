package limit

import "sync/atomic"

// out is what a retired count is: far enough below 0 that no Leave too many brings it near another value.
const out = -1 << 62

// Slots counts requests under way. It is also the life of what it stands in: from 0 it can be retired, after which
// nobody enters, and what it stands in can be forgotten. The zero Slots has nobody in it.
type Slots struct{ n atomic.Int64 }

// Enter takes a slot, unless most are taken; a most of 0 or less is no limit. retired means that the owner of s was
// forgotten and is to be looked up anew.
func (s *Slots) Enter(most int64) (ok, retired bool) {
	for {
		n := s.n.Load()
		if n < 0 {
			return false, true
		}
		if most > 0 && n >= most {
			return false, false
		}
		if s.n.CompareAndSwap(n, n+1) {
			return true, false
		}
	}
}

// Leave gives a slot back. It panics when none is taken.
func (s *Slots) Leave() {
	if s.n.Add(-1) < 0 {
		s.n.Add(1)
		panic("BUG: a slot given back twice")
	}
}

// Len is the number of slots taken; 0 when retired.
func (s *Slots) Len() int64 { return max(s.n.Load(), 0) }

// Retire keeps everybody out from now on. It does nothing and is false unless no slot is taken.
func (s *Slots) Retire() bool { return s.n.CompareAndSwap(0, out) }

// Revive undoes a Retire.
func (s *Slots) Revive() { s.n.CompareAndSwap(out, 0) }
