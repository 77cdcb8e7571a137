package admit

import "time"

// Use is what a key has used of what it may, at one moment. It is rendered as
// JSON for the key itself, by GET /v1/usage, and for the operator.
type Use struct {
	Quota    *QuotaUse  `json:"quota"` // null: it is not counted
	Limits   []LimitUse `json:"limits"`
	InFlight int64      `json:"in_flight"`
}

// QuotaUse is the use of the tokens of one period.
type QuotaUse struct {
	Limit     *int64     `json:"limit"`     // null: none
	Used      int64      `json:"used"`      // what the usage reports of the period add up to
	Reserved  int64      `json:"reserved"`  // estimated for requests under way
	Remaining *int64     `json:"remaining"` // null: no limit
	Period    string     `json:"period"`
	StartedAt time.Time  `json:"started_at"`
	ResetsAt  *time.Time `json:"resets_at"` // null: never
}

// LimitUse is the state of one limit.
type LimitUse struct {
	Name         string  `json:"name"` // requests_per_second, and so on
	Limit        int64   `json:"limit"`
	Remaining    int64   `json:"remaining"`
	ResetSeconds float64 `json:"reset_seconds"` // until all of it is there again
}
