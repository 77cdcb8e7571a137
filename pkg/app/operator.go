package app

import (
	"errors"
	"net/netip"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/admin"
	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/cluster"
	"github.com/llmproxy/llmproxy/pkg/config"
	"github.com/llmproxy/llmproxy/pkg/route"
)

// setAdmin puts the admin API in force that a configuration asks for: none without
// a token. Where it is found what listens decides, which only a restart changes. An
// API that was to have a listener of its own from the first never comes to the main
// port.
func (a *App) setAdmin(c *config.Config) {
	asked, own := c.Admin.Token != "", a.operator.server != nil
	a.onMain = asked && !own && (a.onMain || c.Admin.Listen == "")
	switch {
	case !asked:
		a.gateway.SetAdmin(nil, false)
	case !own && !a.onMain:
		a.log.Warn("there is no admin API until a restart: nothing listens at admin.listen yet", "address", c.Admin.Listen)
		a.gateway.SetAdmin(nil, false)
	default:
		a.gateway.SetAdmin(a.newAdmin(c).Serve, a.onMain)
	}
}

func (a *App) newAdmin(c *config.Config) *admin.API {
	return admin.New(admin.Options{
		Token:    string(c.Admin.Token),
		Store:    a.keys.store,
		Keyring:  a.keys.ring.Load,
		Changed:  a.keys.changed,
		Use:      a.gateway.Use,
		Reset:    a.resetQuota,
		Backends: func() []*route.Backend { return a.gateway.View().Table.Backends() },
		Latency:  func(b *route.Backend) (time.Duration, bool) { return b.Latency() },
		Cluster:  a.clusterView,
		Config:   c.Redacted,
		Reload:   a.reloadByRequest,
		Client:   func(ctx *fasthttp.RequestCtx) netip.Addr { return a.gateway.Client(ctx) },
		Failed:   func(ip netip.Addr) time.Duration { return a.adminFailures.Add(int64(time.Since(a.born)), ip) },
		Log:      a.log,
	})
}

// clusterView is what GET /admin/cluster answers.
func (a *App) clusterView() admin.Cluster {
	v := admin.Cluster{Configs: 1, Gateways: []cluster.Gateway{}}
	if s := a.sharing; s != nil {
		v = s.view()
	}
	if a.keys.redis == nil {
		return v
	}
	st := a.keys.redis.State()
	v.Keys = &admin.SharedKeys{
		Place: a.keys.redis.Place(), Source: st.Source, Complete: st.Complete, Lost: st.Lost, Foreign: st.Foreign, Version: st.Version,
	}
	if !st.Synced.IsZero() {
		at := st.Synced.UTC()
		v.Keys.SyncedAt = &at
	}
	if st.Err != nil {
		v.Keys.Error = st.Err.Error()
	}
	return v
}

func (a *App) resetQuota(id auth.ID) (begun bool, err error) {
	if a.records == nil || !a.records.counts() {
		return false, errors.New("quotas are counted with auth.enabled only")
	}
	return true, a.records.reset(id)
}

// reloadByRequest is what POST /admin/reload does.
func (a *App) reloadByRequest() error {
	_, err := a.ReloadFile()
	if errors.Is(err, errClosed) {
		return admin.ErrShuttingDown
	}
	return err
}
