package gateway

import (
	"encoding/hex"
	"time"
	"unsafe"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/events"
	"github.com/llmproxy/llmproxy/pkg/forward"
	"github.com/llmproxy/llmproxy/pkg/openai"
	"github.com/llmproxy/llmproxy/pkg/route"
	"github.com/llmproxy/llmproxy/pkg/stats"
	"github.com/llmproxy/llmproxy/pkg/usage"
)

// metering is what is kept of a request for the record of its usage. Where usage
// is neither recorded nor limited there is none.
type metering struct {
	record events.Record
	meter  usage.Meter
	filter usage.Filter
	take   usage.Take
	parts  [8][]byte
	asked  []byte   // holds record.Asked, which outlives the body
	key    [16]byte // holds record.KeyID
	logged bool     // the log knows that it has begun
	ended  bool
}

// Recording is how the usage of requests is recorded.
type Recording struct {
	Log *events.Log
	// All has it recorded of every request; else only of those whose key has a
	// quota, which must outlive the process.
	All bool
	// AllowUnrecorded lets requests pass while the log cannot be written. Without
	// it they are refused.
	AllowUnrecorded bool
}

// SetUsage has the usage of requests recorded. It is called before the server
// runs.
func (g *Gateway) SetUsage(r Recording) { g.recording = r }

// covers tells whether the usage of a key with such a quota is recorded.
func (r *Recording) covers(limit int64) bool { return r.Log != nil && (r.All || limit > 0) }

// records tells whether the request's usage is to be recorded.
func (x *Exchange) records() bool {
	limit := int64(0)
	if c := &x.caller; c.key != nil {
		limit, _ = c.ring.Quota(c.key)
	}
	return x.gateway.recording.covers(limit)
}

// meterUsage has the engine report what the request uses, and records that it
// begins.
func (x *Exchange) meterUsage(ctx *fasthttp.RequestCtx) *openai.Error {
	g, e, c := x.gateway, x.endpoint, x.call
	logged := !e.stored && x.records()
	if !logged && !x.ticket.Valid() {
		return nil
	}
	m := g.meterings.Get().(*metering)
	m.asked = append(m.asked[:0], x.request.Model...)
	m.record = events.Record{
		Asked: text(m.asked), Served: c.Model, Endpoint: e.path, KeyID: m.keyID(&x.caller),
		Streamed: x.wantsStream(), Started: x.start,
	}
	if key := x.caller.key; key != nil {
		m.record.Name, m.record.UserID = key.Name, key.UserID
	}
	if x.term != nil {
		m.record.Period = max(1, x.term.Start) // 0 would be none
	}
	if c.Model == x.request.Model {
		m.record.Served = m.record.Asked // c.Model is of the body
	}
	if logged {
		_, _ = hex.Decode(m.record.ID[:], x.id[:])
	}
	m.meter.Reset(e.kind)
	m.logged, m.ended, m.take = logged, false, usage.Take{}
	if logged && !g.recording.Log.Start(&m.record) {
		if !g.recording.AllowUnrecorded {
			g.meterings.Put(m)
			return openai.Unavailable("", time.Second)
		}
		m.logged = false
		g.stats.Unrecorded.Inc()
	}
	x.metering = m
	if x.promptBytes == 0 && e.kind != usage.KindNone {
		x.promptBytes = usage.PromptBytes(ctx.Request.Body())
	}
	if x.ticket.Valid() || m.logged {
		x.askUsage(m, ctx.Request.Body()) // the parts of the body are m's from here on
	}
	return nil
}

// askUsage has the engine report the usage of a stream, and keeps what is needed to
// understand it.
func (x *Exchange) askUsage(m *metering, body []byte) {
	kind := x.endpoint.kind
	switch kind {
	case usage.KindChat, usage.KindCompletions:
		style, continuous := x.view.style(x.call.Pool, kind)
		asking := usage.Ask(&x.request, body, style, continuous)
		m.take = asking.Take
		x.call.Body = asking.Splice(m.parts[:0], x.call.Body)
		if kind == usage.KindCompletions && x.request.Stream && style.Continuous {
			m.meter.PerPrompt = usage.Answers(kind, body)
		}
	case usage.KindSGLang:
		m.meter.PerPrompt = usage.Answers(kind, body)
	}
}

// keyID stands for who asks: "" without a key or token.
func (m *metering) keyID(i *caller) string {
	if !i.token {
		return ""
	}
	hex.Encode(m.key[:], i.id[:])
	return text(m.key[:])
}

// text is b as a string, for as long as b stays as it is.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// style is how the engines of a pool speak of usage, where they are all alike, and
// whether all of them can tell it in every chunk.
func (v *View) style(p *route.Pool, kind usage.Kind) (usage.Style, bool) {
	i := v.about(p)
	if kind == usage.KindChat {
		return i.chat, i.continuous
	}
	return i.completions, i.continuous
}

// watchUsage has the answer of an open call looked at.
func (x *Exchange) watchUsage() {
	m, c := x.metering, x.call
	clear(m.parts[:]) // they are sent
	if x.endpoint.kind == usage.KindTGI || x.endpoint.kind == usage.KindPooling {
		c.Fields(m.meter.Header)
	}
	c.Meter, c.Report = &m.meter, x.reporting
	if m.take != (usage.Take{}) && c.SSE() {
		m.filter.Reset(m.take)
		c.Filter = &m.filter
	}
}

// report records how far the answer has come. It is called before the bytes that
// end it go to the client: what the client has seen end is recorded.
func (x *Exchange) report(final bool) {
	if !final {
		now := time.Now()
		x.fill(now)
		if x.metering.logged {
			x.gateway.recording.Log.Mark(&x.metering.record)
		}
		x.ticket.Charge(now, x.metering.record.Completion)
		return
	}
	outcome := events.Complete
	if x.call.Events.Failed || x.status >= 500 {
		outcome = events.UpstreamFailed
	}
	x.endUsage(outcome, x.status)
}

// settleUsage records the end of a request whose answer did not come to its own,
// and gives the metering back.
func (x *Exchange) settleUsage() {
	x.conclude()
	if m := x.metering; m != nil {
		x.metering = nil
		x.gateway.meterings.Put(m)
	}
}

// conclude records how a request ended that nobody has recorded the end of, and
// gives back what admission took. It is called before the client is told: it may
// ask again as soon as it knows.
func (x *Exchange) conclude() {
	if m := x.metering; m != nil && !m.ended {
		x.concludeUsage()
	}
	if x.ticket.Valid() {
		x.ticket.Leave(time.Now())
	}
}

// concludeUsage ends the usage by what the call and the answer have come to.
func (x *Exchange) concludeUsage() {
	switch c, m := x.call, x.metering; {
	case !c.Sent():
		m.ended = true
		if m.logged {
			x.gateway.recording.Log.Void(&m.record)
		}
	case x.status == 0: // a panic
		x.endUsage(events.UpstreamFailed, fasthttp.StatusInternalServerError)
	case c.Interrupted() == forward.ShuttingDown:
		x.endUsage(events.Interrupted, x.status)
	case x.gone():
		x.endUsage(events.ClientAborted, 499)
	case c.Outcome == stats.Broken, c.Outcome == stats.Overloaded, x.broke != nil && x.broke.Status >= 500:
		x.endUsage(events.UpstreamFailed, x.status) // the client was told by an event
	case x.complete && x.status < 500:
		x.endUsage(events.Complete, x.status) // a refusal of the engine's
	default:
		x.endUsage(events.UpstreamFailed, x.status)
	}
}

func (x *Exchange) endUsage(outcome events.Outcome, status int) {
	m := x.metering
	if m.ended {
		return
	}
	m.ended = true
	now := time.Now()
	x.fill(now)
	r := &m.record
	r.Outcome, r.Status = outcome, status
	if m.logged {
		x.gateway.recording.Log.End(r)
	}
	if x.model != nil && !r.Estimated {
		x.model.Learn(x.promptBytes, r.Prompt)
	}
	if r.Total == 0 && r.Estimated && x.model != nil {
		// It left before there was an answer, and the engine may have worked all the
		// same: it is not billed for what nobody counted, but not free to repeat either.
		x.ticket.Charge(now, x.model.Prompt(x.promptBytes))
	}
	// The client may ask again as soon as it has the end.
	x.settleTicket(r.Total, r.Completion, now)
}

// bytesPerToken is what a token of a prompt has, about, where the engine does not
// say how many there were.
const bytesPerToken = 4

// fill brings the record up to now.
func (x *Exchange) fill(now time.Time) {
	c, m := x.call, x.metering
	r := &m.record
	r.Attempts, r.Duration = c.Attempts, now.Sub(x.start)
	r.Ended = now
	r.Streamed = r.Streamed || c.SSE()
	if c.Backend != nil {
		r.Backend = c.Backend.Name
	}
	if !c.FirstToken.IsZero() {
		r.TTFT = c.FirstToken.Sub(x.start)
	}
	u, found := m.meter.Usage()
	r.Prompt, r.Cached, r.Completion, r.Reasoning, r.Total, r.Seconds = u.Prompt, u.Cached, u.Completion, u.Reasoning, u.Total, u.Seconds
	// Of an answer that has begun something was used, whatever the engine tells.
	begun := x.endpoint.kind != usage.KindNone && c.Meter != nil && c.Status() < 300
	if !begun {
		// What was sent may have been worked on, for a client that did not wait.
		r.Estimated = x.endpoint.kind != usage.KindNone && c.Sent() && c.Interrupted() != forward.None
		return
	}
	if r.Estimated = !m.meter.Exact(); !r.Estimated {
		return
	}
	if !found {
		r.Prompt = int64((x.promptBytes + bytesPerToken - 1) / bytesPerToken)
	}
	r.Completion = max(r.Completion, m.meter.Tokens())
	r.Total = r.Prompt + r.Completion
}
