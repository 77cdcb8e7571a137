package gateway

import (
	"time"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/openai"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

// ownUsage answers GET /v1/usage: what the key that asks has used, and may use.
func (g *Gateway) ownUsage(ctx *fasthttp.RequestCtx) {
	x := g.accept(ctx, nil)
	defer x.finish()
	if err := x.identify(ctx); err != nil {
		x.refuse(ctx, err)
		return
	}
	key := x.caller.key
	if key == nil {
		x.refuse(ctx, openai.NotFound(string(ctx.Method()), "/v1/usage"))
		return
	}
	x.answer(ctx, struct {
		Object string `json:"object"`
		KeyID  string `json:"key_id"`
		Name   string `json:"name"`
		UserID string `json:"user_id"`
		admit.Use
	}{"usage", key.ID().String(), key.Name, key.UserID, g.Use(x.caller.ring, key)})
}

// Use is what a key of the ring has used, and has left.
func (g *Gateway) Use(ring *auth.Keyring, key *auth.Key) (u admit.Use) {
	r := admit.Request{Known: true, Now: time.Now(), Limits: ring.Limits(key)}
	copy(r.Who[:], key.Hash[:])
	limit, period := ring.Quota(key)
	if r.Quota = limit; g.recording.covers(limit) {
		r.Account = g.book.Account(key.ID())
		r.Term = r.Account.Term(g.wall(r.Now), period, g.View().Location)
	}
	if t := g.gate.Ask(&r); t != nil {
		u.Quota = quotaUse(t, limit, period)
	}
	u.Limits, u.InFlight = g.gate.Use(r.Who, r.Limits, r.Now)
	return u
}

func quotaUse(t *quota.Term, limit int64, period quota.Period) *admit.QuotaUse {
	u := admit.QuotaUse{Used: t.Used(), Reserved: t.Reserved(), Period: period.String(), StartedAt: time.Unix(0, t.Start).UTC()}
	if limit > 0 {
		left := max(0, limit-u.Used-u.Reserved)
		u.Limit, u.Remaining = &limit, &left
	}
	if end := resets(t); !end.IsZero() {
		end = end.UTC()
		u.ResetsAt = &end
	}
	return &u
}
