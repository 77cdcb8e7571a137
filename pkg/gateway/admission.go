package gateway

import (
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/openai"
	"github.com/llmproxy/llmproxy/pkg/quota"
	"github.com/llmproxy/llmproxy/pkg/usage"
)

// admit takes what the request is limited by: its slot, its place in the rates,
// and as many tokens as it will use by what is known of it.
func (x *Exchange) admit(ctx *fasthttp.RequestCtx) *openai.Error {
	i, v, g := &x.caller, x.view, x.gateway
	if i.limits == nil {
		if refusal, ok := g.gate.Pass(x.arrived, v.Global); !ok {
			return x.limited(refusal)
		}
		return nil
	}
	r := admit.Request{Who: i.who, Known: i.key != nil, Now: x.arrived, Limits: i.limits, Global: v.Global}
	if i.key != nil && x.records() {
		var period quota.Period
		r.Quota, period = i.ring.Quota(i.key)
		r.Wall = g.wall(x.arrived)
		r.Account = g.book.Account(i.id)
		r.Term = r.Account.Term(r.Wall, period, v.Location)
	}
	if x.estimate(ctx, &r) && (r.Quota > 0 || i.limits.Tokens.Limited()) {
		return openai.BadRequest("background", "A response in the background cannot be counted, and this API key has a limit on tokens.")
	}
	refusal, ok := g.gate.Enter(&x.ticket, &r)
	x.term = r.Term
	if !ok {
		return x.limited(refusal)
	}
	return nil
}

// estimate says how many tokens the request will use, and whether that is at a time
// when it is over.
func (x *Exchange) estimate(ctx *fasthttp.RequestCtx, r *admit.Request) (background bool) {
	switch x.endpoint.kind {
	case usage.KindNone:
		return false
	case usage.KindAudio: // of sound the bytes tell nothing
		r.Output = -1
		return false
	}
	e := usage.Expect(x.endpoint.kind, ctx.Request.Body())
	x.promptBytes, x.answers = e.Bytes, e.Answers
	x.model = x.view.about(x.call.Pool).model(x.gateway.gate)
	r.Prompt, r.Output, r.AtLeast, r.Answers = x.model.Prompt(e.Bytes), e.Output, e.AtLeast, e.Answers
	return e.Background && x.endpoint.kind == usage.KindResponses
}

// limited says which limit a request was refused by, and when it would pass.
func (x *Exchange) limited(r admit.Refusal) *openai.Error {
	x.gateway.stats.Limited[r.Limit].Inc()
	if r.Wait > time.Second { // they shall not all come back at once
		r.Wait += time.Duration(rand.Float64() * min(jitterPart*float64(r.Wait), float64(maxJitter)))
	}
	i := &x.caller
	switch r.Limit {
	case admit.Global:
		return openai.GloballyLimited(r.Wait)
	case admit.Store:
		return openai.Unavailable("", r.Wait)
	case admit.Concurrent:
		return openai.RateLimited(r.Limit.String(), i.limits.Concurrent, "requests at a time", r.Wait)
	case admit.PerSecond:
		return openai.RateLimited(r.Limit.String(), perSecond(i.limits.PerSecond.Each), "requests per second", r.Wait)
	case admit.PerMinute:
		return openai.RateLimited(r.Limit.String(), i.limits.PerMinute.Burst, "requests per minute", r.Wait)
	case admit.Tokens:
		return openai.TokensLimited(i.limits.Tokens.Burst, r.Tokens, r.Wait)
	}
	limit, period := i.ring.Quota(i.key)
	return openai.QuotaExceeded(openai.Quota{
		Limit: limit, Period: period.String(), Left: max(0, limit-x.term.Used()), Needed: r.Tokens,
		Exhausted: r.Exhausted, TooMuch: r.TooMuch,
		Resets: resets(x.term),
	}, r.Wait)
}

// A part of a wait may be added to it, up to maxJitter.
const (
	jitterPart = 0.1
	maxJitter  = 5 * time.Second
)

// perSecond is the limit that each, which was rounded up, was made of.
func perSecond(each time.Duration) int64 { return int64((time.Second + each/2) / each) }

// resets is when a term ends; zero: never.
func resets(t *quota.Term) time.Time {
	if t.End == math.MaxInt64 {
		return time.Time{}
	}
	return time.Unix(0, t.End)
}

// settleTicket takes what the request has used, in all, off its limits, and gives
// its slot back.
func (x *Exchange) settleTicket(total, output int64, now time.Time) {
	x.ticket.Settle(now, total)
	x.ticket.Answered(output / max(1, x.answers))
	x.ticket.Leave(now)
}

var (
	limitRequests     = []byte("X-Ratelimit-Limit-Requests")
	remainingRequests = []byte("X-Ratelimit-Remaining-Requests")
	resetRequests     = []byte("X-Ratelimit-Reset-Requests")
	limitTokens       = []byte("X-Ratelimit-Limit-Tokens")
	remainingTokens   = []byte("X-Ratelimit-Remaining-Tokens")
	resetTokens       = []byte("X-Ratelimit-Reset-Tokens")
)

// setLimits tells a client how far its limits are used up.
func (x *Exchange) setLimits(h *fasthttp.ResponseHeader) {
	i := &x.caller
	if i.limits == nil {
		return
	}
	requests, tokens, hasRequests, hasTokens := x.gateway.gate.Standings(i.who, i.limits, time.Now())
	if hasRequests {
		setStanding(h, requests, limitRequests, remainingRequests, resetRequests)
	}
	if hasTokens {
		setStanding(h, tokens, limitTokens, remainingTokens, resetTokens)
	}
}

func setStanding(h *fasthttp.ResponseHeader, s admit.Standing, limit, remaining, reset []byte) {
	var b [24]byte
	h.SetCanonical(limit, strconv.AppendInt(b[:0], s.Limit, 10))
	h.SetCanonical(remaining, strconv.AppendInt(b[:0], s.Left, 10))
	h.SetCanonical(reset, appendReset(b[:0], s.Full))
}

// appendReset writes a time as OpenAI does: 17ms, 7.66s, 6m0s.
func appendReset(b []byte, d time.Duration) []byte {
	ms := int64((d + time.Millisecond - 1) / time.Millisecond)
	if ms < 1000 {
		return append(strconv.AppendInt(b, ms, 10), "ms"...)
	}
	if hours := ms / 3_600_000; hours > 0 {
		b = append(strconv.AppendInt(b, hours, 10), 'h')
		b = append(strconv.AppendInt(b, ms/60_000%60, 10), 'm')
	} else if minutes := ms / 60_000; minutes > 0 {
		b = append(strconv.AppendInt(b, minutes, 10), 'm')
	}
	return append(strconv.AppendFloat(b, float64(ms%60_000)/1000, 'f', -1, 64), 's')
}
