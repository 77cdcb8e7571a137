package app

import (
	"errors"
	"time"

	"github.com/llmproxy/llmproxy/pkg/config"
	"github.com/llmproxy/llmproxy/pkg/webhook"
)

var errClosed = errors.New("cannot reload: the gateway is shutting down")

// Reload puts a configuration in the place of the one in force. A request
// under way keeps the old one. On an error nothing has changed.
func (a *App) Reload(c *config.Config) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reload(c)
}

// reload is Reload while mu is held.
func (a *App) reload(c *config.Config) error {
	if a.closed {
		return errClosed
	}
	if c.Auth.Enabled != a.config.Auth.Enabled {
		return errors.New("auth.enabled: to turn keys on or off takes a restart")
	}
	if c.KeyRedis() != nil && a.sharing == nil {
		return errors.New("auth.storage: redis takes a restart: this gateway shares nothing yet")
	}
	secured, err := a.readTLS(c)
	if err != nil {
		return err
	}
	var sender *webhook.Sender
	if a.usage != nil {
		if sender, err = a.usage.next(c); err != nil {
			return err
		}
	}
	next, err := a.build(c, a.now)
	if err != nil {
		return err
	}
	if err := a.useKeys(c); err != nil {
		next.closeNew(a.now)
		return err
	}
	for _, key := range a.needRestart(c) {
		a.log.Warn("this setting takes effect after a restart", "key", key)
	}
	if secured != nil {
		a.certificates.use(c.TLS, secured)
	}
	if sender != nil {
		a.usage.use(c.UsageHook, sender)
	}
	a.gateway.SetView(next.view)
	a.now.checker.Close() // its last word must not come after the next one's first
	next.start(a)
	a.now.retire(a, next)
	a.now, a.config = next, c
	a.digest.Store(c)
	a.setPolicies(c)
	a.setAdmin(c)
	a.setAccessLog(c.Log.Access)
	return nil
}

// readTLS reads the files of the main listener's certificate anew; nil when TLS
// is off, before or after.
func (a *App) readTLS(c *config.Config) (*secrets, error) {
	if a.certificates == nil || c.TLS.CertFile == "" {
		return nil, nil
	}
	return readSecrets(c.TLS)
}

// ReloadFile does Reload with what Options.Load reads, and returns that. It counts
// what comes of it and logs the warnings, not the error. It reads the file while
// no other reload is under way: else what was read first could be put in force
// last.
func (a *App) ReloadFile() (*config.Config, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, err := a.loadAndReload()
	if err != nil {
		a.ReloadFailed()
		return nil, err
	}
	a.Reloaded()
	for _, w := range c.Warnings() {
		a.log.Warn(w)
	}
	return c, nil
}

func (a *App) loadAndReload() (*config.Config, error) {
	if a.closed {
		return nil, errClosed
	}
	if a.options.Load == nil {
		return nil, errors.New("there is no configuration file to read")
	}
	c, err := a.options.Load()
	if err != nil {
		return nil, err
	}
	return c, a.reload(c)
}

// ReloadFailed counts a configuration that could not be put in force.
func (a *App) ReloadFailed() { a.stats.Reloaded(false, 0) }

// Reloaded counts one that was.
func (a *App) Reloaded() { a.stats.Reloaded(true, time.Now().Unix()) }

// needRestart lists the keys that differ from those in force and are fixed while
// the server runs.
func (a *App) needRestart(new *config.Config) []string {
	old := a.config
	journal := a.records != nil || new.UsageHook.Enabled
	ownListener := old.Metrics.Listen != "" || new.Metrics.Listen != "" // for the metrics
	var keys []string
	for _, k := range []struct {
		key     string
		differs bool
	}{
		{"listen", old.Listen != new.Listen},
		{"listen_mode", old.ListenMode != new.ListenMode},
		{"tls", (old.TLS.CertFile == "") != (new.TLS.CertFile == "")},
		{"server.max_header_size", old.Server.MaxHeaderSize != new.Server.MaxHeaderSize},
		{"server.header_timeout", old.Server.HeaderTimeout != new.Server.HeaderTimeout},
		{"server.idle_timeout", old.Server.IdleTimeout != new.Server.IdleTimeout},
		{"server.write_timeout", old.Server.WriteTimeout != new.Server.WriteTimeout},
		{"server.max_connections", old.Server.MaxConnections != new.Server.MaxConnections},
		{"server.max_connections_per_ip", old.Server.MaxConnectionsPerIP != new.Server.MaxConnectionsPerIP},
		{"admin.listen", old.Admin.Listen != new.Admin.Listen},
		{"metrics.listen", old.Metrics.Listen != new.Metrics.Listen},
		{"metrics.path", old.Metrics.Path != new.Metrics.Path && ownListener},
		{"metrics.enabled", old.Metrics.Enabled != new.Metrics.Enabled && ownListener},
		{"auth.storage", old.Auth.Storage != new.Auth.Storage && a.keys != nil},
		{"auth.snapshot_max_age", old.Auth.SnapshotMaxAge != new.Auth.SnapshotMaxAge && a.sharing != nil},
		{"rate_limit.storage", old.RateLimit.Storage != new.RateLimit.Storage},
		{"redis", old.Redis != new.Redis && a.sharing != nil},
		{"auth.redis", old.Auth.Redis != new.Auth.Redis && a.sharing != nil},
		{"rate_limit.redis", old.RateLimit.Redis != new.RateLimit.Redis && a.sharing != nil},
		{"data_dir", old.DataDir != new.DataDir && (journal || a.keys != nil && a.keys.dir != new.DataDir)},
		{"usage_hook.enabled", old.UsageHook.Enabled != new.UsageHook.Enabled},
		{"usage_hook.sync", old.UsageHook.Sync != new.UsageHook.Sync && journal},
		{"usage_hook.on_journal_error", old.UsageHook.OnJournalError != new.UsageHook.OnJournalError && journal},
		{"usage_hook.max_size", old.UsageHook.MaxSize != new.UsageHook.MaxSize && journal},
		{"usage_hook.retention", old.UsageHook.Retention != new.UsageHook.Retention && journal},
		{"log.level", old.Log.Level != new.Log.Level},
		{"log.format", old.Log.Format != new.Log.Format},
	} {
		if k.differs {
			keys = append(keys, k.key)
		}
	}
	return keys
}
