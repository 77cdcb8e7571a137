// Package auth knows who asks. A Keyring holds every key by the SHA-256 of its
// secret and tells in one lookup whose a token is, what that key may use and which
// numbers hold for it. A Keyring never changes: one with other keys takes its place.
//
// The package decides nothing about rates and quotas: it has the numbers ready, and
// pkg/limit and pkg/quota count.
package auth

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/netip"
	"time"

	"github.com/llmproxy/llmproxy/pkg/quota"
)

// ID names a key without telling it: the first bytes of the SHA-256 of the secret.
type ID [8]byte

// String is the ID as 16 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// The text is not part of it: who confuses key and ID has written the key.
var errNoID = errors.New("a key's id has 16 hexadecimal digits")

// ParseID reads what String writes, capital letters too. The error does not repeat s.
func ParseID(s string) (id ID, err error) {
	if len(s) != 2*len(id) {
		return ID{}, errNoID
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, errNoID
	}
	return id, nil
}

// Source says where a key is written.
type Source uint8

// A key of the configuration changes with it only; the others were made at run time.
const (
	Configured Source = iota
	Stored            // in the keys file
	InRedis
)

// String is what operators know it by.
func (s Source) String() string { return [...]string{"config", "file", "redis"}[s] }

// ParseSource is the inverse of String.
func ParseSource(text string) (s Source, ok bool) {
	for s = Configured; s <= InRedis; s++ {
		if s.String() == text {
			return s, true
		}
	}
	return 0, false
}

// Own are a key's own numbers; 0 is "not said". A key that has its own
// RequestsPerSecond and no BurstSize bursts by one second of it, whatever the default.
type Own struct {
	RequestsPerSecond, BurstSize, RequestsPerMinute, TokensPerMinute, MaxConcurrent int64
}

// Instant is a moment in whole seconds since 1970; 0 is none.
type Instant int64

// At is t without the part of its second. The zero time is none; the very start of
// 1970, which would look like none, becomes the second before.
func At(t time.Time) Instant {
	if t.IsZero() {
		return 0
	}
	if t.Unix() == 0 {
		return -1
	}
	return Instant(t.Unix())
}

// Time is the moment in UTC, the zero time for none.
func (i Instant) Time() time.Time {
	if i == 0 {
		return time.Time{}
	}
	return time.Unix(int64(i), 0).UTC()
}

// Key is one key, immutable once it is in a Keyring. Equal Limits, Models and
// Addresses may be shared between keys.
type Key struct {
	Hash      [32]byte // SHA-256 of the secret
	Last4     string   // the secret's last four characters; "" when they are not known
	Name      string
	UserID    string
	Metadata  string         // a JSON object, or ""
	Models    []string       // patterns of what it may use; nil: the default; empty: any
	Addresses []netip.Prefix // from where it may be used; nil: the default; empty: anywhere
	Limits    *Own           // nil: none of its own
	Quota     int64          // tokens in a period; 0: the default
	Expires   Instant        // from then on it refuses
	Created   Instant
	Period    quota.Period
	HasPeriod bool // false: Period is the default's
	Disabled  bool
	Source    Source
}

// ID names the key.
func (k *Key) ID() ID { return ID(k.Hash[:len(ID{})]) }

// allows reports whether an address is in a list. An IPv4 address counts as such
// however it is written; the zone of an IPv6 address does not count. Nobody knows the
// way of an invalid address: no list has it.
func allows(list []netip.Prefix, ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	for _, p := range list {
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// Hash is what is kept of a secret: its SHA-256.
func Hash[T ~string | ~[]byte](secret T) [32]byte { return sha256.Sum256([]byte(secret)) }
