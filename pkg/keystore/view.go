package keystore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

// Public is what may be shown of a key. Its JSON has the fields of a Spec that are
// said, as PATCH takes them, beside those that cannot be changed.
type Public struct {
	ID       string `json:"id"`
	Last4    string `json:"last4,omitempty"`
	Source   string `json:"source"`    // config or file
	ReadOnly bool   `json:"read_only"` // it is changed in the configuration only
	Spec
	CreatedAt string `json:"created_at,omitempty"` // RFC 3339
}

// View is what may be shown of k: everything but the hash of its secret.
func View(k *auth.Key) Public {
	return Public{
		ID: k.ID().String(), Last4: k.Last4, Source: k.Source.String(), ReadOnly: k.Source == auth.Configured, Spec: specOf(k), CreatedAt: timestamp(k.Created),
	}
}

// specOf is what a person would have written for k.
func specOf(k *auth.Key) Spec {
	status := active
	if k.Disabled {
		status = disabled
	}
	s := Spec{
		Name: unless("", k.Name), UserID: unless("", k.UserID), Status: &status, TotalQuota: unless(0, k.Quota),
		AllowedModels: k.Models, ExpiresAt: unless("", timestamp(k.Expires)),
	}
	if k.HasPeriod {
		s.QuotaResetPeriod = unless("", k.Period.String())
	}
	for _, a := range k.Addresses {
		s.AllowedIPs = append(s.AllowedIPs, strings.TrimSuffix(a.String(), fmt.Sprintf("/%d", a.Addr().BitLen())))
	}
	if k.Metadata != "" {
		s.Metadata = json.RawMessage(k.Metadata)
	}
	if l := k.Limits; l != nil {
		s.RequestsPerSecond, s.BurstSize = unless(0, l.RequestsPerSecond), unless(0, l.BurstSize)
		s.RequestsPerMinute, s.TokensPerMinute = unless(0, l.RequestsPerMinute), unless(0, l.TokensPerMinute)
		s.MaxConcurrent = unless(0, l.MaxConcurrent)
	}
	return s
}

// unless is a pointer to v, or nil for none.
func unless[T comparable](none, v T) *T {
	if v == none {
		return nil
	}
	return &v
}

func timestamp(i auth.Instant) string {
	if i == 0 {
		return ""
	}
	return i.Time().Format(time.RFC3339)
}

// stored is a key as it stands in the file.
type stored struct {
	KeyHash string `json:"key_hash"`
	Last4   string `json:"last4,omitempty"`
	Spec
	CreatedAt string `json:"created_at,omitempty"`
}

const hashPrefix = "sha256:"

// entryText is the text of k in the file, as it is indented there.
func entryText(k *auth.Key) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // people read it
	e.SetIndent("    ", "  ")
	err := e.Encode(storedOf(k))
	return bytes.TrimSpace(b.Bytes()), err
}
