package quota

// Late counts what a process before this one used and could not record before it
// ended. It counts if the term that began at start is the account's.
func (a *Account) Late(start, used int64) {
	for {
		t := a.term.Load()
		switch {
		case t != nil && t.Start == start:
			t.Settle(0, used)
			return
		case t != nil && t.Start > start:
			return // that term is over
		case a.term.CompareAndSwap(t, begun(start, used)):
			return
		}
	}
}
