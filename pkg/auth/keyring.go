package auth

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"time"

	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

// longest is the length in bytes beyond which nothing is taken for a token: what is
// not hashed costs nothing.
const longest = 64 << 10

// Verdict says what a token is.
type Verdict uint8

// A token is Known when it may be used now. All others are refused alike; that they
// differ is for the operator, not for who asks.
const (
	Unknown  Verdict = iota
	Mistyped         // unknown, and a made key with a slip of the pen: see LooksMistyped
	Disabled
	Expired
	Unjudged // not in an Incomplete ring: it may be a key
	Known
)

// Defaults fill what keys do not say.
type Defaults struct {
	Limits  Own
	Quota   int64 // tokens in a period; 0: no limit
	Period  quota.Period
	Mapping map[string]string // from the name a client uses for a model to the model's
	// Models and Addresses are those of keys that have no lists of their own; none:
	// any.
	Models    []string
	Addresses []netip.Prefix
	// Incomplete says that there are keys which are not in the ring.
	Incomplete bool
}

// Keyring is a set of keys, all of them ready for use. It is safe for concurrent use.
type Keyring struct {
	keys     []*Key // as given
	slots    []slot // by ID, open addressing, half of them empty
	limits   []limit.Limits
	models   []allowed
	defaults Defaults
}

// slot is empty without a key. It has the key's own pointer so that a lookup touches
// one line of the table and the key, nothing else.
type slot struct {
	key    *Key
	limits uint32 // place in Keyring.limits
	models uint32 // place in Keyring.models, counted from 1; 0: any
}

// NewKeyring prepares keys for use; they, their lists and d.Mapping must not change
// any more. The error names a key without a secret, or two keys with the same.
func NewKeyring(keys []*Key, d Defaults) (*Keyring, error) {
	r := &Keyring{
		keys:     slices.Clip(slices.Clone(keys)),
		slots:    make([]slot, 2*len(keys)+1),
		defaults: d,
	}
	p := preparation{ring: r, limits: map[Own]uint32{}, models: map[string]uint32{}}
	for _, k := range keys {
		if k.Hash == [32]byte{} || k.Hash == sha256.Sum256(nil) {
			return nil, fmt.Errorf("%s has no secret", describe(k))
		}
		s := r.slot(k.ID())
		if s.key != nil {
			return nil, fmt.Errorf("%s and %s have the same secret", describe(s.key), describe(k))
		}
		*s = slot{key: k, limits: p.limitsOf(k), models: p.modelsOf(k)}
	}
	return r, nil
}

// describe names a key to the operator.
func describe(k *Key) string {
	where := [...]string{"the configuration", "the keys file", "Redis"}[k.Source]
	return fmt.Sprintf("key %q of %s (id %s)", k.Name, where, k.ID())
}

// slot is where the key of that ID is, or the empty place where it would be.
func (r *Keyring) slot(id ID) *slot {
	n := uint64(len(r.slots))
	at, _ := bits.Mul64(binary.BigEndian.Uint64(id[:]), n)
	for {
		s := &r.slots[at]
		if s.key == nil || s.key.ID() == id {
			return s
		}
		if at++; at == n {
			at = 0
		}
	}
}

// Find tells whose token it is, at that time. The key comes also with Disabled and
// Expired, to be told to the operator; the Verdict alone lets anyone in. A token of
// more than 64 KiB is unknown. Find does not allocate.
func (r *Keyring) Find(token []byte, now time.Time) (*Key, Verdict) {
	if len(token) == 0 || len(token) > longest {
		return nil, Unknown
	}
	hash := sha256.Sum256(token)
	k := r.slot(ID(hash[:len(ID{})])).key
	switch {
	case k == nil || subtle.ConstantTimeCompare(k.Hash[:], hash[:]) == 0:
		// Only now: an operator's own key may look like a made one with a slip, and
		// the ring, which has hashes alone, cannot tell beforehand that it has none.
		if LooksMistyped(token) {
			return nil, Mistyped
		}
		if r.defaults.Incomplete {
			return nil, Unjudged
		}
		return nil, Unknown
	case k.Disabled:
		return k, Disabled
	case k.Expires != 0 && now.Unix() >= int64(k.Expires):
		return k, Expired
	}
	return k, Known
}

// Get is the key of that ID.
func (r *Keyring) Get(id ID) (*Key, bool) {
	k := r.slot(id).key
	return k, k != nil
}

// All are the keys in the order in which they were given; the caller changes nothing.
func (r *Keyring) All() []*Key { return r.keys }

// Len is the number of keys.
func (r *Keyring) Len() int { return len(r.keys) }

// Limits are the key's own limits over the defaults, shared by all keys of the same.
// The key must be of this ring.
func (r *Keyring) Limits(k *Key) *limit.Limits { return &r.limits[r.of(k).limits] }

// Quota is how many tokens the key may use in a period, its own or the default;
// 0 is no limit.
func (r *Keyring) Quota(k *Key) (int64, quota.Period) {
	period := r.defaults.Period
	if k.HasPeriod {
		period = k.Period
	}
	return cmp.Or(k.Quota, r.defaults.Quota), period
}

// HasModels reports whether the key is confined to a list of models.
func (r *Keyring) HasModels(k *Key) bool { return len(r.modelList(k)) > 0 }

func (r *Keyring) modelList(k *Key) []string {
	if k.Models != nil {
		return k.Models
	}
	return r.defaults.Models
}

// Allows reports whether the key may be used from ip, which is invalid when nobody
// knows it: then only a key without a list may be used.
func (r *Keyring) Allows(k *Key, ip netip.Addr) bool {
	list := k.Addresses
	if list == nil {
		list = r.defaults.Addresses
	}
	return len(list) == 0 || allows(list, ip)
}

// HasAddresses reports whether the key is confined to a list of addresses.
func (r *Keyring) HasAddresses(k *Key) bool {
	return len(k.Addresses) > 0 || k.Addresses == nil && len(r.defaults.Addresses) > 0
}

// MayUse reports whether the key may ask for a model by that name: it has no list, or
// a pattern of its list matches, or one matches an alias of the model. The case of
// letters counts, and a key with a list has to name a model. The key must be of this
// ring. MayUse does not allocate.
func (r *Keyring) MayUse(k *Key, model string) bool {
	at := r.of(k).models
	return at == 0 || model != "" && r.models[at-1].has(model)
}

// of is the slot of a key that is in the ring.
func (r *Keyring) of(k *Key) *slot {
	s := r.slot(k.ID())
	if s.key == nil {
		panic("BUG: a key is used with a ring that does not have it")
	}
	return s
}

// preparation finds what keys have in common while a ring is built.
type preparation struct {
	ring   *Keyring
	limits map[Own]uint32
	models map[string]uint32
	text   []byte
}

func (p *preparation) limitsOf(k *Key) uint32 {
	own := over(k.Limits, p.ring.defaults.Limits)
	at, ok := p.limits[own]
	if !ok {
		at = uint32(len(p.ring.limits))
		p.limits[own] = at
		p.ring.limits = append(p.ring.limits, limit.Limits{
			PerSecond:  limit.PerSecond(own.RequestsPerSecond, own.BurstSize),
			PerMinute:  limit.PerMinute(own.RequestsPerMinute),
			Tokens:     limit.PerMinute(own.TokensPerMinute),
			Concurrent: own.MaxConcurrent,
		})
	}
	return at
}

// over is what own says, and d where it says nothing.
func over(own *Own, d Own) Own {
	if own == nil {
		return d
	}
	o := *own
	if o.RequestsPerSecond == 0 {
		o.BurstSize = cmp.Or(o.BurstSize, d.BurstSize)
	}
	o.RequestsPerSecond = cmp.Or(o.RequestsPerSecond, d.RequestsPerSecond)
	o.RequestsPerMinute = cmp.Or(o.RequestsPerMinute, d.RequestsPerMinute)
	o.TokensPerMinute = cmp.Or(o.TokensPerMinute, d.TokensPerMinute)
	o.MaxConcurrent = cmp.Or(o.MaxConcurrent, d.MaxConcurrent)
	return o
}

func (p *preparation) modelsOf(k *Key) uint32 {
	list := p.ring.modelList(k)
	if len(list) == 0 {
		return 0
	}
	p.text = appendList(p.text[:0], list)
	at, ok := p.models[string(p.text)]
	if !ok {
		p.ring.models = append(p.ring.models, allow(list, p.ring.defaults.Mapping))
		at = uint32(len(p.ring.models))
		p.models[string(p.text)] = at
	}
	return at
}
