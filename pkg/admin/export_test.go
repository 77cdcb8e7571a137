package admin

import "time"

// SetTimer replaces what tells that a wait is over.
func (a *API) SetTimer(after func(time.Duration) <-chan time.Time) { a.after = after }
