package admin

import "time"

// SetTimer replaces what tells that a wait is over.
func (a *API) SetTimer(after func(time.Duration) <-chan time.Time) { a.after = after }

// Changing tells whether somebody keeps other changes out.
func (a *API) Changing() bool {
	if a.changes.TryLock() {
		a.changes.Unlock()
		return false
	}
	return true
}
