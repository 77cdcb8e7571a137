// Package tenants makes keys as a provider of models has them, for gateways that
// are measured with many keys and every limit.
package tenants

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Used is the key whose requests are measured. It has every limit, and none of
// them is within reach.
type Used struct {
	Secret string
	Models []string // that it may ask for, from any address of this machine
	Quota  int64    // tokens a day; 0: no limit, so that its use need not be recorded
}

// Secret is that of the i-th other key, which has one request a minute. All are
// of 19 characters.
func Secret(i int) string { return fmt.Sprintf("sk-tenant-%09d", i) }

// file and entry are what pkg/keystore reads.
type file struct {
	Version int     `json:"version"`
	Keys    []entry `json:"keys"`
}

type entry struct {
	Hash              string    `json:"key_hash"`
	Last4             string    `json:"last4"`
	Name              string    `json:"name"`
	UserID            string    `json:"user_id"`
	TotalQuota        int64     `json:"total_quota,omitempty"`
	AllowedModels     []string  `json:"allowed_models,omitempty"`
	AllowedIPs        []string  `json:"allowed_ips,omitempty"`
	RequestsPerSecond int64     `json:"requests_per_second,omitempty"`
	RequestsPerMinute int64     `json:"requests_per_minute,omitempty"`
	TokensPerMinute   int64     `json:"tokens_per_minute,omitempty"`
	MaxConcurrent     int64     `json:"max_concurrent,omitempty"`
	CreatedAt         time.Time `json:"created_at"`
}

// The limits of the key in use.
const (
	perSecond, concurrent = 1_000_000, 1_000_000
	perMinute, tokens     = 1_000_000_000, 1_000_000_000
	addresses             = "127.0.0.0/8"
)

// Flags are what `llmproxy keys new` has to be told for a key with all that Write gives
// to u, but the secret.
func (u Used) Flags() []string {
	flags := []string{
		"-name", "in use", "-user-id", "user", "-models", strings.Join(u.Models, ","), "-ips", addresses,
		"-rps", strconv.Itoa(perSecond), "-rpm", strconv.Itoa(perMinute), "-tpm", strconv.Itoa(tokens), "-concurrent", strconv.Itoa(concurrent),
	}
	if u.Quota > 0 {
		flags = append(flags, "-quota", strconv.FormatInt(u.Quota, 10))
	}
	return flags
}

// Write makes the directory of a gateway's data, and in it the keys file with u
// and as many others, who may ask for the same models.
func Write(dir string, u Used, others int) error {
	f := file{Version: 1, Keys: make([]entry, 0, others+1)}
	used := describe(u.Secret, "in use", "user", u.Models)
	used.TotalQuota = u.Quota
	used.RequestsPerSecond, used.MaxConcurrent = perSecond, concurrent
	used.RequestsPerMinute, used.TokensPerMinute = perMinute, tokens
	for i := range others {
		e := describe(Secret(i), fmt.Sprintf("tenant %09d, tests", i), fmt.Sprintf("user_%07d", i), u.Models)
		e.RequestsPerMinute = 1
		f.Keys = append(f.Keys, e)
	}
	f.Keys = append(f.Keys, used)
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "keys.json"), append(text, '\n'), 0o600)
}

func describe(secret, name, user string, models []string) entry {
	return entry{
		Hash: fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(secret))), Last4: secret[len(secret)-4:],
		Name: name, UserID: user, AllowedModels: models, AllowedIPs: []string{addresses},
		CreatedAt: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC),
	}
}
