package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/config"
	"github.com/llmproxy/llmproxy/pkg/gateway"
	"github.com/llmproxy/llmproxy/pkg/keystore"
	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/quota"
	"github.com/llmproxy/llmproxy/pkg/stats"
)

// keys are those of the configuration and those made at run time, together the
// gateway's Keyring.
type keys struct {
	dir     string
	store   keystore.Store
	file    *keystore.File  // the store, unless it is
	redis   *keystore.Redis // this one
	gateway *gateway.Gateway
	log     *slog.Logger
	asked   bool                         // clients are asked for a key
	ring    atomic.Pointer[auth.Keyring] // all keys

	mu       sync.Mutex // guards what follows, and that rings are put in force in order
	given    []*auth.Key
	defaults auth.Defaults
	shadowed map[auth.ID]bool // stored keys that the configuration has too, of which the log knows

	unreadable atomic.Bool // the keys file is wrong, or has gone
	behind     atomic.Bool // the store's keys could not be put in force
	stop       context.CancelFunc
	following  sync.WaitGroup // the store in Redis
}

// openKeys reads the keys; nil where nobody is asked for one, nor can make one.
func openKeys(c *config.Config, g *gateway.Gateway, s *sharing, o Options) (*keys, error) {
	if !c.Auth.Enabled && c.Admin.Token == "" {
		return nil, nil
	}
	k := &keys{dir: c.DataDir, gateway: g, log: o.Log, asked: c.Auth.Enabled, shadowed: map[auth.ID]bool{}}
	var ctx context.Context
	ctx, k.stop = context.WithCancel(context.Background())
	if at := c.KeyRedis(); at != nil {
		if err := k.openRedis(ctx, c, s, at, o); err != nil {
			return nil, err
		}
		return k, k.use(c)
	}
	file, err := keystore.OpenFile(c.DataDir, o.wallClock())
	if err != nil {
		return nil, err
	}
	k.file, k.store = file, file
	if err := k.use(c); err != nil {
		return nil, err
	}
	if err := watchFiles(ctx, []string{file.Path()}, o.Log, true, k.reload); err != nil {
		o.Log.Warn("cannot watch the keys file; SIGHUP still works", "file", file.Path(), "error", err)
	}
	return k, nil
}

// openRedis begins to follow the keys in a Redis, and waits a little for them.
func (k *keys) openRedis(ctx context.Context, c *config.Config, s *sharing, at *config.Redis, o Options) error {
	client, err := s.client(at)
	if err != nil {
		return err
	}
	first, told := make(chan struct{}), sync.Once{}
	k.redis, err = keystore.OpenRedis(keystore.RedisOptions{
		Client: client, Prefix: at.Prefix, Place: redisPlace(at), Dir: c.DataDir, MaxAge: time.Duration(c.Auth.SnapshotMaxAge),
		Now: o.wallClock(), Log: o.Log, Changed: func() {
			k.follow()
			if k.redis.State().Source == "redis" {
				told.Do(func() { close(first) })
			}
		},
	})
	if err != nil {
		return err
	}
	k.store = k.redis
	if file, err := keystore.OpenFile(c.DataDir, o.wallClock()); err == nil && len(file.Keys()) > 0 {
		o.Log.Warn("the keys in the keys file are not used: auth.storage is redis", "file", file.Path(), "keys", len(file.Keys()))
	}
	k.following.Go(func() { k.redis.Run(ctx) })
	await(client, first)
	switch st := k.redis.State(); {
	case st.Source == "snapshot":
		o.Log.Warn("Redis does not answer; the keys are those of the snapshot, and others are answered 503", "redis", k.redis.Place(), "synced", st.Synced, "error", st.Err)
	case st.Source == "none":
		o.Log.Warn("the keys are not known yet; until they are, requests with a key that is not in the configuration are answered 503", "redis", k.redis.Place(), "error", st.Err)
	}
	return nil
}

// follow puts in force what the store in Redis has become.
func (k *keys) follow() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ring.Load() == nil {
		return // the configuration's come first
	}
	if err := k.apply(); err != nil {
		k.behind.Store(true)
		k.log.Error("the keys in Redis could not be put in force; those before stay", "redis", k.store.Place(), "error", err)
	}
}

// use puts the keys of a configuration in force, with those of the store.
func (k *keys) use(c *config.Config) error {
	given, err := configured(c)
	if err != nil {
		return err
	}
	period, err := quota.ParsePeriod(c.Auth.Defaults.QuotaResetPeriod)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	before, defaults := k.given, k.defaults
	k.given = given
	k.defaults = auth.Defaults{
		Quota: c.Auth.Defaults.TotalQuota, Period: period, Mapping: c.Routing.ModelMapping,
		Models: c.Auth.Defaults.AllowedModels, Addresses: c.Auth.Defaults.AllowedIPs,
	}
	if c.RateLimit.Enabled {
		k.defaults.Limits = own(c.RateLimit.PerKey)
	}
	if err := k.apply(); err != nil {
		k.given, k.defaults = before, defaults
		return err
	}
	return nil
}

// changed puts the keys of the store in force. It may be called at the same time:
// the ring that is there afterwards has what was in the store before the call.
func (k *keys) changed() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.apply()
	if err != nil {
		k.behind.Store(true)
	}
	return err
}

// apply builds the ring. A key that stands in both places is the configuration's.
func (k *keys) apply() error {
	stored := k.store.Keys()
	all := make([]*auth.Key, 0, len(k.given)+len(stored))
	all = append(all, k.given...)
	here := make(map[auth.ID]bool, len(k.given))
	for _, key := range k.given {
		here[key.ID()] = true
	}
	for _, key := range stored {
		id := key.ID()
		if !here[id] {
			all = append(all, key)
			continue
		}
		if !k.shadowed[id] {
			k.shadowed[id] = true
			k.log.Warn("a key stands in the configuration and in the store of keys; the configuration's holds", "key_id", id, "store", k.store.Place())
		}
	}
	defaults := k.defaults
	defaults.Incomplete = k.redis != nil && !k.redis.State().Complete
	ring, err := auth.NewKeyring(all, defaults)
	if err != nil {
		return err
	}
	k.ring.Store(ring)
	if k.asked {
		k.gateway.SetKeys(ring)
		k.gateway.SetKeyless(k.redis != nil && k.redis.State().Source == "none")
	}
	k.behind.Store(false)
	return nil
}

// reload takes over the keys file after somebody has written it, and what could not
// be put in force before.
func (k *keys) reload() {
	if k.file == nil {
		return // it follows by itself
	}
	changed, err := k.file.Reload()
	changed = changed || k.behind.Load()
	if err == nil && changed {
		err = k.changed()
	}
	if err != nil {
		k.unreadable.Store(true)
		k.log.Error("the keys file was not taken over; the keys before stay in force", "file", k.file.Path(), "error", err)
		return
	}
	k.unreadable.Store(false)
	if changed {
		k.log.Info("keys file taken over", "file", k.file.Path(), "keys", len(k.file.Keys()))
	}
}

func (k *keys) close() {
	k.stop()
	k.following.Wait()
}

// register shows the keys in the metrics.
func (k *keys) register(s *stats.Set) {
	stored := auth.Stored
	if k.redis != nil {
		stored = auth.InRedis
		k.registerRedis(s)
	}
	for _, of := range []auth.Source{auth.Configured, stored} {
		s.Gauge(fmt.Sprintf("llmproxy_keys{source=%q}", of), func() float64 {
			n := 0
			for _, key := range k.ring.Load().All() {
				if key.Source == of {
					n++
				}
			}
			return float64(n)
		})
	}
	if k.file == nil {
		return
	}
	s.Gauge("llmproxy_keys_file_failing", func() float64 { return bit(k.unreadable.Load() || k.behind.Load()) })
}

// registerRedis shows how far the keys in Redis are known.
func (k *keys) registerRedis(s *stats.Set) {
	state := k.redis.State
	for name, f := range map[string]func() float64{
		"llmproxy_keys_synced_timestamp_seconds": func() float64 {
			if st := state(); !st.Synced.IsZero() {
				return float64(st.Synced.Unix())
			}
			return 0
		},
		"llmproxy_keys_complete": func() float64 { return bit(state().Complete) },
		"llmproxy_keys_failing":  func() float64 { return bit(state().Err != nil || k.behind.Load()) },
		"llmproxy_keys_lost":     func() float64 { return bit(state().Lost) },
		"llmproxy_keys_foreign":  func() float64 { return bit(state().Foreign) },
	} {
		s.Gauge(name, f)
	}
	s.CounterFunc("llmproxy_keys_losses_total", func() int64 { return state().Losses })
}

// configured are the keys that the configuration gives.
func configured(c *config.Config) ([]*auth.Key, error) {
	var all []*auth.Key
	for _, a := range c.APIKeys {
		key := &auth.Key{
			Hash: a.Hash(), Name: a.Name, UserID: a.UserID, Disabled: a.Status == "disabled",
			Quota: a.TotalQuota, Models: a.AllowedModels, Addresses: a.AllowedIPs,
			Expires: auth.At(a.ExpiresAt), Source: auth.Configured,
		}
		if plain := string(a.Key); len(plain) >= minToShow {
			key.Last4 = plain[len(plain)-4:]
		}
		if l := own(a.KeyLimit); l != (auth.Own{}) {
			key.Limits = &l
		}
		if a.QuotaResetPeriod != "" {
			period, err := quota.ParsePeriod(a.QuotaResetPeriod)
			if err != nil {
				return nil, err
			}
			key.Period, key.HasPeriod = period, true
		}
		if len(a.Metadata) > 0 {
			b, err := json.Marshal(a.Metadata)
			if err != nil {
				return nil, errors.New("metadata of key " + a.Name + " cannot be JSON")
			}
			key.Metadata = string(b)
		}
		all = append(all, key)
	}
	return all, nil
}

// minToShow is how long a key must be for its last four characters to be shown.
const minToShow = 16

func own(l config.KeyLimit) auth.Own {
	return auth.Own{
		RequestsPerSecond: l.RequestsPerSecond, BurstSize: l.BurstSize, RequestsPerMinute: l.RequestsPerMinute,
		TokensPerMinute: l.TokensPerMinute, MaxConcurrent: l.MaxConcurrent,
	}
}

// limitView sets what a configuration limits beside its keys.
func limitView(v *gateway.View, c *config.Config) {
	v.Location = c.Auth.Location()
	if !c.RateLimit.Enabled {
		return
	}
	g, k := c.RateLimit.Global, c.RateLimit.PerKey
	v.Global = limit.PerSecond(g.RequestsPerSecond, g.BurstSize)
	if k != (config.KeyLimit{}) {
		v.Limits = &limit.Limits{
			PerSecond: limit.PerSecond(k.RequestsPerSecond, k.BurstSize), PerMinute: limit.PerMinute(k.RequestsPerMinute),
			Tokens: limit.PerMinute(k.TokensPerMinute), Concurrent: k.MaxConcurrent,
		}
	}
}

// wallClock is the time of day.
func (o *Options) wallClock() func() time.Time {
	if o.Now != nil {
		return o.Now
	}
	return time.Now
}
