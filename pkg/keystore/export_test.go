package keystore

import "time"

// Hurry makes a store that nobody claims at once, and looks at it often.
func (r *Redis) Hurry() { r.newTime, r.every = 0, 20*time.Millisecond }

// MakeAfter sets how long a store that nobody claims is left to others.
func (r *Redis) MakeAfter(d time.Duration) { r.newTime = d }

// AdoptAfter sets how long documents without an epoch are left to others.
func (r *Redis) AdoptAfter(d time.Duration) { r.adopt = d }
