package gateway

import (
	"slices"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/openai"
	"github.com/llmproxy/llmproxy/pkg/route"
)

// An engine keeps the responses that it made, and no other has them: what names
// one goes where it was made.

// maxHomes bounds the responses whose home is remembered. Beyond it, and after
// a restart, the backends are asked in turn.
const maxHomes = 1 << 16

// find sends the call to the backend of its pool that has the response.
func (x *Exchange) find(id string) *openai.Error {
	x.stored = strings.Clone(id)
	home, ok := x.gateway.homes.Get(id)
	if !ok {
		x.call.Search = len(x.call.Pool.Backends()) > 1
		return nil
	}
	if !x.owns(home) {
		return openai.ResponseNotFound(id)
	}
	b := x.view.Table.Of(home.State)
	if b == nil { // gone by a reload, or under another name
		x.call.Search = true
		return nil
	}
	if !b.Healthy() || !slices.Contains(x.call.Pool.Backends(), b) {
		return openai.ResponseNotFound(id)
	}
	x.call.Pin = b
	return nil
}

// resolveStored is resolve for a request that names a response in its path.
func (x *Exchange) resolveStored(ctx *fasthttp.RequestCtx) *openai.Error {
	e, c := x.endpoint, x.call
	id, _ := ctx.UserValue("id").(string)
	query := ctx.URI().QueryString()
	if !isID(id) || !printable(query) {
		return openai.ResponseNotFound(id)
	}
	pool := x.view.Table.Everything()
	if home, ok := x.gateway.homes.Get(id); ok && x.owns(home) {
		if r, ok := x.view.Table.Resolve(home.Model); ok {
			pool = r.Pool
		}
		x.name(home.Model)
	}
	x.request.Stream = ctx.QueryArgs().GetBool("stream")
	if c.Pool = pool.Serving(e.surface); c.Pool == nil {
		return openai.NotServed("", e.path)
	}
	c.Path = strings.Replace(e.path, "{id}", id, 1)
	if len(query) > 0 {
		c.Path += "?" + string(query)
	}
	return x.find(id)
}

// isID tells whether s can be a response's id: engines make them of a prefix and
// a UUID.
func isID(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || c == '_' || c == '-' || c == '.' || c == ':') {
			return false
		}
	}
	return 0 < len(s) && len(s) <= 512 && s != "." && s != ".."
}

// printable tells whether b may stand in a request line.
func printable(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}

// settle remembers where the response is, once its backend has answered for it.
func (x *Exchange) settle() {
	c, g := x.call, x.gateway
	if c.Status() >= 300 || c.Backend == nil {
		return
	}
	switch {
	case x.endpoint.method == fasthttp.MethodDelete:
		g.homes.Delete(x.stored)
	case c.Search && x.stored != "":
		home := x.home()
		home.Owner = [8]byte{} // whose it is was forgotten
		g.homes.Put(x.stored, home)
	}
	if x.endpoint.creates {
		x.created, c.Tap = openai.ResponseID{}, x.learning
	}
}

// learn looks for the id of a new response in its answer, before the client can
// know it. An id stays with whom it was seen of first: some engines let clients
// choose theirs.
func (x *Exchange) learn(p []byte) {
	if !x.created.Scan(p) {
		return
	}
	x.call.Tap = nil
	id := x.created.ID()
	if _, known := x.gateway.homes.Get(id); id != "" && !known {
		x.gateway.homes.Put(id, x.home())
	}
}

// owns tells whether the one who asks may know of a response: another key's does
// not exist. Of one whose home was forgotten the id is all there is to tell by,
// and that is an engine's to make, and long.
func (x *Exchange) owns(h route.Home) bool {
	return h.Owner == [8]byte{} || h.Owner == x.caller.id
}

// maxHomeModel bounds the name of a model that is remembered, in bytes.
const maxHomeModel = 256

// home is where the call was answered.
func (x *Exchange) home() route.Home {
	h := route.Home{State: x.call.Backend.State, Model: x.asked}
	if x.caller.key != nil {
		h.Owner = x.caller.id
	}
	if len(h.Model) > maxHomeModel {
		h.Model = ""
	}
	return h
}
