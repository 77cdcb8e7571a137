package app

import (
	"errors"
	"net/netip"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/admin"
	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/config"
	"github.com/llmproxy/llmproxy/pkg/route"
)

// setAdmin puts the admin API in force that a configuration asks for: none
// without a token.
func (a *App) setAdmin(c *config.Config) {
	if c.Admin.Token == "" || a.keys == nil {
		a.gateway.SetAdmin(nil, false)
		return
	}
	api := admin.New(admin.Options{
		Token:    string(c.Admin.Token),
		Store:    a.keys.store,
		Keyring:  a.keys.ring.Load,
		Changed:  a.keys.changed,
		Use:      func(k *auth.Key) admit.Use { return a.gateway.Use(a.keys.ring.Load(), k) },
		Reset:    a.resetQuota,
		Backends: func() []*route.Backend { return a.gateway.View().Table.Backends() },
		Latency:  func(b *route.Backend) (time.Duration, bool) { return b.Latency() },
		Config:   c.Redacted,
		Reload:   a.reloadByRequest,
		Client:   func(ctx *fasthttp.RequestCtx) netip.Addr { return a.gateway.Client(ctx) },
		Failures: a.adminFailures,
		Log:      a.log,
		Now:      a.options.wallClock(),
	})
	a.gateway.SetAdmin(api.Serve, c.Admin.Listen == "")
}

func (a *App) resetQuota(id auth.ID) error {
	if a.records == nil {
		return errors.New("quotas are counted with auth.enabled only")
	}
	return a.records.reset(id)
}

// reloadByRequest is what POST /admin/reload does.
func (a *App) reloadByRequest() error {
	if a.options.Load == nil {
		return errors.New("there is no configuration file to read")
	}
	c, err := a.options.Load()
	if err == nil {
		err = a.Reload(c)
	}
	if err != nil {
		a.ReloadFailed()
		return err
	}
	a.Reloaded()
	return nil
}
