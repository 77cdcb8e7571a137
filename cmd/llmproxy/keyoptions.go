package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/llmproxy/llmproxy/pkg/keystore"
)

// keyOption is a flag of a new key.
type keyOption struct {
	flag, field, does string
	set               func(*keystore.Spec, string) error
}

func keyOptions() []keyOption {
	text := func(to func(*keystore.Spec) **string) func(*keystore.Spec, string) error {
		return func(s *keystore.Spec, value string) error {
			*to(s) = &value
			return nil
		}
	}
	number := func(to func(*keystore.Spec) **int64) func(*keystore.Spec, string) error {
		return func(s *keystore.Spec, value string) error {
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return errors.New("write a whole number")
			}
			*to(s) = &n
			return nil
		}
	}
	list := func(to func(*keystore.Spec) *[]string) func(*keystore.Spec, string) error {
		return func(s *keystore.Spec, value string) error {
			*to(s) = strings.Split(value, ",")
			return nil
		}
	}
	return []keyOption{
		{"name", "name", "for people", text(func(s *keystore.Spec) **string { return &s.Name })},
		{"user-id", "user_id", "what stands for its user in usage reports", text(func(s *keystore.Spec) **string { return &s.UserID })},
		{"quota", "total_quota", "tokens in a period", number(func(s *keystore.Spec) **int64 { return &s.TotalQuota })},
		{"period", "quota_reset_period", "daily, weekly, monthly or never", text(func(s *keystore.Spec) **string { return &s.QuotaResetPeriod })},
		{"models", "allowed_models", "names with * and ?, separated by commas", list(func(s *keystore.Spec) *[]string { return &s.AllowedModels })},
		{"ips", "allowed_ips", "addresses and CIDR ranges, separated by commas", list(func(s *keystore.Spec) *[]string { return &s.AllowedIPs })},
		{"expires", "expires_at", "a time in RFC 3339, or days from now as in 30d", setExpiry},
		{"rps", "requests_per_second", "requests in a second", number(func(s *keystore.Spec) **int64 { return &s.RequestsPerSecond })},
		{"burst", "burst_size", "requests at once", number(func(s *keystore.Spec) **int64 { return &s.BurstSize })},
		{"rpm", "requests_per_minute", "requests in a minute", number(func(s *keystore.Spec) **int64 { return &s.RequestsPerMinute })},
		{"tpm", "tokens_per_minute", "tokens in a minute", number(func(s *keystore.Spec) **int64 { return &s.TokensPerMinute })},
		{"concurrent", "max_concurrent", "requests at a time", number(func(s *keystore.Spec) **int64 { return &s.MaxConcurrent })},
		{"metadata", "metadata", "a JSON object of your own", func(s *keystore.Spec, value string) error {
			s.Metadata = json.RawMessage(value)
			return nil
		}},
	}
}

func setExpiry(s *keystore.Spec, value string) error {
	if digits, ok := strings.CutSuffix(value, "d"); ok {
		const most = 100 * 366
		days, err := strconv.Atoi(digits)
		if err != nil || days < 1 || days > most {
			return fmt.Errorf("write from 1d to %dd", most)
		}
		value = time.Now().AddDate(0, 0, days).UTC().Format(time.RFC3339)
	}
	s.ExpiresAt = &value
	return nil
}

// newKeyOptions are the flags of a new key, for the table of commands.
func newKeyOptions() []option {
	var out []option
	for _, o := range keyOptions() {
		out = append(out, option{o.flag, o.does, aText})
	}
	return out
}
