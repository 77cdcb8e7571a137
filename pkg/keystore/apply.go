package keystore

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

const (
	mostText     = 200 // characters
	mostListed   = 100
	mostMetadata = 4 << 10
	mostLimit    = 1_000_000_000         // a burst of so many, a second each, is still a time.Duration
	mostQuota    = 1_000_000_000_000_000 // exact in JavaScript, and far from where sums overflow
)

// Apply returns k with what s says: fields that are not said stay, those that were
// null are as if they had never been said. k itself and what it refers to do not
// change. The error is a *SpecError.
func (s *Spec) Apply(k auth.Key) (*auth.Key, error) {
	for _, apply := range []func(*auth.Key) *SpecError{s.setTexts, s.setStatus, s.setQuota, s.setModels, s.setAddresses, s.setExpiry, s.setMetadata, s.setLimits} {
		if err := apply(&k); err != nil {
			return nil, err
		}
	}
	return &k, nil
}

// cleared tells whether a field was null.
func (s *Spec) cleared(field string) bool { return slices.Contains(s.null, field) }

func wrong(field, format string, args ...any) *SpecError {
	return &SpecError{field, fmt.Sprintf(format, args...)}
}

func (s *Spec) setTexts(k *auth.Key) *SpecError {
	for _, t := range []struct {
		field string
		said  *string
		to    *string
	}{{"name", s.Name, &k.Name}, {"user_id", s.UserID, &k.UserID}} {
		if s.cleared(t.field) {
			*t.to = ""
		}
		if t.said == nil {
			continue
		}
		if message := checkText(*t.said); message != "" {
			return wrong(t.field, "%s", message)
		}
		*t.to = *t.said
	}
	return nil
}

// checkText says what is wrong with a text that people see, "" for nothing. What
// could move a terminal's cursor or break a line of a log is kept out.
func checkText(s string) string {
	if !utf8.ValidString(s) {
		return "not UTF-8"
	}
	if utf8.RuneCountInString(s) > mostText {
		return fmt.Sprintf("must have at most %d characters", mostText)
	}
	if strings.ContainsFunc(s, unprintable) {
		return "must not hold control characters, line breaks or marks that turn the direction of text"
	}
	return ""
}

func unprintable(r rune) bool {
	return unicode.IsControl(r) || r > unicode.MaxLatin1 && unicode.In(r, unicode.Zl, unicode.Zp, unicode.Bidi_Control)
}

func (s *Spec) setStatus(k *auth.Key) *SpecError {
	if s.cleared("status") {
		k.Disabled = false
	}
	if s.Status == nil {
		return nil
	}
	if *s.Status != active && *s.Status != disabled {
		return wrong("status", "must be active or disabled")
	}
	k.Disabled = *s.Status == disabled
	return nil
}

const (
	active   = "active"
	disabled = "disabled"
)

func (s *Spec) setQuota(k *auth.Key) *SpecError {
	if s.cleared("total_quota") {
		k.Quota = 0
	}
	if s.TotalQuota != nil {
		if err := checkNumber("total_quota", *s.TotalQuota, mostQuota); err != nil {
			return err
		}
		k.Quota = *s.TotalQuota
	}
	if s.cleared("quota_reset_period") {
		k.Period, k.HasPeriod = 0, false
	}
	if s.QuotaResetPeriod != nil {
		p, err := quota.ParsePeriod(*s.QuotaResetPeriod)
		if err != nil {
			return wrong("quota_reset_period", "must be daily, weekly, monthly or never")
		}
		k.Period, k.HasPeriod = p, true
	}
	return nil
}

func checkNumber(field string, n, most int64) *SpecError {
	switch {
	case n <= 0:
		return wrong(field, "must be at least 1: remove it for the default; to refuse a key, write status %s", disabled)
	case n > most:
		return wrong(field, "must be at most %d: remove it for the default", most)
	}
	return nil
}

func (s *Spec) setModels(k *auth.Key) *SpecError {
	if s.cleared("allowed_models") {
		k.Models = nil
	}
	if s.AllowedModels == nil {
		return nil
	}
	if err := checkLength("allowed_models", len(s.AllowedModels), "any model"); err != nil {
		return err
	}
	for i, m := range s.AllowedModels {
		message := checkText(m)
		if m == "" {
			message = "must not be empty"
		}
		if message != "" {
			return wrong("allowed_models", "[%d] %s", i, message)
		}
	}
	k.Models = slices.Clone(s.AllowedModels)
	return nil
}

func checkLength(field string, n int, all string) *SpecError {
	switch {
	case n == 0:
		return wrong(field, "must not be empty: remove it for %s; to refuse a key, write status %s", all, disabled)
	case n > mostListed:
		return wrong(field, "must have at most %d elements", mostListed)
	}
	return nil
}

func (s *Spec) setAddresses(k *auth.Key) *SpecError {
	const field = "allowed_ips"
	if s.cleared(field) {
		k.Addresses = nil
	}
	if s.AllowedIPs == nil {
		return nil
	}
	if err := checkLength(field, len(s.AllowedIPs), "any address"); err != nil {
		return err
	}
	addresses := make([]netip.Prefix, len(s.AllowedIPs))
	for i, text := range s.AllowedIPs {
		p, message := parsePrefix(text)
		if message != "" {
			return wrong(field, "[%d] %s", i, message)
		}
		addresses[i] = p
	}
	k.Addresses = addresses
	return nil
}

// parsePrefix reads an address or a CIDR range, or says what is wrong with it.
func parsePrefix(s string) (p netip.Prefix, message string) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), ""
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, "is neither an address nor a CIDR range; write for example 10.0.0.7 or 10.0.0.0/8"
	}
	if p != p.Masked() {
		return p, fmt.Sprintf("has bits beyond its /%d; did you mean %s?", p.Bits(), p.Masked())
	}
	return p, ""
}

func (s *Spec) setExpiry(k *auth.Key) *SpecError {
	if s.cleared("expires_at") {
		k.Expires = 0
	}
	if s.ExpiresAt == nil {
		return nil
	}
	t, err := time.Parse(time.RFC3339, *s.ExpiresAt)
	if err != nil {
		return wrong("expires_at", "is not a time in RFC 3339; write for example 2026-12-31T23:59:59Z")
	}
	if t.Unix() <= 0 { // the zero time of many a program: whoever wrote it meant another
		return wrong("expires_at", "must be after 1970: for a key that never ends remove it")
	}
	k.Expires = auth.At(t)
	return nil
}

func (s *Spec) setMetadata(k *auth.Key) *SpecError {
	if s.cleared("metadata") {
		k.Metadata = ""
	}
	if s.Metadata == nil {
		return nil
	}
	t := &text{b: s.Metadata}
	compact, err := t.compact()
	if err == nil {
		err = t.end()
	}
	if err != nil || !json.Valid(compact) || !utf8.Valid(compact) {
		return wrong("metadata", "must be a JSON object")
	}
	if len(compact) > mostMetadata {
		return wrong("metadata", "must have at most %d bytes", mostMetadata)
	}
	k.Metadata = string(compact)
	return nil
}

func (s *Spec) setLimits(k *auth.Key) *SpecError {
	var own auth.Own
	if k.Limits != nil {
		own = *k.Limits // not k.Limits itself: other keys may share it
	}
	for _, l := range []struct {
		field string
		to    *int64
	}{
		{"requests_per_second", &own.RequestsPerSecond},
		{"burst_size", &own.BurstSize},
		{"requests_per_minute", &own.RequestsPerMinute},
		{"tokens_per_minute", &own.TokensPerMinute},
		{"max_concurrent", &own.MaxConcurrent},
	} {
		if s.cleared(l.field) {
			*l.to = 0
		}
		if said := *s.number(l.field); said != nil {
			if err := checkNumber(l.field, *said, mostLimit); err != nil {
				return err
			}
			*l.to = *said
		}
	}
	if k.Limits = nil; own != (auth.Own{}) {
		k.Limits = &own
	}
	return nil
}
