package keystore

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Spec is a key as a person writes it: the body of a request to the admin API,
// and an entry of the keys file. What is nil is not said. Apply tells what the
// values mean; a Spec itself may hold any.
type Spec struct {
	Name              *string         `json:"name,omitempty"`
	UserID            *string         `json:"user_id,omitempty"`
	Status            *string         `json:"status,omitempty"` // active or disabled
	TotalQuota        *int64          `json:"total_quota,omitempty"`
	QuotaResetPeriod  *string         `json:"quota_reset_period,omitempty"`
	AllowedModels     []string        `json:"allowed_models,omitempty"`
	AllowedIPs        []string        `json:"allowed_ips,omitempty"` // addresses and CIDR ranges
	ExpiresAt         *string         `json:"expires_at,omitempty"`  // RFC 3339
	Metadata          json.RawMessage `json:"metadata,omitempty"`    // an object
	RequestsPerSecond *int64          `json:"requests_per_second,omitempty"`
	BurstSize         *int64          `json:"burst_size,omitempty"`
	RequestsPerMinute *int64          `json:"requests_per_minute,omitempty"`
	TokensPerMinute   *int64          `json:"tokens_per_minute,omitempty"`
	MaxConcurrent     *int64          `json:"max_concurrent,omitempty"`

	null []string // fields that were null: what they said before is taken back
}

// specFields are the names of a Spec's fields, in order.
var specFields = []string{
	"name", "user_id", "status", "total_quota", "quota_reset_period", "allowed_models", "allowed_ips", "expires_at",
	"metadata", "requests_per_second", "burst_size", "requests_per_minute", "tokens_per_minute", "max_concurrent",
}

// SpecError is one thing that is wrong with a Spec. Neither of its texts holds a
// value of the Spec, which might be a secret in the wrong place.
type SpecError struct {
	// Field is the field's name; "" when the fault is of the whole.
	Field string
	// Message is for the person who wrote it.
	Message string
}

// Error is the field and the message.
func (e *SpecError) Error() string {
	if e.Field == "" {
		return e.Message
	}
	return e.Field + ": " + e.Message
}

// ParseSpec reads a JSON object. Its error is a *SpecError: for text that is no
// such object, a field that is not known, is given twice or has a value of the
// wrong type. Values of the right type may be wrong still: see Apply.
func ParseSpec(b []byte) (*Spec, error) {
	t := &text{b: b}
	s := new(Spec)
	err := t.checkEncoding()
	if err == nil {
		err = t.members(specFields, make([]int, len(specFields)), func(field string) error { return s.read(t, field) })
	}
	if err == nil {
		err = t.end()
	}
	if f, ok := errors.AsType[*fault](err); ok {
		message := f.message
		if f.field == "" {
			message = fmt.Sprintf("line %d: %s", line(b, f.at), message)
		}
		return nil, &SpecError{f.field, message}
	}
	return s, nil
}

// members reads an object with some of the fields, each at most once. places gets
// where the value of each begins; it starts as zeros.
func (t *text) members(fields []string, places []int, read func(field string) error) error {
	return t.object(func(name string, at int) error {
		i := slices.Index(fields, name)
		if i < 0 {
			return &fault{at: at, message: unknown(name, fields)}
		}
		if places[i] != 0 {
			return &fault{at: at, field: name, message: "is given twice"}
		}
		places[i] = t.at
		err := read(fields[i])
		if f, ok := errors.AsType[*fault](err); ok && f.field == "" {
			f.field = name
		}
		return err
	})
}

// read moves t over the value of a field.
func (s *Spec) read(t *text, field string) (err error) {
	if t.null() {
		s.null = append(s.null, field)
		return nil
	}
	switch field {
	case "allowed_models":
		s.AllowedModels, err = t.strings()
	case "allowed_ips":
		s.AllowedIPs, err = t.strings()
	case "metadata":
		s.Metadata, err = t.compact()
	default:
		if p := s.number(field); p != nil {
			*p, err = pointer(t.integer())
		} else {
			*s.text(field), err = pointer(t.string())
		}
	}
	return err
}

func pointer[T any](v T, err error) (*T, error) { return &v, err }

// text is where a field that is a string is kept, nil for others.
func (s *Spec) text(field string) **string {
	switch field {
	case "name":
		return &s.Name
	case "user_id":
		return &s.UserID
	case "status":
		return &s.Status
	case "quota_reset_period":
		return &s.QuotaResetPeriod
	case "expires_at":
		return &s.ExpiresAt
	}
	return nil
}

// number is where a field that is a number is kept, nil for others.
func (s *Spec) number(field string) **int64 {
	switch field {
	case "total_quota":
		return &s.TotalQuota
	case "requests_per_second":
		return &s.RequestsPerSecond
	case "burst_size":
		return &s.BurstSize
	case "requests_per_minute":
		return &s.RequestsPerMinute
	case "tokens_per_minute":
		return &s.TokensPerMinute
	case "max_concurrent":
		return &s.MaxConcurrent
	}
	return nil
}
